"""Findings built by hand about phantom studies: the input of compose, without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

from tests.phantoms import (
    Study,
    ball_volume,
    chest_like_ct,
    write_cr_image,
    write_ct_series,
    write_dx_image,
    write_mr_series,
    write_pt_series,
)
from umit_pacs.handoffs import (
    Abstention,
    CompletionReason,
    Composed,
    Findings,
    FrameReference,
    InputSet,
    InstanceUID,
    Language,
    ModelIdentity,
    Region,
    RegionKind,
    ReportStatement,
    ResultObject,
    RoutingDecision,
    SeriesExclusion,
    SeriesUID,
    StoredInstance,
    StudyUID,
    Task,
    TaskOrder,
    TaskResult,
)
from umit_pacs.pixels.frames import frames_of
from umit_pacs.pixels.headers import read_header
from umit_pacs.result_objects.composers import COMPOSERS
from umit_pacs.settings import ComposeSettings, ModelSettings
from umit_pacs.steps.compose import compose, draft_of, pages_of
from umit_pacs.steps.measure import measure
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import load_templates

MODEL = ModelIdentity(
    name="umit-demo",
    version="1.0.0",
    sha256="0f3a9c51d2b47e8866aa19cc0d5e4f7b" * 2,
    quantisation="int8",
    device="cpu",
    licence="Apache-2.0",
    intended_use="Demonstration with simulated training data. Not a medical device.",
)
RECEIVED_AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One study with its orders and answers, ready to be composed."""

    input_set: InputSet
    decision: RoutingDecision
    findings: Findings
    files: PayloadFiles
    settings: ComposeSettings = field(default_factory=ComposeSettings)
    predecessor: tuple[ResultObject, ...] = ()

    def compose(self) -> tuple[ResultObject, ...]:
        """Every object of the run, none of which may be stopped."""
        composed = self.composed()
        assert composed.stopped == ()
        return composed.objects

    def composed(self) -> Composed:
        return compose(self.input_set, self.decision, self.findings, self.predecessor, self.files, self.settings)

    def draft(self):
        return draft_of(self.input_set, self.decision, self.findings, self.files, self.settings, self.predecessor)

    def pages(self):
        return pages_of(self.input_set, self.decision, self.findings, self.files, self.settings)

    def objects(self) -> dict[str, Dataset]:
        """Composed and read back, by the name of the file."""
        return {
            Path(item.relative_path).stem: pydicom.dcmread(self.files.path(item.relative_path))
            for item in self.compose()
        }


def measured(run: Run) -> Run:
    """The run as the node composes it: with what its regions measure."""
    found = measure(run.input_set, run.findings, run.files, load_templates(), ModelSettings())
    return replace(run, findings=found)


def frames_of_folder(folder: Path) -> tuple[FrameReference, ...]:
    """Frames of all objects below a folder, by instance number."""
    headers = [read_header(path) for path in sorted(folder.rglob("*.dcm"))]
    return tuple(frame.reference for frame in frames_of(headers))


def input_set_of(folder: Path, root: Path) -> InputSet:
    """An input set of the objects below a folder, as received."""
    instances = []
    for path in sorted(folder.rglob("*.dcm")):
        header = read_header(path)
        instances.append(
            StoredInstance(
                study_instance_uid=StudyUID(header.StudyInstanceUID),
                series_instance_uid=SeriesUID(header.SeriesInstanceUID),
                sop_instance_uid=InstanceUID(header.SOPInstanceUID),
                sop_class_uid=header.SOPClassUID,
                transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
                calling_ae_title="PACS",
                called_ae_title="UMIT",
                peer_host="127.0.0.1",
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                size_bytes=path.stat().st_size,
                relative_path=path.relative_to(root).as_posix(),
                received_at=RECEIVED_AT,
            )
        )
    digest = hashlib.sha256("".join(sorted(one.sop_instance_uid for one in instances)).encode()).hexdigest()
    return InputSet(
        input_set_id=digest[:32],
        study_instance_uid=instances[0].study_instance_uid,
        instances=tuple(instances),
        calling_ae_title="PACS",
        completed_by=CompletionReason.QUIET_PERIOD,
    )


def order(task: Task, frames: Sequence[FrameReference], language: Language, template: str, **more: Any) -> TaskOrder:
    uid = frames[0].series_instance_uid
    return TaskOrder(task=task, language=language, series_instance_uid=uid, template=template, **more)


def answer(order_: TaskOrder, frames: Sequence[FrameReference], **more: Any) -> TaskResult:
    return TaskResult(order=order_, instruction="", answer_text="", frames=tuple(frames), **more)


def box(label: str, frames: Sequence[FrameReference], corners: tuple[float, ...], confidence: float | None) -> Region:
    """corners: left, top, right, bottom in source pixels; several frames make it a box in a volume."""
    left, top, right, bottom = corners
    return Region(
        kind=RegionKind.BOX_3D if len(frames) > 1 else RegionKind.BOX,
        label=label,
        frames=tuple(frames),
        points_xy_px=((left, top), (right, bottom)),
        confidence=confidence,
    )


