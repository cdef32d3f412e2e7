"""Reads writing that stands in an image, with the program tesseract (Debian: tesseract-ocr, Apache-2.0).

The program gets grey values by a pipe and answers by a pipe: no file is written, and nothing that it reads is logged.
Each image is read three times, side by side: as it is, for writing in large letters, and with everything thick and
smooth taken out, for bright and for dark writing over the body.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umit_pacs.errors import WritingUnread

Grey = NDArray[np.uint8]
PROGRAM = "tesseract"
#: strokes thinner than this stay when what is smooth is taken out, pixels
_STROKE_PX = 11
#: noise within so many standard deviations is no stroke
_NOISE = 3.0
#: per cent; words that the program is less sure of are none, and from when on it is sure
_LEAST_CONFIDENCE, _SURE_CONFIDENCE = 30.0, 70.0
_LANGUAGES = ("eng", "chi_sim")
_COLUMNS = 12
_LONGEST_QUESTION_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenLine:
    """One line of writing; its texts are for comparison only and must not be kept."""

    text: str
    #: the words of it that the program is sure of.
    sure_text: str
    #: left, top, right, bottom in pixels of the image that was read.
    box_px: tuple[int, int, int, int]


@functools.cache
def reading_languages() -> tuple[str, ...]:
    """Languages that the program can read here; () where there is no such program."""
    if shutil.which(PROGRAM) is None:
        return ()
    try:
        answer = subprocess.run([PROGRAM, "--list-langs"], capture_output=True, timeout=_LONGEST_QUESTION_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    installed = answer.stdout.decode("utf-8", "replace").split()
    return tuple(language for language in _LANGUAGES if language in installed)


def read_writing(pixels: Grey, *, timeout_s: float) -> tuple[WrittenLine, ...]:
    """The lines of writing in an image (H, W), 0 = black; the same writing may come twice.

    Raises WritingUnread when the program is missing, fails, or takes longer than `timeout_s` for all of it.
    """
    until = time.monotonic() + timeout_s
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda view: tuple(_read(view, until - time.monotonic())), _views(pixels))
        return tuple(line for lines in read for line in lines)


def _views(pixels: Grey) -> Iterator[Grey]:
    yield pixels
    yield _strokes(pixels)
    yield _strokes(255 - pixels)


def _read(pixels: Grey, timeout_s: float) -> Iterator[WrittenLine]:
    languages = reading_languages()
    if not languages:
        raise WritingUnread(reason="no_reading_program")
    if timeout_s <= 0:
        raise WritingUnread(reason="reading_timeout")
    height, width = pixels.shape
    command = [PROGRAM, "stdin", "stdout", "-l", "+".join(languages), "--psm", "11", "--dpi", "150", "tsv"]
    try:
        answer = subprocess.run(
            command,
            input=f"P5 {width} {height} 255\n".encode("ascii") + pixels.tobytes(),
            capture_output=True,
            timeout=timeout_s,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise WritingUnread(reason="reading_timeout") from None
    except (OSError, subprocess.CalledProcessError):
        raise WritingUnread(reason="reading_failed") from None
    yield from _lines(answer.stdout.decode("utf-8", "replace"))


def _lines(table: str) -> Iterator[WrittenLine]:
    """The words of the program's table (TSV), line by line."""
    words: dict[tuple[str, ...], list[tuple[str, str, int, int, int, int]]] = {}
    for row in table.splitlines()[1:]:
        cells = row.split("\t")
        if len(cells) != _COLUMNS or not any(map(str.isalnum, cells[-1])) or float(cells[10]) < _LEAST_CONFIDENCE:
            continue
        word, (left, top, width, height) = cells[-1], map(int, cells[6:10])
        sure = word if float(cells[10]) >= _SURE_CONFIDENCE else ""
        words.setdefault(tuple(cells[1:5]), []).append((word, sure, left, top, left + width, top + height))
    for found in words.values():
        texts, sure_texts, lefts, tops, rights, bottoms = zip(*found, strict=True)
        box_px = (min(lefts), min(tops), max(rights), max(bottoms))
        yield WrittenLine(text=" ".join(texts), sure_text=" ".join(filter(None, sure_texts)), box_px=box_px)


def _strokes(pixels: Grey) -> Grey:
    """What is bright and thin, dark on white: the image less its opening (white top hat), without noise."""
    opened = _extreme(_extreme(pixels, np.minimum), np.maximum)
    strokes = pixels.astype(np.int16) - opened
    floor = float(strokes.mean() + _NOISE * strokes.std())
    high = float(strokes.max())
    if high <= floor:
        return np.full_like(pixels, 255)
    shown = np.clip((strokes - floor) / (high - floor), 0.0, 1.0)
    return np.asarray(255 - np.sqrt(shown) * 255, dtype=np.uint8)


def _extreme(pixels: Grey, pick: Callable[[Grey, Grey], Grey]) -> Grey:
    """The least or greatest value in a square of `_STROKE_PX` around each pixel."""
    return _extreme_of_rows(_extreme_of_rows(pixels, pick).T, pick).T


def _extreme_of_rows(pixels: Grey, pick: Callable[[Grey, Grey], Grey]) -> Grey:
    """The same among the rows around each row."""
    padded = np.pad(pixels, ((_STROKE_PX // 2, _STROKE_PX // 2), (0, 0)), mode="edge")
    shifted = [padded[shift : shift + pixels.shape[0]] for shift in range(_STROKE_PX)]
    return functools.reduce(pick, shifted)
