"""The marked regions: Comprehensive 3D SR after TID 1500, one measurement group for each region.

OHIF draws and hydrates a group of TID 1410 that has its region as SCOORD, below each NUM of the group as well, and goes
black over a group without a region. So nothing without a region is written here, a document without regions does not
exist, and the confidence stands one level deeper, as a property of the finding. What was measured is measured of the
outline, not of the rectangle that is drawn; the segment with the group's tracking UID holds that outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import highdicom.sr
import numpy as np
from highdicom.sr import GraphicTypeValues, RelationshipTypeValues
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from umit_pacs import __version__
from umit_pacs.errors import ResultInvalid
from umit_pacs.handoffs import FrameReference, Language, ObjectKind, RegionKind
from umit_pacs.result_objects.draft import Draft, Marking, Measured
from umit_pacs.result_objects.picture import label_of
from umit_pacs.result_objects.provenance import (
    Provenance,
    add_document_flags,
    add_evidence,
    add_predecessors,
    algorithm_identification,
    coded,
    language_item,
    new_object,
    observation_context,
)
from umit_pacs.result_objects.sr_content import container, image, put_content, text
from umit_pacs.vocabulary import Coding

#: CID 100: every one of these is in it, a procedure code of SNOMED CT mostly is not.
_PROCEDURES: dict[str, Code] = {
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
    "PT": codes.cid100.PETUnspecifiedBodyRegion,
    "NM": codes.cid100.NMUnspecifiedBodyRegion,
    "CR": codes.cid100.XRUnspecifiedBodyRegion,
    "DX": codes.cid100.XRUnspecifiedBodyRegion,
}
_CATEGORY_LANDMARK = Code("123037004", "SCT", "Anatomical Structure")
_CATEGORY_FINDING = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
#: Cornerstone, and with it OHIF, reads tag and tool before the second colon; people read the rest.
_TRACKING = "Cornerstone3DTools@^0.1.0:{tool}:{name} {number}"


def measurement_report(draft: Draft, made: Provenance) -> Dataset:
    """The Comprehensive 3D SR object. Raises ResultInvalid when the draft has no marked region."""
    if not draft.markings:
        raise ResultInvalid("a measurement report without a region")
    frames = tuple(dict.fromkeys(marking.key_frame for marking in draft.markings))
    ds = new_object(Comprehensive3DSRStorage, ObjectKind.MEASUREMENT_REPORT, 1, "SR", made)
    add_document_flags(ds, made)
    add_predecessors(ds, [ObjectKind.MEASUREMENT_REPORT], made)
    add_evidence(ds, frames, made)
    put_content(ds, _root(draft, frames, made))
    return ds


def _root(draft: Draft, frames: tuple[FrameReference, ...], made: Provenance) -> Dataset:
    items = [*language_item(made.words), *observation_context(made), *procedure_items(frames, made)]
    items.append(_image_library(frames))
    groups = [group for marking in draft.markings for group in _group(marking, made)]
    items.append(container(codes.DCM.ImagingMeasurements, groups))
    return container(codes.cid7021.ImagingMeasurementReport, items, template_id="1500")


def procedure_items(frames: Iterable[FrameReference], made: Provenance) -> Iterator[Dataset]:
    """Procedure reported (CID 100), one for each modality of the frames."""
    modalities = dict.fromkeys(made.source.series_of(frame.series_instance_uid).modality for frame in frames)
    for procedure in dict.fromkeys(_PROCEDURES.get(one, codes.cid100.ImagingProcedure) for one in modalities):
        yield highdicom.sr.CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=procedure,
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )


def _image_library(frames: tuple[FrameReference, ...]) -> Dataset:
    """TID 1600, with the frames that carry regions."""
    entries = [image(frame, RelationshipTypeValues.CONTAINS) for frame in frames]
    return container(codes.DCM.ImageLibrary, [container(codes.DCM.ImageLibraryGroup, entries)])


def _group(marking: Marking, made: Provenance) -> list[Dataset]:
    """TID 1410 for one region."""
    is_point = marking.region.kind is RegionKind.POINT
    identifier = _TRACKING.format(
        tool="Probe" if is_point else "RectangleROI", name=marking.name, number=marking.number
    )
    group = highdicom.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=made.uids.tracking(marking.number), identifier=identifier
        ),
        referenced_region=_region(marking),
        finding_category=_CATEGORY_LANDMARK if marking.is_landmark else _CATEGORY_FINDING,
        finding_type=coded(marking.finding, _meaning(marking, made)),
        finding_sites=[_site(marking)],
        algorithm_id=algorithm_identification(made),
        measurements=[_measurement(measured, made) for measured in marking.measured] or None,
    )
    _add_regions_to_numbers(group[0], marking)
    if marking.confidence is not None:
        _add_certainty(group[0], marking.confidence)
    comment = text(codes.DCM.Comment, _comment(marking, made), RelationshipTypeValues.CONTAINS)
    group[0].ContentSequence.append(comment)
    return list(group)


def _measurement(measured: Measured, made: Provenance) -> highdicom.sr.Measurement:
    """NUM of TID 1419, by the routine that outlined the region."""
    return highdicom.sr.Measurement(
        name=coded(measured.code, _named(measured.code, measured.name, made)),
        value=measured.value,
        unit=coded(measured.unit),
        derivation=None if measured.derivation is None else coded(measured.derivation),
        algorithm_id=highdicom.sr.AlgorithmIdentification(name=measured.algorithm, version=f"umit-pacs {__version__}"),
    )


def _add_regions_to_numbers(group: Dataset, marking: Marking) -> None:
    """Name the region under each number once more: where there is a number, OHIF looks for the region there only."""
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            item.ContentSequence.append(_region(marking, RelationshipTypeValues.INFERRED_FROM))


def _named(code: Coding, name: str, made: Provenance) -> str:
    """What viewers show of a code: in the report's language."""
    return code.meaning if made.words.language is Language.ENGLISH else name


