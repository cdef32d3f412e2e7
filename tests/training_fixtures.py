"""A small bank of radiographs and CT volumes of the phantom, for what needs patients but not every kind of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.unit.test_training import _phantom
from training.bank import BankConfig, render_bank
from training.warping import Sampler


@cache
def small_bank(folder: Path) -> Path:
    """Made once per test process; read only."""
    config = BankConfig(radiograph_train=2, radiograph_held_out=2, ct_train=1, ct_held_out=2, shard=2)
    kinds = ("radiograph", "ct")
    render_bank(config, folder / "small-bank", lambda: Sampler(_phantom()), _no_heads, kinds=kinds)
    return folder / "small-bank"


def _no_heads():
    raise AssertionError("no kind of this bank has a head")
