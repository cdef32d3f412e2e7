"""What every test gets: no network but loopback, one torch thread per test process, and reasons for what is skipped."""

from __future__ import annotations

import os
import socket

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Without it every DIMSE message of Debian's DCMTK waits for a delayed acknowledgement.
os.environ.setdefault("TCP_NODELAY", "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _only_loopback():
    """Let no test reach another machine."""
    connect = socket.socket.connect

    def connect_to_loopback(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and not (
            host.startswith("127.") or host in ("::1", "localhost")
        ):
            raise OSError(f"a test tried to reach {host}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_to_loopback)
        yield


def pytest_collection_modifyitems(items):
    """Skip what needs an accelerator or a checkpoint that is not shipped, and say so."""
    for item in items:
        if item.get_closest_marker("big_checkpoint") and not os.environ.get("UMIT_PACS_BIG_FOLDER"):
            item.add_marker(pytest.mark.skip(reason="writes gigabytes; UMIT_PACS_BIG_FOLDER names a folder for them"))
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
