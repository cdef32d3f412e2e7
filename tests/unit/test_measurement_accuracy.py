"""What tells how far measurements are off measures as the node does, and says what was not measured."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.unit.test_mask_routines import lesion_of
from training.measurement_accuracy import accuracy_lines, errors_of


def test_a_clear_lesion_is_measured_close_to_what_was_put_in():
    errors = errors_of(lesion_of("CT"), 0.0, np.random.default_rng(2))
    assert errors is not None
    volume, diameter_mm = errors
    assert abs(volume) < 0.15
    assert abs(diameter_mm) < 2


def test_what_cannot_be_measured_is_counted_and_has_no_error():
    lesion = lesion_of("PT")
    even = dataclasses.replace(lesion, volume=np.ones_like(lesion.volume))
    (line,) = accuracy_lines([lesion, even], np.random.default_rng(3))
    assert "2 of 4 measured" in line
    assert "volume" in line
