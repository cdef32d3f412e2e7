"""Checks, counts and writes what a reader gives.

OUT/
  train.jsonl validation.jsonl test.jsonl     our samples
  train.swift2.jsonl ...                      the same for ms-swift, where asked for
  images/ volumes/ slices/                    pixels: links to the source where the file system allows, else copies
  data_set.json                               source, licence, split rule and counts
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data_sets.reading import DataSet, Found, Pixels, Problem, Row, RowUnusable
from umit_pacs.errors import SampleInvalid, StudyUnusable
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe
from umit_pacs.pixels.stored_pictures import displayed, read_stack
from umit_pacs.umit_model.samples import SPLITS, Sample, Split, to_line, verify
from umit_pacs.umit_model.swift_layouts import Layout, to_swift

SUMMARY_FILE = "data_set.json"


@dataclass(kw_only=True)
class Tally:
    """What was met so far."""

    #: (split, task, language) -> samples
    samples: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: (split, width x height[ x depth]) -> different studies
    sizes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (split, modality) -> samples
    modalities: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    #: group -> splits in which it stands
    splits: dict[str, set[Split]] = field(default_factory=dict)
    _studies: set[str] = field(default_factory=set)

    @property
    def skipped(self) -> int:
        """Rows that were left out."""
        return sum(problem.is_skipped for problem in self.problems)

    @property
    def total(self) -> int:
        """Samples that were kept."""
        return self.samples.total()

    @property
    def divided(self) -> Counter[str]:
        """How many groups (patients, articles, images) stand in more than one split, by these splits."""
        return Counter(" ".join(sorted(splits)) for splits in self.splits.values() if len(splits) > 1)

    def count(self, found: Found) -> None:
        if isinstance(found, Problem):
            self.problems.append(found)
            return
        sample = found.sample
        self.samples[sample.split, sample.task.value, sample.language.value] += 1
        self.modalities[sample.split, sample.modality] += 1
        if sample.group:
            self.splits.setdefault(sample.group, set()).add(sample.split)
        study = sample.study or sample.id
        if sample.extent and study not in self._studies:
            self._studies.add(study)
            self.sizes[sample.split, "x".join(map(str, sample.extent))] += 1


def examined(found: Iterable[Found]) -> Iterator[Found]:
    """Every row that the node would ask and read as it says; the others as problems, ids that come twice among them."""
    seen: set[str] = set()
    for one in found:
        if isinstance(one, Problem):
            yield one
        elif one.sample.id in seen:
            yield Problem(where=one.where, reason="repeated_id", detail=one.sample.id)
        else:
            seen.add(one.sample.id)
            yield _verified(one)


def _verified(row: Row) -> Found:
    try:
        verify(row.sample)
    except SampleInvalid as exc:
        return Problem(where=row.where, reason=exc.reason, detail=exc.detail)
    return row


def separated(found: Iterable[Found], splits: dict[str, set[Split]]) -> Iterator[Found]:
    """Leave out what shares its group with a split that is held back: of test nothing, of train the most.

    splits: as `Tally.splits` of the same data set.
    """
    for one in found:
        if isinstance(one, Row):
            sample = one.sample
            last = max(splits.get(sample.group, {sample.split}), key=SPLITS.index)
            if last != sample.split:
                yield Problem(where=one.where, reason="group_in_two_splits", detail=f"{sample.group} is in {last} too")
                continue
        yield one


def tally(data_set: DataSet, root: Path, *, on_found: Callable[[], None] = lambda: None) -> Tally:
    """Read everything but the pixels, and count."""
    counted = Tally()
    for found in examined(data_set.read(root)):
        counted.count(found)
        on_found()
    return counted


# --- writing -----------------------------------------------------------------------------------------------------


def convert(
    data_set: DataSet,
    root: Path,
    target: Path,
    layouts: tuple[Layout, ...] = (),
    *,
    as_objects: bool = False,
    held_back: dict[str, set[Split]] | None = None,
    on_found: Callable[[], None] = lambda: None,
) -> Tally:
    """Write samples and pixels below `target`; a row whose pixels cannot be drawn is a problem too.

    held_back: as `separated` takes it; None leaves the splits as they are.

    Pixels that are there already are kept, so a conversion that was broken off goes on where it was.
    """
    target.mkdir(parents=True, exist_ok=True)
    counted = Tally()
    with ExitStack() as stack:
        writer = _Writer(target, layouts, stack, as_objects=as_objects)
        for found in separated(examined(data_set.read(root)), held_back or {}):
            written = found if isinstance(found, Problem) else writer.write(found)
            counted.count(written)
            on_found()
    writer.publish()
    _write_summary(data_set, target, counted)
    return counted


class _Writer:
    """Appends samples to the files of their split, which get their names when everything is written."""

    def __init__(self, target: Path, layouts: tuple[Layout, ...], stack: ExitStack, *, as_objects: bool) -> None:
        self._target = target
        self._layouts = layouts
        self._as_objects = as_objects
        self._stack = stack
        self._files: dict[str, IO[str]] = {}
        for split in SPLITS:
            for path in (target / f"{split}.jsonl", *(target / f"{split}.{layout}.jsonl" for layout in layouts)):
                path.unlink(missing_ok=True)

    def write(self, row: Row) -> Found:
        sample = row.sample
        try:
            for path, pixels in zip(sample.paths, row.pixels, strict=True):
                write_pixels(pixels, self._target / path)
            rows = [(layout, self._swift_row(sample, layout)) for layout in self._layouts]
        except (RowUnusable, StudyUnusable, SampleInvalid) as exc:
            return Problem(where=row.where, reason=exc.reason, detail=exc.detail)
        self._append(f"{sample.split}.jsonl", to_line(sample))
        for layout, converted in rows:
            self._append(f"{sample.split}.{layout}.jsonl", json.dumps(converted, ensure_ascii=False))
        return row

    def _swift_row(self, sample: Sample, layout: Layout) -> dict[str, Any]:
        return to_swift(with_slices(sample, self._target), layout, as_objects=self._as_objects)

    def _append(self, name: str, line: str) -> None:
        if name not in self._files:
            part = self._target / f"{name}.part"
            self._files[name] = self._stack.enter_context(part.open("w", encoding="utf-8", newline="\n"))
        self._files[name].write(line + "\n")

    def publish(self) -> None:
        """Give the closed files their names."""
        for name in self._files:
            os.replace(self._target / f"{name}.part", self._target / name)


def write_pixels(pixels: Pixels, target: Path) -> None:
    """Link or copy a file, or write an array as PNG or NPY by the target's ending; what is there stays.

    Raises RowUnusable or StudyUnusable when the pixels cannot be drawn.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    if isinstance(pixels, Path):
        try:
            os.link(pixels.resolve(), part)
        except OSError:
            shutil.copyfile(pixels, part)
    else:
        _write_array(pixels(), part, target.suffix)
    os.replace(part, target)