def point(label: str, frame: FrameReference, x: float, y: float, confidence: float | None) -> Region:
    return Region(kind=RegionKind.POINT, label=label, frames=(frame,), points_xy_px=((x, y),), confidence=confidence)


def chest_pixels(rows: int = 600, columns: int = 500) -> np.ndarray:
    """A frontal chest, roughly: bright body, two dark lungs, a bright round mass in the patient's left one."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    pixels = np.full((rows, columns), 300.0)
    pixels[(x / 0.95) ** 2 + (y / 1.0) ** 2 < 1] = 2600
    for center in (-0.42, 0.42):
        pixels[((x - center) / 0.33) ** 2 + (y / 0.75) ** 2 < 1] = 1000
    pixels[(x - 0.45) ** 2 + (y + 0.2) ** 2 < 0.015] = 2300
    return pixels


def radiograph_results(
    frames: Sequence[FrameReference], language: Language, *, template: str = "chest_radiograph"
) -> tuple[TaskResult, ...]:
    """A report, two boxes, an absent finding, an abstention, a class, questions and landmarks."""
    terms = load_templates().by_key("chest_radiograph")
    frame, rows, columns = frames[0], frames[0].rows, frames[0].columns

    def ask(task: Task, **more: Any) -> TaskOrder:
        return order(task, frames, language, template, **more)

    report = " ".join(
        [
            terms.sentence("nodule", "present", "left", language),
            terms.sentence("pleural_effusion", "absent", "none", language),
            terms.sentence("cardiomegaly", "absent", "none", language),
        ]
    )
    statement = ReportStatement(
        finding="nodule",
        presence="present",
        side="left",
        sentence=terms.sentence("nodule", "present", "left", language),
        confidence=0.91,
    )
    effusion = (0.62 * columns, 0.7 * rows, 0.93 * columns, 0.86 * rows)
    nodule = (0.66 * columns, 0.34 * rows, 0.79 * columns, 0.46 * rows)
    assert terms.classification is not None
    classes = tuple(term.names[language] for term in terms.classification.classes.values())
    question = {Language.ENGLISH: "Which side is the mass on?", Language.CHINESE: "肿块位于哪一侧?"}[language]
    sides = {Language.ENGLISH: ("left", "right"), Language.CHINESE: ("左侧", "右侧")}[language]
    return (
        answer(ask(Task.REPORT), frames, text=report, statements=(statement,)),
        answer(
            ask(Task.DETECTION, target="nodule"),
            frames,
            regions=(box("nodule", [frame], nodule, 0.87),),
            confidence=0.87,
        ),
        answer(
            ask(Task.DETECTION, target="pleural_effusion"),
            frames,
            regions=(box("pleural_effusion", [frame], effusion, 0.78),),
            confidence=0.78,
        ),
        answer(ask(Task.DETECTION, target="pneumothorax"), frames, confidence=0.95),
        answer(
            ask(Task.DETECTION, target="consolidation"),
            frames,
            abstention=Abstention(reason="unreadable_coordinates", detail="12 characters"),
        ),
        answer(
            ask(Task.CLASSIFICATION, question=terms.classification.question[language], options=classes),
            frames,
            option_index=1,
            confidence=0.93,
        ),
        answer(ask(Task.VQA, question=question, options=sides), frames, option_index=0, confidence=0.81),
        *(
            answer(
                ask(Task.LANDMARK, target=key),
                frames,
                regions=(point(key, frame, x * columns, y * rows, 0.74),),
                confidence=0.74,
            )
            for key, x, y in (
                ("carina", 0.5, 0.33),
                ("right_costophrenic_angle", 0.14, 0.84),
                ("left_costophrenic_angle", 0.86, 0.84),
            )
        ),
    )


def ct_results(frames: Sequence[FrameReference], language: Language) -> tuple[TaskResult, ...]:
    """A report, one box in the volume and an absent finding."""
    terms = load_templates().by_key("chest_ct")
    edge = frames[0].columns

    def ask(task: Task, **more: Any) -> TaskOrder:
        return order(task, frames, language, "chest_ct", **more)

    spanned = frames[len(frames) // 4 : len(frames) // 2]
    corners = (0.64 * edge, 0.49 * edge, 0.76 * edge, 0.61 * edge)
    return (
        answer(ask(Task.REPORT), frames, text=terms.sentence("nodule", "present", "left", language)),
        answer(
            ask(Task.DETECTION_3D, target="nodule"),
            frames,
            regions=(box("nodule", spanned, corners, 0.83),),
            confidence=0.83,
        ),
        answer(ask(Task.DETECTION_3D, target="pleural_effusion"), frames, confidence=0.6),
    )


def run_of(
    folder: Path,
    results: Callable[[Sequence[FrameReference], Language], tuple[TaskResult, ...]],
    language: Language,
    **decision: Any,
) -> Run:
    """A run over the objects below `folder`/instances."""
    input_set = input_set_of(folder / "instances", folder)
    answers = results(frames_of_folder(folder / "instances"), language)
    made = RoutingDecision(
        input_set_id=input_set.input_set_id,
        rule="chest",
        rules_version=3,
        rule_text='{"name": "chest"}',
        reasons=(),
        orders=tuple(result.order for result in answers),
        language=language,
        destinations=("PACS",),
        **decision,
    )
    return Run(
        input_set=input_set,
        decision=made,
        findings=Findings(input_set_id=input_set.input_set_id, model=MODEL, results=answers),
        files=PayloadFiles(folder),
    )


def radiograph_run(
    folder: Path, language: Language = Language.ENGLISH, *, kind: str = "CR", study: Study | None = None, **more: Any
) -> Run:
    """A chest radiograph and its answers; `kind`: CR or DX; `more` goes to the writer."""
    writer = {"CR": write_cr_image, "DX": write_dx_image}[kind]
    writer(folder / "instances", chest_pixels(), study=study or Study(), **more)
    return run_of(folder, radiograph_results, language)


def ct_run(folder: Path, language: Language = Language.ENGLISH, *, study: Study | None = None) -> Run:
    """A chest CT of 24 slices with its answers, and a localiser that was kept out."""
    study = study or Study()
    write_ct_series(folder / "instances", chest_like_ct(slices=24, edge=128), study=study)
    run = run_of(folder, ct_results, language)
    localiser = write_ct_series(
        folder / "instances" / "localiser",
        chest_like_ct(slices=1, edge=64),
        study=study,
        series_number=1,
        series_description="Topogram",
    )
    excluded = SeriesExclusion(
        series_instance_uid=SeriesUID(read_header(localiser[0]).SeriesInstanceUID), reason="localiser"
    )
    return replace(
        run,
        input_set=input_set_of(folder / "instances", folder),
        decision=replace(run.decision, excluded=(excluded,)),
    )


def volume_answers(
    frames: Sequence[FrameReference], language: Language, template: str, present: str, absent: str
) -> tuple[TaskResult, ...]:
    """A report, a box around the middle of the stack, a finding that is not there and a question."""
    terms, edge = load_templates().by_key(template), frames[0].columns

    def ask(task: Task, **more: Any) -> TaskOrder:
        return order(task, frames, language, template, **more)

    spanned = frames[len(frames) // 3 : 2 * len(frames) // 3 + 1]
    corners = (0.4 * edge, 0.4 * edge, 0.7 * edge, 0.7 * edge)
    question = {Language.ENGLISH: "Is the liver shown?", Language.CHINESE: "图像是否包括肝脏？"}[language]
    options = {Language.ENGLISH: ("yes", "no"), Language.CHINESE: ("是", "否")}[language]
    return (
        answer(ask(Task.REPORT), frames, text=terms.sentence(present, "present", "left", language)),
        answer(
            ask(Task.DETECTION_3D, target=present),
            frames,
            regions=(box(present, spanned, corners, 0.83),),
            confidence=0.83,
        ),
        answer(ask(Task.DETECTION_3D, target=absent), frames, confidence=0.9),
        answer(ask(Task.VQA, question=question, options=options), frames, option_index=1, confidence=0.8),
    )


def pet_ct_run(folder: Path, language: Language = Language.ENGLISH) -> Run:
    """A PET series and a CT of the same patient, with answers about both."""
    study = Study()
    hot = ball_volume((16, 48, 48), center=(8, 26, 26), radius=4, value=20000, ground=900)
    write_pt_series(folder / "instances" / "pt", hot, study=study)

    def weigh(ds: Dataset) -> None:
        ds.PatientWeight = study.patient_weight_kg

    write_ct_series(folder / "instances" / "ct", chest_like_ct(slices=16, edge=48), study=study, change=weigh)

    def results(frames: Sequence[FrameReference], language: Language) -> tuple[TaskResult, ...]:
        by_class: dict[str, list[FrameReference]] = {}
        for frame in frames:
            by_class.setdefault(frame.sop_class_uid, []).append(frame)
        pet = by_class[PositronEmissionTomographyImageStorage]
        return (
            *volume_answers(pet, language, "fdg_pet_ct", "lung_lesion", "liver_lesion"),
            *ct_results(by_class[CTImageStorage], language),
        )

    return run_of(folder, results, language)


def brain_mr_run(folder: Path, language: Language = Language.ENGLISH) -> Run:
    """An MR series of a head with a mass."""
    signal = ball_volume((16, 48, 48), center=(8, 24, 24), radius=20, value=300)
    signal += ball_volume((16, 48, 48), center=(8, 26, 26), radius=4, value=400)
    write_mr_series(folder / "instances", signal)
    return run_of(folder, lambda frames, said: volume_answers(frames, said, "brain_mr", "mass", "infarct"), language)


def with_every_kind(run: Run) -> Run:
    """The run with every kind of object that a draft can consist of."""
    return replace(run, decision=replace(run.decision, kinds={"PACS": tuple(COMPOSERS)}))
