"""C-GET and C-MOVE with Orthanc and DCMTK as the peer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedSRStorage, RLELossless, generate_uid

from tests.peer_programs import (
    LOOPBACK,
    free_port,
    running_dcmqrscp,
    running_orthanc,
    running_storescp,
    store_with_storescu,
)
from tests.receive_fixtures import AE_TITLE, ct_slice, loopback_peer, running_receiver, write_part10
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.retrieve import (
    LimitReached,
    Retrieved,
    RetrievedObject,
    RetrieveLimits,
    RetrieveNotSupported,
    Wanted,
    retrieve_by_get,
    retrieve_by_move,
)
from umit_pacs.errors import PeerRefused, PeerUnavailable, StoreFull

pytestmark = pytest.mark.peer

ASKING = {"calling_ae_title": AE_TITLE, "timeouts": NetworkTimeouts(connect_s=5, response_s=20)}
AMPLE = RetrieveLimits(objects=100, size_bytes=10_000_000, time_s=60)
ANSWERING = [
    partial(running_orthanc, more_configuration={"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}),
    running_dcmqrscp,
]


def write_series(folder: Path, *, slices: int, **changes) -> list[Dataset]:
    folder.mkdir()
    same = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), **changes}
    images = [ct_slice(**same) for _ in range(slices)]
    for number, image in enumerate(images):
        write_part10(image, folder / f"{number}.dcm")
    return images


def get(peer: PeerAddress, wanted: Wanted, *, limits: RetrieveLimits = AMPLE, classes=(CTImageStorage,), take=None):
    """(what came, how it ended)."""
    came: list[RetrievedObject] = []
    ended = retrieve_by_get(peer, wanted, take or came.append, sop_classes=classes, limits=limits, **ASKING)
    return came, ended


@pytest.mark.parametrize("running", ANSWERING, ids=["orthanc", "dcmqrscp"])
def test_a_study_a_series_and_single_instances_come_by_c_get(tmp_path: Path, running) -> None:
    images = write_series(tmp_path / "one", slices=3)
    study, series = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
    others = write_series(tmp_path / "two", slices=2, StudyInstanceUID=study)
    with running(tmp_path / "peer") as peer:
        store_with_storescu([tmp_path / "one", tmp_path / "two"], peer.address)
        uids = {image.SOPInstanceUID for image in images}
        came, ended = get(peer.address, Wanted(study_instance_uid=study))
        assert {each.meta.sop_instance_uid for each in came} == uids | {image.SOPInstanceUID for image in others}
        assert (ended.completed, ended.failed) == (5, 0)
        came, _ = get(peer.address, Wanted(study_instance_uid=study, series_instance_uids=(series,)))
        assert {each.meta.sop_instance_uid for each in came} == uids
        one = Wanted(
            study_instance_uid=study, series_instance_uids=(series,), sop_instance_uids=(images[1].SOPInstanceUID,)
        )
        came, ended = get(peer.address, one)
        assert [each.meta.sop_instance_uid for each in came] == [images[1].SOPInstanceUID]
        came[0].write(tmp_path / "came.dcm")
        assert dcmread(tmp_path / "came.dcm").PixelData == images[1].PixelData


def test_a_compressed_object_comes_as_the_peer_holds_it(tmp_path: Path) -> None:
    image = ct_slice()
    image.compress(RLELossless)
    write_part10(image, tmp_path / "1.dcm")
    with ANSWERING[0](tmp_path / "peer") as peer:
        store_with_storescu([tmp_path / "1.dcm"], peer.address, options=["-xr"])
        came, _ = get(peer.address, Wanted(study_instance_uid=image.StudyInstanceUID))
    assert came[0].meta.transfer_syntax_uid == RLELossless
    came[0].write(tmp_path / "came.dcm")
    assert dcmread(tmp_path / "came.dcm").PixelData == image.PixelData


def test_an_object_of_a_class_that_was_not_asked_for_does_not_come(tmp_path: Path) -> None:
    images = write_series(tmp_path / "study", slices=1)
    here = Wanted(study_instance_uid=images[0].StudyInstanceUID)
    with running_dcmqrscp(tmp_path / "one") as peer:
        store_with_storescu([tmp_path / "study"], peer.address)
        failed = Retrieved(completed=0, failed=1, failed_uids=(images[0].SOPInstanceUID,))
        assert get(peer.address, here, classes=(EnhancedSRStorage,)) == ([], failed)
    # Orthanc takes what it cannot send for an error.
    with ANSWERING[0](tmp_path / "two") as peer:
        store_with_storescu([tmp_path / "study"], peer.address)
        with pytest.raises(PeerRefused):
            get(peer.address, here, classes=(EnhancedSRStorage,))


def test_of_a_study_that_is_not_there_nothing_comes(tmp_path: Path) -> None:
    nowhere = Wanted(study_instance_uid=generate_uid())
    with running_dcmqrscp(tmp_path / "one") as peer:
        assert get(peer.address, nowhere) == ([], Retrieved(completed=0))
    # Orthanc takes what it cannot find for an error.
    with ANSWERING[0](tmp_path / "two") as peer, pytest.raises(PeerRefused):
        get(peer.address, nowhere)


@pytest.mark.parametrize("running", ANSWERING, ids=["orthanc", "dcmqrscp"])
@pytest.mark.parametrize(
    ("limits", "reason", "at_most"),
    [
        (RetrieveLimits(objects=2, size_bytes=10_000_000, time_s=60), "too_many_objects", 2),
        (RetrieveLimits(objects=100, size_bytes=3_000, time_s=60), "too_many_bytes", 4),
        (RetrieveLimits(objects=100, size_bytes=10_000_000, time_s=0), "too_slow", 29),
    ],
)
def test_a_limit_stops_the_retrieval_and_the_peer_answers_the_next(
    tmp_path: Path, running, limits: RetrieveLimits, reason: str, at_most: int
) -> None:
    images = write_series(tmp_path / "one", slices=30)
    wanted = Wanted(study_instance_uid=images[0].StudyInstanceUID)
    came: list[RetrievedObject] = []
    with running(tmp_path / "peer") as peer:
        store_with_storescu([tmp_path / "one"], peer.address)
        with pytest.raises(LimitReached) as stopped:
            get(peer.address, wanted, limits=limits, take=came.append)
        assert stopped.value.reason == reason
        assert len(came) <= at_most
        all_of_it, _ = get(peer.address, wanted)
        assert len(all_of_it) == 30


def test_what_cannot_be_taken_stops_the_retrieval(tmp_path: Path) -> None:
    images = write_series(tmp_path / "one", slices=5)
    seen = []

    def take(found: RetrievedObject) -> None:
        seen.append(found)
        raise StoreFull

    with running_dcmqrscp(tmp_path / "peer") as peer:
        store_with_storescu([tmp_path / "one"], peer.address)
        with pytest.raises(StoreFull):
            get(peer.address, Wanted(study_instance_uid=images[0].StudyInstanceUID), take=take)
    assert len(seen) == 1


@pytest.mark.parametrize("archive", ["orthanc", "dcmqrscp"])
def test_a_study_comes_by_c_move_to_this_nodes_listener(tmp_path: Path, archive: str) -> None:
    images = write_series(tmp_path / "one", slices=3)
    wanted = Wanted(study_instance_uid=images[0].StudyInstanceUID)
    with running_receiver(tmp_path / "node", loopback_peer("ORTHANC"), loopback_peer("DCMQRSCP")) as node:
        running = ANSWERING[0] if archive == "orthanc" else partial(running_dcmqrscp, known_peers=[node.address])
        with running(tmp_path / "peer") as peer:
            if archive == "orthanc":
                peer.register(node.address)
            store_with_storescu([tmp_path / "one"], peer.address)
            ended = retrieve_by_move(peer.address, wanted, destination_ae_title=AE_TITLE, limits=AMPLE, **ASKING)
            assert (ended.completed, ended.failed) == (3, 0)
            node.wait_for_rows(3)
            few = RetrieveLimits(objects=2, size_bytes=1, time_s=60)
            with pytest.raises(LimitReached):
                retrieve_by_move(peer.address, wanted, destination_ae_title=AE_TITLE, limits=few, **ASKING)
            with pytest.raises(PeerRefused) as unknown:
                retrieve_by_move(peer.address, wanted, destination_ae_title="NOBODY", limits=AMPLE, **ASKING)
            # Orthanc has no status of its own for it.
            assert isinstance(unknown.value, RetrieveNotSupported) == (archive == "dcmqrscp")


def test_a_peer_that_lets_nobody_retrieve_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    wanted = Wanted(study_instance_uid=generate_uid())
    with running_storescp(tmp_path) as peer:
        with pytest.raises(RetrieveNotSupported):
            get(peer.address, wanted)
        with pytest.raises(RetrieveNotSupported):
            retrieve_by_move(peer.address, wanted, destination_ae_title=AE_TITLE, limits=AMPLE, **ASKING)
    nobody = PeerAddress(ae_title="NOBODY", host=LOOPBACK, port=free_port())
    with pytest.raises(PeerUnavailable):
        get(nobody, wanted)


def test_instances_are_asked_for_in_one_series() -> None:
    with pytest.raises(ValueError, match="the one series"):
        Wanted(study_instance_uid=generate_uid(), sop_instance_uids=(generate_uid(),))
