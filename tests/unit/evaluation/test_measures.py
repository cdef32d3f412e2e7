"""Every measure against values worked out by hand or given by another program."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from umit_pacs.evaluation.bootstrap import interval, mean_interval
from umit_pacs.evaluation.boxes import average_precision, froc_curve, froc_score, iou, match
from umit_pacs.evaluation.calibration import (
    abstention_threshold,
    area_under_risk_coverage,
    brier,
    conformal_limit,
    conformal_set,
    expected_calibration_error,
    reliability,
    risk_coverage,
    upper_limit,
)
from umit_pacs.evaluation.landmarks import error_mm
from umit_pacs.evaluation.ranking import auc, confusion, roc_curve

# --- ranking -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_auc_is_that_of_mann_and_whitney_ties_included(pairs):
    scores = np.array([score for score, _ in pairs], dtype=float)
    labels = np.array([label for _, label in pairs])
    if labels.all() or not labels.any():
        assert math.isnan(auc(scores, labels))
        return
    statistic = mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert auc(scores, labels) == pytest.approx(statistic / (labels.sum() * (~labels).sum()))
    x, y = roc_curve(scores, labels)
    assert np.trapezoid(y, x) == pytest.approx(auc(scores, labels))


def test_confusions_are_counted_by_what_was_right_and_what_was_said():
    counts = confusion(["a", "a", "b"], ["a", "b", "c"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]


# --- boxes -------------------------------------------------------------------------------------------------------


def test_overlap_of_boxes_in_the_plane_and_in_space():
    assert iou(((0, 0), (2, 2)), ((1, 1), (3, 3))) == pytest.approx(1 / 7)
    assert iou(((0, 0, 0), (2, 2, 2)), ((0, 0, 1), (2, 2, 3))) == pytest.approx(4 / 12)
    assert iou(((0, 0), (1, 1)), ((1, 0), (2, 1))) == 0


def _square(x: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (x, 0.0), (x + 10, 10.0)


def _pictures():
    """Two pictures, three true boxes; by falling confidence: hit .9, miss .8, hit .7, miss .6."""
    first = match([(_square(0), 0.9), (_square(50), 0.8)], [_square(0), _square(100)], 0.5)
    second = match([(_square(2), 0.7), (_square(3), 0.6)], [_square(0)], 0.5)
    return [first, second]


def test_a_true_box_is_found_once_and_by_the_surest():
    first, second = _pictures()
    assert first.is_found == (True, False)
    assert second.confidences == (0.7, 0.6)
    assert second.is_found == (True, False)
    assert second.overlaps[0] == pytest.approx(8 / 12)
    assert (first.hits + second.hits, first.true_boxes + second.true_boxes) == (2, 3)


def test_average_precision_is_the_area_under_the_monotone_curve():
    # Recall 1/3 at precision 1, 2/3 at precision 2/3, and no further: 1/3 + 1/3 * 2/3.
    assert average_precision(_pictures()) == pytest.approx(1 / 3 + 2 / 9)
    assert math.isnan(average_precision([match([(_square(0), 1.0)], [], 0.5)]))
    assert average_precision([match([], [_square(0)], 0.5)]) == 0


def test_equally_sure_boxes_come_in_no_order():
    hit, wrong = (_square(0), 0.5), (_square(50), 0.5)
    assert average_precision([match([hit, wrong], [_square(0)], 0.5)]) == pytest.approx(0.5)
    assert average_precision([match([wrong, hit], [_square(0)], 0.5)]) == pytest.approx(0.5)


def test_froc_reads_sensitivity_at_false_positives_per_picture():
    wrong, found = froc_curve(_pictures())
    assert wrong.tolist() == [0, 0, 0.5, 0.5, 1]
    assert found == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    # 1/3 at 1/8 and 1/4 per picture, 2/3 from 1/2 on.
    assert froc_score(_pictures()) == pytest.approx((2 * 1 / 3 + 5 * 2 / 3) / 7)


# --- landmarks ---------------------------------------------------------------------------------------------------


def test_landmark_errors_take_the_spacing_of_each_axis():
    # UMIT's cephalograms: 600 x 800 pixels of 1935 x 2400 at 0.1 mm, so 0.3225 mm in x and 0.3 mm in y.
    assert error_mm((253, 610), (243, 600), spacing_row_col_mm=(0.3, 0.3225)) == pytest.approx(math.hypot(3.225, 3))


# --- calibration -------------------------------------------------------------------------------------------------

CONFIDENCE = np.array([0.95, 0.91, 0.55, 0.52, 0.2])
IS_RIGHT = np.array([True, True, True, False, False])


def test_calibration_error_weighs_bins_by_their_answers():
    bins = reliability(CONFIDENCE, IS_RIGHT, bins=10)
    assert [each.answers for each in bins] == [1, 2, 2]
    expected = (1 * 0.2 + 2 * abs(0.535 - 0.5) + 2 * abs(0.93 - 1)) / 5
    assert expected_calibration_error(CONFIDENCE, IS_RIGHT, bins=10) == pytest.approx(expected)
    assert expected_calibration_error(np.ones(3), np.ones(3, dtype=bool)) == 0
    squares = 0.05**2 + 0.09**2 + 0.45**2 + 0.52**2 + 0.2**2
    assert brier(CONFIDENCE, IS_RIGHT) == pytest.approx(squares / 5)


def test_risk_rises_as_less_sure_answers_are_kept():
    coverage, risk = risk_coverage(CONFIDENCE, IS_RIGHT)
    assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert risk == pytest.approx([0, 0, 0, 1 / 4, 2 / 5])
    assert area_under_risk_coverage(CONFIDENCE, IS_RIGHT) == pytest.approx((1 / 4 + 2 / 5) / 5)


def test_a_constant_confidence_sorts_nothing():
    _, risk = risk_coverage(np.full(4, 0.7), np.array([True, False, True, True]))
    assert risk == pytest.approx([0.25] * 4)


def test_conformal_sets_hold_the_right_option_as_often_as_promised():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet([0.6] * 4, size=4000)
    # The model is wrong about its own doubt: truth is drawn from a flatter distribution than it says.
    flat = 0.6 * probabilities + 0.1
    truth = (rng.random((4000, 1)) > flat.cumsum(axis=1)).sum(axis=1).clip(max=3)
    limit = conformal_limit(probabilities[np.arange(2000), truth[:2000]], alpha=0.1)
    sets = np.array([conformal_set(row, limit) for row in probabilities[2000:]])
    assert sets[np.arange(2000), truth[2000:]].mean() == pytest.approx(0.9, abs=0.02)


def test_the_conformal_limit_is_the_right_order_statistic():
    true = 1 - np.arange(1, 11) / 10
    # ceil(11 * 0.8) = 9: the ninth smallest of 0.1 .. 1.0.
    assert conformal_limit(true, alpha=0.2) == pytest.approx(0.9)
    assert conformal_limit(true, alpha=0.05) == 1.0
    assert conformal_set(np.array([0.09, 0.1, 0.81]), 0.9).tolist() == [False, True, True]


def test_the_upper_limit_is_the_rule_of_three_for_no_event():
    assert upper_limit(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_limit(5, 5, 0.05) == 1.0


def test_the_threshold_keeps_as_much_as_the_risk_allows():
    confidence = np.linspace(1, 0, 1000)
    is_right = np.ones(1000, dtype=bool)
    is_right[600:] = False
    chosen = abstention_threshold(confidence, is_right, risk=0.05)
    assert chosen is not None
    assert chosen.coverage == 0.6
    assert chosen.risk == 0
    assert chosen.risk_below < 0.05
    assert abstention_threshold(confidence[:50], is_right[:50], risk=0.05) is None, "fifty answers prove no 5 %"


# --- intervals ---------------------------------------------------------------------------------------------------


def test_answers_about_one_study_do_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    of_study = (rng.random(40) < 0.7).astype(float)
    alone = mean_interval([str(n) for n in range(40)], of_study)
    repeated = mean_interval([str(n) for n in range(40) for _ in range(10)], np.repeat(of_study, 10))
    assert repeated.value == pytest.approx(alone.value)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    # The normal approximation: 0.7 of 40 has a standard error of about 0.07.
    spread = math.sqrt(alone.value * (1 - alone.value) / 40)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_no_error_among_few_studies_is_not_taken_for_never():
    none = mean_interval([str(n) for n in range(20)], [0.0] * 20, is_share=True)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    every = mean_interval([str(n) for n in range(20)], [1.0] * 20, is_share=True)
    assert (every.low, every.high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert interval([str(n) for n in range(20)], lambda rows: 1.0, is_share=True) == every


def test_the_interval_of_a_calibration_error_holds_the_error():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1.0, 60)
    is_right = rng.random(60) < confidence
    studies = [str(n) for n in range(60)]

    def error(rows):
        return expected_calibration_error(confidence[rows], is_right[rows])

    plain, moved = interval(studies, error), interval(studies, error, is_distance=True)
    assert (plain.low + plain.high) / 2 > plain.value + 0.02, "drawing again adds spread, and distances grow with it"
    assert moved.low < plain.low
    assert moved.low < moved.value < moved.high < plain.high
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low, rel=0.2)


def test_where_there_is_no_spread_to_draw_from_there_is_no_interval():
    assert mean_interval(["a", "a"], [0.0, 1.0]).low is None
    assert interval(["a", "b"], lambda rows: math.nan).high is None
    assert interval(["a", "b", "c"], lambda rows: 1.0).low is None, "an AUC of 1 on few studies is not certain"
