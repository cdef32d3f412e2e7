"""The notice for destinations that do not understand rejection notes: a text in the study that says what is withdrawn.

Basic Text SR after TID 2000, because every archive that takes any structured report takes it. The objects themselves
stay where they are; the notice names the documents among them as its predecessors.
"""

from __future__ import annotations

from highdicom.sr import CodeContentItem, CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import BasicTextSRStorage

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.provenance import (
    PRIVATE_SCHEME,
    Provenance,
    add_document_flags,
    add_predecessors,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, put_content, text
from umit_pacs.result_objects.withdrawal import Withdrawal

_DOCUMENTS = (
    ObjectKind.TEXT_REPORT,
    ObjectKind.BASIC_TEXT_REPORT,
    ObjectKind.MEASUREMENT_REPORT,
    ObjectKind.QUALITATIVE_REPORT,
)


def notice(withdrawal: Withdrawal, made: Provenance) -> Dataset:
    """The Basic Text SR object. `made.predecessor` is what is withdrawn."""
    ds = new_object(BasicTextSRStorage, ObjectKind.NOTICE, 1, "SR", made)
    add_document_flags(ds, made)
    add_predecessors(ds, _DOCUMENTS, made)
    words = made.words
    procedure = CodeContentItem(
        name=codes.DCM.ProcedureReported,
        value=codes.cid100.ImagingProcedure,
        relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    name = _own("status-text", words("withdrawal.title"))
    lines = [words("banner"), *withdrawal.lines(words)]
    section = container(
        _own("status", words("headings.status")),
        [text(name, line, RelationshipTypeValues.CONTAINS) for line in lines],
    )
    items = [procedure, *language_item(words), *observation_context(made), section]
    put_content(ds, container(codes.cid7000.DiagnosticImagingReport, items, template_id="2000"))
    return ds


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=PRIVATE_SCHEME, meaning=meaning)
