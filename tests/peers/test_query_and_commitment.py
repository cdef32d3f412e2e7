"""C-ECHO, C-FIND and storage commitment with Orthanc and DCMTK as the peer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from tests.peer_programs import (
    LOOPBACK,
    free_port,
    running_dcmqrscp,
    running_orthanc,
    running_storescp,
    store_with_storescu,
    wait_until,
)
from tests.receive_fixtures import AE_TITLE, ct_slice, loopback_peer, running_receiver, write_part10
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.commitment import CommitmentNotSupported, request_commitment
from umit_pacs.dicom_network.query import count_instances, echo, instances_held
from umit_pacs.errors import PeerUnavailable
from umit_pacs.store.deliveries import commitment, record_commitment

pytestmark = pytest.mark.peer

ASKING = {"calling_ae_title": AE_TITLE, "timeouts": NetworkTimeouts(connect_s=5, response_s=20)}


def write_study(folder: Path, *, series: int, slices: int) -> list[Dataset]:
    folder.mkdir()
    study = generate_uid()
    images = []
    for series_uid in [generate_uid() for _ in range(series)]:
        for _ in range(slices):
            images.append(ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series_uid))
            write_part10(images[-1], folder / f"{len(images)}.dcm")
    return images


@pytest.mark.parametrize("running", [running_orthanc, running_dcmqrscp])
def test_archives_say_how_many_instances_they_hold_and_which(tmp_path: Path, running) -> None:
    images = write_study(tmp_path / "study", series=2, slices=3)
    with running(tmp_path / "peer") as peer:
        echo(peer.address, **ASKING)
        store_with_storescu([tmp_path / "study"], peer.address)
        first = images[0]
        assert count_instances(peer.address, first.StudyInstanceUID, **ASKING) == 6
        assert count_instances(peer.address, generate_uid(), **ASKING) == 0
        held = instances_held(peer.address, first.StudyInstanceUID, first.SeriesInstanceUID, **ASKING)
        assert held == {image.SOPInstanceUID for image in images[:3]}


def test_a_peer_without_queries_and_commitment_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    with running_storescp(tmp_path) as peer:
        assert count_instances(peer.address, generate_uid(), **ASKING) is None
        assert instances_held(peer.address, generate_uid(), generate_uid(), **ASKING) is None
        with pytest.raises(CommitmentNotSupported):
            request_commitment(peer.address, generate_uid(), [(CTImageStorage, generate_uid())], **ASKING)
    nobody = PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port())
    with pytest.raises(PeerUnavailable):
        echo(nobody, **ASKING)
    with pytest.raises(PeerUnavailable):
        count_instances(nobody, generate_uid(), **ASKING)


def test_orthanc_reports_commitment_to_the_listener(tmp_path: Path) -> None:
    image = ct_slice()
    write_part10(image, tmp_path / "a.dcm")
    unknown, transaction = generate_uid(), generate_uid()
    with (
        running_orthanc(tmp_path / "pacs") as pacs,
        running_receiver(tmp_path / "node", loopback_peer("ORTHANC")) as node,
    ):
        pacs.register(node.address)
        store_with_storescu([tmp_path / "a.dcm"], pacs.address)
        asked = [(CTImageStorage, image.SOPInstanceUID), (CTImageStorage, unknown)]
        record_commitment(node.catalogue, transaction, "pacs", [uid for _, uid in asked])
        report = request_commitment(pacs.address, transaction, asked, wait_for_report_s=0.1, **ASKING)
        assert report is None

        def answered():
            found = commitment(node.catalogue, transaction)
            return found if found and found.answered_at else None

        found = wait_until(answered, what="Orthanc's report")
        answers = {item.sop_instance_uid: (item.is_committed, item.failure_reason) for item in found.objects}
    assert answers == {image.SOPInstanceUID: (True, None), unknown: (False, 0x0112)}


def test_a_report_on_the_same_association_is_returned() -> None:
    transaction, held, missing = generate_uid(), generate_uid(), generate_uid()
    with reporting_archive(held) as peer:
        report = request_commitment(
            peer, transaction, [(CTImageStorage, held), (CTImageStorage, missing)], wait_for_report_s=20, **ASKING
        )
    assert report is not None
    assert (report.transaction_uid, report.committed, report.failed) == (transaction, (held,), ((missing, 0x0112),))


@contextlib.contextmanager
def reporting_archive(*held: str) -> Iterator[PeerAddress]:
    """An archive that reports on the association of the request; neither Orthanc nor DCMTK does."""

    def on_n_action(event):
        asked = event.action_information
        content = Dataset()
        content.TransactionUID = asked.TransactionUID
        items = list(asked.ReferencedSOPSequence)
        content.ReferencedSOPSequence = [item for item in items if item.ReferencedSOPInstanceUID in held]
        content.FailedSOPSequence = [item for item in items if item.ReferencedSOPInstanceUID not in held]
        for item in content.FailedSOPSequence:
            item.FailureReason = 0x0112
        # pynetdicom answers when this returns; the report must come after the answer.
        threading.Thread(target=report_after_answer, args=(event.assoc, content)).start()
        return 0x0000, None

    def on_message_sent(event):
        answered.set()

    def report_after_answer(association, content):
        assert answered.wait(10)
        association.send_n_event_report(content, 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)

    answered = threading.Event()
    entity = AE(ae_title="REPORTING")
    entity.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_N_ACTION, on_n_action), (evt.EVT_DIMSE_SENT, on_message_sent)]
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield PeerAddress(ae_title="REPORTING", host=LOOPBACK, port=server.socket.getsockname()[1])
    finally:
        server.shutdown()
