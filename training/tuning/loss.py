"""Cross-entropy of the answers in packed rows; logits are made for answer tokens alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from training.packing import IGNORED


class AnswerLoss(nn.Module):
    """The network with its loss, as one module that accelerate can divide among processes.

    Calls the network's parts, so that LoRA layers put into it take effect whether or not peft's wrapper is there.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        *,
        token_ids: Tensor,
        labels: Tensor,
        weights: Tensor,
        positions: Tensor,
        pixel_values: Tensor,
        grid_thw: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(weighted sum of the losses, number of answer tokens that were the likeliest); shapes as in `PackedRows`."""
        hidden = self.network.model(
            input_ids=token_ids,
            position_ids=positions,
            pixel_values=pixel_values,
            image_grid_thw=grid_thw,
            use_cache=False,
        ).last_hidden_state
        wanted = labels[:, 1:]
        is_learned = wanted != IGNORED
        logits = self.network.lm_head(hidden[:, :-1][is_learned]).float()
        target, weight = wanted[is_learned], weights[:, 1:][is_learned]
        loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum()
        return loss, (logits.detach().argmax(dim=-1) == target).sum()
