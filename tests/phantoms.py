"""Valid DICOM objects made of arrays, for every test that needs a series whose truth is known.

Each writer makes whole objects (dciodvfy finds no error) and returns their paths. The place of every pixel in the
patient comes from a `Grid`, so that a test can compute what the node must find.

    study = Study(patient_name="Weiß^Jürgen")
    paths = write_ct_series(folder, hounsfield, study=study, grid=axial_grid())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

#: Last touch to an object before it is written, e.g. to break it.
Change = Callable[[Dataset], None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One patient and one study; every series of it is written with the same one."""

    patient_name: str = "Muster^Erika"
    patient_id: str = "PAT-0001"
    patient_birth_date: str = "19600214"
    patient_sex: str = "F"
    patient_age: str = "066Y"
    patient_weight_kg: float = 70.0
    character_set: str = "ISO_IR 192"
    description: str = "Thorax"
    accession_number: str = "ACC-0001"
    study_id: str = "1"
    date: str = "20260302"
    time: str = "101500"
    study_instance_uid: str = field(default_factory=generate_uid)
    frame_of_reference_uid: str = field(default_factory=generate_uid)


def german_study(**changes: Any) -> Study:
    """A patient with an umlaut in ISO 8859-1."""
    return replace(Study(patient_name="Weiß^Jürgen", character_set="ISO_IR 100"), **changes)


