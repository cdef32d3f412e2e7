"""What must hold of the content tree of structured reports and key object selections."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydicom.dataset import Dataset

from umit_pacs.result_objects.rejection_note import TITLES

#: What a kind of item must have besides its name (PS3.3 C.17.3), and the kinds that each document may hold.
_VALUE_OF = {
    "TEXT": "TextValue",
    "CODE": "ConceptCodeSequence",
    "NUM": "MeasuredValueSequence",
    "UIDREF": "UID",
    "IMAGE": "ReferencedSOPSequence",
    "COMPOSITE": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "CONTAINER": "ContinuityOfContent",
}
_NAMELESS = frozenset({"IMAGE", "COMPOSITE"})
_BASIC = frozenset({"CONTAINER", "TEXT", "CODE", "UIDREF", "IMAGE", "COMPOSITE"})
_REJECTIONS = frozenset(title.value for title in TITLES.values())
BANNERS = ("AI DRAFT", "AI 草稿")

_LANGUAGE, _OBSERVER_TYPE, _DEVICE, _GROUP = "121049", "121005", "121007", "125007"
_IMAGE_LIBRARY, _MEASUREMENTS, _QUALITATIVE = "111028", "126010", "C0034375"
_CERTAINTY, _ALGORITHM, _HOUNSFIELD = "111012", "111001", "[hnsf'U]"
#: what OHIF and the rest of the result need of a group of TID 1410.
_OF_GROUP = {"112039": "tracking identifier", "112040": "tracking UID", "121071": "finding", "111001": "algorithm name"}


def item_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """Every item has its name, its value and its place; a machine observed, and it says in which language."""
    del source_instances
    for item in items_of(ds):
        kind = str(item.get("ValueType"))
        if not item.get("RelationshipType"):
            yield f"a {kind} item has no relationship"
        if not item.get(_VALUE_OF.get(kind, "ValueType")):
            yield f"a {kind} item has no value"
        if kind not in _NAMELESS and not code_of(item):
            yield f"a {kind} item has no name"
    for code in (code for item in [ds, *items_of(ds)] for code in _codes(item)):
        if not (code.get("CodeValue") and code.get("CodingSchemeDesignator") and code.get("CodeMeaning")):
            yield "a code is incomplete"
    if not _first(ds, _LANGUAGE):
        yield "the document does not say its language"
    observer = _first(ds, _OBSERVER_TYPE)
    if observer is None or observer.ConceptCodeSequence[0].CodeValue != _DEVICE:
        yield "the observer is not a device"


def evidence_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """What the content names is listed as evidence, and each object once."""
    del source_instances
    listed = _listed(ds)
    if _named(ds) - set(listed):
        yield "the content names images that are not listed as evidence"
    if len(set(listed)) < len(listed):
        yield "an object is listed as evidence twice"


def text_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """TID 2000: sections with text, the banner first."""
    del source_instances
    yield from _root_faults(ds, "18748-4", "2000")
    if any(item.ValueType not in _BASIC for item in items_of(ds)):
        yield "there are items that a text report may not hold"
    sections = [item for item in ds.get("ContentSequence") or [] if item.ValueType == "CONTAINER"]
    if not sections or not all(section.get("ContentSequence") for section in sections):
        yield "a section is empty, or there is none"
    elif not str(sections[0].ContentSequence[0].get("TextValue")).startswith(BANNERS):
        yield "the text does not begin with the banner"


def region_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """TID 1500: groups of which each has one region; a group without one blanks OHIF."""
    del source_instances
    yield from _root_faults(ds, "126000", "1500")
    yield from _container_faults(ds, (_IMAGE_LIBRARY, _MEASUREMENTS))
    groups = [item for item in items_of(ds) if code_of(item) == _GROUP]
    if not groups:
        yield "there is no measurement group"
    for group in groups:
        yield from _measurement_faults(group)
        regions = [child for child in group.get("ContentSequence") or [] if child.get("ValueType") == "SCOORD"]
        if len(regions) != 1:
            yield "a measurement group has no region" if not regions else "a measurement group has several regions"
        names = {code_of(child) for child in group.get("ContentSequence") or []}
        yield from (f"a measurement group has no {word}" for code, word in _OF_GROUP.items() if code not in names)
        for region in regions:
            yield from _outline_faults(region)
    yield from _number_faults(ds)


def answer_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """TID 1500 without regions: answers in a container of their own, and no measurement group."""
    del source_instances
    yield from _root_faults(ds, "126000", "1500")
    yield from _container_faults(ds, (_QUALITATIVE,))
    if any(code_of(item) == _GROUP for item in items_of(ds)):
        yield "there is a measurement group without a region"
    if any(item.get("ValueType") == "NUM" and code_of(item) != _CERTAINTY for item in items_of(ds)):
        yield "there is a number of no region"
    yield from _number_faults(ds)


def key_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """TID 2010: some images, those of the evidence and no others, and words that say what they are."""
    del source_instances
    yield from _root_faults(ds, "113000", "2010")
    yield from _selection_faults(ds)
    if not any(str(item.get("TextValue") or "").startswith(BANNERS) for item in items_of(ds)):
        yield "the description does not say that this is a draft"


def rejection_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """TID 2010 with a title of IHE IOCM: exactly what is rejected."""
    yield from _root_faults(ds, code_of(ds) if code_of(ds) in _REJECTIONS else "a rejection", "2010")
    yield from _selection_faults(ds)
    if _named(ds) != source_instances:
        yield "a rejection note names other objects than those that it rejects"


def items_of(ds: Dataset) -> Iterator[Dataset]:
    """Every content item below `ds`, in order."""
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from items_of(item)


def code_of(item: Dataset) -> str:
    """Code value of the item's name; "" without one."""
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].get("CodeValue", "")) if names else ""


