"""How long a study takes from its last image to its last confirmed result, against the bare model time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.table import Table

from umit_pacs.cli.demo import DemoNode, progress_display, push, running_archive
from umit_pacs.cli.sample_studies import SampleStudy, write_chest_ct, write_radiograph
from umit_pacs.errors import PeerUnavailable
from umit_pacs.handoffs import Language
from umit_pacs.states import InputSetState
from umit_pacs.store.stories import StudyStory


@dataclass(frozen=True, kw_only=True, slots=True)
class PathTime:
    """One study's way through the node."""

    study: str
    instances: int
    #: last instance received -> CONFIRMED, less the wait for completeness: ASSEMBLED -> CONFIRMED.
    path_s: float
    #: what the engine itself took for the same study.
    model_s: float

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
        originals = (write_radiograph(folder / "radiograph"), write_chest_ct(folder / "ct"))
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
                times.append(_path_time(study, told))
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


def _path_time(study: SampleStudy, told: StudyStory) -> PathTime:
    newest = told.input_sets[-1]
    if newest.state is not InputSetState.CONFIRMED or newest.findings is None:
        raise PeerUnavailable(f"{study.name} ended {newest.state}: {newest.reason} {newest.detail}")
    return PathTime(
        study=study.name,
        instances=newest.instances,
        path_s=(newest.changes[-1].changed_at - newest.changes[0].changed_at).total_seconds(),
        model_s=newest.findings.timings_s["model_s"],
    )


def _median(times: Sequence[PathTime]) -> PathTime:
    return replace(
        times[0], path_s=median(time.path_s for time in times), model_s=median(time.model_s for time in times)
    )


def path_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The figures for people."""
    table = Table(title="Study complete to last result confirmed; medians")
    for header in ("study", "instances", "path, s", "model, s", "ratio"):
        table.add_column(header, justify="left" if header == "study" else "right")
    for row in rows:
        seconds = (f"{row['path_s']:.2f}", f"{row['model_s']:.2f}", f"{row['ratio']:.2f}")
        table.add_row(row["study"], str(row["instances"]), *seconds)
    return table
