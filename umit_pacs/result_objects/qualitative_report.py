"""Answers without a region: Comprehensive 3D SR after TID 1500, in its Qualitative Evaluations.

A document of its own, because a group without a region in the document of the regions blanks OHIF. Its findings are not
grouped: a group of TID 1501 has the same name as one of TID 1410, and checkers ask for its region.
"""

from __future__ import annotations

import highdicom.sr
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.draft import CodedAnswer, Draft
from umit_pacs.result_objects.measurement_report import certainty_item, procedure_items
from umit_pacs.result_objects.provenance import (
    Provenance,
    add_document_flags,
    add_evidence,
    add_predecessors,
    coded,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, put_content, text

_EVALUATIONS = CodedConcept(value="C0034375", scheme_designator="UMLS", meaning="Qualitative Evaluations")


def qualitative_report(draft: Draft, made: Provenance) -> Dataset:
    """The document; the draft has some answer without a region."""
    frames = tuple(dict.fromkeys(frame for answer in draft.answers for frame in answer.frames))
    ds = new_object(Comprehensive3DSRStorage, ObjectKind.QUALITATIVE_REPORT, 1, "SR", made)
    add_document_flags(ds, made)
    add_predecessors(ds, [ObjectKind.QUALITATIVE_REPORT], made)
    add_evidence(ds, frames, made)
    items = [*language_item(made.words), *observation_context(made), *procedure_items(frames, made)]
    items.append(container(_EVALUATIONS, [_answer(answer) for answer in draft.answers]))
    put_content(ds, container(codes.cid7021.ImagingMeasurementReport, items, template_id="1500"))
    return ds


def _answer(answer: CodedAnswer) -> Dataset:
    question = coded(answer.question, answer.question_text)
    if answer.answer is None:
        return text(question, answer.answer_text, RelationshipTypeValues.CONTAINS)
    item: Dataset = highdicom.sr.CodeContentItem(
        name=question,
        value=coded(answer.answer, answer.answer_text),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    if answer.confidence is not None:
        item.ContentSequence = highdicom.sr.ContentSequence([certainty_item(answer.confidence)], is_sr=True)
    return item
