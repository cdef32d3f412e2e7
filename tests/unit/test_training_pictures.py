"""What a checkpoint must refuse, and what a run's log shows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.curves import draw_curves
from training.strangers import REAL, strangers
from training.studies import CT_PIXELS, RADIOGRAPH_PIXELS


class _Flat:
    """A kind of study whose images are plain ramps."""

    def __init__(self, pixels):
        self.pixels, self.images = pixels, pixels.slices or 1

    def draw(self, rng):
        ramp = np.linspace(0, 255, self.pixels.width).astype(np.uint8)
        images = np.broadcast_to(ramp, (self.images, self.pixels.height, self.pixels.width))
        return type("Study", (), {"images": images})


@pytest.mark.parametrize("pixels", [RADIOGRAPH_PIXELS, CT_PIXELS])
def test_strangers_come_in_the_size_that_the_checkpoint_is_shown(pixels):
    found = list(strangers(_Flat(pixels), [], np.random.default_rng(0)))
    assert {stranger.what for stranger in found} > set(REAL)
    shape = (pixels.slices or 1, pixels.height, pixels.width)
    assert {stranger.images.shape for stranger in found} == {shape}
    assert next(each for each in found if each.what == "cat's chest").images.std() > 20


def test_curves_and_table_tell_what_the_log_holds(tmp_path):
    rows = [
        {"stage": "sight", "step": n, "kind": ("radiograph", "ct")[n % 2], "rate": 1e-3, "dense": 1.0} for n in (0, 1)
    ]
    rows += [{"stage": "stage1", "step": 49, "kind": "ct", "rate": 5e-4, "loss": 2.0, "held_out_ct_loss": 2.25}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture, table = draw_curves(tmp_path)
    assert picture.stat().st_size > 10_000
    assert table.read_text().splitlines()[-1] == "| stage1 | 50 | 5.0e-04 |  |  |  |  | 2.250 |  |"
