"""The key frames of the draft as a Key Object Selection Document (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from highdicom.sr import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import KeyObjectSelectionDocumentStorage

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.draft import Draft
from umit_pacs.result_objects.provenance import (
    Provenance,
    add_evidence,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, image, put_content, text


def key_objects(draft: Draft, made: Provenance) -> Dataset:
    """The document; its title is Of Interest, which every viewer knows, and its description says that it is a draft."""
    ds = new_object(KeyObjectSelectionDocumentStorage, ObjectKind.KEY_OBJECTS, 1, "KO", made)
    ds.ReferencedPerformedProcedureStepSequence = []
    add_evidence(ds, draft.key_frames, made)
    description = made.words("key_objects.description", banner=draft.banner, title=draft.title)
    items = [
        *language_item(made.words),
        *observation_context(made),
        text(codes.DCM.KeyObjectDescription, description, RelationshipTypeValues.CONTAINS),
        *(image(frame, RelationshipTypeValues.CONTAINS) for frame in draft.key_frames),
    ]
    put_content(ds, container(codes.cid7010.OfInterest, items, template_id="2010"))
    return ds
