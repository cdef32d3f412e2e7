"""ask: a Key Object Selection with the agreed title becomes a question about the images that it names.

A question is an input set of those images alone, beside the versions of the study's draft: it ends none of them, and a
later version does not end it. It goes the same way, through the same guard and the same checks; only its decision comes
from the person's text instead of the rules. What is not answered is recorded with its reason, and its file stays.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import InputSet, StoredInstance
from umit_pacs.pixels.headers import read_header
from umit_pacs.result_objects.guard.identity import identity_of, names_identity
from umit_pacs.result_objects.received_question import ReceivedSelection, SelectionUnreadable, read_selection
from umit_pacs.result_objects.sources import header_text
from umit_pacs.routing.asked import QuestionRefused, asked_rules
from umit_pacs.routing.rules import RuleSet
from umit_pacs.states import InputSetState
from umit_pacs.store import results, studies
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import instances_by_use
from umit_pacs.store.peers import peers_with_ae_title
from umit_pacs.store.questions import AskedQuestion, record_question, unread_selections
from umit_pacs.store.studies import ASKED, RETRACTION_NOT_TAKEN, TWO_PATIENTS
from umit_pacs.store.tables import InstanceUse
from umit_pacs.vocabulary import TemplateLibrary

log = logging.getLogger(__name__)

#: nobody asks about more images at once.
MOST_IMAGES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """What the step works with."""

    catalogue: Catalogue
    files: PayloadFiles
    templates: TemplateLibrary
    #: images that a question names are waited for until nothing of the study came for so long.
    quiet_period_s: float


class _NotYet(Exception):
    """The images are still coming in."""


def take_questions(asker: Asker, *, now: datetime) -> int:
    """Look at every Key Object Selection that came since; returns how many questions were taken up."""
    taken = 0
    for instance in unread_selections(asker.catalogue):
        try:
            question = _looked_at(asker, instance, now)
        except _NotYet:
            continue
        if record_question(asker.catalogue, question):
            fields = {"input_set_id": question.input_set_id, "reason": question.reason}
            log.info("selection_looked_at", extra=fields)
            taken += question.input_set_id is not None
    return taken


def rules_of_question(asker: Asker, input_set: InputSet) -> RuleSet:
    """The rule that the input set of a question is decided by. Raises StudyUnusable when its document is gone."""
    document, selection = _selection_of(asker, input_set)
    about = input_set.predecessor_id
    destinations = _destinations(asker, document, about) or (document.calling_ae_title,)
    return asked_rules(selection.text, asker.templates, destinations, _checkpoint(asker, about))


def with_chosen_frames(asker: Asker, input_set: InputSet) -> InputSet:
    """The input set with the frames that its question chooses; any other as it is. Raises StudyUnusable."""
    if input_set.asked_by is None:
        return input_set
    chosen = _selection_of(asker, input_set)[1].frames
    # A frame number of an image that has but one frame chooses nothing.
    frames = [
        (image.sop_instance_uid, chosen[image.sop_instance_uid])
        for image in input_set.instances
        if image.sop_instance_uid in chosen and _frame_count(asker, image) > 1
    ]
    return replace(input_set, chosen_frames=tuple(frames))


def _selection_of(asker: Asker, input_set: InputSet) -> tuple[StoredInstance, ReceivedSelection]:
    """The document that asks about these images, and what it says."""
    others = instances_by_use(asker.catalogue, input_set.study_instance_uid).get(InstanceUse.NO_PIXELS, ())
    document = next(one for one in others if one.sop_instance_uid == input_set.asked_by)
    return document, read_selection(asker.files.path(document.relative_path))


# --- one selection -----------------------------------------------------------------------------------------------


def _looked_at(asker: Asker, instance: StoredInstance, now: datetime) -> AskedQuestion:
    """What becomes of one selection. Raises _NotYet."""
    told = AskedQuestion(
        document=instance.sop_instance_uid,
        study_instance_uid=instance.study_instance_uid,
        received_at=instance.received_at,
    )
    try:
        selection = read_selection(asker.files.path(instance.relative_path))
        if not selection.is_question:
            raise QuestionRefused("its title asks nothing of this node", reason="other_title")
        return replace(told, input_set_id=_taken_up(asker, instance, selection, now))
    except SelectionUnreadable as exc:
        return replace(told, reason="unreadable", detail=exc.detail)
    except (QuestionRefused, StudyUnusable) as exc:
        return replace(told, reason=exc.reason, detail=exc.detail)


def _taken_up(asker: Asker, instance: StoredInstance, selection: ReceivedSelection, now: datetime) -> str:
    """Make the input set of a question; its id. Raises QuestionRefused, StudyUnusable or _NotYet."""
    _require_known_peer(asker, instance)
    asked_rules(selection.text, asker.templates, [instance.calling_ae_title])
    images = _chosen_images(asker, instance, selection, now)
    _require_answerable(asker, images, selection)
    version = _version_asked_about(asker, instance)
    if not _destinations(asker, instance, version.input_set_id):
        raise QuestionRefused("neither who asks nor the study's rule receives results", reason="nowhere_to_answer")
    asked = replace(
        version,
        input_set_id=_input_set_id(instance, images),
        instances=images,
        calling_ae_title=instance.calling_ae_title,
        predecessor_id=version.input_set_id,
        asked_by=instance.sop_instance_uid,
    )
    if not studies.create_input_set(asker.catalogue, asked, reason=ASKED, now=now):
        _require_made_before(asker, asked)
    return asked.input_set_id


def _require_made_before(asker: Asker, asked: InputSet) -> None:
    """Raise _NotYet unless it is there: then another version of the study was made in this moment."""
    try:
        studies.input_set_state(asker.catalogue, asked.input_set_id)
    except studies.InputSetUnknown as exc:
        raise _NotYet from exc


def _input_set_id(instance: StoredInstance, images: tuple[StoredInstance, ...]) -> str:
    """The same question about the same images always has the same id."""
    parts = [f"{one.sop_instance_uid} {one.sha256}" for one in (instance, *images)]
    return hashlib.sha256("\n".join(["asked", *parts]).encode()).hexdigest()[:32]


def _require_known_peer(asker: Asker, instance: StoredInstance) -> None:
    if not any(peer.may_send for peer in peers_with_ae_title(asker.catalogue, instance.calling_ae_title)):
        raise QuestionRefused("who asks is no peer that may send", reason="unknown_peer")


def _chosen_images(
    asker: Asker, instance: StoredInstance, selection: ReceivedSelection, now: datetime
) -> tuple[StoredInstance, ...]:
    """The images that the selection names, in its order."""
    if not 0 < len(selection.images) <= MOST_IMAGES:
        raise QuestionRefused(f"it names {len(selection.images)} images", reason="no_images")
    by_use = instances_by_use(asker.catalogue, instance.study_instance_uid)
    held: Mapping[str, tuple[StoredInstance, InstanceUse | None]] = {
        one.sop_instance_uid: (one, use) for use, several in by_use.items() for one in several
    }
    missing = [uid for uid in selection.images if uid not in held]
    last = max(one.received_at for one, _ in held.values())
    may_come = now - last < timedelta(seconds=asker.quiet_period_s)
    if any(held[uid][1] is None for uid in selection.images if uid in held) or (missing and may_come):
        raise _NotYet
    if missing:
        detail = f"{len(missing)} of {len(selection.images)} images are not here in this study"
        raise QuestionRefused(detail, reason="missing_images")
    if not all(held[uid][1] is InstanceUse.INPUT for uid in selection.images):
        raise QuestionRefused("it names a result of ours, or what shows no image", reason="not_images")
    return tuple(held[uid][0] for uid in selection.images)


def _require_answerable(asker: Asker, images: tuple[StoredInstance, ...], selection: ReceivedSelection) -> None:
    """Refuse a question that names the patient, and one about frames that an image lacks. Raises StudyUnusable too."""
    header = read_header(asker.files.path(images[0].relative_path))
    if names_identity(selection.text, identity_of(header), frozenset()):
        raise QuestionRefused("it names the patient or the hospital", reason="names_patient")
    for image in images:
        frames = selection.frames.get(image.sop_instance_uid, ())
        if frames and not 1 <= frames[0] <= frames[-1] <= _frame_count(asker, image):
            raise QuestionRefused("it names frames that an image does not have", reason="no_such_frame")


def _frame_count(asker: Asker, image: StoredInstance) -> int:
    """Number of Frames (0028,0008); 1 where the header has none that can be read."""
    text = header_text(read_header(asker.files.path(image.relative_path)), "NumberOfFrames")
    return int(text) if text.isdecimal() else 1


def _version_asked_about(asker: Asker, instance: StoredInstance) -> InputSet:
    version = studies.newest_input_set(asker.catalogue, instance.study_instance_uid)
    if version is None:
        raise _NotYet
    status = studies.input_set_status(asker.catalogue, version.input_set_id)
    if status.state is InputSetState.ASSEMBLED:
        raise _NotYet
    if status.reason == TWO_PATIENTS:
        raise QuestionRefused("the study shows two patients", reason=TWO_PATIENTS)
    is_retracted = status.state in {InputSetState.RETRACTING, InputSetState.RETRACTED}
    if is_retracted or status.reason == RETRACTION_NOT_TAKEN:
        raise QuestionRefused("the study's drafts were retracted", reason="retracted")
    return version


# --- where the answer goes, and who gives it ---------------------------------------------------------------------


def _destinations(asker: Asker, instance: StoredInstance, about: str | None) -> tuple[str, ...]:
    """Who asks, where that peer receives results; else where the study's draft goes."""
    titled = [peer for peer in peers_with_ae_title(asker.catalogue, instance.calling_ae_title) if peer.receives_results]
    at_host = [peer.name for peer in titled if instance.peer_host in peer.allowed_addresses]
    if names := at_host or [peer.name for peer in titled]:
        return tuple(names)
    decided = results.decision(asker.catalogue, about) if about is not None else None
    return decided.destinations if decided is not None else ()


def _checkpoint(asker: Asker, about: str | None) -> str:
    """The checkpoint that read the study, by its rule; "" for the node's own."""
    decided = results.decision(asker.catalogue, about) if about is not None else None
    return decided.checkpoint if decided is not None else ""
