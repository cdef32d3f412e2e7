"""How long a study takes from its last image to its last confirmed result, against the bare model time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.table import Table

from umit_pacs.cli.demo import SIMULATED_SEED, DemoNode, progress_display, push, running_archive
from umit_pacs.cli.sample_studies import SampleStudy, write_chest_ct, write_simulated_radiograph
from umit_pacs.errors import PeerUnavailable
from umit_pacs.handoffs import CompletionReason, Language
from umit_pacs.settings import AssembleSettings, load_settings
from umit_pacs.states import InputSetState
from umit_pacs.steps.assemble import SETTLE_S
from umit_pacs.store.stories import StudyStory


@dataclass(frozen=True, kw_only=True, slots=True)
class PathTime:
    """One study's way through the node."""

    study: str
    instances: int
    #: last instance received -> CONFIRMED, less the silence that completeness asks for.
    path_s: float
    #: what the engine itself took for the same study, which waits for no other here.
    model_s: float
    #: the parts of `path_s` by the state that each ends in.
    parts_s: Mapping[str, float]

    @property
    def ratio(self) -> float:
        return self.path_s / self.model_s


def bench_path(*, runs: int) -> list[dict[str, Any]]:
    """Send each sample `runs` times as a new study, one after the other; the median of each kind.

    The first study of each kind warms the worker and is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="umit-pacs-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        progress = stack.enter_context(progress_display())
        # Both are answered: a study that the input check refuses would leave the model nothing to do.
        radiograph = write_simulated_radiograph(folder / "radiograph", seed=SIMULATED_SEED)
        originals = (radiograph, write_chest_ct(folder / "ct"))
        node = DemoNode(folder=folder, language=Language.ENGLISH)
        archive = stack.enter_context(running_archive(folder / "pacs", node.port))
        node.configure(archive)
        stack.enter_context(node.running(progress))
        rows = []
        for original in originals:
            times = []
            for run in range(runs + 1):
                study = as_new_study(original, folder / f"{original.modality}-{run}")
                push((study,), archive, progress)
                (told,) = node.wait_for_drafts((study,), progress)
                times.append(_path_time(study, told, load_settings(node.config).assemble))
            rows.append(_median(times[1:]))
    return [asdict(row) | {"ratio": row.ratio} for row in rows]


def as_new_study(original: SampleStudy, folder: Path) -> SampleStudy:
    """The same pixels under new Study, Series and SOP Instance UIDs."""
    folder.mkdir(parents=True)
    study_uid, series_uid = generate_uid(), generate_uid()
    for path in sorted(original.folder.glob("*.dcm")):
        dataset = dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / path.name)
    return replace(original, folder=folder, study_instance_uid=str(study_uid))


def _path_time(study: SampleStudy, told: StudyStory, settings: AssembleSettings) -> PathTime:
    newest = told.input_sets[-1]
    if newest.state is not InputSetState.CONFIRMED or newest.findings is None:
        raise PeerUnavailable(f"{study.name} ended {newest.state}: {newest.reason} {newest.detail}")
    silence_s = SETTLE_S if newest.completed_by is CompletionReason.EXPECTED_COUNT else settings.quiet_period_s
    begin = max(arrival.last_received_at for arrival in told.arrivals) + timedelta(seconds=silence_s)
    times = [begin, *(change.changed_at for change in newest.changes)]
    return PathTime(
        study=study.name,
        instances=newest.instances,
        path_s=(times[-1] - begin).total_seconds(),
        model_s=newest.findings.timings_s["answered_s"],
        parts_s={
            change.state.value: (end - start).total_seconds()
            for change, start, end in zip(newest.changes, times, times[1:], strict=False)
        },
    )


def _median(times: Sequence[PathTime]) -> PathTime:
    return replace(
        times[0],
        path_s=median(time.path_s for time in times),
        model_s=median(time.model_s for time in times),
        parts_s={name: median(time.parts_s[name] for time in times) for name in times[0].parts_s},
    )


def path_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The figures for people."""
    table = Table(title="Study complete to last result confirmed, and until each state; medians in seconds")
    parts = list(rows[0]["parts_s"])
    for header in ("study", "instances", "path", "model", "ratio", *parts):
        table.add_column(header, justify="left" if header == "study" else "right")
    for row in rows:
        figures = (row["path_s"], row["model_s"], row["ratio"], *(row["parts_s"][name] for name in parts))
        table.add_row(row["study"], str(row["instances"]), *(f"{figure:.2f}" for figure in figures))
    return table
