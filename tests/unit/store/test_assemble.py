from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from tests.store_fixtures import PROCESSES, STUDY, after, change_delivery, result_object, stored_instance
from umit_pacs.errors import InconsistentStudy, PeerUnavailable, StudyUnusable
from umit_pacs.handoffs import CompletionReason
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.remembered_headers import RememberedHeaders
from umit_pacs.settings import AssembleSettings
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.steps.assemble import (
    READ_AHEAD_AFTER_S,
    SETTLE_S,
    assemble_due,
    assert_one_patient,
    input_set_of,
    next_due,
    shows_image,
)
from umit_pacs.store.database import Catalogue, open_catalogue
from umit_pacs.store.deliveries import plan_deliveries
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances, studies_waiting
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_result_objects
from umit_pacs.store.stories import story
from umit_pacs.store.studies import newest_input_set

SETTINGS = AssembleSettings(quiet_period_s=10, maximum_wait_s=100, ask_expected_count=True)
ASKABLE = Peer(name="ct", ae_title="CT1", host="127.0.0.1", port=104, answers_query=True)


def _write(path: Path, instance, **attributes):
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = instance.sop_class_uid
    header.file_meta.MediaStorageSOPInstanceUID = instance.sop_instance_uid
    header.SOPClassUID = instance.sop_class_uid
    header.SOPInstanceUID = instance.sop_instance_uid
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


@dataclass
class Ward:
    """Sends instances to the catalogue, and answers how many a peer has."""

    catalogue: Catalogue
    files: PayloadFiles
    at_peer: int | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def send(self, number, *, patient="P1", at=0.0, **changes):
        instance = stored_instance(number, received_at=after(at), **changes)
        if patient is not None:
            identity = {"PatientID": patient} if isinstance(patient, str) else patient
            _write(self.files.path(instance.relative_path), instance, **identity)
        record_instances(self.catalogue, [instance])
        return instance

    def count_instances(self, calling_ae_title, study_uid):
        self.asked.append((calling_ae_title, study_uid))
        return self.at_peer

    def assemble(self, at, *, read=read_header, **changes):
        settings = SETTINGS.model_copy(update=changes)
        return assemble_due(
            self.catalogue, settings, now=after(at), count_instances=self.count_instances, files=self.files, read=read
        )


@pytest.fixture
def ward(catalogue, tmp_path):
    return Ward(catalogue, PayloadFiles(tmp_path / "store"))


def _state(catalogue, study=STUDY):
    newest = story(catalogue, study).input_sets[-1]
    return newest.state, newest.reason


# --- when --------------------------------------------------------------------------------------------------------


def test_a_study_is_complete_when_nothing_came_for_the_quiet_period(ward):
    sent = [ward.send(1, at=0), ward.send(2, at=4)]
    assert ward.assemble(13.9) == ()
    (made,) = ward.assemble(14)
    assert made.instances == tuple(sent)
    assert made.completed_by is CompletionReason.QUIET_PERIOD
    assert made.calling_ae_title == "CT1"
    assert made.predecessor_id is None
    assert newest_input_set(ward.catalogue, STUDY) == made


def test_an_input_set_is_made_and_returned_once(ward):
    ward.send(1)
    assert len(ward.assemble(10)) == 1
    assert ward.assemble(10) == ()
    assert ward.assemble(1000) == ()


def test_a_study_that_never_falls_silent_ends_after_the_maximum_wait(ward):
    for second in range(0, 100, 5):
        ward.send(second, at=second)
        assert ward.assemble(second) == ()
    (made,) = ward.assemble(100)
    assert made.completed_by is CompletionReason.MAXIMUM_WAIT
    assert len(made.instances) == 20


def test_a_study_is_complete_as_soon_as_the_peer_has_no_more(ward):
    add_peer(ward.catalogue, ASKABLE)
    ward.at_peer = 2
    ward.send(1, at=0)
    assert ward.assemble(2) == ()
    ward.send(2, at=3)
    assert ward.assemble(3.5) == ()  # It has just come: a peer that forwards as it receives has as many as we have.
    (made,) = ward.assemble(4)
    assert made.completed_by is CompletionReason.EXPECTED_COUNT
    count = story(ward.catalogue, STUDY).peer_count
    assert (count.expected, count.held, count.calling_ae_title) == (2, 2, "CT1")


