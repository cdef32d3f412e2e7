"""Pictures and arrays of a data set's folder: found, measured, and kept inside it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from training.data_sets.reading import RowUnusable
from umit_pacs.errors import StudyUnusable
from umit_pacs.pixels.stored_pictures import ARRAY_ERRORS, picture_size, read_stack


def below(root: Path, relative: str) -> Path:
    """The file of that path below `root`. Raises RowUnusable when it leads out of it or is not there."""
    parts = PurePosixPath(relative.replace("\\", "/"))
    if not relative.strip() or parts.is_absolute() or ".." in parts.parts:
        raise RowUnusable("path_outside", f"{relative!r} is no path below the folder")
    path = root / parts
    if not is_file(path):
        raise RowUnusable("missing_file", relative[:200])
    return path


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=100_000)
def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture; many questions ask about one. Raises RowUnusable when it is none."""
    try:
        return picture_size(path)
    except StudyUnusable as exc:
        raise RowUnusable(exc.reason, exc.detail) from exc


def stored_array(path: Path) -> NDArray[np.generic]:
    """(D, H, W) of an `.npy` file, not yet read from the disk. Raises RowUnusable when it holds no volume."""
    try:
        return read_stack([path])
    except StudyUnusable as exc:
        raise RowUnusable(exc.reason, exc.detail) from exc


def stored_mask(path: Path) -> NDArray[np.bool_]:
    """(D, H, W) of an `.npy` mask, (1, D, H, W) included. Raises RowUnusable when it holds none."""
    try:
        values = np.load(path, allow_pickle=False)
    except ARRAY_ERRORS as exc:
        raise RowUnusable("unreadable_array", path.name) from exc
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim != 3 or values.dtype.kind not in "buif":
        raise RowUnusable("unreadable_array", f"{path.name}: {values.dtype} of shape {values.shape} is no mask")
    return np.asarray(values != 0)


def as_bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Display grey of an array that is scaled to 0..1, as M3D publishes its volumes; bytes stay as they are."""
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    scaled = np.nan_to_num(np.asarray(values, dtype=np.float32))
    if scaled.min() < -0.01 or scaled.max() > 1.01:
        raise RowUnusable("values_out_of_range", f"{scaled.min():g} to {scaled.max():g} where 0 to 1 is published")
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
