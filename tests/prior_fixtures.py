"""Two studies of one patient, a year apart, and the facts that they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

from tests.phantoms import Study, write_cr_image
from umit_pacs.handoffs import SeriesUID
from umit_pacs.prior_studies import Patient, StudyMatch
from umit_pacs.routing.comparable import NewStudy
from umit_pacs.routing.facts import SeriesFacts

PATIENT = Patient(patient_id="PAT-0001", issuer="", birth_date="19600214")


def new_study(**changes: Any) -> NewStudy:
    """A chest radiograph of 2 March 2026, 10:15."""
    told = NewStudy(
        study_instance_uid="2.25.1",
        patient=PATIENT,
        study_date="20260302",
        study_time="101500",
        series=(series_facts("2.25.11"),),
    )
    return replace(told, **changes)


def series_facts(uid: str, **values: Any) -> SeriesFacts:
    """A frontal chest radiograph."""
    view = values.pop("ViewPosition", "PA")
    known = {"Modality": "CR", "BodyPartExamined": "CHEST", "number_of_slices": 1.0, "is_volume": False} | values
    images = ({"ViewPosition": (view,)},) if view else ()
    return SeriesFacts(
        series_instance_uid=SeriesUID(uid), values={key: (value,) for key, value in known.items()}, images=images
    )


def match(uid: str, date: str, time: str = "", **changes: Any) -> StudyMatch:
    """What an archive says of one study."""
    return replace(
        StudyMatch(peer="pacs", study_instance_uid=uid, patient=PATIENT, study_date=date, study_time=time), **changes
    )


def study_of(date: str, **changes: Any) -> Study:
    """A study of the patient on this day."""
    return Study(date=date, study_instance_uid=generate_uid(), **changes)


def write_radiograph(folder: Path, study: Study, *, seed: int = 1, **more: Any) -> Path:
    """A grainy chest radiograph without meaning."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(500, 3500, size=(64, 64))
    return write_cr_image(folder, pixels, study=study, **more)
