"""The disposable process: reads jobs as JSON lines, decodes and renders, answers with a JSON line and raw bytes.

It decodes data that nobody has vouched for with codecs written in C, so it may hang, crash or ask for all memory.
The limits below make that its own end and nobody else's. Started by `umit_pacs.pixels.decoding_process`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from umit_pacs.errors import PixelBudgetExceeded, StudyUnusable, UndecodablePixels
from umit_pacs.pixels.attributes import text, value
from umit_pacs.pixels.decoding import stored_frames
from umit_pacs.pixels.grey import SAMPLE_PIXELS, SAMPLED_SLICES, GreyMapping, sampled_slices, thin_out
from umit_pacs.pixels.presentation import (
    FramePresentation,
    frame_presentation,
    luminance,
    require_hounsfield_units,
    series_mapping,
)
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.resample import fit_image

Job = dict[str, Any]
Answer = tuple[dict[str, Any], bytes]
#: Grey of each 16-bit stored value by what else decides about it; of one stack, so that the mapping is the same.
GreyTables = dict[tuple[Any, ...], NDArray[np.uint8]]


def main(arguments: Sequence[str]) -> None:
    """Serve jobs from standard input until it ends. Arguments: memory in bytes, seconds of CPU time per job."""
    memory_bytes, job_s = int(arguments[0]), int(arguments[1])
    # The parent decides when this ends: it closes standard input, or kills.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # Codecs print; nothing but answers may reach the parent.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _send(answers, {"ready": True}, b"")
    for line in sys.stdin.buffer:
        used_s = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used_s.ru_utime + used_s.ru_stime) + 1 + job_s, hard))
        _send(answers, *answer(json.loads(line)))


def answer(job: Job) -> Answer:
    """The answer to one job and its raw bytes; an error of the data is an answer too."""
    try:
        return _JOBS[job["job"]](job)
    except StudyUnusable as exc:
        kind = "budget" if isinstance(exc, PixelBudgetExceeded) else "undecodable"
        return {"error": kind, "reason": exc.reason, "detail": exc.detail}, b""
    except MemoryError:
        return {"error": "undecodable", "reason": "decoder_out_of_memory", "detail": "decoding needs more memory"}, b""


def _send(answers: BinaryIO, head: dict[str, Any], body: bytes) -> None:
    answers.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
    answers.flush()


def _limit(kind: int, maximum: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (maximum if hard == resource.RLIM_INFINITY else min(maximum, hard), hard))


def _render(job: Job) -> Answer:
    """Grey, fitted frames: raw bytes (N, height, width) uint8, and the recipe of each frame.

    `part`: only these of the job's frames (from, to), by the mapping of all of them.
    """
    grey = GreyRecipe(**{**job["grey"], "kind": GreyKind(job["grey"]["kind"])})
    requirements = ImageRequirements(
        kind=ImageKind.IMAGE,
        width=job["width"],
        height=job["height"],
        keep_aspect=job["keep_aspect"],
        grey=grey,
    )
    decoded: dict[int, tuple[Dataset, NDArray[Any]]] = {}
    mapping = _common_mapping(job, grey, decoded) if job["is_one_stack"] else None
    start, stop = job["part"]
    rendered = np.zeros((stop - start, job["height"], job["width"]), np.uint8)
    recipes = [""] * (stop - start)
    tables: GreyTables = {}
    for index, header, stored in _decode(job, range(start, stop), decoded):
        pixels, recipe = _render_frame(job["frames"][index], header, stored, grey, mapping, tables)
        fitted, _ = fit_image(pixels, requirements, row_to_column_spacing=job["row_to_column_spacing"])
        rendered[index - start], recipes[index - start] = fitted, recipe
    return {"recipes": recipes}, rendered.tobytes()


def _render_frame(
    frame: dict[str, Any],
    header: Dataset,
    stored: NDArray[Any],
    grey: GreyRecipe,
    mapping: GreyMapping | None,
    tables: GreyTables,
) -> tuple[NDArray[np.uint8], str]:
    """Grey of one frame and its recipe; mapping: that of the whole stack, whose tables are kept in `tables`."""
    if _is_colour(header, stored):
        return luminance(stored, header), "luminance"
    presentation = _presentation(frame, header, grey)
    if mapping is not None:
        return _by_table(presentation, stored, mapping, tables), mapping.recipe
    mapping = series_mapping(
        presentation,
        grey,
        presentation.sample(thin_out(stored)),
        stored_is_integer=np.issubdtype(stored.dtype, np.integer),
    )
    return presentation.grey(stored, mapping), mapping.recipe


def _by_table(
    presentation: FramePresentation, stored: NDArray[Any], mapping: GreyMapping, tables: GreyTables
) -> NDArray[np.uint8]:
    """`presentation.grey`, with the grey of every 16-bit value worked out once for all frames that are shown alike."""
    has_own_table = value(presentation.header, "ModalityLUTSequence") is not None
    if has_own_table or stored.dtype.itemsize != 2 or not np.issubdtype(stored.dtype, np.integer):
        return presentation.grey(stored, mapping)
    alike = replace(presentation, header=Dataset(), frame_index=0)
    key = (alike.slope, alike.intercept, alike.factor, alike.is_inverted, alike.padding, stored.dtype.str)
    if key not in tables:
        tables[key] = alike.grey(np.arange(65536, dtype=np.uint16).view(stored.dtype), mapping)
    return np.asarray(tables[key][stored.view(np.uint16)])


def _common_mapping(job: Job, grey: GreyRecipe, decoded: dict[int, tuple[Dataset, NDArray[Any]]]) -> GreyMapping | None:
    """One mapping for all frames of a stack: the header's is that of the middle frame."""
    indices = sampled_slices(len(job["frames"]))
    samples: list[NDArray[Any]] = []
    middle: tuple[FramePresentation, bool] | None = None
    for index, header, stored in _decode(job, indices, {}):
        decoded[index] = header, stored
        if _is_colour(header, stored):
            return None
        presentation = _presentation(job["frames"][index], header, grey)
        samples.append(presentation.sample(thin_out(stored, SAMPLE_PIXELS // SAMPLED_SLICES)))
        if middle is None or index == indices[len(indices) // 2]:
            middle = presentation, bool(np.issubdtype(stored.dtype, np.integer))
    if middle is None:
        return None
    return series_mapping(middle[0], grey, np.concatenate(samples), stored_is_integer=middle[1])


def _presentation(frame: dict[str, Any], header: Dataset, grey: GreyRecipe) -> FramePresentation:
    if grey.kind is GreyKind.WINDOW and text(header, "Modality").upper() == "CT":
        require_hounsfield_units(header, frame["frame_index"])
    return frame_presentation(header, frame["frame_index"], factor=frame["factor"])


def _is_colour(header: Dataset, stored: NDArray[Any]) -> bool:
    return stored.ndim == 3 or text(header, "PhotometricInterpretation").upper() == "PALETTE COLOR"


def _digest(job: Job) -> Answer:
    """SHA-256 of each frame's stored values."""
    digests = {
        index: hashlib.sha256(stored.tobytes()).hexdigest()
        for index, _, stored in _decode(job, range(len(job["frames"])), {})
    }
    return {"digests": [digests[index] for index in range(len(digests))]}, b""


def _values(job: Job) -> Answer:
    """Modality values of a window of each frame: raw bytes (N, rows, columns) float32."""
    top, bottom, left, right = job["window"]
    found = np.zeros((len(job["frames"]), bottom - top, right - left), np.float32)
    for index, header, stored in _decode(job, range(len(found)), {}):
        if _is_colour(header, stored):
            raise UndecodablePixels("colours have no modality values", reason="invalid_pixel_description")
        frame = job["frames"][index]
        presentation = frame_presentation(header, frame["frame_index"], factor=frame["factor"])
        found[index] = presentation.modality_values(stored[top:bottom, left:right])
    return {}, found.tobytes()


def _decode(
    job: Job, indices: Sequence[int], decoded: dict[int, tuple[Dataset, NDArray[Any]]]
) -> Iterator[tuple[int, Dataset, NDArray[Any]]]:
    """(index, header, stored values) for each of `indices` into the job's frames, file by file.

    Frames of one file come in the file's order, so that it is read through once. What is in `decoded` is taken from
    there.
    """
    frames = job["frames"]
    by_path: dict[str, list[int]] = {}
    for index in indices:
        if index in decoded:
            yield index, *decoded.pop(index)
        else:
            by_path.setdefault(str(frames[index]["path"]), []).append(index)
    for path, of_path in by_path.items():
        of_path.sort(key=lambda index: int(frames[index]["frame_index"]))
        frame_indices = [int(frames[index]["frame_index"]) for index in of_path]
        fresh = stored_frames(Path(path), frame_indices, image_pixel_budget=job["image_pixel_budget"])
        for index, (header, _, stored) in zip(of_path, fresh, strict=True):
            yield index, header, stored


_JOBS = {"render": _render, "digest": _digest, "values": _values}

if __name__ == "__main__":
    main(sys.argv[1:])
