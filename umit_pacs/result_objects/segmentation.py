"""The masks of boxed lesions as one binary Segmentation object for each series that they were made in (PS3.3 A.51).

A segment is what `umit_pacs.pixels.mask_routines` found inside a box of the model, and says so by its algorithm's name.
highdicom writes what is particular to a segmentation; patient, study, equipment and marks are those of all objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, SegmentationStorage
from pydicom.valuerep import format_number_as_ds

from umit_pacs.handoffs import FrameReference, ObjectKind, SeriesUID
from umit_pacs.lesion_masks import FramePlane, RegionMask, RegionMasks
from umit_pacs.result_objects.draft import Draft, Marking
from umit_pacs.result_objects.picture import label_of
from umit_pacs.result_objects.provenance import MANUFACTURER, Provenance, coded, new_object
from umit_pacs.result_objects.uids import derived_uid

_LABEL = "AI_DRAFT"
#: CID 7150.
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
#: One that stands out from grey, as OHIF's first ones do not; CIELab of orange, cyan, magenta, yellow, green, blue.
_COLOURS = ((75, 24, 79), (91, -48, -14), (60, 98, -61), (97, -22, 94), (88, -86, 83), (57, 12, -66))

Masked = tuple[Marking, RegionMask]


def segmentations(draft: Draft, masks: RegionMasks, made: Provenance) -> tuple[Dataset, ...]:
    """The objects, in the order of the series' first marked regions; none where no region has a mask."""
    by_series: dict[SeriesUID, list[Masked]] = {}
    for marking in draft.markings:
        mask = masks.get(marking.region)
        if isinstance(mask, RegionMask):
            by_series.setdefault(marking.key_frame.series_instance_uid, []).append((marking, mask))
    return tuple(_object(masked, number, draft, made) for number, masked in enumerate(by_series.values(), 1))


def _object(masked: list[Masked], number: int, draft: Draft, made: Provenance) -> Dataset:
    ds = new_object(SegmentationStorage, ObjectKind.SEGMENTATION, number, "SEG", made)
    written = _written(masked, ds, draft, made)
    for element in written:
        if element.tag not in ds:
            ds.add(element)
    _make_references_exact(ds, [mask for _, mask in masked], made)
    return ds


def _written(masked: list[Masked], ds: Dataset, draft: Draft, made: Provenance) -> Dataset:
    """highdicom's Segmentation of a copy of the frames that holds no more than their place."""
    planes = _planes([mask for _, mask in masked])
    sources = [_placed_source(plane, index, masked[0][1], ds) for index, plane in enumerate(planes)]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=_pixels(masked, planes),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(index, marking, mask, made) for index, (marking, mask) in enumerate(masked, 1)],
        series_instance_uid=ds.SeriesInstanceUID,
        series_number=ds.SeriesNumber,
        sop_instance_uid=ds.SOPInstanceUID,
        instance_number=ds.InstanceNumber,
        manufacturer=ds.Manufacturer,
        manufacturer_model_name=ds.ManufacturerModelName,
        software_versions=tuple(ds.SoftwareVersions),
        device_serial_number=ds.DeviceSerialNumber,
        content_label=_LABEL,
        content_description=draft.banner,
        content_creator_name=f"{MANUFACTURER}^{made.model.name}",
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=[_decimal(value) for value in masked[0][1].spacing_row_col_mm],
            slice_thickness=_decimal(masked[0][1].slice_spacing_mm),
            spacing_between_slices=_decimal(masked[0][1].slice_spacing_mm),
        ),
    )


def _planes(masks: Sequence[RegionMask]) -> tuple[FramePlane, ...]:
    """The slices on which any of the masks has a voxel, each once."""
    return tuple(
        dict.fromkeys(
            plane for mask in masks for plane, voxels in zip(mask.planes, mask.voxels, strict=True) if voxels.any()
        )
    )


