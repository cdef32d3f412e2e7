"""Several samples in one row, none of which sees another.

Each sample keeps its own rotary positions, and the text positions that stand before them start at 0 with every sample:
by these transformers builds a block-diagonal mask, and flash attention its sequence lengths, in all three families.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training.packing import IGNORED
from training.tuning.encoding import EncodedSample

Row = list[EncodedSample]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Rows for one forward pass, filled up to the longest. B rows of L tokens."""

    #: (B, L)
    token_ids: Tensor
    #: (B, L) the token itself where it is learned from, else IGNORED
    labels: Tensor
    #: (B, L) weight of each learned token
    weights: Tensor
    #: (4, B, L) place in the sample, then time, row and column
    positions: Tensor
    #: (patches, values of a patch) of all images in their order
    pixel_values: Tensor
    #: (images, 3)
    grid_thw: Tensor

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Arguments of `AnswerLoss.forward`."""
        names = ("token_ids", "labels", "weights", "positions", "pixel_values", "grid_thw")
        return {name: getattr(self, name).to(device, non_blocking=True) for name in names}


def pack(samples: Sequence[EncodedSample], tokens_per_row: int, *, packs: bool = True) -> list[Row]:
    """Divide samples among rows of at most `tokens_per_row` tokens, longest first into the first row with room.

    A sample that is longer by itself has a row to itself: cut short, it would lose image tokens or its end.
    """
    rows: list[Row] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda sample: -len(sample.token_ids)):
        length = len(sample.token_ids)
        fitting = [index for index, left in enumerate(room) if left >= length] if packs else []
        if fitting:
            rows[fitting[0]].append(sample)
            room[fitting[0]] -= length
        else:
            rows.append([sample])
            room.append(tokens_per_row - length)
    return rows


def batches(
    samples: Sequence[EncodedSample],
    tokens_per_row: int,
    rows_per_forward: int,
    *,
    packs: bool = True,
    answer_weight: Literal["token", "root"] = "token",
) -> Iterator[PackedRows]:
    """The forward passes of a step."""
    rows = pack(samples, tokens_per_row, packs=packs)
    for first in range(0, len(rows), rows_per_forward):
        yield collate(rows[first : first + rows_per_forward], answer_weight)


def collate(rows: Sequence[Row], answer_weight: Literal["token", "root"] = "token") -> PackedRows:
    """Lay rows side by side. What fills a row up is a sequence of its own that nothing is learned from."""
    length = max(sum(len(sample.token_ids) for sample in row) for row in rows)
    token_ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full_like(token_ids, IGNORED)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    positions = np.zeros((4, len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        start = 0
        for sample in row:
            end = start + len(sample.token_ids)
            token_ids[index, start:end] = sample.token_ids
            labels[index, start:end] = sample.labels
            weights[index, start:end] = 1.0 if answer_weight == "token" else sample.answer_length**-0.5
            positions[0, index, start:end] = np.arange(end - start)
            positions[1:, index, start:end] = sample.positions
            start = end
        positions[:, index, start:] = np.arange(length - start)
    weights[labels == IGNORED] = 0.0
    return PackedRows(
        token_ids=torch.from_numpy(token_ids),
        labels=torch.from_numpy(labels),
        weights=torch.from_numpy(weights),
        positions=torch.from_numpy(positions),
        pixel_values=torch.cat([sample.pixel_values for row in rows for sample in row]),
        grid_thw=torch.cat([sample.grid_thw for row in rows for sample in row]),
    )