def chinese_study(**changes: Any) -> Study:
    """A patient with a Chinese name in GB18030."""
    return replace(Study(patient_name="Wang^XiaoDong=王^小东", character_set="GB18030"), **changes)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the pixel centres of a stack lie in the patient (LPS, mm)."""

    #: centre of the first pixel of the first slice.
    origin_mm: tuple[float, float, float] = (-120.0, -130.0, -300.0)
    #: unit vector of growing columns (along a row).
    row_direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    #: unit vector of growing rows (down a column).
    column_direction: tuple[float, float, float] = (0.0, 1.0, 0.0)
    #: from one slice to the next; need not be parallel to the normal (gantry tilt).
    step_mm: tuple[float, float, float] = (0.0, 0.0, 2.5)
    spacing_row_col_mm: tuple[float, float] = (0.8, 0.8)

    def center_mm(self, column: float, row: float, slice_: float) -> NDArray[np.float64]:
        """Patient coordinates of the centre of a voxel, by its indices."""
        return (
            np.array(self.origin_mm)
            + np.array(self.row_direction) * self.spacing_row_col_mm[1] * column
            + np.array(self.column_direction) * self.spacing_row_col_mm[0] * row
            + np.array(self.step_mm) * slice_
        )


def axial_grid(**changes: Any) -> Grid:
    """Rows from right to left, columns from front to back, slices from feet to head."""
    return replace(Grid(), **changes)


def coronal_grid(**changes: Any) -> Grid:
    """Rows from right to left, columns from head to feet, slices from front to back."""
    grid = Grid(origin_mm=(-120.0, -60.0, 150.0), column_direction=(0.0, 0.0, -1.0), step_mm=(0.0, 3.0, 0.0))
    return replace(grid, **changes)


def sagittal_grid(**changes: Any) -> Grid:
    """Rows from front to back, columns from head to feet, slices from left to right."""
    grid = Grid(
        origin_mm=(90.0, -110.0, 140.0),
        row_direction=(0.0, 1.0, 0.0),
        column_direction=(0.0, 0.0, -1.0),
        step_mm=(-4.0, 0.0, 0.0),
    )
    return replace(grid, **changes)


def oblique_grid(*, angle_deg: float = 40.0, **changes: Any) -> Grid:
    """Slices turned about the left-right axis and then about the head-feet axis."""
    angle = np.radians(angle_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array(
        [[np.cos(angle / 2), -np.sin(angle / 2), 0], [np.sin(angle / 2), np.cos(angle / 2), 0], [0, 0, 1]]
    )
    turn = about_z @ about_x
    grid = Grid(row_direction=tuple(turn[:, 0]), column_direction=tuple(turn[:, 1]), step_mm=tuple(turn[:, 2] * 3.2))
    return replace(grid, **changes)


def tilted_grid(*, tilt_deg: float = 20.0, **changes: Any) -> Grid:
    """A head CT with a tilted gantry: the slices lean, the table moves along the patient."""
    tilt = np.radians(tilt_deg)
    grid = Grid(column_direction=(0.0, float(np.cos(tilt)), float(np.sin(tilt))), step_mm=(0.0, 0.0, 5.0))
    return replace(grid, **changes)


def flipped_grid(**changes: Any) -> Grid:
    """A prone patient, feet first, numbered from head to feet."""
    grid = Grid(
        origin_mm=(125.0, -130.0, 200.0),
        row_direction=(-1.0, 0.0, 0.0),
        column_direction=(0.0, 1.0, 0.0),
        step_mm=(0.0, 0.0, -2.0),
    )
    return replace(grid, **changes)


GRIDS: dict[str, Grid] = {
    "axial": axial_grid(),
    "axial, anisotropic": axial_grid(spacing_row_col_mm=(0.9, 0.6), step_mm=(0.0, 0.0, 1.7)),
    "coronal": coronal_grid(),
    "sagittal": sagittal_grid(spacing_row_col_mm=(0.7, 0.95)),
    "oblique": oblique_grid(),
    "gantry tilt": tilted_grid(),
    "flipped": flipped_grid(),
}


def write_ct_series(
    folder: Path,
    hounsfield: NDArray[Any],
    *,
    study: Study | None = None,
    grid: Grid | None = None,
    series_description: str = "Chest 2.5 mm",
    body_part: str = "CHEST",
    series_number: int = 2,
    series_instance_uid: str | None = None,
    window: tuple[float, float] | None = (40.0, 400.0),
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> list[Path]:
    """(N, H, W) HU -> N CT Image Storage objects, numbered along the stack; stored values are HU + 1024."""
    study, grid = study or Study(), grid or Grid()
    series_uid = series_instance_uid or generate_uid()
    paths = []
    for index, plane in enumerate(hounsfield):
        ds = _object(CTImageStorage, study, "CT", series_uid, series_number, index + 1)
        _describe(ds, series_description, body_part)
        _place(ds, study, grid, index)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP, ds.AcquisitionNumber, ds.XRayTubeCurrent = "120", 1, 200
        _set_pixels(ds, np.clip(plane + 1024, 0, 4095).astype(np.uint16), bits_stored=12)
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        if window:
            ds.WindowCenter, ds.WindowWidth = window
        paths.append(_write(folder, ds, syntax, change))
    return paths


def write_mr_series(
    folder: Path,
    signal: NDArray[Any],
    *,
    study: Study | None = None,
    grid: Grid | None = None,
    series_description: str = "T1 ax",
    body_part: str = "BRAIN",
    series_number: int = 3,
    series_instance_uid: str | None = None,
    echo_time_ms: float = 12.0,
    first_instance_number: int = 1,
    window: tuple[float, float] | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> list[Path]:
    """(N, H, W) unsigned signal -> N MR Image Storage objects; without a window unless one is given."""
    study, grid = study or Study(), grid or Grid()
    series_uid = series_instance_uid or generate_uid()
    paths = []
    for index, plane in enumerate(signal):
        ds = _object(MRImageStorage, study, "MR", series_uid, series_number, first_instance_number + index)
        _describe(ds, series_description, body_part)
        _place(ds, study, grid, index)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "SK", ""
        ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "2D", 500, echo_time_ms, 1
        _set_pixels(ds, plane.astype(np.uint16), bits_stored=16)
        if window:
            ds.WindowCenter, ds.WindowWidth = window
        paths.append(_write(folder, ds, syntax, change))
    return paths


def write_pt_series(
    folder: Path,
    activity_bqml: NDArray[Any],
    *,
    study: Study | None = None,
    grid: Grid | None = None,
    dose_bq: float = 350e6,
    half_life_s: float = 6586.2,
    injected_at: str = "20260302091500",
    acquired_at: str = "101500",
    decay_correction: str = "START",
    units: str = "BQML",
    series_number: int = 4,
    series_instance_uid: str | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> list[Path]:
    """(N, H, W) Bq/ml -> N PET Image Storage objects, each with a rescale slope of its own (as scanners write them)."""
    grid = grid or Grid()
    study = study or Study()
    series_uid = series_instance_uid or generate_uid()
    paths = []
    for index, plane in enumerate(activity_bqml):
        ds = _object(PositronEmissionTomographyImageStorage, study, "PT", series_uid, series_number, index + 1)
        _describe(ds, "PET AC", "WHOLEBODY")
        _place(ds, study, grid, index)
        del ds.PatientPosition
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.Units, ds.DecayCorrection, ds.CountsSource = units, decay_correction, "EMISSION"
        ds.SeriesType, ds.CorrectedImage = ["STATIC", "IMAGE"], ["ATTN", "DECY", "SCAT"]
        ds.NumberOfSlices, ds.ImageIndex, ds.CollimatorType = len(activity_bqml), index + 1, "NONE"
        ds.PatientOrientationCodeSequence = [_code("102538003", "SCT", "recumbent")]
        ds.PatientGantryRelationshipCodeSequence = [_code("102540008", "SCT", "headfirst")]
        ds.FrameReferenceTime, ds.DecayFactor, ds.ActualFrameDuration = 0, 1, 120000
        ds.AcquisitionDate, ds.AcquisitionTime = study.date, acquired_at
        ds.SeriesDate, ds.SeriesTime = study.date, acquired_at
        ds.PatientWeight = study.patient_weight_kg
        ds.RadiopharmaceuticalInformationSequence = [_radiopharmaceutical(dose_bq, half_life_s, injected_at)]
        _set_pixels(ds, *_scaled(plane), bits_stored=16)
        paths.append(_write(folder, ds, syntax, change))
    return paths


def write_cr_image(
    folder: Path,
    pixels: NDArray[Any],
    *,
    study: Study | None = None,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    window: tuple[float, float] | None = None,
    body_part: str = "CHEST",
    view_position: str = "PA",
    series_number: int = 1,
    series_instance_uid: str | None = None,
    instance_number: int = 1,
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> Path:
    """(H, W) unsigned stored values -> one Computed Radiography object."""
    study = study or Study()
    series_uid = series_instance_uid or generate_uid()
    ds = _object(ComputedRadiographyImageStorage, study, "CR", series_uid, series_number, instance_number)
    _describe(ds, "Thorax p.a.", body_part)
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ViewPosition, ds.ImagerPixelSpacing = view_position, [0.2, 0.2]
    ds.PatientOrientation = ["L", "F"]
    _set_pixels(ds, pixels.astype(np.uint16), bits_stored=bits_stored, photometric=photometric)
    if window:
        ds.WindowCenter, ds.WindowWidth = window
    return _write(folder, ds, syntax, change)


def write_dx_image(
    folder: Path,
    pixels: NDArray[Any],
    *,
    study: Study | None = None,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    window: tuple[float, float] = (2048.0, 4096.0),
    series_number: int = 1,
    series_instance_uid: str | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> Path:
    """(H, W) unsigned stored values -> one Digital X-Ray object for presentation."""
    study = study or Study()
    series_uid = series_instance_uid or generate_uid()
    ds = _object(DigitalXRayImageStorageForPresentation, study, "DX", series_uid, series_number, 1)
    _describe(ds, "Thorax p.a.", "CHEST")
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType, ds.ViewPosition = "FOR PRESENTATION", "PA"
    ds.ImagerPixelSpacing, ds.PatientOrientation = [0.2, 0.2], ["L", "F"]
    ds.ImageLaterality, ds.DetectorType, ds.PixelIntensityRelationship = "U", "DIRECT", "LOG"
    ds.PixelIntensityRelationshipSign, ds.PresentationLUTShape = 1, "IDENTITY"
    if photometric == "MONOCHROME1":
        ds.PixelIntensityRelationshipSign, ds.PresentationLUTShape = -1, "INVERSE"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.LossyImageCompression, ds.BurnedInAnnotation = "00", "NO"
    ds.AcquisitionContextSequence = []
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    ds.ViewCodeSequence = [_code("399348003", "SCT", "antero-posterior")]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.PositionerType = "NONE"
    _set_pixels(ds, pixels.astype(np.uint16), bits_stored=bits_stored, photometric=photometric)
    ds.WindowCenter, ds.WindowWidth = window
    return _write(folder, ds, syntax, change)


def write_enhanced_series(
    folder: Path,
    values: NDArray[Any],
    *,
    modality: str = "CT",
    study: Study | None = None,
    grid: Grid | None = None,
    order: Sequence[int] | None = None,
    window: tuple[float, float] = (40.0, 400.0),
    series_number: int = 5,
    series_instance_uid: str | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> Path:
    """(N, H, W) HU or signal -> one Enhanced CT or MR object; `order` lists the slices as its frames hold them.

    Holds what the node reads of an enhanced object, not every module of the IOD.
    """
    study, grid = study or Study(), grid or Grid()
    order = list(range(len(values)) if order is None else order)
    sop_class = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    ds = _object(sop_class, study, modality, series_instance_uid or generate_uid(), series_number, 1)
    _describe(ds, "Enhanced", "CHEST")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame_of_reference_uid, ""
    offset = 1024 if modality == "CT" else 0
    _set_pixels(ds, np.clip(values[order] + offset, 0, 65535).astype(np.uint16), bits_stored=16)
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = _decimals(
        (*grid.row_direction, *grid.column_direction)
    )
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = _decimals(grid.spacing_row_col_mm)
    shared.PixelMeasuresSequence[0].SliceThickness = "1"
    shared.FrameVOILUTSequence = [Dataset()]
    shared.FrameVOILUTSequence[0].WindowCenter, shared.FrameVOILUTSequence[0].WindowWidth = window
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame_groups(grid, index, offset) for index in order]
    return _write(folder, ds, syntax, change)


def _frame_groups(grid: Grid, index: int, offset: int) -> Dataset:
    groups = Dataset()
    groups.PlanePositionSequence = [Dataset()]
    groups.PlanePositionSequence[0].ImagePositionPatient = _decimals(grid.center_mm(0, 0, index))
    groups.FrameContentSequence = [Dataset()]
    groups.FrameContentSequence[0].StackID, groups.FrameContentSequence[0].InStackPositionNumber = "1", index + 1
    groups.PixelValueTransformationSequence = [Dataset()]
    groups.PixelValueTransformationSequence[0].RescaleIntercept = -offset
    groups.PixelValueTransformationSequence[0].RescaleSlope = 1
    groups.PixelValueTransformationSequence[0].RescaleType = "HU" if offset else "US"
    return groups


def series_paths(folder: Path) -> list[Path]:
    """All objects below a folder, in no meaningful order."""
    return sorted(folder.rglob("*.dcm"))


def ball_volume(
    shape: tuple[int, int, int], *, center: tuple[float, float, float], radius: float, value: int, ground: int = 0
) -> NDArray[np.int16]:
    """(N, H, W) with a ball around `center` (slice, row, column)."""
    slices, rows, columns = np.indices(shape)
    distance = np.sqrt((slices - center[0]) ** 2 + (rows - center[1]) ** 2 + (columns - center[2]) ** 2)
    return np.where(distance <= radius, value, ground).astype(np.int16)


def chest_like_ct(*, slices: int = 40, edge: int = 64) -> NDArray[np.int16]:
    """(slices, edge, edge) HU: a body with two lungs of different size and a mass in the left one."""
    z, y, x = np.meshgrid(np.linspace(-1, 1, slices), np.linspace(-1, 1, edge), np.linspace(-1, 1, edge), indexing="ij")
    volume = np.full(z.shape, -1000, np.int16)
    volume[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = 40
    volume[((x + 0.42) / 0.32) ** 2 + (y / 0.5) ** 2 + (z / 0.95) ** 2 < 1] = -850
    volume[((x - 0.42) / 0.26) ** 2 + (y / 0.45) ** 2 + (z / 0.85) ** 2 < 1] = -850
    volume[((x - 0.4) / 0.1) ** 2 + ((y - 0.1) / 0.1) ** 2 + ((z + 0.3) / 0.15) ** 2 < 1] = 60
    return volume


def _object(
    sop_class: UID, study: Study, modality: str, series_uid: str, series_number: int, instance_number: int
) -> FileDataset:
    """Patient, study, series, equipment and SOP common modules."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = study.character_set
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID = study.patient_name, study.patient_id
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = (
        study.patient_birth_date,
        study.patient_sex,
        study.patient_age,
    )
    ds.StudyInstanceUID, ds.StudyID, ds.AccessionNumber = (
        study.study_instance_uid,
        study.study_id,
        study.accession_number,
    )
    ds.StudyDate, ds.StudyTime, ds.StudyDescription = study.date, study.time, study.description
    ds.SeriesDate, ds.SeriesTime, ds.ContentDate, ds.ContentTime = study.date, study.time, study.date, study.time
    ds.AcquisitionDate, ds.AcquisitionTime = study.date, study.time
    ds.ReferringPhysicianName, ds.Modality = "", modality
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = series_uid, series_number, instance_number
    ds.Manufacturer, ds.ManufacturerModelName, ds.InstitutionName = "Example Imaging", "Scanner 1", "Example Hospital"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1.0"
    return ds


