"""C-STORE as SCU: what peers hold afterwards, and what their answers are read as."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ComprehensiveSRStorage, generate_uid

from tests.peer_programs import LOOPBACK, free_port, running_orthanc, running_storescp
from tests.receive_fixtures import AE_TITLE, ct_slice, loopback_peer, running_receiver, write_part10
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.part10 import read_file_meta
from umit_pacs.dicom_network.sender import send_objects
from umit_pacs.dicom_network.statuses import Outcome
from umit_pacs.errors import PeerRefused, PeerUnavailable

pytestmark = pytest.mark.peer

TIMEOUTS = NetworkTimeouts(connect_s=5, response_s=20)


def send(paths: list[Path], peer: PeerAddress):
    return send_objects(paths, peer, calling_ae_title=AE_TITLE, timeouts=TIMEOUTS)


def data_set_bytes(path: Path) -> bytes:
    _, offset = read_file_meta(path)
    return path.read_bytes()[offset:]


def test_a_retry_sends_the_same_bytes_again(tmp_path: Path) -> None:
    names = ["CT_small.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    paths = [Path(str(get_testdata_file(name))) for name in names]
    with running_storescp(tmp_path) as peer:
        for _ in range(2):
            outcomes = send(paths, peer.address)
            assert [o.outcome for o in outcomes] == [Outcome.STORED] * len(paths)
        received = peer.received_files()
    originals = {read_file_meta(path)[0].transfer_syntax_uid: path for path in paths}
    assert len(received) == 2 * len(paths)
    for path in received:
        meta, _ = read_file_meta(path)
        assert data_set_bytes(path) == data_set_bytes(originals[meta.transfer_syntax_uid])


def test_orthanc_takes_the_same_instance_twice_as_stored(tmp_path: Path) -> None:
    path = write_part10(ct_slice(), tmp_path / "a.dcm")
    with running_orthanc(tmp_path / "pacs") as pacs:
        assert [o.status for o in send([path, path], pacs.address)] == [0x0000, 0x0000]
        assert len(pacs.instances()) == 1


def test_an_object_that_the_peer_does_not_support_does_not_keep_the_others(tmp_path: Path) -> None:
    private = "1.2.826.0.1.3680043.9.9999.1"
    paths = [
        write_part10(ct_slice(SOPClassUID=private), tmp_path / "private.dcm"),
        write_part10(ct_slice(), tmp_path / "ct.dcm"),
    ]
    with running_storescp(tmp_path / "peer", options=("+xa",)) as peer:
        outcomes = send(paths, peer.address)
        assert [(o.outcome, o.detail) for o in outcomes] == [
            (Outcome.REFUSED, "context_not_accepted"),
            (Outcome.STORED, ""),
        ]
        assert [o.outcome for o in send(paths[:1], peer.address)] == [Outcome.REFUSED]


def test_a_peer_that_is_away_or_rejects_is_told_apart(tmp_path: Path) -> None:
    path = write_part10(ct_slice(), tmp_path / "a.dcm")
    with pytest.raises(PeerUnavailable):
        send([path], PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port()))
    with running_storescp(tmp_path / "peer") as peer:
        stopped = peer.address
    with pytest.raises(PeerUnavailable):
        send([path], stopped)
    with running_receiver(tmp_path / "node", loopback_peer("SOMEONE_ELSE")) as node, pytest.raises(PeerRefused):
        send([path], node.address)


def test_a_peer_that_aborts_leaves_the_rest_for_later(tmp_path: Path) -> None:
    paths = [write_part10(ct_slice(), tmp_path / f"{i}.dcm") for i in range(3)]
    # storescp ends the association when the first data set has come, before it answers.
    with running_storescp(tmp_path / "peer", options=("+xa", "--abort-during")) as peer:
        outcomes = send(paths, peer.address)
    assert [o.outcome for o in outcomes] == [Outcome.LATER] * 3
    assert outcomes[0].status is None
    assert outcomes[2].detail == "not_sent"


def test_a_mismatched_object_is_refused_for_good_and_a_full_peer_is_asked_again(tmp_path: Path) -> None:
    image = ct_slice()
    path = write_part10(image, tmp_path / "a.dcm")
    with running_receiver(tmp_path / "node", loopback_peer(AE_TITLE)) as node:
        whole = path.read_bytes()
        lie = tmp_path / "lie.dcm"
        other = generate_uid()[: len(image.SOPInstanceUID)]
        padded = other.ljust(len(image.SOPInstanceUID), "1")
        lie.write_bytes(whole.replace(image.SOPInstanceUID.encode(), padded.encode(), 1))
        assert [(o.outcome, o.status) for o in send([lie], node.address)] == [(Outcome.REFUSED, 0xA900)]
    with running_receiver(tmp_path / "full", loopback_peer(AE_TITLE), minimum_free_bytes=2**62) as node:
        assert [(o.outcome, o.status) for o in send([path], node.address)] == [(Outcome.LATER, 0xA700)]


def test_a_report_in_two_languages_arrives_as_it_is(tmp_path: Path) -> None:
    report = ct_slice(SOPClassUID=ComprehensiveSRStorage, Modality="SR", SpecificCharacterSet="ISO_IR 192")
    report.StudyDescription = "胸部CT"
    del report.PixelData
    path = write_part10(report, tmp_path / "sr.dcm")
    with running_orthanc(tmp_path / "pacs") as pacs:
        assert [o.outcome for o in send([path], pacs.address)] == [Outcome.STORED]
        (held,) = pacs.instances({"Modality": "SR"})
        assert pacs.rest("GET", f"/instances/{held['ID']}/file")[132:] != b""
