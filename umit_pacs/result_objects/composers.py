"""Who composes each kind of result object."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.composition import Composition
from umit_pacs.result_objects.document import document
from umit_pacs.result_objects.key_objects import key_objects
from umit_pacs.result_objects.measurement_report import measurement_report
from umit_pacs.result_objects.presentation_state import presentation_states
from umit_pacs.result_objects.qualitative_report import qualitative_report
from umit_pacs.result_objects.secondary_capture import secondary_captures
from umit_pacs.result_objects.segmentation import segmentations
from umit_pacs.result_objects.text_report import text_report

#: The objects of one kind, in the order of their instance numbers; none where the draft has nothing for them.
Composer = Callable[[Composition], tuple[Dataset, ...]]


def _text_reports(work: Composition) -> tuple[Dataset, ...]:
    return (text_report(work.draft, work.made),)


def _basic_text_reports(work: Composition) -> tuple[Dataset, ...]:
    return (text_report(work.draft, work.made, ObjectKind.BASIC_TEXT_REPORT),)


def _documents(work: Composition) -> tuple[Dataset, ...]:
    return (document(work),)


def _key_objects(work: Composition) -> tuple[Dataset, ...]:
    return (key_objects(work.draft, work.made),) if work.draft.key_frames else ()


def _measurement_reports(work: Composition) -> tuple[Dataset, ...]:
    return (measurement_report(work.draft, work.made),) if work.draft.markings else ()


def _qualitative_reports(work: Composition) -> tuple[Dataset, ...]:
    return (qualitative_report(work.draft, work.made),) if work.draft.answers else ()


def _captures(work: Composition) -> tuple[Dataset, ...]:
    return secondary_captures(work.pages(), work.draft, work.made)


def _segmentations(work: Composition) -> tuple[Dataset, ...]:
    return segmentations(work.draft, work.masks, work.made)


#: A profile may name these kinds; a rejection note is not part of a draft.
COMPOSERS: dict[ObjectKind, Composer] = {
    ObjectKind.TEXT_REPORT: _text_reports,
    ObjectKind.MEASUREMENT_REPORT: _measurement_reports,
    ObjectKind.SECONDARY_CAPTURE: _captures,
    ObjectKind.BASIC_TEXT_REPORT: _basic_text_reports,
    ObjectKind.QUALITATIVE_REPORT: _qualitative_reports,
    ObjectKind.PRESENTATION_STATE: presentation_states,
    ObjectKind.KEY_OBJECTS: _key_objects,
    ObjectKind.DOCUMENT: _documents,
    ObjectKind.SEGMENTATION: _segmentations,
}
