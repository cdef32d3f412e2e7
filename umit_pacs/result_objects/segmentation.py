"""The masks of boxed lesions as one binary Segmentation object for each series that they were made in (PS3.3 A.51).

A segment is what `umit_pacs.pixels.mask_routines` found inside a box of the model, and says so by its algorithm's name.
Patient, study, equipment and marks are those of all objects. highdicom describes the segments; the frames are written
here: its own writer loads 66 MB of tables of every IOD, on top of which it reads 45, and wants to see source images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import format_number_as_ds

from umit_pacs.handoffs import ObjectKind, SeriesUID
from umit_pacs.lesion_masks import FramePlane, RegionMask, RegionMasks
from umit_pacs.result_objects.draft import Draft, Marking
from umit_pacs.result_objects.frame_headers import image_reference
from umit_pacs.result_objects.picture import label_of
from umit_pacs.result_objects.provenance import MANUFACTURER, Provenance, code_item, coded, new_object
from umit_pacs.result_objects.uids import derived_uid

_LABEL = "AI_DRAFT"
#: CID 7150.
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
#: CID 7203 and CID 7202.
_SEGMENTED = ("113076", "DCM", "Segmentation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")
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
    planes = _planes([mask for _, mask in masked])
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SegmentationType, ds.LossyImageCompression, ds.PresentationLUTShape = "BINARY", "00", "IDENTITY"
    ds.ContentLabel, ds.ContentDescription = _LABEL, draft.banner
    ds.ContentCreatorName = f"{MANUFACTURER}^{made.model.name}"
    ds.SegmentSequence = [_segment(index, marking, mask, made) for index, (marking, mask) in enumerate(masked, 1)]
    ds.SegmentsOverlap = "YES" if _overlap(masked, planes) else "NO"
    _add_references(ds, planes)
    _add_dimensions(ds, made)
    _add_shared_groups(ds, masked[0][1])
    _add_frames(ds, masked, planes)
    return ds


def _planes(masks: Sequence[RegionMask]) -> tuple[FramePlane, ...]:
    """The slices on which any of the masks has a voxel, each once, against their normal, as highdicom orders them."""
    used = dict.fromkeys(
        plane for mask in masks for plane, voxels in zip(mask.planes, mask.voxels, strict=True) if voxels.any()
    )
    orientation = np.array(masks[0].planes[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return tuple(sorted(used, key=lambda plane: -float(normal @ plane.position_mm)))


def _frame(mask: RegionMask, plane: FramePlane) -> NDArray[np.uint8] | None:
    """(rows, columns) 0 or 1 of a mask on a slice; None where it has no voxel there."""
    if plane not in mask.planes:
        return None
    voxels = mask.voxels[mask.planes.index(plane)]
    if not voxels.any():
        return None
    pixels = np.zeros((plane.reference.rows, plane.reference.columns), np.uint8)
    row, column = mask.first_row_column
    pixels[row : row + voxels.shape[0], column : column + voxels.shape[1]] = voxels
    return pixels


def _overlap(masked: Sequence[Masked], planes: Sequence[FramePlane]) -> bool:
    """Whether any voxel belongs to several segments."""
    for plane in planes:
        frames = [frame for _, mask in masked if (frame := _frame(mask, plane)) is not None]
        if len(frames) > 1 and np.sum(frames, axis=0).max() > 1:
            return True
    return False


def _add_references(ds: Dataset, planes: Sequence[FramePlane]) -> None:
    """The images that the segments lie on (PS3.3 C.12.1.1.11.1 and C.8.20.2), and their frame of reference."""
    ds.FrameOfReferenceUID = planes[0].reference.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.Rows, ds.Columns = planes[0].reference.rows, planes[0].reference.columns
    series = Dataset()
    series.SeriesInstanceUID = planes[0].reference.series_instance_uid
    series.ReferencedInstanceSequence = [
        image_reference(replace(reference, frame_number=None))
        for reference in {plane.reference.sop_instance_uid: plane.reference for plane in planes}.values()
    ]
    ds.ReferencedSeriesSequence = [series]
    ds.SourceImageSequence = [image_reference(plane.reference) for plane in planes]


def _add_dimensions(ds: Dataset, made: Provenance) -> None:
    """Frames are told apart by segment, then by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derived_uid(made.uids.root, "dimensions", str(ds.SOPInstanceUID))
    ds.DimensionOrganizationSequence = [organization]
    ds.DimensionIndexSequence = []
    for pointer, group, label in (
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence", "Referenced Segment Number"),
        ("ImagePositionPatient", "PlanePositionSequence", "Image Position Patient"),
    ):
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag(pointer), Tag(group)
        index.DimensionDescriptionLabel = label
        ds.DimensionIndexSequence.append(index)


def _add_shared_groups(ds: Dataset, mask: RegionMask) -> None:
    """Size and direction of the pixels, those of the source."""
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [_decimal(value) for value in mask.planes[0].orientation]
    measures.PixelSpacing = [_decimal(value) for value in mask.spacing_row_col_mm]
    measures.SliceThickness = measures.SpacingBetweenSlices = _decimal(mask.slice_spacing_mm)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]


def _add_frames(ds: Dataset, masked: Sequence[Masked], planes: Sequence[FramePlane]) -> None:
    """One frame for each slice of each segment, packed with the first pixel in the lowest bit (PS3.5 8.1.1)."""
    frames, items = [], []
    for segment, (_, mask) in enumerate(masked, 1):
        for place, plane in enumerate(planes, 1):
            frame = _frame(mask, plane)
            if frame is not None:
                frames.append(frame)
                items.append(_frame_groups(segment, place, plane))
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    ds.NumberOfFrames = len(frames)
    ds.PerFrameFunctionalGroupsSequence = items
    ds.PixelData = pack_bits(np.stack(frames))


def _frame_groups(segment: int, place: int, plane: FramePlane) -> Dataset:
    """segment, place: 1-based, as the frame's dimension indices."""
    item, content, position, identification, derivation = (Dataset() for _ in range(5))
    content.DimensionIndexValues = [segment, place]
    position.ImagePositionPatient = [_decimal(value) for value in plane.position_mm]
    identification.ReferencedSegmentNumber = segment
    derivation.DerivationCodeSequence = [code_item(*_SEGMENTED)]
    source = image_reference(plane.reference)
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [code_item(*_SOURCE)]
    derivation.SourceImageSequence = [source]
    item.FrameContentSequence, item.PlanePositionSequence = [content], [position]
    item.SegmentIdentificationSequence, item.DerivationImageSequence = [identification], [derivation]
    return item


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


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as it can be."""
    return format_number_as_ds(float(value))