def _write_array(values: NDArray[Any], part: Path, suffix: str) -> None:
    with part.open("wb") as file:
        if suffix == ".npy":
            np.save(file, values, allow_pickle=False)
        else:
            Image.fromarray(np.asarray(values, dtype=np.uint8)).save(file, format="PNG")


def with_slices(sample: Sample, target: Path) -> Sample:
    """The sample with its array written as one picture per slice, which is all that ms-swift takes."""
    if not sample.volume or not sample.volume[0].endswith(".npy"):
        return sample
    folder = f"slices/{sample.volume[0].removeprefix('volumes/').removesuffix('.npy')}"
    depth = sample.extent[2] if sample.extent else len(read_stack([target / sample.volume[0]]))
    paths = tuple(f"{folder}/{index:03}.png" for index in range(depth))
    if not (target / paths[-1]).exists():
        grey, _ = displayed(read_stack([target / sample.volume[0]]), GreyRecipe(kind=GreyKind.HEADER))
        for path, plane in zip(paths, grey, strict=True):
            write_pixels(lambda plane=plane: plane, target / path)  # type: ignore[misc]
    return replace(sample, volume=paths)


def _write_summary(data_set: DataSet, target: Path, counted: Tally) -> None:
    summary = {
        "data_set": data_set.key,
        "title": data_set.title,
        "source": data_set.source,
        "licence": data_set.licence,
        "split_rule": data_set.split_rule,
        **figures(counted),
    }
    (target / SUMMARY_FILE).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def figures(counted: Tally) -> dict[str, Any]:
    """The counts as plain JSON; keys of several words are joined by blanks."""
    reasons = Counter(problem.reason for problem in counted.problems)
    return {
        "samples": {" ".join(key): count for key, count in sorted(counted.samples.items())},
        "modalities": {" ".join(key).strip(): count for key, count in sorted(counted.modalities.items())},
        "sizes": {" ".join(key): count for key, count in counted.sizes.most_common(50)},
        "total": counted.total,
        "skipped": counted.skipped,
        "divided_groups": dict(sorted(counted.divided.items())),
        "problems": dict(sorted(reasons.items())),
    }
