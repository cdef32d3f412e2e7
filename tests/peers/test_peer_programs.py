"""The peer programs of the tests start, answer, keep what they are sent, and come back on the same port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests import peer_programs
from tests.peer_programs import (
    answers_echo,
    free_port,
    running_dcmqrscp,
    running_orthanc,
    running_storescp,
    store_with_storescu,
)
from umit_pacs.cli import demo_archive

pytestmark = pytest.mark.peer


def test_orthanc_keeps_an_instance_over_a_restart(tmp_path: Path) -> None:
    with running_orthanc(tmp_path) as orthanc:
        store_with_storescu([Path(str(get_testdata_file("CT_small.dcm")))], orthanc.address)
        assert len(orthanc.instances({"Modality": "CT"})) == 1
        orthanc.stop()
        assert not answers_echo(orthanc.address)
        orthanc.start()
        assert len(orthanc.instances()) == 1


@pytest.mark.parametrize("running", [running_storescp, running_dcmqrscp])
def test_dcmtk_archive_writes_what_it_is_sent(tmp_path: Path, running) -> None:
    with running(tmp_path) as peer:
        store_with_storescu([Path(str(get_testdata_file("CT_small.dcm")))], peer.address)
        assert len(peer.received_files()) == 1


@pytest.mark.parametrize("running", [running_orthanc, running_storescp, running_dcmqrscp])
def test_a_peer_whose_port_was_taken_meanwhile_starts_on_another(tmp_path: Path, monkeypatch, running) -> None:
    with socket.create_server(("", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(peer_programs, "free_port", lambda: next(ports, None) or free_port())
        with running(tmp_path) as peer:
            assert peer.address.port != taken
            assert answers_echo(peer.address)


def test_the_demos_archive_starts_on_another_port_too(tmp_path: Path, monkeypatch) -> None:
    with socket.create_server(("", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(demo_archive, "free_port", lambda: next(ports, None) or free_port())
        with demo_archive.running_orthanc(tmp_path, node_port=free_port()) as archive:
            assert archive.dicom_port != taken
            assert archive.read_json("/system")["DicomPort"] == archive.dicom_port
