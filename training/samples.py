"""A simulated radiograph as a PACS would hold it, with its truth in words: for demonstrations and load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

from training.anatomy import load_anatomy
from training.chest_radiographs import project_patient
from training.exposure import PIXEL_MM, take_radiograph
from training.truth import Truth
from training.warping import Sampler
from umit_pacs.cli.sample_studies import new_instance
from umit_pacs.handoffs import Language
from umit_pacs.vocabulary import load_templates

#: samples are drawn apart from every patient of the bank, whatever their seed.
_APART = 0x5A3B1E
_EDGE_PX = 512
_BITS = 12


def write_radiograph_sample(folder: Path, *, seed: int) -> tuple[str, str]:
    """Write one chest radiograph as a CR image; returns its Study Instance UID and what is true of it.

    The same seed gives the same patient and the same findings.
    """
    rng = np.random.default_rng((_APART, seed))
    patient = project_patient(Sampler(load_anatomy()), rng)
    values, truth = take_radiograph(patient, rng, edge_px=_EDGE_PX)
    lowest, highest = float(values.min()), float(values.max())
    pixels = np.round((values - lowest) / (highest - lowest) * (2**_BITS - 1)).astype("<u2")
    study_uid = generate_uid(entropy_srcs=["umit-pacs sample", str(seed)])
    spacing_mm = f"{PIXEL_MM * patient.soft.shape[0] / pixels.shape[0]:.6g}"
    dataset = new_instance(
        {
            "SpecificCharacterSet": "ISO_IR 100",
            "ImageType": ["DERIVED", "PRIMARY"],
            "StudyDate": "20000101",
            "StudyTime": "120000",
            "AccessionNumber": "SIMULATED",
            "Modality": "CR",
            "Manufacturer": "UMIT PACS simulator",
            "ReferringPhysicianName": "",
            "StudyDescription": "SIMULATED CHEST PA",
            "SeriesDescription": "SIMULATED",
            "PatientName": "Simulated^Chest",
            "PatientID": f"SIM-{seed}",
            "PatientBirthDate": "",
            "PatientSex": "",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": generate_uid(entropy_srcs=[study_uid, "series"]),
            "StudyID": "1",
            "SeriesNumber": 1,
            "InstanceNumber": 1,
            "PatientOrientation": ["L", "F"],
            "ImagerPixelSpacing": [spacing_mm, spacing_mm],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "BitsAllocated": 16,
            "BitsStored": _BITS,
            "HighBit": _BITS - 1,
            "PixelRepresentation": 0,
            "PixelData": pixels.tobytes(),
        },
        sop_class_uid=ComputedRadiographyImageStorage,
        sop_instance_uid=generate_uid(entropy_srcs=[study_uid, "image"]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / "radiograph.dcm", enforce_file_format=True)
    return str(study_uid), truth_in_words(truth)


def truth_in_words(truth: Truth) -> str:
    """Every finding of the template: there, with its side, or not."""
    template = load_templates().by_key(truth.template)
    present = [
        term.names[Language.ENGLISH] + (f" ({truth.sides[key]})" if truth.sides[key] != "none" else "")
        for key, term in template.findings.items()
        if key in truth.sides
    ]
    absent = [term.names[Language.ENGLISH] for key, term in template.findings.items() if key not in truth.sides]
    return ", ".join(present or ["no finding"]) + ("; no " + ", no ".join(absent) if absent else "")
