"""From token log-probabilities to calibrated probabilities, and the fits that calibrate them.

- Closed answers: wherever the options' token strings part, the probabilities of the tokens that still lead to an option
  are normalised among themselves; the product along the answer is the probability of the whole option string among the
  options. The temperature is applied at each parting.
- Presence of a finding: the first token of "nothing there" against the first token of a box.
- Boxes and points: the geometric mean of the digit tokens' probabilities.
- A report's statement: the probability of its tokens, given what the report said before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from umit_pacs.umit_model.checkpoint import Calibration
from umit_pacs.umit_model.generation import GeneratedAnswer

_SMALLEST = 1e-6


class TokenWatch:
    """The tokens whose log-probabilities are kept at every place of an answer."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(dict.fromkeys(ids))
        self._column = {token: column for column, token in enumerate(self.ids)}

    def at(self, answer: GeneratedAnswer, place: int, tokens: Sequence[int]) -> NDArray[np.float64]:
        """Log-probabilities of `tokens` at one place of the answer. Raises KeyError for a token not watched."""
        return answer.watched[place, [self._column[token] for token in tokens]].astype(np.float64)


def option_scores(
    answer: GeneratedAnswer, option_ids: Sequence[Sequence[int]], watch: TokenWatch, *, temperature: float = 1.0
) -> NDArray[np.float64] | None:
    """(options,) probabilities that sum to 1, or None when the answer is no option's token string.

    option_ids: token strings of the options as `closed_answer` writes them, each closed by the end mark.
    Options that the answer did not come near share their branch's probability equally; the answer's own is exact.
    """
    said = list(answer.token_ids)
    scores = np.zeros(len(option_ids))
    open_options = list(range(len(option_ids)))
    probability = 1.0
    for place in range(len(answer.watched)):
        branches: dict[int, list[int]] = {}
        for option in open_options:
            if place < len(option_ids[option]):
                branches.setdefault(option_ids[option][place], []).append(option)
        if len(branches) > 1:
            tokens = list(branches)
            shares = softmax(watch.at(answer, place, tokens) / temperature)
            token = said[place] if place < len(said) else option_ids[0][-1]
            if token not in branches:
                return None
            for branch, share in zip(tokens, shares, strict=True):
                if branch != token:
                    scores[branches[branch]] = probability * share / len(branches[branch])
            probability *= float(shares[tokens.index(token)])
            open_options = branches[token]
        if len(open_options) == 1:
            scores[open_options[0]] = probability
            return scores
    return None


def presence_logit(answer: GeneratedAnswer, watch: TokenWatch, *, present_id: int, absent_id: int) -> float:
    """log p(first token of a place) - log p(first token of "nothing there")."""
    present, absent = watch.at(answer, 0, (present_id, absent_id))
    return float(present - absent)


def mean_token_logit(log_probabilities: NDArray[np.float32]) -> float:
    """Logit of the geometric mean of token probabilities."""
    return logit(math.exp(float(np.mean(log_probabilities.astype(np.float64)))))


def calibrated(value: float, calibration: Calibration) -> float:
    """Platt: sigmoid(slope * logit + intercept)."""
    return sigmoid(calibration.slope * value + calibration.intercept)


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))


def logit(probability: float) -> float:
    """log(p / (1 - p)), with p kept a millionth away from 0 and 1."""
    p = min(max(probability, _SMALLEST), 1.0 - _SMALLEST)
    return math.log(p / (1.0 - p))


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the last axis."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def fit_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature that makes held-out answers likeliest.

    scores: (N, options) uncalibrated log-probabilities; labels: (N,) index of the true option.
    """
    # One parameter and a smooth valley: a grid in log T, refined twice, is exact enough and cannot diverge.
    low, high = math.log(0.05), math.log(20.0)
    best = 0.0
    for _ in range(3):
        grid = np.linspace(low, high, 41)
        losses = [
            -float(np.mean(np.log(softmax(scores / math.exp(t))[np.arange(len(labels)), labels] + 1e-12))) for t in grid
        ]
        best = float(grid[int(np.argmin(losses))])
        step = float(grid[1] - grid[0])
        low, high = best - step, best + step
    return math.exp(best)


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Slope and intercept by Newton's method with Platt's smoothed targets; monotone, so the slope stays positive.

    logits: (N,) uncalibrated; labels: (N,) whether it was true.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = 1.0, 0.0
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(slope * logits + intercept, -30, 30)))
        error = probability - targets
        weight = probability * (1 - probability) + 1e-9
        # A small ridge around (1, 0) keeps perfectly separated data finite.
        gradient = np.array([(error * logits).sum() + 1e-3 * (slope - 1), error.sum() + 1e-3 * intercept])
        curvature = np.array(
            [
                [(weight * logits**2).sum() + 1e-3, (weight * logits).sum()],
                [(weight * logits).sum(), weight.sum() + 1e-3],
            ]
        )
        step = np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
        slope, intercept = slope - float(step[0]), intercept - float(step[1])
        if float(np.abs(step).max()) < 1e-8:
            break
    return Calibration(slope=max(slope, 1e-3), intercept=intercept)
