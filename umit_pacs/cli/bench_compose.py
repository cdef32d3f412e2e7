"""How long composing and checking every kind of object takes for a CT, and how much memory it needs.

The answers are made up: a report, the box around the mass that is there, and a finding that is not. A process that did
not make the study composes, with its templates loaded and its decoding child running, as in a work process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.table import Table

from umit_pacs.cli.sample_studies import write_chest_ct
from umit_pacs.errors import ResultInvalid
from umit_pacs.handoffs import (
    CompletionReason,
    Findings,
    FrameReference,
    InputSet,
    InstanceUID,
    Language,
    ModelIdentity,
    Region,
    RegionKind,
    RoutingDecision,
    SeriesUID,
    StoredInstance,
    StudyUID,
    Task,
    TaskOrder,
    TaskResult,
)
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.frames import frames_of
from umit_pacs.pixels.headers import read_header
from umit_pacs.result_objects.composers import COMPOSERS
from umit_pacs.settings import ComposeSettings, ModelSettings
from umit_pacs.steps.assemble import input_set_of
from umit_pacs.steps.compose import compose
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import load_templates

TEMPLATE = "chest_ct"
#: The mass of LIDC-IDRI-0001: first and last slice from below; left, top, right, bottom in pixels.
MASS_SLICES = (86, 94)
MASS_BOX_PX = ((296.0, 345.0), (337.0, 389.0))
SAMPLING_S = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What composing all objects of a CT should stay below."""

    slices: int
    wall_s: float
    #: MB (10^6 bytes); None: no target.
    peak_mb: float | None = None


