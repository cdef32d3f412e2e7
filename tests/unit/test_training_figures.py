"""What is made of graded answers, and what a checkpoint must refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.curves import draw_curves
from training.evaluate import Grade
from training.figures import figures
from training.strangers import REAL, strangers
from training.studies import CT_PIXELS, RADIOGRAPH_PIXELS
from umit_pacs.handoffs import Language, Task


def _grade(study: int, measure: str, value: float, **changes) -> Grade:
    facts = {
        "kind": "radiograph",
        "task": Task.DETECTION,
        "language": Language.ENGLISH,
        "target": "nodule",
        "wanted": "True",
        "said": "",
        "question": 0,
        **changes,
    }
    return Grade(study=study, measure=measure, value=value, **facts)


def _by_metric(grades: list[Grade]) -> dict[str, float]:
    return {figure.metric: figure.value for figure in figures(grades, date="2026-01-01")}


def test_f1_counts_nodules_apart():
    grades = [
        _grade(0, "true_positive", 1.0),
        _grade(1, "false_negative", 1.0),
        _grade(0, "true_positive", 1.0, target="cardiomegaly"),
        _grade(1, "true_positive", 1.0, target="cardiomegaly"),
    ]
    found = _by_metric(grades)
    assert found["f1_iou_0.5"] == pytest.approx(6 / 7, abs=1e-4)
    assert found["f1_iou_0.5_nodule"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["f1_iou_0.5_without_nodule"] == 1.0


def test_auc_is_told_for_each_finding():
    truths_and_scores = [(1, 0.9), (1, 0.4), (0, 0.6), (0, 0.1)]
    grades = [_grade(n, "is_there", float(t), confidence=c) for n, (t, c) in enumerate(truths_and_scores)]
    assert _by_metric(grades)["auc_nodule"] == 0.75


def test_the_two_languages_agree_where_the_same_was_said():
    grades = [
        _grade(study, "accuracy", 1.0, task=Task.VQA, language=language, said=said, target=f"{language}")
        for study, pair in enumerate([("0", "0"), ("0", "1")])
        for language, said in zip(Language, pair, strict=True)
    ]
    assert _by_metric(grades)["languages_agree"] == 0.5


def test_the_trivial_answer_is_the_more_frequent_one_of_each_question():
    wanted = ["2:no", "2:no", "1:yes", "1:yes", "1:yes", "2:no"]
    grades = [
        _grade(n, "accuracy", 1.0, task=Task.VQA, target="a" if n < 3 else "b", wanted=w) for n, w in enumerate(wanted)
    ]
    assert _by_metric(grades)["accuracy_of_the_most_frequent_answer"] == pytest.approx(4 / 6, abs=1e-4)


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
    found = list(strangers(_Flat(pixels), np.random.default_rng(0)))
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
