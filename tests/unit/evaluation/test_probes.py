"""What the probes change, and how the reaction to them is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.model_fixtures import radiograph, volume
from umit_pacs.evaluation.agreement import agreement, language_pairs
from umit_pacs.evaluation.asking import Asked, ShownTogether
from umit_pacs.evaluation.foreign_pixels import ForeignPixels, body_shown
from umit_pacs.evaluation.grading import FOUND_SHARE, grade
from umit_pacs.evaluation.mirroring import mirrored, side_changes
from umit_pacs.evaluation.probes import Noted, blank, probe_figures, states_a_finding
from umit_pacs.evaluation.rephrasing import reordered, rephrased, without_right_option
from umit_pacs.handoffs import Language, RegionKind, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.umit_model.samples import Sample, SampleTruth
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
EN, ZH = Language.ENGLISH, Language.CHINESE


def order(question: str, language: Language = EN, options: tuple[str, ...] = ()) -> TaskOrder:
    return TaskOrder(
        task=Task.VQA, language=language, series_instance_uid=SeriesUID("1"), question=question, options=options
    )


def asked(task: Task, language: Language = EN, *, sample=None, **answer) -> Asked:
    fields = {"id": f"{task}-{language}", "images": ("a.png",), "template": "chest_radiograph", "extent": (100, 100)}
    if task in (Task.DETECTION, Task.LANDMARK):
        fields |= {"frame": "norm1000", "target": "nodule" if task is Task.DETECTION else "carina"}
    made = Sample(**(fields | {"task": task, "language": language} | (sample or {})))
    return Asked(sample=made, answer=ModelAnswer(order=made.order, **answer))


def boxes(*corners: tuple[float, float, float, float]) -> tuple[ModelRegion, ...]:
    return tuple(
        ModelRegion(kind=RegionKind.BOX, label="nodule", image_index=0, points=((a, b), (c, d)), confidence=0.9)
        for a, b, c, d in corners
    )


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("series", [radiograph(2), volume()], ids=["images", "volume"])
def test_a_blank_picture_keeps_nothing_but_its_mean(series):
    before = [image.pixels for image in series.images] or [series.volume.voxels]
    after = blank(series)
    for old, new in zip(before, [i.pixels for i in after.images] or [after.volume.voxels], strict=True):
        assert new.shape == old.shape
        assert set(new.reshape(-1)) == {round(float(old.mean()))}


def test_mirroring_swaps_columns_alone():
    series = radiograph()
    np.testing.assert_array_equal(mirrored(series).images[0].pixels[:, 0], series.images[0].pixels[:, -1])
    stack = volume()
    np.testing.assert_array_equal(mirrored(stack).volume.voxels[1, :, 0], stack.volume.voxels[1, :, -1])


def test_pixels_of_another_body_part_come_from_the_data_or_from_none(tmp_path):
    chest, leg, other_chest, head_ct = (
        ShownTogether(
            folder=tmp_path,
            samples=(Sample(id=name, task=Task.VQA, language=EN, answer="x", **fields),),
        )
        for name, fields in (
            ("a", {"images": ("a.png",), "modality": "DX", "template": "chest_radiograph"}),
            ("b", {"images": ("b.png",), "modality": "DX", "tags": {"body_part": "LEG"}}),
            ("c", {"images": ("c.png",), "modality": "DX", "template": "chest_radiograph"}),
            ("d", {"volume": ("d.npy",), "modality": "CT", "tags": {"body_part": "HEAD"}}),
        )
    )
    assert body_shown(leg.samples[0]) == ("LEG", "DX")
    found = ForeignPixels.others(chest, [chest, leg, other_chest, head_ct])
    assert found == [leg]
    assert ForeignPixels.others(head_ct, [chest, leg, head_ct]) == []


# --- left and right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        ((70, 10, 90, 30), ["swapped"]),
        ((12, 12, 30, 30), ["kept"]),
        ((40, 60, 60, 80), ["lost"]),
    ],
)
def test_a_box_on_one_side_must_be_on_the_other(after, changes):
    before = asked(Task.DETECTION, regions=boxes((10, 10, 30, 30)))
    assert list(side_changes(before, asked(Task.DETECTION, regions=boxes(after)), TEMPLATES)) == changes


def test_a_box_in_the_middle_is_on_no_side():
    before = asked(Task.DETECTION, regions=boxes((40, 10, 62, 30)))
    assert list(side_changes(before, before, TEMPLATES)) == []


def test_sides_in_reports_and_options_must_change_with_the_pixels():
    left, right = "There is a left pneumothorax.", "There is a right pneumothorax. There is a left consolidation."
    before = asked(Task.REPORT, text=right, sample={"answer": right})
    after = asked(Task.REPORT, text=left, sample={"answer": left})
    assert list(side_changes(before, after, TEMPLATES)) == ["swapped", "lost"]
    options = ("左侧", "右侧", "双侧", "无")
    closed = {"sample": {"options": options, "question": "哪一侧?", "truth": SampleTruth(right_option=0)}}
    first, second, neither = (asked(Task.VQA, ZH, option_index=index, **closed) for index in (0, 1, 3))
    assert list(side_changes(first, second, TEMPLATES)) == ["swapped"]
    assert list(side_changes(first, first, TEMPLATES)) == ["kept"]
    assert list(side_changes(first, neither, TEMPLATES)) == ["lost"]
    assert list(side_changes(neither, first, TEMPLATES)) == []


def test_a_closed_answer_on_the_wrong_side_is_an_error_of_laterality():
    closed = {"options": ("left", "right", "both", "none"), "question": "Which side?"}
    for right, said, expected in ((0, 0, (0.0,)), (0, 1, (1.0,)), (2, 1, (1.0,)), (0, 3, ()), (3, 1, ())):
        sample = closed | {"truth": SampleTruth(right_option=right)}
        graded = grade(asked(Task.VQA, option_index=said, sample=sample), TEMPLATES)
        assert graded.values["laterality_errors"] == expected
        assert graded.values["accuracy"] == (float(right == said),)


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "question", "other"),
    [
        (EN, "Is there a nodule?", "Does this image show a nodule?"),
        (EN, "Is the heart enlarged?", "Does the heart look enlarged?"),
        (EN, "Which side is the pleural effusion on?", "Is the pleural effusion on the left or on the right?"),
        (EN, "How many ribs?", "Looking at this image: How many ribs?"),
        (ZH, "是否有气胸?", "能看到气胸吗?"),
        (ZH, "有肿块吗?", "是否存在肿块?"),
        (ZH, "气胸在哪一侧?", "气胸是在左侧还是右侧?"),
        (ZH, "肺或者心脏哪个是异常的?", "请看这张图像，肺或者心脏哪个是异常的?"),
    ],
)
def test_questions_are_put_in_other_words(language, question, other):
    assert rephrased(order(question, language)).question == other


def test_options_are_reordered_or_lose_the_right_one():
    asked_order = order("Which side?", options=("left", "right", "none"))
    assert reordered(asked_order).options == ("none", "right", "left")
    assert without_right_option(asked_order, 1).options == ("left", "none of the above", "none")
    assert without_right_option(replace(asked_order, language=ZH), 0).options[0] == "以上都不是"


def test_the_share_of_a_probe_has_an_interval_over_studies():
    notes = [Noted(probe="blank", metric="refused", study=str(n), value=1.0) for n in range(10)]
    found = probe_figures(notes)[0]
    assert (found.value, found.high, found.answers) == (1.0, 1.0, 10)
    assert found.low == pytest.approx(0.025**0.1)


# --- agreement ---------------------------------------------------------------------------------------------------


def test_only_the_same_question_of_the_same_truth_is_compared_between_languages():
    truth = {"truth": SampleTruth(boxes={"nodule": ()})}
    one, other = (asked(Task.DETECTION, language, sample=truth) for language in (EN, ZH))
    assert list(language_pairs([one, other])) == [(one, other)]
    elsewhere = asked(Task.DETECTION, ZH, sample={"truth": SampleTruth(boxes={"nodule": (((1, 1), (9, 9)),)})})
    assert list(language_pairs([one, elsewhere])) == []
    assert list(language_pairs([one, other, replace(other)])) == []


def test_agreement_is_about_what_is_said_and_not_about_words():
    english = asked(Task.REPORT, text="There is a left pneumothorax. No consolidation is seen.", sample={"answer": "x"})
    chinese = asked(Task.REPORT, ZH, text="左侧气胸。左侧肺可见实变影。", sample={"answer": "x"})
    assert agreement(english, chinese, TEMPLATES) == 0.5
    near, far = ((50.0, 50.0), (50.0 + 100 * FOUND_SHARE + 1, 50.0))
    points = [
        asked(
            Task.LANDMARK,
            regions=(ModelRegion(kind=RegionKind.POINT, label="", image_index=0, points=(p,), confidence=1),),
        )
        for p in (near, far)
    ]
    assert agreement(points[0], points[0], TEMPLATES) == 1
    assert agreement(points[0], points[1], TEMPLATES) == 0
    some, none = (asked(Task.DETECTION, regions=found) for found in (boxes((1, 1, 9, 9)), ()))
    assert agreement(some, none, TEMPLATES) == 0
    assert agreement(none, none, TEMPLATES) == 1


def test_a_finding_is_stated_by_what_the_reader_sees():
    sure = asked(Task.DETECTION, regions=boxes((1, 1, 9, 9)), presence="present")
    unsure = asked(Task.DETECTION, regions=boxes((1, 1, 9, 9)), presence="uncertain")
    assert states_a_finding(sure, TEMPLATES)
    assert not states_a_finding(unsure, TEMPLATES)
    assert states_a_finding(asked(Task.REPORT, text="Left pneumothorax.", sample={"answer": "x"}), TEMPLATES)
    assert not states_a_finding(asked(Task.REPORT, text="No pneumothorax.", sample={"answer": "x"}), TEMPLATES)