def _pixels(masked: list[Masked], planes: Sequence[FramePlane]) -> NDArray[np.uint8]:
    """(planes, rows, columns, segments) 0 or 1."""
    reference = planes[0].reference
    pixels = np.zeros((len(planes), reference.rows, reference.columns, len(masked)), np.uint8)
    places = {plane: index for index, plane in enumerate(planes)}
    for segment, (_, mask) in enumerate(masked):
        row, column = mask.first_row_column
        rows, columns = mask.voxels.shape[1:]
        for voxels, plane in zip(mask.voxels, mask.planes, strict=True):
            if plane in places:
                pixels[places[plane], row : row + rows, column : column + columns, segment] = voxels
    return pixels


def _segment(number: int, marking: Marking, mask: RegionMask, made: Provenance) -> SegmentDescription:
    model = made.model
    identification = highdicom.AlgorithmIdentificationSequence(
        name=model.name,
        family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        version=model.version,
        source=MANUFACTURER,
        parameters={"sha256": model.sha256, "quantisation": model.quantisation, "device": model.device},
    )
    segment = SegmentDescription(
        segment_number=number,
        segment_label=label_of(marking, made.words)[:64],
        segmented_property_category=_CATEGORY,
        segmented_property_type=coded(marking.finding),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        tracking_uid=made.uids.tracking(marking.number),
        tracking_id=f"{marking.name} {marking.number}"[:64],
        anatomic_regions=[coded(marking.site)],
        display_color=highdicom.color.CIELabColor(*_COLOURS[(number - 1) % len(_COLOURS)]),
    )
    segment.SegmentAlgorithmName = f"{model.name}: {mask.algorithm}"[:64]
    return segment


def _placed_source(plane: FramePlane, index: int, mask: RegionMask, ds: Dataset) -> Dataset:
    """A frame as highdicom wants to see it: a single-frame image with a UID of its own, and the place of the frame.

    Shown as it is, a multi-frame object would need a mask of every frame, and an attribute that is missing in the
    source would end in an error here.
    """
    source = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(source, keyword, "")
    source.StudyDate = source.StudyTime = None
    source.SOPClassUID, source.SOPInstanceUID = CTImageStorage, f"2.25.{index + 1}"
    source.StudyInstanceUID, source.SeriesInstanceUID = ds.StudyInstanceUID, plane.reference.series_instance_uid
    source.FrameOfReferenceUID, source.PositionReferenceIndicator = plane.reference.frame_of_reference_uid, ""
    source.Rows, source.Columns = plane.reference.rows, plane.reference.columns
    source.ImagePositionPatient = [_decimal(value) for value in plane.position_mm]
    source.ImageOrientationPatient = [_decimal(value) for value in mask.planes[0].orientation]
    source.PixelSpacing = [_decimal(value) for value in mask.spacing_row_col_mm]
    source.SliceThickness = _decimal(mask.slice_spacing_mm)
    return source


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as it can be."""
    return format_number_as_ds(float(value))


def _make_references_exact(ds: Dataset, masks: Sequence[RegionMask], made: Provenance) -> None:
    """Put the frames' own UIDs and numbers in the place of those that highdicom was shown."""
    references = {f"2.25.{index + 1}": plane.reference for index, plane in enumerate(_planes(masks))}
    used: dict[str, FrameReference] = {}
    for item in ds.iterall():
        if item.keyword == "SourceImageSequence":
            for source in item.value:
                reference = references.get(str(source.ReferencedSOPInstanceUID))
                if reference is None:
                    # Frames of several segments share the item: it is exact already.
                    continue
                used.setdefault(str(reference.sop_instance_uid), reference)
                source.ReferencedSOPClassUID = reference.sop_class_uid
                source.ReferencedSOPInstanceUID = reference.sop_instance_uid
                if reference.frame_number is not None:
                    source.ReferencedFrameNumber = reference.frame_number
    series = Dataset()
    series.SeriesInstanceUID = masks[0].planes[0].reference.series_instance_uid
    series.ReferencedInstanceSequence = [_instance(reference) for reference in used.values()]
    ds.ReferencedSeriesSequence = [series]
    dimensions = derived_uid(made.uids.root, "dimensions", str(ds.SOPInstanceUID))
    for element in ds.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = dimensions


def _instance(reference: FrameReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item