def test_the_next_look_is_when_a_study_may_be_complete(ward):
    def due(at, **changes):
        return next_due(ward.catalogue, SETTINGS.model_copy(update=changes), now=after(at))

    assert due(0) is None
    ward.send(1, at=0)
    ward.send(2, at=5, study="2.25.2000")
    assert due(5) == after(5 + READ_AHEAD_AFTER_S)
    assert due(5.5) == after(5 + SETTLE_S)
    assert due(7) == after(10)
    assert due(7, quiet_period_s=1000.0) == after(100)
    assert due(1, ask_expected_count=False) == after(5 + READ_AHEAD_AFTER_S)
    assert due(200) is None


def test_headers_are_read_while_a_study_settles_and_not_again_when_it_is_complete(ward):
    headers = RememberedHeaders()
    first, second = ward.send(1, at=0), ward.send(2, at=1)
    for at in (1.0, 1.1 + READ_AHEAD_AFTER_S):
        assert ward.assemble(at, read=headers.read) == ()
    ward.files.path(first.relative_path).unlink()  # so that reading it again would fail
    (made,) = ward.assemble(11, read=headers.read)
    assert made.instances == (first, second)


def test_a_header_that_cannot_be_read_ahead_waits_for_its_step(ward):
    ward.send(1, at=0, patient=None)
    assert ward.assemble(2 * READ_AHEAD_AFTER_S) == ()
    ward.assemble(10)
    assert _state(ward.catalogue) == (InputSetState.FAILED, "stored_file_missing")


def test_the_peer_is_asked_again_only_when_more_has_come(ward):
    add_peer(ward.catalogue, ASKABLE)
    ward.at_peer = 3
    ward.send(1, at=0)
    for second in range(1, 9):
        ward.assemble(second)
    assert ward.asked == [("CT1", STUDY)]
    ward.send(2, at=9)
    for second in range(10, 18):
        ward.assemble(second)
    assert len(ward.asked) == 2
    (made,) = ward.assemble(19)
    assert made.completed_by is CompletionReason.QUIET_PERIOD


@pytest.mark.parametrize("answer", [None, 0])
def test_a_peer_that_cannot_say_leaves_it_to_the_quiet_period(ward, answer):
    add_peer(ward.catalogue, ASKABLE)
    ward.at_peer = answer
    ward.send(1)
    assert ward.assemble(5) == ()
    assert len(ward.asked) == 1
    assert len(ward.assemble(10)) == 1


def test_a_peer_that_is_away_leaves_it_to_the_quiet_period(ward):
    add_peer(ward.catalogue, ASKABLE)

    def away(calling_ae_title, study_uid):
        raise PeerUnavailable

    ward.count_instances = away
    ward.send(1)
    assert ward.assemble(5) == ()
    assert len(ward.assemble(10)) == 1


def test_only_a_peer_that_answers_is_asked_and_only_when_settings_say_so(ward):
    ward.at_peer = 1
    ward.send(1)
    ward.assemble(5)
    add_peer(ward.catalogue, replace(ASKABLE, answers_query=False))
    ward.assemble(5)
    add_peer(ward.catalogue, ASKABLE)
    ward.assemble(5, ask_expected_count=False)
    assert ward.asked == []
    assert len(ward.assemble(5)) == 1


def test_our_own_results_at_the_peer_are_not_waited_for(ward):
    add_peer(ward.catalogue, ASKABLE)
    ward.send(1)
    (first,) = ward.assemble(10)
    record_result_objects(ward.catalogue, first.input_set_id, [result_object(1), result_object(2)])
    for delivery in plan_deliveries(ward.catalogue, first.input_set_id, ["ct"]):
        change_delivery(ward.catalogue, delivery.delivery_id, DeliveryState.SENT)
    ward.at_peer = 2 + 2
    ward.send(2, at=20)
    (second,) = ward.assemble(22)
    assert second.completed_by is CompletionReason.EXPECTED_COUNT


