"""How long the model takes for everything it can be asked about one radiograph."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from rich.table import Table

from umit_pacs.cli.sample_studies import write_radiograph
from umit_pacs.handoffs import Language, PreparedSeries, SeriesUID, Task, TaskOrder
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.series import open_series, prepare_images
from umit_pacs.settings import Settings
from umit_pacs.umit_model.engine import Engine, load_engine
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary, load_templates

MODALITY = "CR"
QUESTIONS = {
    Language.ENGLISH: (
        ("Is there a nodule or mass?", "Is the heart enlarged?", "Is there a pneumothorax?"),
        ("yes", "no"),
    ),
    Language.CHINESE: (("有结节或肿块吗?", "心脏增大吗?", "有气胸吗?"), ("有", "没有")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InferTime:
    """The whole task set (a report, every finding, three questions) on the demo's radiograph."""

    checkpoint: str
    device: str
    quantisation: str
    orders: int
    #: checkpoint on disk -> ready, hashes included
    load_s: float
    #: the same series for the first time in the process
    first_s: float
    #: median of the runs after it
    whole_answer_s: float
    orders_per_s: float
    #: one report alone
    report_s: float
    #: resident memory of the process with the model, after the runs
    resident_mb: float


def bench_infer(settings: Settings, *, runs: int = 5, language: Language = Language.ENGLISH) -> InferTime:
    """Load the configured checkpoint and time it on one radiograph."""
    started = time.monotonic()
    engine = load_engine(settings.model, settings.checkpoints_folder)
    load_s = time.monotonic() - started
    templates = load_templates(settings.compose.templates_folder)
    orders = task_set(templates.by_key("chest_radiograph"), language)
    series = _prepared_radiograph(engine, orders[0], settings)
    first_s = _timed(engine, series, orders, templates)
    times = [_timed(engine, series, orders, templates) for _ in range(runs)]
    return InferTime(
        checkpoint=f"{engine.identity.name} {engine.identity.version}",
        device=engine.identity.device,
        quantisation=engine.identity.quantisation,
        orders=len(orders),
        load_s=load_s,
        first_s=first_s,
        whole_answer_s=median(times),
        orders_per_s=len(orders) / median(times),
        report_s=median(_timed(engine, series, orders[:1], templates) for _ in range(runs)),
        resident_mb=psutil.Process().memory_info().rss / 1024**2,
    )


def task_set(template: SRTemplate, language: Language) -> list[TaskOrder]:
    """A report, all the template's findings as detections, and three closed questions."""

    def order(task: Task, *, target: str = "", question: str = "", options: tuple[str, ...] = ()) -> TaskOrder:
        return TaskOrder(
            task=task,
            language=language,
            series_instance_uid=SeriesUID("1"),
            target=target,
            question=question,
            options=options,
            template=template.key,
        )

    questions, options = QUESTIONS[language]
    return [
        order(Task.REPORT),
        *(order(Task.DETECTION, target=finding) for finding in template.findings),
        *(order(Task.VQA, question=question, options=options) for question in questions),
    ]


def infer_table(row: InferTime) -> Table:
    table = Table("Figure", "Value", title=f"{row.checkpoint}, {row.quantisation}, on {row.device}")
    table.add_row("load", f"{row.load_s:.2f} s")
    table.add_row(f"first answer, {row.orders} orders", f"{row.first_s:.2f} s")
    table.add_row("the same again", f"{row.whole_answer_s:.2f} s")
    table.add_row("orders per second", f"{row.orders_per_s:.1f}")
    table.add_row("report alone", f"{row.report_s:.2f} s")
    table.add_row("resident memory", f"{row.resident_mb:.0f} MB")
    return table


def _prepared_radiograph(engine: Engine, order: TaskOrder, settings: Settings) -> PreparedSeries:
    with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as name, DecodingProcess(settings.model) as decoder:
        study = write_radiograph(Path(name))
        series = open_series(sorted(study.folder.glob("*.dcm")))
        images = prepare_images(series, engine.requirements(order, MODALITY), decoder)
    return PreparedSeries(series_instance_uid=SeriesUID("1"), images=images)


def _timed(engine: Engine, series: PreparedSeries, orders: list[TaskOrder], templates: TemplateLibrary) -> float:
    started = time.monotonic()
    engine.answer(series, orders, templates)
    return time.monotonic() - started
