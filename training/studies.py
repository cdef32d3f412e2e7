"""Simulated studies as the model is shown them: drawn from the bank, prepared by `umit_pacs.pixels`, with their truth.

What the checkpoint's manifest says about pixels and coordinate frames is said here once; `training.export` writes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.alignment import TokenGrid
from training.bank import KINDS, Kind, Patient, Split, load_brains, load_cts, load_pets, load_radiographs
from training.brain_patients import BrainPatient, draw_brain
from training.case_mix import CaseMix, draw_together
from training.chest_ct import EDGE_PX, SLICES, CTPatient, draw_findings
from training.chest_radiographs import ProjectedPatient
from training.exposure import is_heart_clear, is_heart_enlarged, take_radiograph
from training.pet_patients import PetPatient, draw_pet
from training.truth import Examiner, Question, Truth, side_of, slice_truths
from training.volume_studies import shown, volume_examiner
from training.warping import Grid
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.grey import grey_of_values
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.resample import fit_image, fit_volume
from umit_pacs.umit_model.checkpoint import Manifest
from umit_pacs.umit_model.coordinate_frames import Box, CoordinateFrame
from umit_pacs.vocabulary import load_templates

#: what the studies of a kind are called
WORDS: dict[Kind, str] = {
    "radiograph": "chest radiographs",
    "ct": "chest CT volumes",
    "pet": "FDG PET volumes",
    "brain_mr": "brain MR volumes",
}
#: what DICOM calls the modality of a kind
MODALITIES: dict[Kind, tuple[str, ...]] = {
    "radiograph": ("CR", "DX"),
    "ct": ("CT",),
    "pet": ("PT",),
    "brain_mr": ("MR",),
}
RADIOGRAPH_TASKS = (Task.REPORT, Task.CLASSIFICATION, Task.DETECTION, Task.VQA, Task.LANDMARK)
VOLUME_TASKS = (Task.REPORT, Task.CLASSIFICATION, Task.DETECTION_3D, Task.VQA)

RADIOGRAPH_PIXELS = ImageRequirements(
    kind=ImageKind.IMAGE,
    width=224,
    height=224,
    grey=GreyRecipe(kind=GreyKind.PERCENTILES, percentile_low=1.0, percentile_high=99.0),
)


def _volume(grey: GreyRecipe) -> ImageRequirements:
    return ImageRequirements(kind=ImageKind.VOLUME, width=EDGE_PX, height=EDGE_PX, slices=SLICES, grey=grey)


CT_PIXELS = _volume(GreyRecipe(kind=GreyKind.WINDOW, window_center=-400.0, window_width=1500.0))
PET_PIXELS = _volume(GreyRecipe(kind=GreyKind.SUV, suv_maximum=10.0))
BRAIN_MR_PIXELS = _volume(GreyRecipe(kind=GreyKind.PERCENTILES, percentile_low=1.0, percentile_high=99.0))
RADIOGRAPH_FRAME = CoordinateFrame.parse("norm1000")
VOLUME_FRAME = CoordinateFrame.parse(f"voxel:{SLICES}x{EDGE_PX}x{EDGE_PX}")


def kinds_of(manifest: Manifest) -> tuple[Kind, ...]:
    """The kinds of study that a checkpoint reads."""
    read = {modality for profile in manifest.profiles for modality in profile.modalities}
    return tuple(kind for kind in KINDS if read.issuperset(MODALITIES[kind]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One drawn study."""

    #: (images, H, W)
    images: NDArray[np.uint8]
    truth: Truth

    def truth_of_images(self) -> list[Truth]:
        """What each image shows by itself."""
        return [self.truth] if len(self.truth.extent) == 2 else slice_truths(self.truth)


