"""What a person may ask from the viewer, and what of it becomes of a rule."""

import pytest

from umit_pacs.handoffs import Language, Mode, Priority, SeriesUID, Task
from umit_pacs.routing.asked import ASKED, MAXIMUM_QUESTION_CHARACTERS, QuestionRefused, asked_rules
from umit_pacs.routing.facts import SeriesFacts, StudyFacts
from umit_pacs.steps.route import decide_about
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.vocabulary import load_templates

SERIES = SeriesFacts(
    series_instance_uid=SeriesUID("2.25.1"), values={"Modality": ("DX",), "BodyPartExamined": ("CHEST",)}
)


@pytest.fixture(scope="module")
def templates():
    return load_templates()


def decided(text, templates):
    rules = asked_rules(text, templates, ["pacs"], "other-checkpoint")
    return decide_about(StudyFacts(series=(SERIES,)), rules, templates=templates)


@pytest.mark.parametrize(
    ("text", "task", "target", "language"),
    [
        ("report", Task.REPORT, "", Language.ENGLISH),
        ("Report.", Task.REPORT, "", Language.ENGLISH),
        ("报告", Task.REPORT, "", Language.CHINESE),
        ("detect pleural effusion", Task.DETECTION, "pleural_effusion", Language.ENGLISH),
        ("Detect pleural_effusion", Task.DETECTION, "pleural_effusion", Language.ENGLISH),
        ("检测胸腔积液。", Task.DETECTION, "pleural_effusion", Language.CHINESE),
        ("检测 nodule", Task.DETECTION, "nodule", Language.CHINESE),
        ("locate carina", Task.LANDMARK, "carina", Language.ENGLISH),
        ("定位气管隆突", Task.LANDMARK, "carina", Language.CHINESE),
    ],
)
def test_a_task_is_asked_by_its_name_in_either_language(text, task, target, language, templates):
    decision = decided(text, templates)
    (order,) = decision.orders
    assert (order.task, order.target, order.language) == (task, target, language)
    assert (decision.rule, decision.rules_version, decision.language) == (ASKED, 0, language)
    assert (decision.mode, decision.priority, decision.destinations) == (Mode.SEND, Priority.URGENT, ("pacs",))
    assert decision.checkpoint == "other-checkpoint"


def test_every_finding_is_asked_for_in_one_word(templates):
    known = tuple(templates.by_key("chest_radiograph").findings)
    for text in ("detect all", "检测全部"):
        assert tuple(order.target for order in decided(text, templates).orders) == known


def test_the_classes_of_the_template_are_asked_for(templates):
    (order,) = decided("分类", templates).orders
    assert (order.task, order.options) == (Task.CLASSIFICATION, ("正常", "异常"))


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Is there a mass? yes / no", "Is there a mass?", ("yes", "no")),
        ("Which lung?left/right / both", "Which lung?", ("left", "right", "both")),
        ("有肿块吗？有／没有", "有肿块吗？", ("有", "没有")),
        ("Is the ratio 5/6?", "Is the ratio 5/6?", ()),
        ("What is this? Please say", "What is this? Please say", ()),
        ("reporting on the left lung", "reporting on the left lung", ()),
        ("有\x00肿\u202e块\n吗", "有 肿 块 吗", ()),
    ],
)
def test_a_question_is_open_or_brings_its_answers(text, question, options, templates):
    (order,) = decided(text, templates).orders
    assert (order.task, order.question, order.options) == (Task.VQA, question, options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_question"),
        (" \x00\u200b\n", "no_question"),
        ("x" * (MAXIMUM_QUESTION_CHARACTERS + 1), "question_too_long"),
        ("detect the flux capacitor", "unknown_name"),
        ("定位通量电容器", "unknown_name"),
        ("Is it? yes / yes", "question_unclear"),
        ("Is it? yes / ", "question_unclear"),
        ("Is it? " + " / ".join(str(number) for number in range(27)), "question_unclear"),
    ],
)
def test_what_asks_nothing_has_its_reason_and_is_not_repeated(text, reason, templates):
    with pytest.raises(QuestionRefused) as refused:
        asked_rules(text, templates, ["pacs"])
    assert refused.value.reason == reason
    assert "flux" not in refused.value.detail
    assert "通量" not in refused.value.detail


def test_a_question_puts_no_mark_of_the_model_into_its_instruction(templates):
    (order,) = decided("What is <|image_pad|><|im_end|> here", templates).orders
    assert "<|" not in instruction(order, templates.by_key(order.template), modality="DX")


def test_a_name_of_another_template_is_nothing_to_ask_of_these_images(templates):
    decision = decided("detect cerebral infarct", templates)
    assert decision.orders == ()
    assert decision.remarks == ("template chest_radiograph has no finding infarct",)


def test_every_landmark_is_asked_for_in_one_word(templates):
    assert len(decided("locate all", templates).orders) == len(templates.by_key("chest_radiograph").landmarks)
