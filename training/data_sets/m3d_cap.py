"""M3D-Cap: 120,092 CT series of Radiopaedia cases with 42,496 English texts.

Layouts: processed, `M3D_Cap.json` = {"train": [{"image": "x.npy", "text": "x.txt"}], "validation": [], "test": []};
and raw, `ct_quizze/` or `ct_case/` <id>/<series>/N.{png,jpeg} with <id>/text.txt, of which the text after
`study_findings:` is taken, else what stands after `discussion:`, else all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from training.data_sets.m3d_volumes import volume_path, volume_source
from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Found, Problem, Row, RowUnusable, each_entry, json_entries, words
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, Split, complete

FILE = "M3D_Cap.json"
_RAW_FOLDERS = ("ct_quizze", "ct_case")
_MARKS = ("study_findings:", "discussion:")
#: shorter texts say nothing
_SHORTEST_TEXT = 5
_KEYS: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "validation"), ("test", "test"))


def read(root: Path) -> Iterator[Found]:
    if (root / FILE).is_file():
        for key, split in _KEYS:
            entries = json_entries(root / FILE, required=("image", "text"), under=key)
            yield from each_entry(entries, partial(_processed, root, split))
        return
    folders = [root / name for name in _RAW_FOLDERS if (root / name).is_dir()]
    if not folders:
        yield Problem(where=FILE, reason="missing_file", detail=f"no {FILE}, ct_quizze or ct_case in the folder")
    for folder in folders:
        for case in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _case(root, case)


def _processed(root: Path, split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    relative = words(cells, "image")
    pixels, extent = volume_source(root, relative)
    text = below(root, words(cells, "text")).read_text(encoding="utf-8", errors="replace")
    known = _known(relative, str(PurePosixPath(relative).parent), split, text)
    sample = Sample(**known, id=f"m3d_cap-{where}", volume=(volume_path(relative),), extent=extent)
    yield Row(where=where, sample=complete(sample), pixels=(pixels,))


def _known(study: str, group: str, split: Split, text: str) -> dict[str, Any]:
    report = " ".join(text.split())
    if len(report) < _SHORTEST_TEXT:
        raise RowUnusable("empty_cell", "no text")
    return {
        "study": study,
        "group": group,
        "data_set": DATA_SET.key,
        "split": split,
        "modality": "CT",
        "task": Task.REPORT,
        "language": Language.ENGLISH,
        "answer": report,
    }


# --- raw ---------------------------------------------------------------------------------------------------------


def _case(root: Path, case: Path) -> Iterator[Found]:
    """One sample per series of a case, all with the case's text."""
    where = case.relative_to(root).as_posix()
    text_path = case / "text.txt"
    if not text_path.is_file():
        yield Problem(where=f"{where}/text.txt", reason="missing_file", detail="a case without text")
        return
    text = findings_of(text_path.read_text(encoding="utf-8", errors="replace"))
    for series in sorted(path for path in case.iterdir() if path.is_dir()):
        place = series.relative_to(root).as_posix()
        slices = sorted(
            (path for path in series.iterdir() if path.suffix in {".png", ".jpeg"} and path.stem.isdigit()),
            key=lambda path: int(path.stem),
        )
        if not slices:
            yield Problem(where=place, reason="missing_file", detail="a series without slices")
            continue
        sizes, problems = _sizes(slices, place)
        yield from problems
        kept = [path for path, size in sizes.items() if size == Counter(sizes.values()).most_common(1)[0][0]]
        if len(kept) < len(sizes):
            detail = f"{len(sizes) - len(kept)} slices of another size left out"
            yield Problem(where=place, reason="differing_slices", detail=detail, is_skipped=False)
        if kept:
            yield from each_entry([(place, {})], partial(_series, kept, sizes[kept[0]], where, text))


def _sizes(slices: list[Path], place: str) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    sizes: dict[Path, tuple[int, int]] = {}
    problems = []
    for path in slices:
        try:
            sizes[path] = size_of(path)
        except RowUnusable as exc:
            problems.append(Problem(where=f"{place}/{path.name}", reason=exc.reason, detail=exc.detail))
    return sizes, problems


def _series(
    slices: list[Path], size: tuple[int, int], case: str, text: str, where: str, _: dict[str, Any]
) -> Iterator[Row]:
    known = _known(where, case, hashed_split(case, validation=0.05, test=0.05), text)
    paths = tuple(f"volumes/{where}/{path.name}" for path in slices)
    sample = complete(Sample(**known, id=f"m3d_cap-{where}", volume=paths, extent=(*size, len(slices))))
    yield Row(where=where, sample=sample, pixels=tuple(slices))


def findings_of(text: str) -> str:
    """What a case's text says of its pictures, in one line; M3D's own rule."""
    for mark in _MARKS:
        _, found, after = text.partition(mark)
        line = " ".join(after.split())
        if found and len(line) >= _SHORTEST_TEXT:
            return line
    return " ".join(text.split())


DATA_SET = DataSet(
    key="m3d_cap",
    title="M3D-Cap",
    source="https://huggingface.co/datasets/GoodBaiBai88/M3D-Cap",
    licence="Apache-2.0 (not verified); its pictures are from Radiopaedia and keep that site's licence",
    tasks=(Task.REPORT,),
    languages=("en",),
    modalities=("CT",),
    split_rule="processed: the publisher's; raw: 90/5/5 % by a hash of the case",
    layout="M3D_Cap.json with .npy and .txt, or ct_quizze/ and ct_case/ <id>/<series>/N.png with <id>/text.txt",
    read=read,
)
