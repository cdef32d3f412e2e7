"""Simulated studies as a PACS would hold them, with their truth in words: for demonstrations, tests and load.

Beside the images of a volume lies `truth.json`: findings, sides, boxes in voxels of the series, and measures.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid
from scipy import ndimage

from training.anatomy import load_anatomy
from training.brain_mr import BrainMR, BrainScan, simulate_brain_mr
from training.chest_ct import EDGE_PX, FINER_ZYX, SLICES, CTFinding, CTPatient, draw_findings
from training.chest_radiographs import project_patient
from training.dicom_series import Examination, write_ct_series, write_mr_series, write_pet_series
from training.exposure import PIXEL_MM, take_radiograph
from training.head_template import load_head
from training.head_warping import HeadSampler
from training.pet_ct import PetCt, PetCtScan, simulate_pet_ct
from training.placement import Placement, VoxelBox, block_mean
from training.truth import Truth, side_of
from training.warping import Grid, Sampler, draw_warp
from umit_pacs.cli.sample_studies import new_instance
from umit_pacs.handoffs import Language
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.vocabulary import load_templates

SampleKind = Literal["radiograph", "ct", "pet_ct", "brain_mr"]

#: samples are drawn apart from every patient of the bank, whatever their seed.
_APART = 0x5A3B1E
_EDGE_PX = 512
_BITS = 12


def write_sample(folder: Path, kind: SampleKind, *, seed: int) -> tuple[str, str]:
    """Write one study of a kind; returns its Study Instance UID and what is true of it.

    The same seed gives the same patient and the same findings.
    """
    match kind:
        case "radiograph":
            return write_radiograph_sample(folder, seed=seed)
        case "ct":
            return write_ct_sample(folder, Sampler(load_anatomy()), seed=seed)
        case "pet_ct":
            return write_pet_ct_sample(folder, Sampler(load_anatomy()), seed=seed)
        case "brain_mr":
            return write_brain_mr_sample(folder, HeadSampler(load_head()), seed=seed)


def write_ct_sample(folder: Path, sampler: Sampler, *, seed: int) -> tuple[str, str]:
    """A chest CT of 96 slices; findings are put into the model's coarse volume, as in training."""
    rng = np.random.default_rng((_APART, 1, seed))
    edge_mm, length_mm = rng.uniform(310, 420), rng.uniform(270, 330)
    spacing = (length_mm / SLICES, edge_mm / EDGE_PX, edge_mm / EDGE_PX)
    centre = (rng.uniform(-10, 15), rng.uniform(-20, 20), rng.uniform(-15, 15))
    placement = Placement(shape=(SLICES, EDGE_PX, EDGE_PX), spacing_zyx_mm=spacing, centre_zyx_mm=centre)
    fine = placement.finer(FINER_ZYX)
    filled, labels = sampler.fill(sampler.positions(draw_warp(rng), fine.points_mm()))
    middle = labels[FINER_ZYX[0] // 2 :: FINER_ZYX[0], :: FINER_ZYX[1], :: FINER_ZYX[2]]
    lobes = np.where((middle >= 10) & (middle <= 14), middle, 0).astype(np.uint8)
    coarse = block_mean(filled[0], FINER_ZYX).astype(np.float16)
    with_findings, findings = draw_findings(CTPatient(hu=coarse, lobes=lobes, spacing_zyx_mm=spacing), rng)
    hu = _finer_findings(filled[0], coarse.astype(np.float32), with_findings)
    noise = ndimage.gaussian_filter(rng.normal(size=fine.shape).astype(np.float32), (0, 0.6, 0.6)) * rng.uniform(15, 50)
    examination = _examination("ct", seed, "SIMULATED CHEST CT", "CHEST")
    truth = _ct_truth(findings, fine)
    write_ct_series(folder, hu + noise, fine, examination)
    return _with_truth(folder, examination, truth, {})


def _finer_findings(fine: Grid, coarse: Grid, with_findings: Grid) -> Grid:
    """What findings change in the coarse volume, put into the fine one; what they fill shows no more of the lung."""
    after, change = (
        ndimage.zoom(volume, FINER_ZYX, order=1, grid_mode=True, mode="nearest")
        for volume in (with_findings, with_findings - coarse)
    )
    filled = np.clip(np.abs(change) / 500, 0, 1)
    hu: Grid = (fine + change) * (1 - filled) + after * filled
    return hu


def write_pet_ct_sample(folder: Path, sampler: Sampler, *, seed: int, scan: PetCtScan | None = None) -> tuple[str, str]:
    """An FDG PET and its CT, two series with one frame of reference."""
    study = simulate_pet_ct(sampler, np.random.default_rng((_APART, 2, seed)), scan)
    examination = dataclasses.replace(
        _examination("pet_ct", seed, "SIMULATED FDG PET/CT CHEST", "CHEST"), weight_kg=study.injection.weight_kg
    )
    write_ct_series(folder, study.hu, study.ct, examination)
    write_pet_series(folder, study.suv, study.pet, examination, study.injection)
    facts = _facts(study) | {"injection": dataclasses.asdict(study.injection)}
    return _with_truth(folder, examination, study.truth(), facts)


def write_brain_mr_sample(
    folder: Path, sampler: HeadSampler, *, seed: int, scan: BrainScan | None = None
) -> tuple[str, str]:
    """A T1-weighted MR of the brain."""
    study = simulate_brain_mr(sampler, np.random.default_rng((_APART, 3, seed)), scan)
    examination = _examination("brain_mr", seed, "SIMULATED BRAIN MR", "BRAIN")
    write_mr_series(folder, study.signal, study.placement, examination)
    facts = _facts(study) | {"tissue_share": study.tissue_share}
    return _with_truth(folder, examination, study.truth(), facts)


def _examination(kind: SampleKind, seed: int, description: str, body_part: str) -> Examination:
    return Examination(
        study_uid=str(generate_uid(entropy_srcs=["umit-pacs sample", kind, str(seed)])),
        patient_id=f"SIM-{kind.upper()}-{seed}",
        description=description,
        body_part=body_part,
    )


def _facts(study: PetCt | BrainMR) -> dict[str, Any]:
    """Lesions as they were put in, in the order of the simulation."""
    return {"lesions": [dataclasses.asdict(lesion) for lesion in study.lesions]}


def _ct_truth(findings: list[CTFinding], fine: Placement) -> Truth:
    """In voxels of the written series instead of the coarse volume."""
    boxes: dict[str, list[VoxelBox]] = {}
    sides: dict[str, set[str]] = {}
    factors = FINER_ZYX[::-1]
    for finding in findings:
        low, high = ([n * f for n, f in zip(corner, factors, strict=True)] for corner in finding.box)
        boxes.setdefault(finding.finding, []).append(((low[0], low[1], low[2]), (high[0], high[1], high[2])))
        sides.setdefault(finding.finding, set()).add(finding.side)
    return Truth(
        template="chest_ct",
        modality="CT",
        extent=fine.shape[::-1],
        boxes={name: tuple(sorted(each, key=_voxels, reverse=True)) for name, each in boxes.items()},
        sides={name: side_of(each) for name, each in sides.items()},
    )


def _voxels(box: Box) -> float:
    return float(np.prod(np.array(box[1]) - np.array(box[0])))


def _with_truth(folder: Path, examination: Examination, truth: Truth, facts: dict[str, Any]) -> tuple[str, str]:
    record = {"study_instance_uid": examination.study_uid} | dataclasses.asdict(truth) | facts
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")
    return examination.study_uid, truth_in_words(truth)


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
