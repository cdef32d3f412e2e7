"""How many studies are read in a minute when many wait, from file to answers: several in hand, beside one by one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from umit_pacs.cli.bench_tasks import SERIES
from umit_pacs.cli.sample_studies import write_radiograph
from umit_pacs.handoffs import PreparedSeries, Priority, TaskOrder
from umit_pacs.node.shared_engine import SharedEngine
from umit_pacs.node.watchdog import Watchdog
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images
from umit_pacs.settings import Settings
from umit_pacs.umit_model.engine import Engine
from umit_pacs.vocabulary import TemplateLibrary


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingTime:
    """Radiographs that all wait at the beginning; medians of runs that alternate."""

    studies: int
    #: read at the same time, as a work process does (`serve.studies_in_hand`)
    in_hand: int
    studies_per_minute: float
    #: of this process and of those that decode
    cpu_s_per_study: float


def time_waiting(
    engine: Engine,
    orders: Sequence[TaskOrder],
    modality: str,
    settings: Settings,
    templates: TemplateLibrary,
    *,
    studies: int,
    runs: int,
) -> tuple[WaitingTime, ...]:
    """The whole way from a radiograph's file to its answers, one by one and several in hand."""
    watchdog = Watchdog(settings.model.answer_timeout_s)
    reading = _Reading(engine, orders, engine.requirements(orders[0], modality), settings, templates, watchdog)
    taken: dict[int, list[tuple[float, float]]] = {1: [], settings.serve.studies_in_hand: []}
    with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as folder:
        paths = sorted(write_radiograph(Path(folder)).folder.glob("*.dcm"))
        reading.read(paths)
        for in_hand in (*taken,) * runs:
            started, started_cpu_s = time.perf_counter(), _cpu_s()
            with ThreadPoolExecutor(in_hand) as pool:
                list(pool.map(reading.read, [paths] * studies))
            taken[in_hand].append((time.perf_counter() - started, _cpu_s() - started_cpu_s))
    return tuple(
        WaitingTime(
            studies=studies,
            in_hand=in_hand,
            studies_per_minute=60.0 * studies / median(wall_s for wall_s, _ in times),
            cpu_s_per_study=median(cpu_s for _, cpu_s in times) / studies,
        )
        for in_hand, times in taken.items()
    )


class _Reading:
    """A work process's way with a study, as far as its findings."""

    def __init__(
        self,
        engine: Engine,
        orders: Sequence[TaskOrder],
        requirements: ImageRequirements,
        settings: Settings,
        templates: TemplateLibrary,
        watchdog: Watchdog,
    ) -> None:
        self._orders, self._requirements, self._templates = orders, requirements, templates
        self._settings = settings.model
        self._shared = SharedEngine(lambda _: engine, watchdog, most_orders=settings.model.maximum_batch)
        self._preparing = watchdog.turn()

    def read(self, paths: Sequence[Path]) -> None:
        with self._shared.engine_for("", Priority.ROUTINE) as engine:
            with self._preparing, DecodingProcess(self._settings) as decoder:
                images = prepare_images(open_series(paths), self._requirements, decoder)
            engine.answer(PreparedSeries(series_instance_uid=SERIES, images=images), self._orders, self._templates)


def _cpu_s() -> float:
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children())]
    return float(sum(each.user + each.system for each in times))
