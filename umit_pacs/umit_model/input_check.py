"""Does an image look like those that the checkpoint was trained on?

A cheap guard against a leg labelled CHEST. An image becomes one vector: mean and spread of its vision features over all
tokens, their means in a grid of regions (a leg has other things in other places), and a coarse picture of its grey
values. Known images fill a small part of that space; how far outside it an image lies is measured along the main
directions (Mahalanobis) and beside them (what the main directions leave over). Beyond either limit the checkpoint has
nothing to say about the image.

The parameters come with the checkpoint (`input_check.safetensors`), one group of them per set of modalities, and are
fitted by `fit_input_check` on the vectors of training and held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.generation import VisionFeatures

_COARSE_EDGE = 8
_REGIONS_EDGE = 4
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class InputCheck:
    """What vectors of known images look like. F: length of a vector, K: main directions."""

    #: (F,)
    mean: NDArray[np.float32]
    #: (F,) spread of each entry
    scale: NDArray[np.float32]
    #: (F, K) orthonormal columns
    directions: NDArray[np.float32]
    #: (K,) spread along each direction
    spreads: NDArray[np.float32]
    #: root mean square left over beside the directions
    rest_spread: float
    #: largest distances that still count as known: along and beside the directions
    limit_along: float
    limit_beside: float

    def distance(self, vector: NDArray[np.float32]) -> float:
        """How far outside: at most 1 is known, 2 is twice as far as the limit."""
        along, beside = self.parts(vector[np.newaxis])
        return float(max(along[0] / self.limit_along, beside[0] / self.limit_beside))

    def parts(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) distances along and beside the main directions of (N, F) vectors, in spreads."""
        centred = ((vectors - self.mean) / self.scale).astype(np.float64)
        along = centred @ self.directions
        rest = centred - along @ self.directions.T
        return (
            np.sqrt(np.mean((along / self.spreads) ** 2, axis=1)),
            np.sqrt(np.mean(rest**2, axis=1)) / self.rest_spread,
        )


def input_vector(images: Sequence[NDArray[np.uint8]], features: VisionFeatures) -> NDArray[np.float32]:
    """(F,) vector of one image, or of all slices of a volume in order.

    images: (H, W) prepared pixels; features: what `encode_images` made of exactly these.
    """
    tokens = np.concatenate([token.float().cpu().numpy() for token in features.tokens])  # (T, hidden)
    regions = np.mean(
        [
            _regions(token.float().cpu().numpy(), rows=int(grid[1]), columns=int(grid[2]))
            for token, grid in zip(features.tokens, features.grid_thw.tolist(), strict=True)
        ],
        axis=0,
    )
    coarse = np.mean([_coarse(image) for image in images], axis=0)
    return np.concatenate([tokens.mean(axis=0), tokens.std(axis=0), regions, coarse]).astype(np.float32)


def fit_input_check(
    features: NDArray[np.float32],
    *,
    held_out: NDArray[np.float32] | None = None,
    directions: int = 24,
    quantile: float = 0.999,
    margin: float = 1.25,
) -> InputCheck:
    """Fit to (N, F) vectors of known images; N should be several times `directions`.

    The limits are the quantile over `held_out` (over `features` when there is none) times `margin`: held-out images of
    the kind that is to be served, real ones above all, must be among them.
    """
    mean = features.mean(axis=0)
    scale = np.maximum(features.std(axis=0), _SMALLEST_SPREAD).astype(np.float32)
    centred = ((features - mean) / scale).astype(np.float64)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    count = max(1, min(directions, len(singular) - 1))
    axes = rows[:count].T
    rest = centred - centred @ axes @ axes.T
    check = InputCheck(
        mean=mean.astype(np.float32),
        scale=scale,
        directions=axes.astype(np.float32),
        spreads=np.maximum(singular[:count] / np.sqrt(len(features)), _SMALLEST_SPREAD).astype(np.float32),
        rest_spread=float(max(np.sqrt(np.mean(rest**2)), _SMALLEST_SPREAD)),
        limit_along=1.0,
        limit_beside=1.0,
    )
    along, beside = check.parts(features if held_out is None else held_out)
    return InputCheck(
        mean=check.mean,
        scale=check.scale,
        directions=check.directions,
        spreads=check.spreads,
        rest_spread=check.rest_spread,
        limit_along=float(np.quantile(along, quantile)) * margin,
        limit_beside=float(np.quantile(beside, quantile)) * margin,
    )


def write_input_checks(path: Path, checks: Mapping[tuple[str, ...], InputCheck]) -> None:
    """Write the checks of some modalities each, e.g. {("CR", "DX"): ..., ("CT",): ...}."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for modalities, check in checks.items():
        group = "+".join(modalities)
        tensors[f"{group}.mean"] = check.mean
        tensors[f"{group}.scale"] = check.scale
        tensors[f"{group}.directions"] = np.ascontiguousarray(check.directions)
        tensors[f"{group}.spreads"] = check.spreads
        limits = [check.rest_spread, check.limit_along, check.limit_beside]
        tensors[f"{group}.limits"] = np.array(limits, dtype=np.float32)
    save_file(tensors, path)


def read_input_checks(path: Path) -> dict[str, InputCheck]:
    """The check of each modality. Raises CheckpointInvalid when the file cannot be read."""
    try:
        tensors = load_file(path)
        checks: dict[str, InputCheck] = {}
        for group in {name.rsplit(".", 1)[0] for name in tensors}:
            rest_spread, along, beside = (float(value) for value in tensors[f"{group}.limits"])
            check = InputCheck(
                mean=tensors[f"{group}.mean"],
                scale=tensors[f"{group}.scale"],
                directions=tensors[f"{group}.directions"],
                spreads=tensors[f"{group}.spreads"],
                rest_spread=rest_spread,
                limit_along=along,
                limit_beside=beside,
            )
            checks |= dict.fromkeys(group.split("+"), check)
    except (OSError, SafetensorError, KeyError, ValueError) as exc:
        raise CheckpointInvalid(f"{path}: {exc}") from exc
    return checks


def _regions(tokens: NDArray[np.float32], *, rows: int, columns: int) -> NDArray[np.float32]:
    """Means of one image's (T, hidden) tokens in a grid of regions; rows, columns: of patches, merged into tokens."""
    merge = round((rows * columns / len(tokens)) ** 0.5)
    grid = tokens.reshape(rows // merge, columns // merge, -1)
    bands = [
        np.array_split(band, min(_REGIONS_EDGE, grid.shape[1]), axis=1)
        for band in np.array_split(grid, min(_REGIONS_EDGE, grid.shape[0]), axis=0)
    ]
    return np.concatenate([part.mean(axis=(0, 1)) for band in bands for part in band])


def _coarse(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean grey of a grid of blocks, less the image's mean and over its spread; (edge * edge,)."""
    rows = np.array_split(np.arange(image.shape[0]), _COARSE_EDGE)
    columns = np.array_split(np.arange(image.shape[1]), _COARSE_EDGE)
    values = image.astype(np.float32)
    blocks = np.array([[values[r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean() for c in columns] for r in rows])
    centred = blocks - blocks.mean()
    result: NDArray[np.float32] = (centred / max(float(centred.std()), 1.0)).astype(np.float32).ravel()
    return result
