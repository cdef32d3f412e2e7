"""Decide that a study is complete, and make its input set: the images that are analysed together.

A study is complete when the peer that sent it says by C-FIND how many instances it has and all are here; else when
nothing came for the quiet period; at the latest when the maximum wait since its first instance is over. An image that
comes later makes a new input set of the whole study, which names its predecessor.

What never starts anything, and is no part of an input set: our own results that come back (known by their SOP or Series
Instance UID), and objects that show no image (reports, presentation states, plans, segmentations). They are stored, and
the late report of a person does not run the model again.

Here is also where it is decided whom a study shows: when its headers name two patients, the input set ends FAILED with
the reason `two_patients`, and nothing reads its pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.uid import UID

from umit_pacs.errors import InconsistentStudy, RetryLater, StudyUnusable, UndecodablePixels
from umit_pacs.handoffs import CompletionReason, InputSet, StoredInstance, StudyUID
from umit_pacs.pixels.attributes import value
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.remembered_headers import MAXIMUM_HEADERS, ReadHeader
from umit_pacs.settings import AssembleSettings
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import count_delivered
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import WaitingStudy, instances_by_use, set_use, studies_waiting
from umit_pacs.store.peer_counts import PeerCount, peer_count, record_peer_count
from umit_pacs.store.peers import peers_with_ae_title
from umit_pacs.store.results import own_uids
from umit_pacs.store.studies import TWO_PATIENTS, Failure, create_input_set, newest_input_set
from umit_pacs.store.tables import InstanceUse

#: (calling AE title, Study Instance UID) -> instances of the study at this peer, None when it cannot say.
CountInstances = Callable[[str, str], int | None]

#: A peer is asked only when nothing came for this long: one that forwards each image as it comes in has, at any moment,
#: as many as we have, and it is not asked again for every image.
SETTLE_S = 1.0
#: Nothing came for this long, so the study is probably all here: its headers are read while it settles.
READ_AHEAD_AFTER_S = 0.4

#: What tells two patients apart (PS3.3 C.7.1.1); an absent or empty value contradicts nothing.
_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")


def assemble_due(
    catalogue: Catalogue,
    settings: AssembleSettings,
    *,
    now: datetime,
    count_instances: CountInstances,
    files: PayloadFiles,
    read: ReadHeader = read_header,
) -> tuple[InputSet, ...]:
    """Make the input sets that are due and return those that go on to `route`.

    read: reads headers, or remembers them. May run in several processes at once and any number of times: each set is
    made, and returned, once.
    """
    made = []
    for waiting in studies_waiting(catalogue):
        study_uid = waiting.study_instance_uid
        if _is_in_full_flow(settings, waiting, now):
            if (now - waiting.last_received_at).total_seconds() >= READ_AHEAD_AFTER_S:
                _read_ahead(instances_by_use(catalogue, study_uid).get(None, ()), files, read)
            continue
        images = _images_among(catalogue, instances_by_use(catalogue, study_uid).get(None, ()))
        if not images:
            continue
        completed_by = _completion(catalogue, settings, images, now=now, count_instances=count_instances)
        if completed_by is None:
            continue
        input_set = _make_input_set(catalogue, study_uid, completed_by, now=now, files=files, read=read)
        if input_set is not None:
            made.append(input_set)
    return tuple(made)


def next_due(catalogue: Catalogue, settings: AssembleSettings, *, now: datetime) -> datetime | None:
    """When the next of the waiting studies may be complete, or is worth reading ahead; None when none waits."""
    waits_s = (READ_AHEAD_AFTER_S, *([SETTLE_S] if settings.ask_expected_count else []), settings.quiet_period_s)
    times = [
        time
        for waiting in studies_waiting(catalogue)
        for time in (
            *(waiting.last_received_at + timedelta(seconds=wait_s) for wait_s in waits_s),
            waiting.first_received_at + timedelta(seconds=settings.maximum_wait_s),
        )
    ]
    return min((time for time in times if time > now), default=None)


def input_set_of(
    instances: Sequence[StoredInstance], completed_by: CompletionReason, predecessor_id: str | None = None
) -> InputSet:
    """The input set of these instances of one study; the same instances always give the same id."""
    in_order = sorted(instances, key=lambda instance: (instance.received_at, instance.sop_instance_uid))
    digest = hashlib.sha256()
    for instance in sorted(instances, key=lambda instance: instance.sop_instance_uid):
        digest.update(f"{instance.sop_instance_uid} {instance.sha256}\n".encode())
    return InputSet(
        input_set_id=digest.hexdigest()[:32],
        study_instance_uid=in_order[0].study_instance_uid,
        instances=tuple(in_order),
        calling_ae_title=in_order[-1].calling_ae_title,
        completed_by=completed_by,
        predecessor_id=predecessor_id,
    )


def shows_image(sop_class_uid: str) -> bool:
    """Tell whether objects of this class are images by PS3.4 B.5; a private class says nothing and is not one."""
    return "Image Storage" in UID(sop_class_uid).name


def assert_one_patient(
    instances: Iterable[StoredInstance], files: PayloadFiles, read: ReadHeader = read_header
) -> None:
    """Raise InconsistentStudy, reason two_patients, when two headers contradict each other about whom they show.

    A header that cannot be read says nothing; `route` and `prepare` keep its instance out. Raises StudyUnusable, reason
    stored_file_missing, when the file of an instance is gone.
    """
    known: dict[str, tuple[str, StoredInstance]] = {}
    for instance in instances:
        try:
            header = read(files.path(instance.relative_path))
        except UndecodablePixels:
            continue
        except FileNotFoundError as exc:
            raise StudyUnusable("a stored file is gone", reason="stored_file_missing") from exc
        for keyword in _IDENTITY:
            told = _identity(header, keyword)
            if told and known.setdefault(keyword, (told, instance))[0] != told:
                raise InconsistentStudy(_difference(keyword, known[keyword][1], instance), reason=TWO_PATIENTS)


# --- which instances ---------------------------------------------------------------------------------------------


def _images_among(catalogue: Catalogue, waiting: Sequence[StoredInstance]) -> list[StoredInstance]:
    """Those of the waiting instances that an input set is made of; everything else is noted as what it is."""
    uids = [instance.sop_instance_uid for instance in waiting]
    ours = own_uids(catalogue, [*uids, *{instance.series_instance_uid for instance in waiting}])
    own, without_pixels, images = [], [], []
    for instance in waiting:
        if instance.sop_instance_uid in ours or instance.series_instance_uid in ours:
            own.append(instance.sop_instance_uid)
        elif shows_image(instance.sop_class_uid):
            images.append(instance)
        else:
            without_pixels.append(instance.sop_instance_uid)
    if own:
        set_use(catalogue, own, InstanceUse.OWN_RESULT)
    if without_pixels:
        set_use(catalogue, without_pixels, InstanceUse.NO_PIXELS)
    return images


# --- when --------------------------------------------------------------------------------------------------------


def _is_in_full_flow(settings: AssembleSettings, waiting: WaitingStudy, now: datetime) -> bool:
    """Tell from its times alone that the study cannot be complete, so that its instances need not be looked at."""
    silence_s = (now - waiting.last_received_at).total_seconds()
    age_s = (now - waiting.first_received_at).total_seconds()
    return silence_s < min(SETTLE_S, settings.quiet_period_s) and age_s < settings.maximum_wait_s


def _completion(
    catalogue: Catalogue,
    settings: AssembleSettings,
    images: Sequence[StoredInstance],
    *,
    now: datetime,
    count_instances: CountInstances,
) -> CompletionReason | None:
    """Why the study is complete now, None while it is not."""
    silence = now - max(image.received_at for image in images)
    if silence >= timedelta(seconds=settings.quiet_period_s):
        return CompletionReason.QUIET_PERIOD
    if now - min(image.received_at for image in images) >= timedelta(seconds=settings.maximum_wait_s):
        return CompletionReason.MAXIMUM_WAIT
    has_settled = silence >= timedelta(seconds=SETTLE_S)
    if settings.ask_expected_count and has_settled and _has_all(catalogue, images[-1], now, count_instances):
        return CompletionReason.EXPECTED_COUNT
    return None


def _has_all(catalogue: Catalogue, newest: StoredInstance, now: datetime, count_instances: CountInstances) -> bool:
    """Tell whether the peer that sent `newest` has no instance of its study that is not here.

    The peer's count holds our own results that it has taken, and may hold one more whose answer got lost; then it seems
    to have more than it has, and the quiet period decides. The peer is asked again only when more has come.
    """
    study_uid, ae_title = newest.study_instance_uid, newest.calling_ae_title
    by_use = instances_by_use(catalogue, study_uid)
    held = sum(len(instances) for use, instances in by_use.items() if use is not InstanceUse.OWN_RESULT)
    told = peer_count(catalogue, study_uid)
    if told is None or (told.held, told.calling_ae_title) != (held, ae_title):
        askable = [peer for peer in peers_with_ae_title(catalogue, ae_title) if peer.answers_query]
        if not askable:
            return False
        try:
            at_peer = count_instances(ae_title, study_uid)
        except RetryLater:
            at_peer = None
        ours_there = sum(count_delivered(catalogue, study_uid, peer.name) for peer in askable)
        told = PeerCount(
            study_instance_uid=study_uid,
            calling_ae_title=ae_title,
            expected=None if at_peer is None else max(0, at_peer - ours_there),
            held=held,
            asked_at=now,
        )
        record_peer_count(catalogue, told)
    # A peer that says it has nothing has just not filed what it sent.
    return told.expected is not None and 0 < told.expected <= held


# --- what --------------------------------------------------------------------------------------------------------


def _make_input_set(
    catalogue: Catalogue,
    study_uid: StudyUID,
    completed_by: CompletionReason,
    *,
    now: datetime,
    files: PayloadFiles,
    read: ReadHeader,
) -> InputSet | None:
    """Make the study's next input set; None when it fails at once or another process was first."""
    predecessor = newest_input_set(catalogue, study_uid)
    by_use = instances_by_use(catalogue, study_uid)
    late = _images_among(catalogue, by_use.get(None, ()))
    if not late:
        return None
    input_set = input_set_of(
        [*by_use.get(InstanceUse.INPUT, ()), *late],
        completed_by,
        predecessor.input_set_id if predecessor is not None else None,
    )
    try:
        assert_one_patient(input_set.instances, files, read)
    except StudyUnusable as exc:
        create_input_set(catalogue, input_set, failure=Failure(reason=exc.reason, detail=exc.detail), now=now)
        return None
    return input_set if create_input_set(catalogue, input_set, now=now) else None


def _read_ahead(instances: Sequence[StoredInstance], files: PayloadFiles, read: ReadHeader) -> None:
    """Have the headers of these instances remembered; what is wrong with one is found when it is needed."""
    if len(instances) > MAXIMUM_HEADERS:
        return
    for instance in instances:
        with contextlib.suppress(UndecodablePixels, FileNotFoundError):
            header = read(files.path(instance.relative_path))
            for tag in list(header.keys()):
                value(header, (tag.group, tag.element))  # parses it: pydicom puts that off until somebody asks


# --- who ---------------------------------------------------------------------------------------------------------


def _identity(header: Dataset, keyword: str) -> str:
    """A patient attribute as comparable text, without its padding."""
    return str(header.get(keyword) or "").strip()


def _difference(keyword: str, first: StoredInstance, second: StoredInstance) -> str:
    return (
        f"{keyword} of instance {second.sop_instance_uid} is not that of instance {first.sop_instance_uid}; "
        "one Study Instance UID was used for two patients, or one patient was renamed in between"
    )
