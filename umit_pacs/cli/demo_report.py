"""What the demo shows at its end: one table that a person reads at a glance, and the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.demo_archive import Archive
from umit_pacs.cli.sample_studies import SampleStudy
from umit_pacs.handoffs import Task, TaskResult
from umit_pacs.store.stories import InputSetStory, StudyStory


def study_table(samples: Iterable[SampleStudy], stories: Iterable[StudyStory], archive: Archive) -> Table:
    """Per study: what is known of it, its state, what the model said, what the PACS holds, times of the steps."""
    table = Table(title="Unverified AI drafts: not a diagnosis", show_header=False, show_lines=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for sample, told in zip(samples, stories, strict=True):
        newest = told.input_sets[-1]
        reason = f" ({newest.reason}: {newest.detail})" if newest.reason else ""
        table.add_row("study", f"[bold]{sample.name}[/]", style="reverse")
        table.add_row("known to be true", sample.known_truth)
        table.add_row("state", f"[bold]{newest.state.upper()}[/]{escape(reason)}")
        table.add_row("the model said", escape(said_in_words(newest.findings.results if newest.findings else ())))
        table.add_row(f"{archive.name} holds", _held(archive, sample))
        table.add_row("times", _times(told, newest), end_section=True)
    return table


def said_in_words(results: Iterable[TaskResult]) -> str:
    """The report first, then what was found, unsure, not found, answered and not answered, each with its confidence."""
    results = tuple(results)
    refusals = {result.abstention.reason if result.abstention else "" for result in results}
    if len(results) > 1 and len(refusals) == 1 and (reason := refusals.pop()):
        return f"nothing: none of {len(results)} questions is answered ({reason.replace('_', ' ')})"
    headings = ("report", "found", "unsure", "not found", "answers", "not answered")
    lines: dict[str, list[str]] = {heading: [] for heading in headings}
    for result in results:
        name = result.order.question or result.order.target.replace("_", " ") or str(result.order.task)
        sure = f" {result.confidence:.0%}" if result.confidence is not None else ""
        if result.abstention is not None:
            lines["not answered"].append(f"{name} ({result.abstention.reason.replace('_', ' ')})")
        elif result.order.task is Task.REPORT:
            lines["report"].append(result.text)
        elif result.option_index is not None:
            lines["answers"].append(f"{name} {result.order.options[result.option_index]}{sure}")
        elif result.order.question:
            lines["answers"].append(f"{name} {result.text}{sure}")
        else:
            is_found = bool(result.regions) or result.presence == "present"
            heading = "unsure" if result.presence == "uncertain" else "found" if is_found else "not found"
            is_denied = heading == "unsure" and not result.regions and result.confidence is not None
            lines[heading].append(f"{name} {1 - (result.confidence or 0.0):.0%}" if is_denied else name + sure)
    return "\n".join(f"{heading}: {'; '.join(said)}" for heading, said in lines.items() if said) or "nothing"


def _held(archive: Archive, sample: SampleStudy) -> str:
    contents = archive.objects_of(sample.study_instance_uid)
    held = Counter(_kind(dcmread(BytesIO(content), stop_before_pixels=True)) for content in contents)
    return "\n".join(f"{count} {kind}" for kind, count in held.items())


def _kind(header: Dataset) -> str:
    name = header.SOPClassUID.name.removesuffix(" Storage")
    flag = header.get("PreliminaryFlag", "")
    return f"{name} ({flag}, {header.VerificationFlag})" if flag else name


def _times(told: StudyStory, newest: InputSetStory) -> str:
    """When each state was reached, in seconds after the last instance came."""
    start = max(arrival.last_received_at for arrival in told.arrivals)
    reached = [f"{change.state} {(change.changed_at - start).total_seconds():.1f} s" for change in newest.changes]
    return "after the last image: " + ", ".join(reached)


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
