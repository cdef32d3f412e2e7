"""The listener with foreign senders: DCMTK's echoscu, storescu and dcmsend."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.peer_programs import answers_echo, run_dcmtk, store_with_storescu
from tests.receive_fixtures import ct_slice, loopback_peer, running_receiver, write_part10
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.store.instances import instances_of_study

pytestmark = pytest.mark.peer


def test_echo_is_answered_to_a_known_peer_only(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node:
        assert answers_echo(node.address)
        assert not answers_echo(node.address, calling_ae_title="STRANGER")
        # echoscu ends with 0 also when it is cut off instead of answered.
        verbose = run_dcmtk("echoscu", "-v", "-aet", "TESTER", "-aec", "UMIT", node.address.host, str(node.port))
        assert "Received Echo Response (Success)" in verbose.stdout
        misnamed = PeerAddress(ae_title="OTHER", host=node.address.host, port=node.address.port)
        assert not answers_echo(misnamed)


def test_a_peer_from_another_address_is_rejected(tmp_path: Path) -> None:
    with running_receiver(tmp_path, loopback_peer(addresses=("127.0.0.9",))) as node:
        assert not answers_echo(node.address)


def test_a_stored_image_has_a_row_that_tells_where_it_came_from(tmp_path: Path) -> None:
    sent = Path(str(get_testdata_file("CT_small.dcm")))
    with running_receiver(tmp_path / "node") as node:
        store_with_storescu([sent], node.address)
        node.wait_for_rows(1)
        (stored,) = node.stored_files()
        (row,) = instances_of_study(node.catalogue, pydicom.dcmread(stored).StudyInstanceUID)
    assert pydicom.dcmread(stored).PixelData == pydicom.dcmread(sent).PixelData
    assert (row.calling_ae_title, row.called_ae_title, row.peer_host) == ("TESTER", "UMIT", "127.0.0.1")
    assert (tmp_path / "node" / row.relative_path) == stored
    assert row.size_bytes == stored.stat().st_size


def test_a_peer_that_may_not_send_is_told_so(tmp_path: Path) -> None:
    sent = write_part10(ct_slice(), tmp_path / "a.dcm")
    with running_receiver(tmp_path / "node", loopback_peer(may_send=False)) as node:
        assert answers_echo(node.address)
        done = store_with_storescu([sent], node.address, check=False, options=["-d"])
        assert "0x0124" in done.stdout
        assert node.stored_files() == node.quarantined_files() == []


@pytest.mark.parametrize(
    "name",
    ["image_dfl.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm",
     "JPEG-LL.dcm"],
)  # fmt: skip
def test_dcmsend_delivers_compressed_images(tmp_path: Path, name: str) -> None:
    sent = Path(str(get_testdata_file(name)))
    with running_receiver(tmp_path) as node:
        run_dcmtk("dcmsend", "-v", "-aet", "TESTER", "-aec", "UMIT", "127.0.0.1", str(node.address.port), sent)
        node.wait_for_rows(1)
        (stored,) = node.stored_files()
    received, original = pydicom.dcmread(stored), pydicom.dcmread(sent)
    assert received.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert received.PixelData == original.PixelData
