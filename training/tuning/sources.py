"""Files of samples as an epoch draws them: read once to check and hash them, then line by line where they lie.

Only the places of the lines are held in memory, so that millions of samples fit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.tuning.config import DataConfig, SourceConfig, TuneConfig
from umit_pacs.errors import InvalidConfiguration, SampleInvalid
from umit_pacs.umit_model.checkpoint import sha256_of
from umit_pacs.umit_model.samples import Sample, Split, from_line, verify

USED_SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a sample stands."""

    file: Path
    #: bytes from the start of the file
    offset: int

    def read(self) -> Sample:
        with self.file.open("rb") as lines:
            lines.seek(self.offset)
            return from_line(lines.readline())


@dataclass(kw_only=True)
class SampleFile:
    """The wanted samples of one file, by split."""

    source: SourceConfig
    offsets: dict[Split, NDArray[np.int64]]
    #: of the file's bytes
    sha256: str
    #: paths of all pixels that the wanted samples show, relative to the file
    pixels: frozenset[str]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Folder and file, without where they lie."""
        return f"{self.source.path.parent.name}/{self.source.path.name}"

    def places(self, split: Split) -> list[Place]:
        return [Place(file=self.source.path, offset=int(offset)) for offset in self.offsets[split]]


def open_files(config: TuneConfig, *, on_sample: Callable[[], object] = lambda: None) -> list[SampleFile]:
    """Read and check every file of the run.

    Raises SampleInvalid that names file and line, and InvalidConfiguration when nothing is left to learn from or a
    group is both learned from and held out.
    """
    groups: dict[str, set[str]] = {"train": set(), "validation": set()}
    sources = [file for source in config.data.files for file in _files_of(source)]
    files = [_open(source, config, groups, on_sample) for source in sources]
    if not any(len(file.offsets["train"]) for file in files):
        raise InvalidConfiguration("data: no sample of split train is left after tasks and kinds")
    if shared := sorted(groups["train"] & groups["validation"]):
        raise InvalidConfiguration(f"data: {len(shared)} groups are both in train and in validation, e.g. {shared[0]}")
    return files


def _files_of(source: SourceConfig) -> list[SourceConfig]:
    """The file itself; of a folder, the files of the splits that are used.

    Raises InvalidConfiguration when there is nothing.
    """
    if not source.path.is_dir():
        return [source]
    found = [source.path / f"{split}.jsonl" for split in USED_SPLITS if (source.path / f"{split}.jsonl").is_file()]
    if not found:
        raise InvalidConfiguration(f"{source.path}: neither train.jsonl nor validation.jsonl")
    return [source.model_copy(update={"path": path}) for path in found]


def _open(
    source: SourceConfig, config: TuneConfig, groups: dict[str, set[str]], on_sample: Callable[[], object]
) -> SampleFile:
    offsets: dict[Split, list[int]] = {"train": [], "validation": []}
    digest, counts = hashlib.sha256(), Counter[str]()
    pixels: set[str] = set()
    try:
        for number, offset, line in _lines(source.path):
            digest.update(line)
            sample = _checked(source.path, number, line) if line.strip() else None
            if sample is None or sample.split not in offsets or not _is_wanted(sample, config):
                continue
            offsets[sample.split].append(offset)
            pixels.update(sample.paths)
            counts[f"{sample.split} {sample.task}"] += 1
            if sample.group:
                groups[sample.split].add(f"{sample.data_set}:{sample.group}")
            on_sample()
    except OSError as exc:
        raise InvalidConfiguration(f"{source.path}: {exc}") from exc
    return SampleFile(
        source=source,
        offsets={split: np.array(found, dtype=np.int64) for split, found in offsets.items()},
        sha256=digest.hexdigest(),
        pixels=frozenset(pixels),
        counts=counts,
    )


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, line) of a file."""
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield number, offset, line
            offset += len(line)


def _checked(path: Path, number: int, line: bytes) -> Sample:
    try:
        sample = from_line(line)
        verify(sample)
    except SampleInvalid as exc:
        raise SampleInvalid(f"{path.name}:{number}: {exc.detail}", reason=exc.reason) from exc
    return sample


def _is_wanted(sample: Sample, config: TuneConfig) -> bool:
    kinds = config.data.kinds
    return sample.task in config.tasks and (not kinds or sample.tags.get("kind") in kinds)


def data_sha256(files: list[SampleFile]) -> str:
    """One hash of everything that the samples say and show: the files' bytes, and each picture's path and bytes.

    Raises InvalidConfiguration for a picture that is not there.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.sha256}\n".encode())
        for path in sorted(file.pixels):
            try:
                digest.update(f"{path} {sha256_of(file.source.path.parent / path)}\n".encode())
            except OSError as exc:
                raise InvalidConfiguration(f"{file.source.path.parent / path}: {exc}") from exc
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """The endless order in which samples are learned from; it depends on the seed alone."""

    files: list[SampleFile]
    seed: int
    #: orders of the epochs that were asked for last
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return sum(_drawn(file) for file in self.files)

    def step(self, number: int, size: int) -> list[Place]:
        """The places of step `number` of `size` samples each; a step may reach into the next epoch."""
        places = []
        for index in range(number * size, (number + 1) * size):
            epoch, position = divmod(index, self.samples)
            file, sample = self._order(epoch)[position]
            source = self.files[file]
            places.append(Place(file=source.source.path, offset=int(source.offsets["train"][sample])))
        return places

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """(samples, 2) number of the file and of the sample in it."""
        if epoch not in self._orders:
            order = self._draw(epoch)
            for old in [known for known in self._orders if known < epoch - 1]:
                self._orders.pop(old, None)
            self._orders[epoch] = order
        return self._orders[epoch]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch])
        drawn = []
        for number, file in enumerate(self.files):
            count = len(file.offsets["train"])
            whole, rest = divmod(_drawn(file), count) if count else (0, 0)
            chosen = np.concatenate([np.tile(np.arange(count), whole), rng.choice(count, rest, replace=False)])
            drawn.append(np.stack([np.full(len(chosen), number), chosen], axis=1))
        together = np.concatenate(drawn).astype(np.int64)
        return together[rng.permutation(len(together))]


def _drawn(file: SampleFile) -> int:
    count = len(file.offsets["train"])
    return max(round(file.source.repeat * count), min(count, 1))


def held_out(files: list[SampleFile], data: DataConfig, seed: int) -> list[Place]:
    """The samples of split `validation` that are looked at, the same every time."""
    places = [place for file in files for place in file.places("validation")]
    chosen = np.random.default_rng(seed).permutation(len(places))[: data.validation_samples]
    return [places[index] for index in np.sort(chosen)]
