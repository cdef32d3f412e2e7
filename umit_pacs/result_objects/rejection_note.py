"""The rejection note of IHE IOCM: a Key Object Selection whose title says why the objects that it names are rejected.

Sources: IHE RAD TF-2 4.66 (transaction RAD-66), PS3.16 TID 2010 and CID 7010. What an archive does with it depends on
the title: it may keep what was rejected for quality from readers, must do so for patient safety, and may delete what is
past its retention.
"""

from __future__ import annotations

from highdicom.sr import CodedConcept, CompositeContentItem, ImageContentItem, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from umit_pacs.handoffs import ObjectKind, ResultObject
from umit_pacs.result_objects.provenance import (
    Provenance,
    add_results_as_evidence,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, put_content, text
from umit_pacs.result_objects.withdrawal import Withdrawal
from umit_pacs.states import RejectionReason

TITLES: dict[RejectionReason, Code] = {
    RejectionReason.QUALITY: codes.cid7010.RejectedForQualityReasons,
    RejectionReason.PATIENT_SAFETY: codes.cid7010.RejectedForPatientSafetyReasons,
    RejectionReason.WRONG_WORKLIST_ENTRY: codes.cid7010.IncorrectModalityWorklistEntry,
    RejectionReason.RETENTION_EXPIRED: codes.cid7010.DataRetentionPolicyExpired,
}
_PICTURES = frozenset({ObjectKind.SECONDARY_CAPTURE, ObjectKind.SEGMENTATION})
#: highdicom insists on a name; the rows of TID 2010 that name objects have none.
_UNUSED = CodedConcept(value="unused", scheme_designator="99UMIT", meaning="unused")


def rejection_note(withdrawal: Withdrawal, made: Provenance) -> Dataset:
    """The Key Object Selection Document."""
    ds = new_object(KeyObjectSelectionDocumentStorage, ObjectKind.REJECTION_NOTE, 1, "KO", made)
    ds.ReferencedPerformedProcedureStepSequence = []
    add_results_as_evidence(ds, withdrawal.results, made)
    description = text(
        codes.DCM.KeyObjectDescription, " ".join(withdrawal.lines(made.words)), RelationshipTypeValues.CONTAINS
    )
    items = [*language_item(made.words), *observation_context(made), description]
    items += [_named(result) for result in withdrawal.results]
    put_content(ds, container(TITLES[withdrawal.reason], items, template_id="2010"))
    return ds


def _named(result: ResultObject) -> Dataset:
    kind = ImageContentItem if result.kind in _PICTURES else CompositeContentItem
    item: Dataset = kind(
        name=_UNUSED,
        referenced_sop_class_uid=result.sop_class_uid,
        referenced_sop_instance_uid=result.sop_instance_uid,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    del item.ConceptNameCodeSequence
    return item
