"""One sample as tokens: prompt and answer with their rotary positions, and the pixels that the vision tower takes.

Learned from are the answer's tokens and the mark that ends it, nothing of system, instruction or image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.packing import IGNORED
from training.tuning.showing import Viewer
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.processor import END_OF_ANSWER
from umit_pacs.umit_model.samples import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """One sample, ready to be packed. L: its tokens."""

    id: str
    task: Task
    #: (L,)
    token_ids: NDArray[np.int64]
    #: (L,) the token itself where it is learned from, else IGNORED
    labels: NDArray[np.int64]
    #: (3, L) time, row, column
    positions: NDArray[np.int64]
    #: (patches, values of a patch)
    pixel_values: Tensor
    #: (images, 3) patches: time, rows, columns
    grid_thw: Tensor

    @property
    def answer_length(self) -> int:
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Encodes samples for one base model."""

    viewer: Viewer
    #: gives rotary positions; its weights are not used
    network: Any
    #: The tokenizer may not be called by two threads at once.
    _lock: Lock = field(default_factory=Lock)

    def encode(self, sample: Sample, folder: Path) -> EncodedSample:
        """folder: where the sample's paths start. Raises as `Viewer.show` does."""
        processor = self.viewer.processor
        images, shown = self.viewer.show(sample, folder)
        inputs = processor.image_inputs(images)
        grids = inputs["image_grid_thw"]
        prompt = self._tokens(processor.prompt(shown.instruction, grids.tolist()))
        answer = [*self._tokens(shown.answer), processor.tokenizer.convert_tokens_to_ids(END_OF_ANSWER)]
        token_ids = np.array(prompt + answer, dtype=np.int64)
        labels = np.array([IGNORED] * len(prompt) + answer, dtype=np.int64)
        return EncodedSample(
            id=sample.id,
            task=sample.task,
            token_ids=token_ids,
            labels=labels,
            positions=self._positions(token_ids, grids),
            pixel_values=inputs["pixel_values"],
            grid_thw=grids,
        )

    def _tokens(self, text: str) -> list[int]:
        with self._lock:
            return list(self.viewer.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _positions(self, token_ids: NDArray[np.int64], grids: Tensor) -> NDArray[np.int64]:
        ids = torch.from_numpy(token_ids)[None]
        is_image = ids == self.viewer.processor.image_token_id
        positions, _ = self.network.model.get_rope_index(ids, mm_token_type_ids=is_image.int(), image_grid_thw=grids)
        return np.asarray(positions[:, 0].numpy())
