"""The few content items that both kinds of structured report are built of."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.sr
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from umit_pacs.handoffs import FrameReference


def container(name: Code | CodedConcept, items: Sequence[Dataset], *, template_id: str | None = None) -> Dataset:
    """A CONTAINER that its parent contains, or the root of a document when `template_id` is given."""
    # A plain data set: highdicom's own class insists on a name for every item, which an image library must not have.
    item = Dataset()
    if template_id is None:
        item.RelationshipType = RelationshipTypeValues.CONTAINS.value
    item.ValueType = "CONTAINER"
    item.ConceptNameCodeSequence = [CodedConcept.from_code(name)]
    item.ContinuityOfContent = "SEPARATE"
    if template_id is not None:
        template = Dataset()
        template.MappingResource, template.TemplateIdentifier = "DCMR", template_id
        item.ContentTemplateSequence = [template]
    item.ContentSequence = list(items)
    return item


def text(name: Code | CodedConcept, value: str, relationship: RelationshipTypeValues) -> Dataset:
    """A TEXT item."""
    return highdicom.sr.TextContentItem(name=name, value=value, relationship_type=relationship)


def image(
    frame: FrameReference, relationship: RelationshipTypeValues, name: Code | CodedConcept | None = None
) -> Dataset:
    """An IMAGE item for one frame."""
    item = highdicom.sr.ImageContentItem(
        name=name or CodedConcept(value="unused", scheme_designator="99UMIT", meaning="unused"),
        referenced_sop_class_uid=frame.sop_class_uid,
        referenced_sop_instance_uid=frame.sop_instance_uid,
        referenced_frame_numbers=None if frame.frame_number is None else [frame.frame_number],
        relationship_type=relationship,
    )
    if name is None:
        del item.ConceptNameCodeSequence
    return item


def put_content(ds: Dataset, root: Dataset) -> None:
    """Make `root` the content tree of the document `ds` (PS3.3 C.17.3)."""
    for element in root:
        ds[element.tag] = element
