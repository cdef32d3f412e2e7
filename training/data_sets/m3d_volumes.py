"""Volumes as M3D publishes them: `.npy`, float32, 1 x slices x rows x columns, scaled to 0..1 by volume."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from training.data_sets.pixel_files import as_bytes, below, stored_array
from training.data_sets.reading import Pixels


def volume_path(relative: str) -> str:
    """Where a volume of that path lies beside the samples."""
    return f"volumes/{PurePosixPath(relative)}"


def volume_source(root: Path, relative: str) -> tuple[Pixels, tuple[int, int, int]]:
    """What draws the volume as bytes of display grey, and its (width, height, depth); only its header is read here.

    Raises RowUnusable when it is not there or no volume.
    """
    path = below(root, relative)
    depth, height, width = stored_array(path).shape
    return lambda: as_bytes(stored_array(path)), (width, height, depth)
