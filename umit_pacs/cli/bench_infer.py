"""How fast the engine answers the whole task set, beside the same model called task by task with plain `generate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import psutil
import torch
from rich.table import Table

from umit_pacs.cli.bench_peak import counted_flops, finish, peak_flops_per_s
from umit_pacs.cli.bench_plain import PlainAnswer, PlainModel
from umit_pacs.cli.bench_tasks import prepared_ct, prepared_radiograph, task_set
from umit_pacs.cli.bench_waiting import WaitingTime, time_waiting
from umit_pacs.errors import OutOfAcceleratorMemory
from umit_pacs.handoffs import Language, PreparedSeries, TaskOrder
from umit_pacs.settings import Settings
from umit_pacs.umit_model.engine import LocalEngine, series_modality
from umit_pacs.umit_model.loader import LoadedModel, load_model
from umit_pacs.umit_model.mixed_adapters import MixedAdapters
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.vocabulary import TemplateLibrary, load_templates

#: (name, modality, template) of the studies
STUDIES = (("radiograph", "CR", "chest_radiograph"), ("CT", "CT", "chest_ct"))


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTime:
    """The whole task set on one study; times are medians of runs that alternate between the two ways."""

    study: str
    orders: int
    #: tokens of all plain answers, end marks not counted
    tokens: int
    engine_s: float
    plain_s: float
    #: plain over engine, by the clock and by the process's CPU time, which others on the machine disturb less
    ratio: float
    cpu_ratio: float
    studies_per_minute: float
    tokens_per_s: float
    #: the whole task set the first time, before anything is warm
    first_draft_s: float
    #: one closed question or, without any, the report: pixels to answer
    first_answer_s: float
    #: answers of the engine that are the plain ones, character by character
    same_answers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyTime:
    """Several equal radiographs answered at once, all their orders in one batch."""

    studies: int
    rows: int
    studies_per_minute: float
    #: of what a large matrix product reaches (see `bench_peak`)
    peak_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class InferTimes:
    checkpoint: str
    device: str
    quantisation: str
    #: checkpoint on disk -> ready, hashes included
    load_s: float
    studies: tuple[StudyTime, ...]
    #: both studies, one after the other
    ratio: float
    many: tuple[ManyTime, ...]
    #: questions answered in one batch; whether memory held no more, or no more were tried
    largest_batch: int
    is_memory_full: bool
    #: radiographs from file to answers, one by one and several in hand
    waiting: tuple[WaitingTime, ...]
    #: choosing the adapters of a batch of 8 rows, neighbours of different tasks; None without adapters
    adapter_switch_ms: float | None
    #: peft's `set_adapter`, which the engine does not need
    peft_switch_ms: float | None
    #: of the process once the studies were answered one by one, in both ways; on an accelerator the most that was
    #: allocated meanwhile, weights included
    memory_mb: float


def bench_infer(
    settings: Settings,
    *,
    runs: int = 5,
    most_studies: int = 8,
    language: Language = Language.ENGLISH,
    kinds: Sequence[tuple[str, str, str]] = STUDIES,
) -> InferTimes:
    """Load the configured checkpoint and time it on the demo's studies.

    kinds: name, modality and template of each. The input check is left out: what it refuses would take no time.
    """
    started = time.monotonic()
    loaded = load_model(settings.model, settings.checkpoints_folder)
    finish(loaded.device)
    load_s = time.monotonic() - started
    if loaded.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loaded.device)
    plain = PlainModel(loaded, loaded.network.model.visual.patch_embed.proj)
    engine = LocalEngine(loaded, input_checks={}, maximum_batch=settings.model.maximum_batch)
    templates = load_templates(settings.compose.templates_folder)
    asked = _asked(loaded, engine, templates, settings, language, kinds)
    studies = tuple(_time_study(name, engine, plain, *own, templates, runs=runs) for name, own in asked.items())
    memory_mb = _memory_mb(loaded.device)
    series, orders = next(iter(asked.values()))
    many, largest_batch = _time_many(loaded, series, orders, templates, most_studies)
    return InferTimes(
        checkpoint=f"{engine.identity.name} {engine.identity.version}",
        device=engine.identity.device,
        quantisation=engine.identity.quantisation,
        load_s=load_s,
        studies=studies,
        ratio=sum(study.plain_s for study in studies) / sum(study.engine_s for study in studies),
        many=many,
        largest_batch=largest_batch,
        is_memory_full=not many or 2 * many[-1].studies <= most_studies,
        waiting=_time_waiting(engine, series, orders, settings, templates, studies=most_studies, runs=runs),
        adapter_switch_ms=_own_switch_ms(loaded),
        peft_switch_ms=_peft_switch_ms(loaded),
        memory_mb=memory_mb,
    )


Asked = dict[str, tuple[PreparedSeries, list[TaskOrder]]]


def _asked(
    loaded: LoadedModel,
    engine: LocalEngine,
    templates: TemplateLibrary,
    settings: Settings,
    language: Language,
    kinds: Sequence[tuple[str, str, str]],
) -> Asked:
    asked: Asked = {}
    for name, modality, key in kinds:
        orders = task_set(templates.by_key(key), modality, language, loaded.manifest)
        if orders:
            prepared = prepared_ct if modality == "CT" else prepared_radiograph
            asked[name] = prepared(engine.requirements(orders[0], modality), settings), orders
    return asked


def _time_study(
    name: str,
    engine: LocalEngine,
    plain: PlainModel,
    series: PreparedSeries,
    orders: list[TaskOrder],
    templates: TemplateLibrary,
    *,
    runs: int,
) -> StudyTime:
    answers: list[ModelAnswer] = []
    taken = partial(_taken, device=plain.device)
    cold = taken(lambda: answers.extend(engine.answer(series, orders, templates)))
    reference: list[PlainAnswer] = plain.answer(series, orders, templates)
    first = next((order for order in orders if order.options), orders[0])
    own, other, alone = [], [], []
    for _ in range(runs):
        other.append(taken(lambda: plain.answer(series, orders, templates)))
        own.append(taken(lambda: engine.answer(series, orders, templates)))
        alone.append(taken(lambda: engine.answer(series, [first], templates)))
    engine_s, plain_s = (median(run.wall_s for run in runs_of) for runs_of in (own, other))
    engine_cpu_s, plain_cpu_s = (median(run.cpu_s for run in runs_of) for runs_of in (own, other))
    tokens = sum(answer.tokens for answer in reference)
    return StudyTime(
        study=name,
        orders=len(orders),
        tokens=tokens,
        engine_s=engine_s,
        plain_s=plain_s,
        ratio=plain_s / engine_s,
        cpu_ratio=plain_cpu_s / engine_cpu_s,
        studies_per_minute=60.0 / engine_s,
        tokens_per_s=tokens / engine_s,
        first_draft_s=cold.wall_s,
        first_answer_s=median(run.wall_s for run in alone),
        same_answers=sum(one.answer_text == said.text for one, said in zip(answers, reference, strict=True)),
    )


def _time_many(
    loaded: LoadedModel,
    series: PreparedSeries,
    orders: list[TaskOrder],
    templates: TemplateLibrary,
    most_studies: int,
) -> tuple[tuple[ManyTime, ...], int]:
    """1, 2, 4, ... studies at once, as long as memory holds them in one batch; and the largest batch that it held."""
    peak = peak_flops_per_s(loaded.device, loaded.network.dtype)
    found: list[ManyTime] = []
    largest, studies = 0, 1
    while studies <= most_studies:
        rows = studies * len(orders)
        engine = LocalEngine(loaded, input_checks={}, maximum_batch=rows)
        work = partial(engine.answer_many, [(series, orders)] * studies, templates)
        try:
            # Counting comes first: an accelerator is slow the first time that it meets a shape.
            flops = counted_flops(work)
        except OutOfAcceleratorMemory:
            break
        largest = max(largest, engine.largest_batch)
        if engine.largest_batch < rows:
            break
        took_s = _taken(work, loaded.device).wall_s
        share = flops / took_s / peak
        rate = 60.0 * studies / took_s
        found.append(ManyTime(studies=studies, rows=rows, studies_per_minute=rate, peak_share=share))
        studies *= 2
    return tuple(found), largest


def _time_waiting(
    engine: LocalEngine,
    series: PreparedSeries,
    orders: list[TaskOrder],
    settings: Settings,
    templates: TemplateLibrary,
    *,
    studies: int,
    runs: int,
) -> tuple[WaitingTime, ...]:
    if not series.images:
        return ()  # a checkpoint that knows no radiographs
    modality = series_modality(series)
    return time_waiting(engine, orders, modality, settings, templates, studies=studies, runs=runs)


def _own_switch_ms(loaded: LoadedModel) -> float | None:
    if loaded.peft_model is None:
        return None
    adapters, names = MixedAdapters(loaded.peft_model), loaded.manifest.adapters
    # Rows of one adapter alone would be chosen without copying anything.
    batches = [[names[(first + row) % len(names)] for row in range(8)] for first in range(len(names))]
    return _median_ms([partial(adapters.select, batch) for batch in batches], loaded.device)


def _peft_switch_ms(loaded: LoadedModel) -> float | None:
    model = loaded.peft_model
    if model is None:
        return None
    names = loaded.manifest.adapters
    return _median_ms([partial(model.set_adapter, name, inference_mode=True) for name in names], loaded.device)


def _median_ms(switches: Sequence[Callable[[], object]], device: torch.device, *, rounds: int = 5) -> float:
    """Of choosing each adapter in turn."""
    return 1000.0 * median(_taken(switch, device).wall_s for _ in range(rounds) for switch in switches)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    wall_s: float
    cpu_s: float


def _taken(run: Callable[[], object], device: torch.device) -> _Taken:
    finish(device)
    started, started_cpu = time.perf_counter(), time.process_time()
    run()
    finish(device)
    return _Taken(wall_s=time.perf_counter() - started, cpu_s=time.process_time() - started_cpu)


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1024**2
    return float(psutil.Process().memory_info().rss) / 1024**2


_ROWS: tuple[tuple[str, Callable[[StudyTime], str]], ...] = (
    ("orders, tokens", lambda row: f"{row.orders}, {row.tokens}"),
    ("engine", lambda row: f"{row.engine_s:.3f} s"),
    ("task by task with plain generate", lambda row: f"{row.plain_s:.3f} s"),
    ("plain over engine", lambda row: f"{row.ratio:.1f}"),
    ("the same in CPU time", lambda row: f"{row.cpu_ratio:.1f}"),
    ("studies per minute", lambda row: f"{row.studies_per_minute:.0f}"),
    ("tokens per second", lambda row: f"{row.tokens_per_s:.0f}"),
    ("first draft, cold", lambda row: f"{row.first_draft_s:.3f} s"),
    ("first answer", lambda row: f"{row.first_answer_s:.3f} s"),
    ("answers as plain generate's", lambda row: f"{row.same_answers} of {row.orders}"),
)


def infer_tables(times: InferTimes) -> Sequence[Table]:
    """What was measured, for people."""
    title = f"{times.checkpoint}, {times.quantisation}, on {times.device}"
    studies = Table("whole task set", *(row.study for row in times.studies), title=title)
    for label, cell in _ROWS:
        studies.add_row(label, *(cell(row) for row in times.studies))
    figures = Table("figure", "value")
    figures.add_row("both studies, plain over engine", f"{times.ratio:.1f}")
    figures.add_row("load", f"{times.load_s:.2f} s")
    for many in times.many:
        figures.add_row(
            f"{many.studies} radiographs at once, {many.rows} rows",
            f"{many.studies_per_minute:.0f} studies/min, {many.peak_share:.1%} of a matrix product's rate",
        )
    why = "memory holds no more" if times.is_memory_full else "no more were tried"
    figures.add_row("largest batch", f"{times.largest_batch} rows, {why}")
    for waiting in times.waiting:
        ratio = waiting.studies_per_minute / times.waiting[0].studies_per_minute
        cpu_ratio = times.waiting[0].cpu_s_per_study / waiting.cpu_s_per_study
        figures.add_row(
            f"{waiting.studies} radiographs from file, {waiting.in_hand} in hand",
            f"{waiting.studies_per_minute:.0f} studies/min, {ratio:.2f}, in CPU time {cpu_ratio:.2f}",
        )
    if times.adapter_switch_ms is not None and times.peft_switch_ms is not None:
        figures.add_row("adapters of a batch of 8", f"{times.adapter_switch_ms:.2f} ms")
        figures.add_row("peft's set_adapter", f"{times.peft_switch_ms:.2f} ms")
    figures.add_row("memory", f"{times.memory_mb:.0f} MB")
    return studies, figures