@dataclass(frozen=True, kw_only=True)
class StudyKind:
    """Radiographs or volumes of one split; patients of its kind alone."""

    kind: Kind
    tasks: tuple[Task, ...]
    examiner: Examiner
    pixels: ImageRequirements
    radiographs: tuple[ProjectedPatient, ...] = ()
    cts: tuple[CTPatient, ...] = ()
    pets: tuple[PetPatient, ...] = ()
    brains: tuple[BrainPatient, ...] = ()
    #: of radiographs
    case_mix: CaseMix = "balanced"

    @property
    def patients(self) -> tuple[Patient, ...]:
        return (*self.radiographs, *self.cts, *self.pets, *self.brains)

    @property
    def words(self) -> str:
        return WORDS[self.kind]

    @property
    def images(self) -> int:
        return self.pixels.slices or 1

    def targets(self, task: Task) -> tuple[str, ...]:
        """Keys of the findings or landmarks whose place a task is trained to tell."""
        if task is self.examiner.detection:
            return self.examiner.located
        return tuple(self.examiner.template.landmarks) if task is Task.LANDMARK else ()

    def token_grid(self, block_px: int) -> TokenGrid:
        """The tokens of one image of a study."""
        tokens = (self.pixels.width // block_px, self.pixels.height // block_px)
        return TokenGrid(tokens_xy=tokens, extent=(self.pixels.width, self.pixels.height))

    def draw(self, rng: np.random.Generator) -> Study:
        match self.kind:
            case "radiograph":
                return self._draw_radiograph(rng)
            case "ct":
                return self._draw_ct(rng)
            case "pet":
                pet = draw_pet(self.pets[rng.integers(len(self.pets))], rng)
                return self._shown(pet.suv, pet.truth())
            case "brain_mr":
                brain = draw_brain(self.brains[rng.integers(len(self.brains))], rng)
                return self._shown(brain.signal, brain.truth())

    def draw_questions(self, truth: Truth, rng: np.random.Generator) -> list[Question]:
        """What one study is asked in a training step: each task, languages and wordings drawn.

        The images of a volume cost most of its step, so it is asked twice as much.
        """
        counts = {Task.DETECTION: 3, Task.DETECTION_3D: 2, Task.VQA: 5, Task.LANDMARK: 3}
        tasks = self.tasks if self.pixels.slices is None else self.tasks * 2
        asked: list[Question] = []
        for task in tasks:
            asked += self.draw_questions_of(task, truth, rng, counts.get(task, 1))
        return asked

    def draw_questions_of(self, task: Task, truth: Truth, rng: np.random.Generator, count: int) -> list[Question]:
        """`count` questions of one task; what is there is asked about more often than what is not."""
        language = list(Language)[rng.integers(len(Language))]
        questions = self.examiner.questions_of(task, truth, rng, language)
        if len(questions) <= count:
            return questions
        likely = np.array([3.0 if question.order.target in truth.sides else 1.0 for question in questions])
        chosen = rng.choice(len(questions), size=count, replace=False, p=likely / likely.sum())
        return [questions[index] for index in chosen]

    @cached_property
    def _patients_by_heart(self) -> tuple[tuple[ProjectedPatient, ...], tuple[ProjectedPatient, ...]]:
        """Patients with a usual and with an enlarged heart, without those on the border."""
        clear = [patient for patient in self.radiographs if is_heart_clear(patient)] or list(self.radiographs)
        enlarged = tuple(patient for patient in clear if is_heart_enlarged(patient))
        usual = tuple(patient for patient in clear if not is_heart_enlarged(patient))
        return usual or enlarged, enlarged or usual

    def _draw_radiograph(self, rng: np.random.Generator) -> Study:
        usual, enlarged = self._patients_by_heart
        findings = draw_together(rng) if self.case_mix == "natural" else None
        is_enlarged = rng.random() < 0.3 if findings is None else "cardiomegaly" in findings
        patients = enlarged if is_enlarged else usual
        patient = patients[rng.integers(len(patients))]
        values, truth = take_radiograph(patient, rng, edge_px=self.pixels.width, findings=findings)
        pixels, to_source = fit_image(grey_of_values(values, self.pixels.grey), self.pixels)
        return Study(images=pixels[None], truth=_moved(truth, to_source, (self.pixels.width, self.pixels.height)))

    def _draw_ct(self, rng: np.random.Generator) -> Study:
        hu, findings = draw_findings(self.cts[rng.integers(len(self.cts))], rng)
        hu += rng.normal(0, rng.uniform(0, 25), hu.shape).astype(np.float32)
        voxels, _ = fit_volume(grey_of_values(hu, self.pixels.grey), self.pixels)
        boxes: dict[str, list[Box]] = {}
        sides: dict[str, set[str]] = {}
        for finding in findings:
            boxes.setdefault(finding.finding, []).append(finding.box)
            sides.setdefault(finding.finding, set()).add(finding.side)
        truth = Truth(
            template="chest_ct",
            modality="CT",
            extent=(self.pixels.width, self.pixels.height, self.images),
            boxes={name: tuple(sorted(each, key=_voxels, reverse=True)) for name, each in boxes.items()},
            sides={name: side_of(each) for name, each in sides.items()},
        )
        return Study(images=voxels, truth=truth)

    def _shown(self, values: Grid, truth: Truth) -> Study:
        voxels, moved = shown(values, truth, self.pixels)
        return Study(images=voxels, truth=moved)


def open_kind(kind: Kind, split: Split, bank: Path) -> StudyKind:
    """The patients of one kind and split that the bank holds. Raises ValueError when there are none."""
    match kind:
        case "radiograph":
            opened = StudyKind(
                kind=kind,
                tasks=RADIOGRAPH_TASKS,
                examiner=_examiner("chest_radiograph", Task.DETECTION, RADIOGRAPH_FRAME),
                pixels=RADIOGRAPH_PIXELS,
                radiographs=tuple(load_radiographs(bank, split)),
            )
        case "ct":
            opened = StudyKind(
                kind=kind,
                tasks=VOLUME_TASKS,
                examiner=_examiner("chest_ct", Task.DETECTION_3D, VOLUME_FRAME),
                pixels=CT_PIXELS,
                cts=tuple(load_cts(bank, split)),
            )
        case "pet":
            opened = StudyKind(
                kind=kind,
                tasks=VOLUME_TASKS,
                examiner=volume_examiner("fdg_pet_ct", VOLUME_FRAME),
                pixels=PET_PIXELS,
                pets=tuple(load_pets(bank, split)),
            )
        case "brain_mr":
            opened = StudyKind(
                kind=kind,
                tasks=VOLUME_TASKS,
                examiner=volume_examiner("brain_mr", VOLUME_FRAME),
                pixels=BRAIN_MR_PIXELS,
                brains=tuple(load_brains(bank, split)),
            )
    if not opened.patients:
        raise ValueError(f"no {kind} patients for {split} in {bank}: run `python -m training bank`")
    return opened


def _examiner(template: str, detection: Task, frame: CoordinateFrame) -> Examiner:
    """Every finding has a place to ask for."""
    found = load_templates().by_key(template)
    return Examiner(template=found, located=tuple(found.findings), detection=detection, frame=frame)


def _moved(truth: Truth, to_source: NDArray[np.float64], extent: tuple[int, ...]) -> Truth:
    """The truth in pixels of the prepared image instead of the source's."""
    matrix = np.linalg.inv(to_source)

    def move(point: tuple[float, ...]) -> tuple[float, float]:
        x, y, _ = matrix @ [point[0], point[1], 1.0]
        return float(x), float(y)

    return dataclasses.replace(
        truth,
        extent=extent,
        boxes={name: tuple((move(low), move(high)) for low, high in boxes) for name, boxes in truth.boxes.items()},
        landmarks={name: None if point is None else move(point) for name, point in truth.landmarks.items()},
    )


def _voxels(box: Box) -> float:
    return float(np.prod(np.array(box[1]) - np.array(box[0])))
