"""The draft as text: Enhanced SR or Basic Text SR after TID 2000, Basic Diagnostic Imaging Report.

Its items are of the few kinds that both allow, so the two differ in their SOP class only.
"""

from __future__ import annotations

import highdicom.sr
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import BasicTextSRStorage, EnhancedSRStorage

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.draft import Draft, DraftLine, DraftSection, SectionKind
from umit_pacs.result_objects.provenance import (
    Provenance,
    add_document_flags,
    add_evidence,
    add_other_evidence,
    add_predecessors,
    coded,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, image, put_content, text
from umit_pacs.vocabulary import Words

_SOP_CLASSES = {ObjectKind.TEXT_REPORT: EnhancedSRStorage, ObjectKind.BASIC_TEXT_REPORT: BasicTextSRStorage}


def text_report(draft: Draft, made: Provenance, kind: ObjectKind = ObjectKind.TEXT_REPORT) -> Dataset:
    """The document; `kind`: TEXT_REPORT, or BASIC_TEXT_REPORT for destinations that take no Enhanced SR."""
    ds = new_object(_SOP_CLASSES[kind], kind, 1, "SR", made)
    add_document_flags(ds, made)
    earlier = [kind]
    if not draft.markings:
        # Nothing else of this run can name the earlier measurements as replaced.
        earlier.append(ObjectKind.MEASUREMENT_REPORT)
    add_predecessors(ds, earlier, made)
    add_evidence(ds, draft.frames, made)
    if draft.earlier is not None:
        add_other_evidence(ds, draft.earlier.study_instance_uid, draft.earlier.frames)
    put_content(ds, _root(draft, made))
    return ds


def _root(draft: Draft, made: Provenance) -> Dataset:
    procedure = highdicom.sr.CodeContentItem(
        name=codes.DCM.ProcedureReported,
        value=coded(draft.procedure),
        relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    items = [procedure, *language_item(made.words), *observation_context(made)]
    items += [_section(section, made.words) for section in draft.sections]
    return container(codes.cid7000.DiagnosticImagingReport, items, template_id="2000")


def _section(section: DraftSection, words: Words) -> Dataset:
    # The meaning of a code is what a viewer shows of it, so it stands in the report's language.
    name = coded(section.line_code, words(f"items.{section.kind}"))
    purpose = codes.cid7003.BestIllustrationOfFinding
    if section.kind is SectionKind.COMPARISON:
        purpose = codes.cid7003.Baseline
    return container(coded(section.code, section.heading), [_line(line, name, purpose) for line in section.lines])


def _line(line: DraftLine, name: CodedConcept, purpose: Code) -> Dataset:
    """TID 2002: a text, inferred from images (TID 2001) for a purpose (CID 7003)."""
    item = text(name, line.text, RelationshipTypeValues.CONTAINS)
    if line.frames:
        item.ContentSequence = highdicom.sr.ContentSequence(
            [image(frame, RelationshipTypeValues.INFERRED_FROM, purpose) for frame in line.frames],
            is_sr=True,
        )
    return item
