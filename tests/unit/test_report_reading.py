"""Every sentence that a template can write is read back as what it states; other sentences stay text."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.model_fixtures import radiograph, tiny_engine, tiny_folder  # noqa: F401
from tests.tiny_checkpoint import tiny_answers
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.report_reading import report_statements
from umit_pacs.vocabulary import Presence, Side, load_templates

TEMPLATES = [load_templates().by_key(key) for key in ("chest_radiograph", "chest_ct")]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
@pytest.mark.parametrize("language", list(Language))
def test_every_sentence_of_a_template_is_read_back(template, language):
    for key in template.findings:
        for presence in get_args(Presence):
            texts = {side: template.sentence(key, presence, side, language) for side in get_args(Side)}
            for side, text in texts.items():
                read = report_statements(f"  {text.upper()} ", template, language)
                (statement,) = read.statements
                # A sentence without the side's word is read as the one without a side.
                expected = "none" if text == texts["none"] else side
                assert (statement.finding, statement.presence, statement.side) == (key, presence, expected)
                assert not read.free_text


def test_other_sentences_stay_free_text_and_hide_nothing_in_them():
    template = TEMPLATES[0]
    text = "The heart is 2.5 times too big. There is a left pleural effusion.\nWe saw: No pneumothorax is seen. Bye"
    read = report_statements(text, template, Language.ENGLISH)
    assert [(s.finding, s.presence, s.side) for s in read.statements] == [("pleural_effusion", "present", "left")]
    assert read.free_text == ("The heart is 2.5 times too big.", "We saw: No pneumothorax is seen.", "Bye")
    assert not read.says_normal
    first, end = read.spans[0]
    assert text[first:end] == read.statements[0].sentence


def test_the_normal_sentence_states_no_finding():
    template = TEMPLATES[0]
    for language in Language:
        read = report_statements(template.normal_sentence[language], template, language)
        assert read.says_normal
        assert (read.statements, read.free_text) == ((), ())


def test_chinese_sentences_follow_one_another_without_blanks():
    template, language = TEMPLATES[0], Language.CHINESE
    text = template.sentence("consolidation", "present", "left", language) + template.sentence(
        "pneumothorax", "absent", "none", language
    )
    read = report_statements(text + "奇怪。", template, language)
    assert [(s.finding, s.presence, s.side) for s in read.statements] == [
        ("consolidation", "present", "left"),
        ("pneumothorax", "absent", "none"),
    ]
    assert read.free_text == ("奇怪。",)


def test_a_reports_statements_carry_the_probability_of_their_own_tokens(tiny_engine):  # noqa: F811
    orders = [order for order, _, modality, _ in tiny_answers() if modality == "DX" and order.task is Task.REPORT]
    for answer in tiny_engine.answer(radiograph(), orders, load_templates()):
        assert answer.statements, answer.answer_text
        confidences = [statement.confidence for statement in answer.statements]
        assert all(confidence is not None and 0.05 < confidence < 1 for confidence in confidences)