def test_reports_of_others_count_as_the_peer_counts_them(ward):
    add_peer(ward.catalogue, ASKABLE)
    ward.at_peer = 2
    ward.send(1)
    ward.send(2, sop_class_uid=ComprehensiveSRStorage)
    (made,) = ward.assemble(2)
    assert made.completed_by is CompletionReason.EXPECTED_COUNT
    assert len(made.instances) == 1


# --- which -------------------------------------------------------------------------------------------------------


def test_a_late_image_makes_a_set_of_the_whole_study_that_names_its_predecessor(ward):
    early = ward.send(1)
    (first,) = ward.assemble(10)
    late = ward.send(2, at=50)
    assert ward.assemble(59) == ()
    (second,) = ward.assemble(60)
    assert second.predecessor_id == first.input_set_id
    assert second.instances == (early, late)
    assert second.input_set_id != first.input_set_id


def test_the_same_image_sent_again_starts_nothing(ward):
    ward.send(1)
    ward.assemble(10)
    ward.send(1, at=50)
    assert ward.assemble(100) == ()
    assert studies_waiting(ward.catalogue) == ()


def test_interleaved_studies_are_kept_apart(ward):
    for number in range(4):
        ward.send(number, study=f"2.25.{number % 2}", patient=f"P{number % 2}", at=number)
    first, second = ward.assemble(20)
    assert [image.study_instance_uid for image in first.instances] == ["2.25.0"] * 2
    assert [image.study_instance_uid for image in second.instances] == ["2.25.1"] * 2


def test_our_own_results_that_come_back_start_nothing(ward):
    ward.send(1)
    (first,) = ward.assemble(10)
    ours = result_object(7)
    record_result_objects(ward.catalogue, first.input_set_id, [ours])
    back = replace(
        stored_instance(70, received_at=after(20), sop_class_uid=SecondaryCaptureImageStorage),
        sop_instance_uid=ours.sop_instance_uid,
    )
    copied = replace(
        stored_instance(71, received_at=after(20), sop_class_uid=SecondaryCaptureImageStorage),
        series_instance_uid=ours.series_instance_uid,
    )
    record_instances(ward.catalogue, [back, copied])
    assert ward.assemble(100) == ()
    told = story(ward.catalogue, STUDY)
    assert (told.own_results, told.waiting, len(told.input_sets)) == (2, 0, 1)


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        ComprehensiveSRStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        KeyObjectSelectionDocumentStorage,
        RTStructureSetStorage,
        SegmentationStorage,
        "1.2.3.4.5",
    ],
    ids=["SR", "PR", "KOS", "RTSTRUCT", "SEG", "private"],
)
def test_an_object_that_shows_no_image_is_stored_and_starts_nothing(ward, sop_class_uid):
    ward.send(1)
    ward.send(2, sop_class_uid=sop_class_uid, patient=None)
    (made,) = ward.assemble(10)
    assert [image.sop_instance_uid for image in made.instances] == [stored_instance(1).sop_instance_uid]
    ward.send(3, sop_class_uid=sop_class_uid, patient=None, at=50)
    assert ward.assemble(200) == ()
    assert story(ward.catalogue, STUDY).without_pixels == 2


def test_a_study_of_reports_alone_makes_no_input_set(ward):
    ward.send(1, sop_class_uid=ComprehensiveSRStorage, patient=None)
    assert ward.assemble(200) == ()
    told = story(ward.catalogue, STUDY)
    assert (told.input_sets, told.without_pixels, told.waiting) == ((), 1, 0)


@pytest.mark.parametrize(
    "sop_class_uid",
    [CTImageStorage, EnhancedMRImageStorage, DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage],
)
def test_image_classes_show_an_image(sop_class_uid):
    assert shows_image(sop_class_uid)