TARGETS = (Target(slices=133, wall_s=2.0, peak_mb=300.0), Target(slices=1000, wall_s=10.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeTime:
    """All objects of one CT, composed several times; `wall_s` and `cpu_s` are medians."""

    slices: int
    objects: int
    #: the first time in the process.
    first_s: float
    wall_s: float
    #: of the process and its decoding child.
    cpu_s: float
    #: most memory of the process and its decoding child at once, pages that they share counted once.
    peak_mb: float
    target_s: float
    target_mb: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What a work process knows when it composes."""

    folder: Path
    input_set: InputSet
    decision: RoutingDecision
    findings: Findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    objects: int
    wall_s: float
    cpu_s: float


def bench_compose(*, runs: int, targets: Sequence[Target] = TARGETS) -> tuple[ComposeTime, ...]:
    """Compose each CT `runs` times, each time as if it were the first. Raises ResultInvalid when one is stopped."""
    with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as name:
        original = write_chest_ct(Path(name) / "original").folder
        rows = []
        for target in targets:
            folder = Path(name) / str(target.slices)
            write_repeated(original, folder / "instances", slices=target.slices)
            rows.append(_time_study(_work_in(folder), target, runs))
            shutil.rmtree(folder)
    return tuple(rows)


def write_repeated(original: Path, folder: Path, *, slices: int) -> None:
    """A CT of so many slices in one stack: those of `original` again and again, under UIDs of their own."""
    folder.mkdir(parents=True)
    paths = sorted(original.glob("*.dcm"))
    study_uid, series_uid = generate_uid(), generate_uid()
    first, second = (dcmread(path, specific_tags=["ImagePositionPatient"]) for path in paths[:2])
    x_mm, y_mm, z_mm = map(float, first.ImagePositionPatient)
    step_mm = float(second.ImagePositionPatient[2]) - z_mm
    for index in range(slices):
        ds = dcmread(paths[index % len(paths)])
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [x_mm, y_mm, z_mm + step_mm * index]
        ds.save_as(folder / f"slice-{index + 1:04d}.dcm")


def _work_in(folder: Path) -> _Work:
    """The input set of the slices below `folder`, and answers about it."""
    paths = sorted((folder / "instances").glob("*.dcm"))
    headers = [read_header(path) for path in paths]
    instances = tuple(
        StoredInstance(
            study_instance_uid=StudyUID(str(header.StudyInstanceUID)),
            series_instance_uid=SeriesUID(str(header.SeriesInstanceUID)),
            sop_instance_uid=InstanceUID(str(header.SOPInstanceUID)),
            sop_class_uid=str(header.SOPClassUID),
            transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
            calling_ae_title="BENCH",
            called_ae_title="BENCH",
            peer_host="127.0.0.1",
            sha256="",
            size_bytes=path.stat().st_size,
            relative_path=path.relative_to(folder).as_posix(),
            received_at=datetime.now(UTC),
        )
        for path, header in zip(paths, headers, strict=True)
    )
    input_set = input_set_of(instances, CompletionReason.FILES)
    results = _answers([frame.reference for frame in frames_of(headers)])
    decision = RoutingDecision(
        input_set_id=input_set.input_set_id,
        rule="bench",
        rules_version=0,
        rule_text="{}",
        reasons=(),
        orders=tuple(result.order for result in results),
        destinations=("PACS",),
        kinds={"PACS": tuple(COMPOSERS)},
    )
    findings = Findings(input_set_id=input_set.input_set_id, model=_MODEL, results=results)
    return _Work(folder=folder, input_set=input_set, decision=decision, findings=findings)


_MODEL = ModelIdentity(
    name="bench",
    version="1",
    sha256="0" * 64,
    quantisation="none",
    device="cpu",
    licence="Apache-2.0",
    intended_use="A measurement; no model answered.",
)


def _answers(frames: Sequence[FrameReference]) -> tuple[TaskResult, ...]:
    """frames: from below."""

    def answer(task: Task, *, target: str = "", text: str = "", regions: tuple[Region, ...] = ()) -> TaskResult:
        order = TaskOrder(
            task=task,
            language=Language.ENGLISH,
            series_instance_uid=frames[0].series_instance_uid,
            target=target,
            template=TEMPLATE,
        )
        shown = tuple(frames)
        return TaskResult(
            order=order, instruction="", answer_text="", text=text, frames=shown, regions=regions, confidence=0.83
        )

    mass = Region(
        kind=RegionKind.BOX_3D,
        label="nodule",
        frames=tuple(frames[MASS_SLICES[0] : MASS_SLICES[1] + 1]),
        points_xy_px=MASS_BOX_PX,
        confidence=0.83,
    )
    said = load_templates().by_key(TEMPLATE).sentence("nodule", "present", "left", Language.ENGLISH)
    return (
        answer(Task.REPORT, text=said),
        answer(Task.DETECTION_3D, target="nodule", regions=(mass,)),
        answer(Task.DETECTION_3D, target="pleural_effusion"),
    )


def _time_study(work: _Work, target: Target, runs: int) -> ComposeTime:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        process = psutil.Process(pool.submit(os.getpid).result())
        running = pool.submit(_compose_repeatedly, work, runs)
        peak_bytes = max(_memory_until(running, process))
        taken = running.result()
    return ComposeTime(
        slices=target.slices,
        objects=taken[0].objects,
        first_s=taken[0].wall_s,
        wall_s=median(one.wall_s for one in taken),
        cpu_s=median(one.cpu_s for one in taken),
        peak_mb=peak_bytes / 1e6,
        target_s=target.wall_s,
        target_mb=target.peak_mb,
    )


def _memory_until(running: Future[list[_Taken]], process: psutil.Process) -> Iterator[float]:
    """Bytes of the process tree, again and again until the work is done."""
    while True:
        members = [process, *process.children(recursive=True)]
        total = 0.0
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += float(member.memory_full_info().pss)
        yield total
        if wait([running], timeout=SAMPLING_S).done:
            return


def _compose_repeatedly(work: _Work, runs: int) -> list[_Taken]:
    """Runs in a process of its own."""
    load_templates()
    first = work.folder / work.input_set.instances[0].relative_path
    with DecodingProcess(ModelSettings()) as decoder:
        decoder.digests([FrameToDecode(path=first, frame_index=0)])
    return [_compose_once(work) for _ in range(runs)]


def _compose_once(work: _Work) -> _Taken:
    started, started_cpu_s = time.perf_counter(), _cpu_s()
    files = PayloadFiles(work.folder)
    composed = compose(work.input_set, work.decision, work.findings, (), files, ComposeSettings(), ModelSettings())
    taken = _Taken(objects=len(composed.objects), wall_s=time.perf_counter() - started, cpu_s=_cpu_s() - started_cpu_s)
    if missing := set(COMPOSERS) - {item.kind for item in composed.objects}:
        reasons = "; ".join(f"{item.kind}: {item.detail}" for item in composed.stopped)
        raise ResultInvalid(f"not composed: {', '.join(sorted(missing))}. {reasons}")
    shutil.rmtree(work.folder / "results")
    return taken


def _cpu_s() -> float:
    """Of this process, the children that it has and those that ended."""
    own = psutil.Process()
    ended = own.cpu_times()
    times = [ended, *(child.cpu_times() for child in own.children())]
    return float(sum(each.user + each.system for each in times) + ended.children_user + ended.children_system)


def compose_table(rows: Sequence[ComposeTime]) -> Table:
    """The figures for people, the targets beside them."""
    table = Table(title="Every kind of object composed and checked; medians")
    for header in ("slices", "objects", "first", "clock", "target", "CPU", "peak memory", "target"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(
            str(row.slices),
            str(row.objects),
            f"{row.first_s:.2f} s",
            f"{row.wall_s:.2f} s",
            f"< {row.target_s:g} s",
            f"{row.cpu_s:.2f} s",
            f"{row.peak_mb:.0f} MB",
            "" if row.target_mb is None else f"< {row.target_mb:g} MB",
        )
    return table
