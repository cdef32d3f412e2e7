"""The peer programs of the tests start, answer, keep what they are sent, and come back on the same port."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.peer_programs import (
    answers_echo,
    running_dcmqrscp,
    running_orthanc,
    running_storescp,
    store_with_storescu,
)

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
