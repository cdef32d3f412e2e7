"""Answers are read in every form that UMIT writes them, and never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.umit_model.answers import (
    REASONS,
    ReadBoxes,
    ReadOption,
    ReadPoint,
    boxes_answer,
    closed_answer,
    point_answer,
    read_boxes,
    read_closed,
    read_free_text,
    read_point,
)

EN, ZH = Language.ENGLISH, Language.CHINESE
YES_NO = ("yes", "no")
THOUSAND = (1000, 1000)
VOXELS = (255, 255, 31)


@pytest.mark.parametrize(
    ("text", "options", "index"),
    [
        ("1:yes", YES_NO, 0),
        ("2:no", YES_NO, 1),
        ("2：no", YES_NO, 1),
        ("２：ｎｏ", YES_NO, 1),
        (" 2 : no \n", YES_NO, 1),
        ("2", YES_NO, 1),
        ("2.", YES_NO, 1),
        ("2:", YES_NO, 1),
        ("(2) ", YES_NO, 1),
        ("No", YES_NO, 1),
        ("no.", YES_NO, 1),
        ("2：心脏", ("肺", "心脏"), 1),
        ("心脏", ("肺", "心脏"), 1),
        ("心脏。", ("肺", "心脏"), 1),
        ("2、心脏", ("肺", "心脏"), 1),
        ("2:no<|im_end|>", YES_NO, 1),
        ("2:left  upper\nlobe", ("right", "left upper lobe"), 1),
        ("2: 1:5 ratio", ("1:4 ratio", "1:5 ratio"), 1),
        ("1:5 ratio", ("1:4 ratio", "1:5 ratio"), 1),
        ("3", ("1", "2", "3"), 2),
    ],
)
def test_closed_answers_are_read_with_and_without_index_and_text(text, options, index):
    assert read_closed(text, options, Task.VQA) == ReadOption(index=index)


def test_classification_counts_from_zero_and_questions_from_one():
    assert read_closed("1:no", YES_NO, Task.CLASSIFICATION) == ReadOption(index=1)
    assert read_closed("0", YES_NO, Task.CLASSIFICATION) == ReadOption(index=0)
    assert read_closed("0", YES_NO, Task.VQA) == Abstention(reason="unknown_option", detail="1 characters")


def test_an_option_cut_off_after_its_index_is_read_and_said_to_be_mended():
    options = ("normal", "pneumonia")
    assert read_closed("1:pneum", options, Task.CLASSIFICATION) == ReadOption(index=1, repairs=("cut_off",))


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("", YES_NO, "empty_answer"),
        (" <|im_end|> ", YES_NO, "empty_answer"),
        ("3:maybe", YES_NO, "unknown_option"),
        ("7", YES_NO, "unknown_option"),
        ("maybe", YES_NO, "unknown_option"),
        ("1:yes 2:no", YES_NO, "unknown_option"),
        ("ye", YES_NO, "unknown_option"),
        ("1:no", YES_NO, "index_contradicts_text"),
        ("1:normality", ("normal", "x"), "unknown_option"),
        ("2", ("2", "3"), "ambiguous_option"),
        ("yes", ("yes", "Yes"), "ambiguous_option"),
        ("9999999999", YES_NO, "unknown_option"),
    ],
)
def test_a_closed_answer_that_is_no_option_is_not_guessed(text, options, reason):
    read = read_closed(text, options, Task.VQA)
    assert isinstance(read, Abstention)
    assert read.reason == reason


def box(*values):
    half = len(values) // 2
    return tuple(map(float, values[:half])), tuple(map(float, values[half:]))


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<|box_start|>(604,241),(839,782)<|box_end|>", [box(604, 241, 839, 782)]),
        ("(604,241),(839,782)", [box(604, 241, 839, 782)]),
        ("（604，241），（839，782）", [box(604, 241, 839, 782)]),
        ("[604, 241, 839, 782]", [box(604, 241, 839, 782)]),
        ("[[604,241],[839,782]]", [box(604, 241, 839, 782)]),
        ("[ ( 604 , 241 ) , ( 839 , 782 ) ].", [box(604, 241, 839, 782)]),
        (
            "<|object_ref_start|> pneumonia 2<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
            [box(1, 2, 3, 4)],
        ),
        (
            "<|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>",
            [box(1, 2, 3, 4), box(5, 6, 7, 8)],
        ),
        ("(1,2),(3,4);\n(5,6),(7,8)", [box(1, 2, 3, 4), box(5, 6, 7, 8)]),
        ("(1,2),(3,4),(1,2),(3,4)", [box(1, 2, 3, 4)]),
        ("(1.5,2),(3,4.25)", [box(1.5, 2, 3, 4.25)]),
        ("none", []),
        ("None.", []),
        ("无", []),
        ("无。", []),
        ("[]", []),
        ("<|box_start|><|box_end|>", []),
    ],
)
def test_boxes_are_read_in_every_form(text, boxes):
    assert read_boxes(text, THOUSAND) == ReadBoxes(boxes=tuple(boxes))


@pytest.mark.parametrize("text", ["[(32,157,19),(112,219,25)]", "[[32,157,19],[112,219,25]]", "(32,157,19,112,219,25)"])
def test_boxes_in_volumes_are_read_in_every_form(text):
    assert read_boxes(text, VOXELS, includes_last=True) == ReadBoxes(boxes=(box(32, 157, 19, 112, 219, 25),))


def test_a_box_of_one_slice_is_a_box_only_where_both_ends_count():
    assert read_boxes("[(3,5,7),(9,9,7)]", VOXELS, includes_last=True) == ReadBoxes(boxes=(box(3, 5, 7, 9, 9, 7),))
    assert read_boxes("[(3,5,7),(9,9,7)]", VOXELS) == Abstention(reason="empty_box")


@pytest.mark.parametrize(
    ("text", "boxes", "repairs"),
    [
        ("(839,782),(604,241)", [box(604, 241, 839, 782)], ("corners_swapped",)),
        ("(604,782),(839,241)", [box(604, 241, 839, 782)], ("corners_swapped",)),
        ("(-3,241),(1004,782)", [box(0, 241, 1000, 782)], ("clipped",)),
        ("(1,2),(3,4),(5,6", [box(1, 2, 3, 4)], ("cut_off",)),
        ("(1,2),(3,4),(5,6),", [box(1, 2, 3, 4)], ("cut_off",)),
        ("<|box_start|>(1,2),(3,4)<|box_end|><|box_sta", [box(1, 2, 3, 4)], ()),
        ("(1,2),(3,4),(", [box(1, 2, 3, 4)], ("cut_off",)),
    ],
)
def test_small_faults_of_boxes_are_mended_and_named(text, boxes, repairs):
    assert read_boxes(text, THOUSAND) == ReadBoxes(boxes=tuple(boxes), repairs=repairs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_answer"),
        ("   ", "empty_answer"),
        ("there is a mass", "unreadable_coordinates"),
        ("no (1,2),(3,4)", "unreadable_coordinates"),
        ("604,241,839,782", "unreadable_coordinates"),
        ("(604,241", "unreadable_coordinates"),
        ("(604,241)", "wrong_number_of_coordinates"),
        ("(604,241),(839,78", "wrong_number_of_coordinates"),
        ("(1,2,3),(4,5,6)", "wrong_number_of_coordinates"),
        ("(1,2),(3,4,5,6)", "wrong_number_of_coordinates"),
        ("(604,241),(839,1500)", "coordinates_out_of_range"),
        ("(-300,241),(839,500)", "coordinates_out_of_range"),
        ("(604,241),(604,782)", "empty_box"),
        ("(1,2),(3,4)<|image_pad|>", "broken_text"),
        ("(1,2),(3,4)\ufffd", "broken_text"),
        ("".join(f"({i},2),({i + 1},4)" for i in range(300)), "unreadable_coordinates"),
    ],
)
def test_what_is_no_box_is_refused_with_its_reason(text, reason):
    read = read_boxes(text, THOUSAND)
    assert isinstance(read, Abstention)
    assert read.reason == reason


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("[253,610]", (253.0, 610.0)),
        ("(253, 610)", (253.0, 610.0)),
        (" 253 , 610 ", (253.0, 610.0)),
        ("【253,610】".replace("【", "［").replace("】", "］"), (253.0, 610.0)),
        ("<|box_start|>(253,610)<|box_end|>", (253.0, 610.0)),
        ("[253,610],[253,610]", (253.0, 610.0)),
        ("none", None),
        ("无", None),
    ],
)
def test_points_are_read_in_every_form(text, point):
    assert read_point(text, THOUSAND) == ReadPoint(point=point)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_answer"),
        ("[253,610],[1,2]", "several_points"),
        ("[253]", "wrong_number_of_coordinates"),
        ("[253,61", "unreadable_coordinates"),
        ("[253,2000]", "coordinates_out_of_range"),
        ("the carina", "unreadable_coordinates"),
    ],
)
def test_what_is_no_point_is_refused_with_its_reason(text, reason):
    read = read_point(text, THOUSAND)
    assert isinstance(read, Abstention)
    assert read.reason == reason


def test_free_text_loses_only_blanks():
    assert read_free_text("  No  effusion.\n\n Normal heart. ") == "No effusion.\nNormal heart."
    assert read_free_text("双肺清晰。") == "双肺清晰。"
    for text, reason in [("", "empty_answer"), ("a\ufffdb", "broken_text"), ("a<|im_start|>", "broken_text")]:
        assert read_free_text(text) == Abstention(reason=reason)
    assert read_free_text("a\x00b") == Abstention(reason="broken_text")


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("task", [Task.VQA, Task.CLASSIFICATION])
def test_written_options_are_read_back(task, language):
    options = ("肺", "left lung", "12", "yes: maybe")
    for index in range(len(options)):
        written = closed_answer(index, options, task, language)
        assert read_closed(written, options, task) == ReadOption(index=index)


@pytest.mark.parametrize("language", list(Language))
def test_written_places_are_read_back(language):
    flat = [((1, 2), (3, 4)), ((0, 0), (1000, 1000))]
    deep = [((1, 2, 3), (3, 4, 5)), ((0, 0, 0), (255, 255, 31))]
    for boxes, largest in ((flat, THOUSAND), (deep, VOXELS), ([], THOUSAND), ([], VOXELS)):
        read = read_boxes(boxes_answer(boxes, language), largest)
        assert read == ReadBoxes(boxes=tuple(box(*low, *high) for low, high in boxes))
    assert read_point(point_answer((253, 610), language), THOUSAND) == ReadPoint(point=(253.0, 610.0))
    assert read_point(point_answer(None, language), THOUSAND) == ReadPoint(point=None)


ANYTHING = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="0123456789()[]<|>,.;:：（，） -boxstartend_无none\n", max_size=80),
    st.lists(
        st.sampled_from(["(", ")", "[", "]", ",", " ", "<|box_start|>", "<|box_end|>", "12", "-5", "999999999", "1e9"]),
        max_size=30,
    ).map("".join),
)


@given(ANYTHING, st.sampled_from([THOUSAND, VOXELS]))
def test_reading_never_raises_and_never_leaves_the_frame(text, largest):
    read = read_boxes(text, largest, includes_last=len(largest) == 3)
    if isinstance(read, Abstention):
        assert read.reason in REASONS
    else:
        for low, high in read.boxes:
            for a, b, end in zip(low, high, largest, strict=True):
                assert 0 <= a <= b <= end
    point = read_point(text, THOUSAND)
    if isinstance(point, Abstention):
        assert point.reason in REASONS
    elif point.point is not None:
        assert all(0 <= value <= 1000 for value in point.point)
    free = read_free_text(text)
    assert isinstance(free, str) or free.reason in REASONS


@given(
    ANYTHING, st.lists(st.text(min_size=1, max_size=10), max_size=5), st.sampled_from([Task.VQA, Task.CLASSIFICATION])
)
def test_reading_an_option_never_raises_and_names_one_that_is_there(text, options, task):
    read = read_closed(text, options, task)
    if isinstance(read, Abstention):
        assert read.reason in REASONS
    else:
        assert 0 <= read.index < len(options)
