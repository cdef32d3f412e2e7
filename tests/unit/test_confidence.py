"""Probabilities come from the tokens that could have been said, and calibrate as their fits promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umit_pacs.umit_model.checkpoint import Calibration, Threshold
from umit_pacs.umit_model.confidence import (
    TokenWatch,
    calibrated,
    fit_platt,
    fit_temperature,
    logit,
    mean_token_logit,
    option_scores,
    presence_logit,
    sigmoid,
    softmax,
)
from umit_pacs.umit_model.generation import GeneratedAnswer
from umit_pacs.umit_model.questions import presence_word

END = 9


def generated(tokens: list[int], probabilities: list[dict[int, float]], watch: TokenWatch) -> GeneratedAnswer:
    """An answer whose watched tokens had these probabilities at each place (the end mark's place included)."""
    watched = np.full((len(probabilities), len(watch.ids)), -30.0, dtype=np.float32)
    for place, of_place in enumerate(probabilities):
        for token, probability in of_place.items():
            watched[place, watch.ids.index(token)] = math.log(probability)
    return GeneratedAnswer(
        token_ids=tuple(tokens),
        log_probabilities=np.zeros(len(probabilities), dtype=np.float32),
        watched=watched,
        is_complete=True,
    )


def test_the_first_parting_token_decides():
    options = [(1, 5, 6, END), (2, 5, 7, END)]
    watch = TokenWatch([token for option in options for token in option])
    answer = generated([2, 5, 7], [{1: 0.2, 2: 0.6}, {5: 1.0}, {7: 0.9}, {END: 1.0}], watch)
    np.testing.assert_allclose(option_scores(answer, options, watch), [0.25, 0.75], rtol=1e-5)


def test_options_that_share_a_beginning_part_later():
    # "1", "10" and "2": the answer is "10".
    options = [(1, END), (1, 0, END), (2, END)]
    watch = TokenWatch([0, 1, 2, END])
    answer = generated([1, 0], [{1: 0.8, 2: 0.2}, {0: 0.6, END: 0.2}, {END: 1.0}], watch)
    np.testing.assert_allclose(option_scores(answer, options, watch), [0.8 * 0.25, 0.8 * 0.75, 0.2], rtol=1e-5)
    short = generated([1], [{1: 0.8, 2: 0.2}, {0: 0.2, END: 0.6}], watch)
    np.testing.assert_allclose(option_scores(short, options, watch), [0.8 * 0.75, 0.8 * 0.25, 0.2], rtol=1e-5)
    other = generated([2], [{1: 0.25, 2: 0.75}, {END: 1.0}], watch)
    np.testing.assert_allclose(option_scores(other, options, watch), [0.125, 0.125, 0.75], rtol=1e-5)


def test_an_answer_off_the_options_tokens_has_no_probability():
    options = [(1, 5, END), (2, 5, END)]
    watch = TokenWatch([1, 2, 5, END])
    assert option_scores(generated([7], [{1: 0.1, 2: 0.1}, {END: 0.9}], watch), options, watch) is None
    assert option_scores(generated([], [{END: 0.9}], watch), options, watch) is None


def test_a_temperature_flattens():
    options = [(1, END), (2, END)]
    watch = TokenWatch([1, 2, END])
    answer = generated([1], [{1: 0.9, 2: 0.1}, {END: 1.0}], watch)
    hot = option_scores(answer, options, watch, temperature=2.0)
    np.testing.assert_allclose(hot, [0.75, 0.25], rtol=1e-5)


def test_presence_weighs_the_first_token_of_a_place_against_nothing():
    watch = TokenWatch([3, 4])
    answer = generated([3], [{3: 0.6, 4: 0.2}], watch)
    assert presence_logit(answer, watch, present_id=3, absent_id=4) == pytest.approx(math.log(3), abs=1e-5)
    assert calibrated(math.log(3), Calibration()) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("probability", "has_place", "word"),
    [
        (0.9, True, "present"),
        (0.7, True, "present"),
        (0.5, True, "uncertain"),
        (0.1, True, "uncertain"),
        (0.1, False, "absent"),
        (0.3, False, "uncertain"),
        (0.5, False, "uncertain"),
        (0.9, False, "uncertain"),
    ],
)
def test_a_contradiction_between_answer_and_probability_is_uncertain(probability, has_place, word):
    assert presence_word(probability, Threshold(present_from=0.7, absent_below=0.3), has_place=has_place) == word


@given(st.floats(-700, 700))
def test_sigmoid_and_logit_stay_finite(value):
    assert 0 <= sigmoid(value) <= 1
    assert math.isfinite(logit(sigmoid(value)))


def test_the_mean_of_token_probabilities_is_geometric():
    logs = np.log(np.array([0.5, 0.125], dtype=np.float32))
    assert sigmoid(mean_token_logit(logs)) == pytest.approx(0.25, rel=1e-4)


def test_the_fitted_temperature_is_the_one_that_was_put_in():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 1.5, (4000, 3))
    shares = softmax(true_logits)
    labels = np.array([rng.choice(3, p=row) for row in shares])
    assert fit_temperature(true_logits * 2.5, labels) == pytest.approx(2.5, rel=0.08)


def test_the_fitted_platt_line_is_the_one_that_was_put_in():
    rng = np.random.default_rng(0)
    logits = rng.normal(0.5, 2.0, 6000)
    labels = rng.random(6000) < 1 / (1 + np.exp(-(0.6 * logits - 0.8)))
    fitted = fit_platt(logits, labels)
    assert fitted.slope == pytest.approx(0.6, abs=0.05)
    assert fitted.intercept == pytest.approx(-0.8, abs=0.08)


def test_fits_stay_finite_on_separated_or_single_class_data():
    logits = np.array([-3.0, -2.0, 2.0, 3.0])
    for labels in (logits > 0, np.ones(4, dtype=bool), np.zeros(4, dtype=bool)):
        fitted = fit_platt(logits, labels)
        assert math.isfinite(fitted.slope)
        assert math.isfinite(fitted.intercept)
        assert fitted.slope > 0
