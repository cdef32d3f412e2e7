"""Scales grey images and stacks to what the checkpoint wants, and says exactly where every pixel came from.

Training calls the same functions on its arrays: what is trained is what is served. All maps are affine in continuous
coordinates, outer corner to outer corner, as in `umit_pacs.handoffs`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.pixels.requirements import ImageRequirements

#: A triangle as wide as the target's pixels: no aliasing when shrinking, linear interpolation when growing.
_FILTER = Image.Resampling.BILINEAR


def fit_image(
    grey: NDArray[np.uint8], requirements: ImageRequirements, *, row_to_column_spacing: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Scale one grey image (H, W) to requirements.height x requirements.width.

    `row_to_column_spacing`: height of a source pixel over its width; with `keep_aspect` the patient keeps its shape.
    Returns (pixels, to_source): (height, width) uint8, and (3, 3) float64 that leads (x, y, 1) of the pixels to
    (x, y, 1) of `grey`. Padding is 0.
    """
    rows, columns = grey.shape
    top, left, height, width = _placed(rows, columns, requirements, row_to_column_spacing)
    scaled = grey if (height, width) == grey.shape else _scale(grey, width=width, height=height)
    if (height, width) != (requirements.height, requirements.width):
        padded = np.zeros((requirements.height, requirements.width), np.uint8)
        padded[top : top + height, left : left + width] = scaled
        scaled = padded
    to_source = image_to_source(rows, columns, requirements, row_to_column_spacing=row_to_column_spacing)
    return np.ascontiguousarray(scaled), to_source


def image_to_source(
    rows: int, columns: int, requirements: ImageRequirements, *, row_to_column_spacing: float = 1.0
) -> NDArray[np.float64]:
    """(3, 3): the map of `fit_image` for a source of this size."""
    top, left, height, width = _placed(rows, columns, requirements, row_to_column_spacing)
    scale_x, scale_y = columns / width, rows / height
    return np.array([[scale_x, 0.0, -left * scale_x], [0.0, scale_y, -top * scale_y], [0.0, 0.0, 1.0]])


def fit_depth(
    slices: NDArray[np.uint8], requirements: ImageRequirements
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Scale a stack (N, H, W) along its first axis to requirements.slices.

    Returns (voxels, to_source): (slices, H, W) uint8, and (4, 4) float64 that changes z only. Fewer source slices than
    wanted are interpolated, more are averaged with a triangle.
    """
    if requirements.slices is None:
        raise InvalidConfiguration("a volume needs requirements with slices")
    count, height, width = slices.shape
    to_source = np.diag([1.0, 1.0, count / requirements.slices, 1.0])
    if count == requirements.slices:
        return slices, to_source
    flat = _scale(slices.reshape(count, height * width), width=height * width, height=requirements.slices)
    return flat.reshape(requirements.slices, height, width), to_source


def fit_volume(
    slices: NDArray[np.uint8], requirements: ImageRequirements, *, row_to_column_spacing: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Scale a stack (N, H, W) to (requirements.slices, requirements.height, requirements.width).

    Each slice as `fit_image`, then the stack as `fit_depth`. Returns (voxels, to_source): uint8, and (4, 4) float64
    that leads (x, y, z, 1) of the voxels to (x, y, z, 1) of the stack.
    """
    fitted = [fit_image(grey, requirements, row_to_column_spacing=row_to_column_spacing) for grey in slices]
    voxels, depth_to_source = fit_depth(np.stack([pixels for pixels, _ in fitted]), requirements)
    return voxels, in_volume(fitted[0][1]) @ depth_to_source


def in_volume(to_source: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4): a (3, 3) map of slices applied to a whole stack."""
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:2, 3] = to_source[:2, :2], to_source[:2, 2]
    return matrix


def _placed(
    rows: int, columns: int, requirements: ImageRequirements, row_to_column_spacing: float
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the image proper inside the prepared one."""
    if not requirements.keep_aspect:
        return 0, 0, requirements.height, requirements.width
    scale = min(requirements.width / columns, requirements.height / (rows * row_to_column_spacing))
    height = max(1, min(round(rows * row_to_column_spacing * scale), requirements.height))
    width = max(1, min(round(columns * scale), requirements.width))
    return (requirements.height - height) // 2, (requirements.width - width) // 2, height, width


def _scale(grey: NDArray[np.uint8], *, width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize((width, height), _FILTER))