def test_the_id_of_an_input_set_follows_from_its_instances_alone():
    instances = [stored_instance(number, received_at=after(number)) for number in range(3)]
    ids = {
        input_set_of(order, CompletionReason.QUIET_PERIOD, "predecessor").input_set_id
        for order in permutations(instances)
    }
    assert len(ids) == 1
    later = [replace(instance, received_at=after(99), calling_ae_title="OTHER") for instance in instances]
    assert input_set_of(later, CompletionReason.FILES).input_set_id in ids
    for other in (instances[:2], [*instances[:2], stored_instance(2, content="other")]):
        assert input_set_of(other, CompletionReason.QUIET_PERIOD).input_set_id not in ids
    assert all(len(name) == 32 for name in ids)


# --- who ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("P1", "P2"),
        ({"PatientID": "P1", "IssuerOfPatientID": "A"}, {"PatientID": "P1", "IssuerOfPatientID": "B"}),
        ({"PatientBirthDate": "19600101"}, {"PatientBirthDate": "19600102"}),
    ],
    ids=["id", "issuer", "birth date"],
)
def test_two_patients_under_one_study_uid_are_refused(ward, first, second):
    ward.send(1, patient=first)
    ward.send(2, patient=second, series=2)
    assert ward.assemble(10) == ()
    assert _state(ward.catalogue) == (InputSetState.FAILED, "two_patients")
    assert ward.assemble(20) == ()
    detail = story(ward.catalogue, STUDY).input_sets[0].detail
    assert not any(value in detail for value in ("P2", "19600102"))


def test_a_second_patient_who_comes_late_is_refused_too(ward):
    ward.send(1)
    (first,) = ward.assemble(10)
    ward.send(2, patient="P2", at=50)
    assert ward.assemble(60) == ()
    told = story(ward.catalogue, STUDY)
    assert [made.state for made in told.input_sets] == [InputSetState.ASSEMBLED, InputSetState.FAILED]
    assert told.input_sets[1].predecessor_id == first.input_set_id


def test_absent_and_padded_identities_contradict_nothing(ward):
    ward.send(1, patient={"PatientID": "P1", "IssuerOfPatientID": "A", "PatientBirthDate": "19600101"})
    ward.send(2, patient={"PatientID": "P1 "})
    ward.send(3, patient={"PatientID": "", "PatientBirthDate": None})
    ward.send(4, patient={})
    assert len(ward.assemble(10)) == 1


def test_an_unreadable_header_does_not_hold_the_study_up(ward):
    ward.send(1)
    broken = ward.send(2, patient=None)
    path = ward.files.path(broken.relative_path)
    path.write_bytes(b"no DICOM at all")
    (made,) = ward.assemble(10)
    assert broken in made.instances


def test_a_file_that_is_gone_fails_the_study_and_no_other(ward):
    ward.send(1, patient=None, study="2.25.1")
    ward.send(1, study="2.25.2")
    (made,) = ward.assemble(10)
    assert made.study_instance_uid == "2.25.2"
    assert _state(ward.catalogue, "2.25.1") == (InputSetState.FAILED, "stored_file_missing")


def test_the_check_for_one_patient_says_what_is_wrong(ward):
    one, other = ward.send(1), ward.send(2, patient="P2")
    assert_one_patient([one], ward.files)
    with pytest.raises(InconsistentStudy, match="PatientID") as caught:
        assert_one_patient([one, other], ward.files)
    assert caught.value.reason == "two_patients"
    assert isinstance(caught.value, StudyUnusable)


# --- several processes -------------------------------------------------------------------------------------------


def _assemble_in_a_process(url, root):
    catalogue = open_catalogue(url)
    made = assemble_due(
        catalogue, SETTINGS, now=after(10), count_instances=lambda *_: None, files=PayloadFiles(Path(root))
    )
    catalogue.close()
    return [made_set.study_instance_uid for made_set in made]


def test_of_several_assemblers_each_set_is_made_by_one(ward, catalogue_url):
    studies = [f"2.25.{number}" for number in range(12)]
    for study in studies:
        ward.send(1, study=study)
    with ProcessPoolExecutor(3, mp_context=PROCESSES) as processes:
        made = list(processes.map(_assemble_in_a_process, [catalogue_url] * 3, [str(ward.files.root)] * 3))
    assert sorted(study for one in made for study in one) == sorted(studies)