def _codes(item: Dataset) -> Iterator[Dataset]:
    for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
        yield from item.get(keyword) or []


def _first(ds: Dataset, code: str) -> Dataset | None:
    return next((item for item in items_of(ds) if code_of(item) == code), None)


def _named(ds: Dataset) -> set[str]:
    """Instances that the content names."""
    return {str(ref.ReferencedSOPInstanceUID) for item in items_of(ds) for ref in item.get("ReferencedSOPSequence", [])}


def _listed(ds: Dataset) -> list[str]:
    """Instances that the evidence lists."""
    return [
        str(reference.ReferencedSOPInstanceUID)
        for evidence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in ds.get(evidence) or []
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def _root_faults(ds: Dataset, code: str, template: str) -> Iterator[str]:
    if code_of(ds) != code:
        yield f"the document's title is not {code}"
    templates = ds.get("ContentTemplateSequence") or [Dataset()]
    if templates[0].get("TemplateIdentifier") != template:
        yield f"the document does not say that it follows TID {template}"


def _container_faults(ds: Dataset, codes: tuple[str, ...]) -> Iterator[str]:
    names = {code_of(item) for item in ds.get("ContentSequence") or []}
    yield from (f"there is no container {code}" for code in codes if code not in names)


def _selection_faults(ds: Dataset) -> Iterator[str]:
    listed = _listed(ds)
    if not listed or set(listed) != _named(ds):
        yield "the selection names other objects than its evidence, or none"
    if any(item.get("ValueType") in _NAMELESS and code_of(item) for item in items_of(ds)):
        yield "an object of the selection has a name, which TID 2010 forbids"


def _outline_faults(region: Dataset) -> Iterator[str]:
    """A point, or a closed rectangle with some area (PS3.3 C.18.6)."""
    values = [float(value) for value in region.get("GraphicData") or []]
    points = list(zip(values[::2], values[1::2], strict=False))
    if not all(math.isfinite(value) and value >= 0 for value in values):
        yield "a region has impossible coordinates"
    if region.get("GraphicType") == "POINT":
        is_fit = len(points) == 1
    else:
        has_extent = all(len({point[axis] for point in points}) > 1 for axis in (0, 1))
        is_fit = len(points) == 5 and points[0] == points[-1] and has_extent
    if not is_fit:
        yield "a region is neither a point nor a closed rectangle with an area"
    if not any(child.get("ValueType") == "IMAGE" for child in region.get("ContentSequence") or []):
        yield "a region does not say which image it lies in"


def _number_faults(ds: Dataset) -> Iterator[str]:
    """Numbers are shares in per cent, and in groups of regions what was measured."""
    for item in items_of(ds):
        for measured in item.get("MeasuredValueSequence") or []:
            value = float(measured.get("NumericValue", "nan"))
            if code_of(item) == _CERTAINTY:
                if not 0 <= value <= 100:
                    yield "a certainty is not between 0 and 100 %"
            elif not math.isfinite(value):
                yield "a measured value is no number"


def _measurement_faults(group: Dataset) -> Iterator[str]:
    """Each number of a group has a unit, is no less than none where its unit allows that, and says how it was taken."""
    for item in group.get("ContentSequence") or []:
        for measured in item.get("MeasuredValueSequence") or []:
            units = measured.get("MeasurementUnitsCodeSequence") or [Dataset()]
            unit = str(units[0].get("CodeValue") or "")
            if not unit:
                yield "a measured value has no unit"
            if unit != _HOUNSFIELD and not float(measured.get("NumericValue", "nan")) > 0:
                yield "a measured value is not above 0"
            if not any(code_of(child) == _ALGORITHM for child in item.get("ContentSequence") or []):
                yield "a measured value does not say how it was taken"