def _site(marking: Marking) -> highdicom.sr.FindingSite:
    return highdicom.sr.FindingSite(
        coded(marking.site), laterality=None if marking.laterality is None else coded(marking.laterality)
    )


def _meaning(marking: Marking, made: Provenance) -> str:
    """The finding as viewers show it: in the report's language."""
    return _named(marking.finding, marking.name, made)


def _region(
    marking: Marking, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS
) -> highdicom.sr.ImageRegion:
    frame = marking.key_frame
    source = highdicom.sr.SourceImageForRegion(
        referenced_sop_class_uid=frame.sop_class_uid,
        referenced_sop_instance_uid=frame.sop_instance_uid,
        referenced_frame_numbers=None if frame.frame_number is None else [frame.frame_number],
    )
    is_point = marking.region.kind is RegionKind.POINT
    item = highdicom.sr.ScoordContentItem(
        name=codes.DCM.ImageRegion,
        graphic_type=GraphicTypeValues.POINT if is_point else GraphicTypeValues.POLYLINE,
        graphic_data=outline_xy_px(marking),
        relationship_type=relationship,
    )
    item.ContentSequence = highdicom.sr.ContentSequence([source], is_sr=True)
    # Made by its constructor, it would first load highdicom's tables of every IOD: 60 MB and half a second, to find out
    # whether the source could be a slide of microscopy.
    return highdicom.sr.ImageRegion.from_dataset(item, copy=False)


def outline_xy_px(marking: Marking) -> NDArray[np.float64]:
    """(N, 2) column, row in the source frame: one point, or the five of a closed rectangle, clipped to the frame."""
    limits = (marking.key_frame.columns, marking.key_frame.rows)
    points = np.clip(np.array(marking.region.points_xy_px, dtype=np.float64), 0.0, limits)
    if marking.region.kind is RegionKind.POINT:
        return points[:1]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _add_certainty(group: Dataset, confidence: float) -> None:
    for item in group.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.Finding.value:
            item.ContentSequence = highdicom.sr.ContentSequence([certainty_item(confidence)], is_sr=True)


def certainty_item(confidence: float) -> Dataset:
    """Certainty of Finding in percent as a property of the finding, as in the CAD templates (TID 4104)."""
    return highdicom.sr.NumContentItem(
        name=_CERTAINTY,
        value=round(confidence * 100, 1),
        unit=codes.UCUM.Percent,
        relationship_type=RelationshipTypeValues.HAS_PROPERTIES,
    )


def _comment(marking: Marking, made: Provenance) -> str:
    """What OHIF shows as the label of a hydrated region."""
    return f"{label_of(marking, made.words)} - {made.words('banner')}"
