"""Samples asked through the served path: what the tiny checkpoint says by heart is graded against known truths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.model_fixtures import tiny_settings
from tests.unit.evaluation.tiny_data import EDGE_PX, SAID_BOX, SAID_BOX_3D, SAID_POINT
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.evaluation.asking import ask, together
from umit_pacs.evaluation.evaluate import EvaluationRequest, evaluate, read_data
from umit_pacs.evaluation.grading import asked_about, grade
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, read_samples
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()


def _figure(evaluated, metric: str, task: Task, **about) -> float:
    about = {"language": None, "finding": ""} | about
    found = [
        figure.value
        for figure in evaluated[0].figures
        if (figure.metric, figure.task) == (metric, task) and all(getattr(figure, k) == v for k, v in about.items())
    ]
    assert len(found) == 1, found
    return found[0]


def test_options_get_probabilities_that_sum_to_one(evaluated):
    closed = [each for each in evaluated[1] if each.asked.sample.options]
    assert closed
    for each in closed:
        answer = each.asked.answer
        assert sum(answer.option_probabilities) == pytest.approx(1)
        assert answer.option_probabilities[answer.option_index] == pytest.approx(answer.confidence)
        assert len(answer.option_probabilities) == len(answer.order.options)


def test_places_come_back_in_stored_pixels(evaluated):
    by_id = {each.asked.sample.id: each.asked.answer for each in evaluated[1]}
    box = by_id["a-detection-en-nodule"].regions[0].points
    np.testing.assert_allclose(box, SAID_BOX, atol=1e-6)
    np.testing.assert_allclose(by_id["a-landmark-zh-carina"].regions[0].points[0], SAID_POINT, atol=1e-6)
    np.testing.assert_allclose(by_id["c-zh"].regions[0].points, SAID_BOX_3D, atol=1e-6)


def test_pixels_that_are_not_square_are_padded_and_led_back(tiny_engine, data):
    sample = next(s for s in read_samples(data) if s.id == "a-detection-en-nodule")
    wide = replace(sample, spacing_mm=(0.5, 0.25))
    said = ask(tiny_engine, together(data.parent, [wide])[0], TEMPLATES)[0].answer.regions[0].points
    # Half as high as wide in millimetres: the prepared square holds the picture in its middle half.
    expected = [[0.219, (0.304 - 0.25) * 2], [0.475, (0.683 - 0.25) * 2]]
    np.testing.assert_allclose(said, np.array(expected) * EDGE_PX, atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "task", "value"),
    [
        ("accuracy", Task.CLASSIFICATION, 0.5),
        ("accuracy", Task.VQA, 0.5),
        ("accuracy_of_the_most_frequent_answer", Task.VQA, 0.5),
        # Of a, nodule and no effusion are right; of b the nodule is said to be there, the effusion is missed.
        ("presence_accuracy", Task.DETECTION, 0.75),
        # One of two nodules is found, one box is made up, one effusion is missed: 2 * 1 / (2 * 1 + 1 + 2).
        ("f1_iou_0.5", Task.DETECTION, 0.4),
        ("iou_of_matched_boxes", Task.DETECTION, 1.0),
        ("iou_of_true_boxes", Task.DETECTION, 1 / 3),
        ("f1_iou_0.5", Task.DETECTION_3D, 1.0),
        ("iou_of_true_boxes", Task.DETECTION_3D, 1.0),
        # a: exact; b: twelve pixels of half a millimetre.
        ("error_mm", Task.LANDMARK, 3.0),
        ("within_2_mm", Task.LANDMARK, 0.5),
        ("error_of_width", Task.LANDMARK, 6 / EDGE_PX),
        ("made_up", Task.LANDMARK, 1.0),
        # a: the nodule; b: the nodule on the wrong side, the effusion missed: 2 * 2 / (2 * 2 + 1).
        ("finding_f1", Task.REPORT, 0.8),
        ("laterality_errors", Task.REPORT, 0.5),
        ("negation_flips", Task.REPORT, 0.25),
        ("abstained", Task.REPORT, 0.0),
        ("language_agreement", Task.VQA, 1.0),
        ("language_agreement", Task.DETECTION, 1.0),
        ("language_agreement", Task.REPORT, 1.0),
    ],
)
def test_figures_are_what_the_truths_make_them(evaluated, metric, task, value):
    assert _figure(evaluated, metric, task) == pytest.approx(value)


def test_figures_are_broken_down_by_language_and_finding(evaluated):
    assert _figure(evaluated, "f1_iou_0.5", Task.DETECTION, finding="nodule") == pytest.approx(0.5)
    assert _figure(evaluated, "ap50", Task.DETECTION, finding="pleural_effusion") == 0
    assert _figure(evaluated, "laterality_errors", Task.REPORT, finding="nodule") == pytest.approx(0.5)
    # "Is there a mass?" is about the template's nodule.
    assert _figure(evaluated, "accuracy", Task.VQA, finding="nodule") == 0.5
    for language in Language:
        assert _figure(evaluated, "bleu_4", Task.REPORT, language=language) == pytest.approx(1)
        assert _figure(evaluated, "accuracy", Task.VQA, language=language) == 0.5


def test_a_question_is_about_its_target_its_kind_or_the_one_finding_it_names():
    chest = TEMPLATES.by_key("chest_radiograph")
    blank = Sample(id="a", images=("a.png",), task=Task.VQA, language=Language.CHINESE, answer="x")
    for fields, about in (
        ({"question": "是否有气胸?"}, "pneumothorax"),
        ({"question": "气胸和胸腔积液哪个在左侧?"}, ""),
        ({"question": "是否有气胸?", "tags": {"content_type": "Abnormality"}}, "Abnormality"),
        ({"question": "哪一侧异常?", "target": "nodule"}, "nodule"),
        ({"question": "哪一侧异常?", "tags": {"content_type": ""}}, ""),
    ):
        assert asked_about(replace(blank, **fields), chest) == about


def test_probes_tell_that_this_checkpoint_does_not_look(evaluated):
    """It says the same of every image: nothing it says can be right about a blank or a mirrored one."""
    found = {(each.probe, each.metric): each.value for each in evaluated[0].probes}
    assert found["blank", "refused"] == 0
    assert found["blank", "finding_stated"] > 0.5
    assert found["mirrored", "side_kept"] == 1
    assert found["mirrored", "side_swapped"] == 0
    assert {probe for probe, _ in found} >= {"blank", "mirrored", "rephrased", "reordered"}


def test_what_the_checkpoint_is_not_made_for_is_an_abstention(tiny_engine, data):
    sample = next(s for s in read_samples(data) if s.id == "a-report-en-")
    for changes, reason in (({"modality": "US"}, "not_trained_for"), ({"modality": "CT"}, "not_prepared")):
        shown = together(data.parent, [replace(sample, **changes)])[0]
        asked = ask(tiny_engine, shown, TEMPLATES)[0]
        assert asked.answer.abstention.reason == reason
        assert grade(asked, TEMPLATES).values == {"abstained": (1.0,)}


def test_a_picture_that_is_missing_is_counted_and_the_rest_goes_on(tiny_engine, tiny_folder, data):
    shown = read_data(data)
    gone = replace(shown[0], samples=tuple(replace(s, images=("gone.png",)) for s in shown[0].samples))
    request = EvaluationRequest(replicates=2, probe_pictures=0)
    found, grades = evaluate(tiny_engine, [gone, shown[2]], TEMPLATES, tiny_settings(tiny_folder), request)
    assert found.unusable == {"unreadable_picture": 1}
    assert {each.asked.sample.study for each in grades} == {"c"}


def test_data_is_read_by_split_and_limit(data):
    assert len(read_data(data)) == 3
    assert len(read_data(data.parent, limit=2)) == 2
    with pytest.raises(InvalidConfiguration, match="no samples of the split 'train'"):
        read_data(data, split="train")
