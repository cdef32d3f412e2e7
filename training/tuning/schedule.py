"""AdamW with one learning rate for each part of the model, and how the rates rise and fall."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from training.tuning.config import RateConfig
from training.tuning.network import PARTS, part_of, trained


def build_optimiser(network: nn.Module, rates: RateConfig) -> torch.optim.AdamW:
    """Matrices decay, norms and biases do not; every group knows its part and its peak rate."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trained(network):
        groups.setdefault((part_of(name), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "part": part,
                "peak": getattr(rates, part),
                "weight_decay": rates.weight_decay if is_matrix else 0.0,
            }
            for (part, is_matrix), parameters in groups.items()
        ],
        lr=rates.language,
        betas=(0.9, rates.beta2),
    )


def set_rates(optimiser: Any, rates: RateConfig, step: int, steps: int) -> dict[str, float]:
    """Set the rates of a step; returns them by part, those that train."""
    share = rate_share(rates, step, steps)
    found: dict[str, float] = {}
    for group in optimiser.param_groups:
        group["lr"] = found[group["part"]] = group["peak"] * share
    return {f"rate_{part}": found[part] for part in PARTS if part in found}


def rate_share(rates: RateConfig, step: int, steps: int) -> float:
    """Share of the peak: linear warm-up, then a cosine down to `final_share` behind the last step."""
    warm_up = math.ceil(rates.warm_up_share * steps)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / (steps - warm_up)
    return rates.final_share + (1 - rates.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
