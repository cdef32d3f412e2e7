"""Simulated volumes as the DICOM series that a scanner would send: CT, PET and MR Image Storage, one object a slice.

Every object is marked as simulated and carries no real patient. PET is in Bq/ml, decay corrected to the start of the
scan (PS3.3 C.8.9), so that weight, dose and times in the header make SUV of it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

from training.pet_ct import FLUORINE_HALF_LIFE_S, Injection
from training.placement import Placement
from training.warping import Grid
from umit_pacs.cli.sample_studies import AXIAL_ORIENTATION, new_instance

#: stored values (H, W) of one slice, and the attributes of its own
Plane = tuple[NDArray[np.int16], dict[str, Any]]

#: largest stored value of a PET or MR slice
_MOST_STORED = 32767
_SCAN_START = datetime(2000, 1, 1, 12, tzinfo=UTC)
_BED_TIME_MS = 120_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What all series of one simulated study share."""

    study_uid: str
    patient_id: str
    description: str
    body_part: str
    weight_kg: float | None = None

    @property
    def frame_of_reference_uid(self) -> str:
        return str(generate_uid(entropy_srcs=[self.study_uid, "frame of reference"]))


def write_ct_series(folder: Path, hu: Grid, placement: Placement, examination: Examination) -> list[Path]:
    """(Z, Y, X) HU -> one CT object a slice, `ct-NNN.dcm` from the feet on."""
    attributes = {
        "ImageType": ["DERIVED", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "SeriesDescription": "SIMULATED CT",
        "PatientPosition": "HFS",
        "KVP": "120",
        "AcquisitionNumber": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
    }
    planes: list[Plane] = [(np.round(plane).clip(-1024, 3071).astype(np.int16), {}) for plane in hu]
    return _write(folder, "ct", 1, CTImageStorage, planes, placement, examination, attributes)


def write_pet_series(
    folder: Path, suv: Grid, placement: Placement, examination: Examination, injection: Injection
) -> list[Path]:
    """(Z, Y, X) SUV -> one PET object a slice, `pet-NNN.dcm`, each with a rescale slope of its own."""
    attributes = {
        "ImageType": ["DERIVED", "PRIMARY"],
        "Modality": "PT",
        "SeriesDescription": "SIMULATED FDG PET AC",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["ATTN", "DECY"],
        "AttenuationCorrectionMethod": "SIMULATED",
        "CountsSource": "EMISSION",
        "SeriesType": ["STATIC", "IMAGE"],
        "NumberOfSlices": len(suv),
        "CollimatorType": "NONE",
        "FrameReferenceTime": 0,
        "ActualFrameDuration": _BED_TIME_MS,
        "DecayFactor": 1,
        "PatientOrientationCodeSequence": [_code("102538003", "recumbent")],
        "PatientGantryRelationshipCodeSequence": [_code("102540008", "headfirst")],
        "RadiopharmaceuticalInformationSequence": [_radiopharmaceutical(injection)],
    }
    planes = []
    for index, plane in enumerate(suv * injection.bqml_per_suv):
        stored, slope = _stored(plane)
        planes.append((stored, {"RescaleSlope": slope, "RescaleIntercept": 0, "ImageIndex": index + 1}))
    uid = PositronEmissionTomographyImageStorage
    return _write(folder, "pet", 2, uid, planes, placement, examination, attributes)


def write_mr_series(folder: Path, signal: Grid, placement: Placement, examination: Examination) -> list[Path]:
    """(Z, Y, X) signal of any scale -> one T1-weighted MR object a slice, `mr-NNN.dcm` from the feet on."""
    attributes = {
        "ImageType": ["DERIVED", "PRIMARY", "M", "SE"],
        "Modality": "MR",
        "SeriesDescription": "SIMULATED T1 AX",
        "PatientPosition": "HFS",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 500,
        "EchoTime": 12,
        "EchoTrainLength": 1,
    }
    stored = np.round(signal * (4095 / max(float(signal.max()), 1e-6))).astype(np.int16)
    planes: list[Plane] = [(plane, {}) for plane in stored]
    return _write(folder, "mr", 1, MRImageStorage, planes, placement, examination, attributes)


def _write(
    folder: Path,
    name: str,
    series_number: int,
    sop_class_uid: UID,
    planes: list[Plane],
    placement: Placement,
    examination: Examination,
    attributes: dict[str, Any],
) -> list[Path]:
    """Write stored values with the attributes of their slice and those of the series."""
    folder.mkdir(parents=True, exist_ok=True)
    series_uid = generate_uid(entropy_srcs=[examination.study_uid, name])
    shared = _general(examination) | attributes | {"SeriesInstanceUID": series_uid, "SeriesNumber": series_number}
    paths = []
    for index, (stored, of_slice) in enumerate(planes):
        values = shared | _place(placement, index) | _pixels(stored) | of_slice
        uid = generate_uid(entropy_srcs=[series_uid, str(index)])
        dataset = new_instance(
            values | {"InstanceNumber": index + 1}, sop_class_uid=sop_class_uid, sop_instance_uid=uid
        )
        dataset["PixelData"].VR = "OW"
        paths.append(folder / f"{name}-{index + 1:03d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def _general(examination: Examination) -> dict[str, Any]:
    """Patient, study, series and equipment."""
    date, time = f"{_SCAN_START:%Y%m%d}", f"{_SCAN_START:%H%M%S}"
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "ContentDate": date,
        "StudyTime": time,
        "SeriesTime": time,
        "AcquisitionTime": time,
        "ContentTime": time,
        "AccessionNumber": "SIMULATED",
        "Manufacturer": "UMIT PACS simulator",
        "ReferringPhysicianName": "",
        "StudyDescription": examination.description,
        "PatientName": "Simulated^Patient",
        "PatientID": examination.patient_id,
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": examination.body_part,
        "StudyInstanceUID": examination.study_uid,
        "StudyID": "1",
        "FrameOfReferenceUID": examination.frame_of_reference_uid,
        "PositionReferenceIndicator": "",
    }
    if examination.weight_kg is not None:
        values["PatientWeight"] = f"{examination.weight_kg:g}"
    return values


def _place(placement: Placement, index: int) -> dict[str, Any]:
    """Frame of reference and image plane; rows run to the patient's left, columns to the back, slices to the head."""
    z, y, x = placement.position_of(np.array([index, 0, 0]))
    thickness, row, column = placement.spacing_zyx_mm
    return {
        "ImagePositionPatient": [f"{value:.8g}" for value in (x, y, z)],
        "ImageOrientationPatient": AXIAL_ORIENTATION,
        "PixelSpacing": [f"{row:.8g}", f"{column:.8g}"],
        "SliceThickness": f"{thickness:.8g}",
    }


def _pixels(stored: NDArray[np.int16]) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelData": np.ascontiguousarray(stored, dtype="<i2").tobytes(),
    }


def _stored(plane: Grid) -> tuple[NDArray[np.int16], str]:
    """Stored values that use the whole range, and the slope as it is written, which they are made with."""
    slope = f"{max(float(plane.max()), 1.0) / _MOST_STORED:.10g}"
    return np.round(plane / float(slope)).clip(0, _MOST_STORED).astype(np.int16), slope


def _radiopharmaceutical(injection: Injection) -> Dataset:
    item = Dataset()
    injected = _SCAN_START - timedelta(seconds=injection.uptake_s)
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadionuclideTotalDose = f"{injection.dose_bq:.10g}"
    item.RadionuclideHalfLife = f"{FLUORINE_HALF_LIFE_S:g}"
    item.RadiopharmaceuticalStartTime = f"{injected:%H%M%S}"
    item.RadiopharmaceuticalStartDateTime = f"{injected:%Y%m%d%H%M%S}"
    item.RadionuclideCodeSequence = [_code("77004003", "^18^Fluorine")]
    item.RadiopharmaceuticalCodeSequence = [_code("35321007", "Fluorodeoxyglucose F^18^")]
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item