def _describe(ds: Dataset, series_description: str, body_part: str) -> None:
    ds.SeriesDescription, ds.ProtocolName, ds.BodyPartExamined = series_description, series_description, body_part


def _place(ds: Dataset, study: Study, grid: Grid, index: int) -> None:
    """Frame of reference and image plane modules."""
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame_of_reference_uid, ""
    ds.PatientPosition = "HFS"
    ds.ImagePositionPatient = _decimals(grid.center_mm(0, 0, index))
    ds.ImageOrientationPatient = _decimals((*grid.row_direction, *grid.column_direction))
    ds.PixelSpacing = _decimals(grid.spacing_row_col_mm)
    ds.SliceThickness = _decimals([float(np.linalg.norm(grid.step_mm))])[0]
    ds.SliceLocation = _decimals([float(index * np.linalg.norm(grid.step_mm))])[0]


def _decimals(values: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters, as exact as they can be."""
    texts = []
    for value in values:
        digits = 14
        while len(text := f"{float(value):.{digits}f}") > 16:
            digits -= 1
        texts.append(text)
    return texts


def _set_pixels(
    ds: Dataset,
    stored: NDArray[Any],
    slope: float | None = None,
    *,
    bits_stored: int,
    photometric: str = "MONOCHROME2",
) -> None:
    """Image pixel module (single sample)."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    if slope is not None:
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.10g}", 0
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"


def _scaled(plane: NDArray[Any]) -> tuple[NDArray[np.int16], float]:
    """Stored values that use the whole range, and their slope."""
    slope = float(f"{max(float(plane.max()), 1.0) / 32000:.10g}")
    return np.round(plane / slope).astype(np.int16), slope


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _radiopharmaceutical(dose_bq: float, half_life_s: float, injected_at: str) -> Dataset:
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = f"{dose_bq:.10g}", f"{half_life_s:.10g}"
    item.RadiopharmaceuticalStartTime = injected_at[8:]
    item.RadiopharmaceuticalStartDateTime = injected_at
    item.RadionuclideCodeSequence = [_code("77004003", "SCT", "^18^Fluorine")]
    return item


def _write(folder: Path, ds: FileDataset, syntax: UID, change: Change | None) -> Path:
    """Compress when asked, apply `change`, and write under the SOP Instance UID, which says nothing of the order."""
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if change:
        change(ds)
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path
