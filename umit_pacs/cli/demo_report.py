"""What the demo shows at its end: one table that a person reads at a glance, and the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from rich.table import Table

from umit_pacs.cli.demo_archive import Archive
from umit_pacs.cli.sample_studies import SampleStudy
from umit_pacs.handoffs import TaskResult
from umit_pacs.store.stories import InputSetStory, StudyStory


def study_table(samples: Iterable[SampleStudy], stories: Iterable[StudyStory], archive: Archive) -> Table:
    """Study, what is known to be true of it, state, what the model said, what the PACS holds, times of the steps."""
    table = Table(title="Unverified AI drafts: not a diagnosis", show_lines=True)
    for header in ("study", "known to be true", "state", "the model said", f"{archive.name} holds", "seconds"):
        table.add_column(header, overflow="fold")
    for sample, told in zip(samples, stories, strict=True):
        newest = told.input_sets[-1]
        state = newest.state.upper() + (f"\n{newest.reason}: {newest.detail}" if newest.reason else "")
        said = "\n".join(map(answer_in_words, newest.findings.results)) if newest.findings else "nothing"
        table.add_row(sample.name, sample.known_truth, state, said, _held(archive, sample), _times(told, newest))
    return table


def answer_in_words(result: TaskResult) -> str:
    """One line: what was asked, what was answered, and how sure the model is or why it abstained."""
    order = result.order
    asked = order.question or order.target.replace("_", " ") or order.task
    if result.abstention is not None:
        return f"{asked}: not answered ({result.abstention.reason})"
    if result.option_index is not None:
        answer = order.options[result.option_index]
    elif result.regions:
        answer = "found" if len(result.regions) == 1 else f"{len(result.regions)} found"
    else:
        answer = result.text or "not found"
    return f"{asked}: {answer}" + (f" ({result.confidence:.0%})" if result.confidence is not None else "")


def _held(archive: Archive, sample: SampleStudy) -> str:
    held = Counter(
        _kind(dcmread(BytesIO(content), stop_before_pixels=True))
        for content in archive.objects_of(sample.study_instance_uid)
    )
    return "\n".join(f"{count} {kind}" for kind, count in held.items())


def _kind(header: Dataset) -> str:
    name = header.SOPClassUID.name.removesuffix(" Storage")
    flag = header.get("PreliminaryFlag", "")
    return f"{name} ({flag}, {header.VerificationFlag})" if flag else name


def _times(told: StudyStory, newest: InputSetStory) -> str:
    """When each state was reached, in seconds after the last instance came."""
    start = max(arrival.last_received_at for arrival in told.arrivals)
    return "\n".join(f"{(c.changed_at - start).total_seconds():6.1f} {c.state}" for c in newest.changes)


def save_pictures(archive: Archive, samples: Iterable[SampleStudy], folder: Path) -> list[Path]:
    """The secondary captures that the PACS holds, as PNG files."""
    paths: list[Path] = []
    for sample in samples:
        contents = map(BytesIO, archive.objects_of(sample.study_instance_uid))
        paths += save_pages(contents, folder, prefix=sample.name.replace(" ", "-"))
    return paths


def save_pages(objects: Iterable[Path | BytesIO], folder: Path, *, prefix: str = "page") -> tuple[Path, ...]:
    """Every secondary capture among `objects` as a PNG file in `folder`, by instance number."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = [page for page in map(dcmread, objects) if page.SOPClassUID == SecondaryCaptureImageStorage]
    paths = []
    for number, page in enumerate(sorted(pages, key=lambda page: int(page.InstanceNumber)), start=1):
        paths.append(folder / f"{prefix}-{number}.png")
        Image.fromarray(page.pixel_array).save(paths[-1])
    return tuple(paths)
