"""Text measures in both languages against values worked out by hand or given by the usual programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from umit_pacs.evaluation.short_answers import is_exact, normalised, token_f1
from umit_pacs.evaluation.text_overlap import bleu_counts, cider_d, rouge_l
from umit_pacs.evaluation.tokens import tokens
from umit_pacs.handoffs import Language

ENGLISH_PAIR = (
    "There is a left pleural effusion. No pneumothorax is seen.",
    "No pneumothorax. A small left pleural effusion is seen.",
)
CHINESE_PAIR = ("左侧胸腔积液。未见气胸。", "未见气胸，左侧少量胸腔积液。")


def test_chinese_is_cut_into_characters_and_the_rest_into_words():
    assert tokens("左侧2.5cm Nodule，T1WI。") == ("左", "侧", "2.5", "cm", "nodule", "t", "1", "wi")
    assert tokens("ＣＴ：肋膈角") == ("ct", "肋", "膈", "角")
    assert tokens("¿œdème?") == ("œdème",)


@pytest.mark.parametrize(
    ("said", "right"),
    [("The Left Lung.", "left lung"), ("是的", "是"), ("有", "Yes"), ("没有。", "无"), ("ＭＲＩ", "mri"), ("A", "a")],
)
def test_answers_that_differ_in_form_alone_are_equal(said, right):
    assert is_exact(said, right)


@pytest.mark.parametrize(("said", "right"), [("left", "right"), ("有", "没有"), ("no", "not seen"), ("", "left")])
def test_other_answers_are_not(said, right):
    assert not is_exact(said, right)


def test_token_f1_counts_tokens_as_often_as_they_stand_there():
    # liver, liver against liver, spleen: one in common, two and two.
    assert token_f1("the liver liver", "liver and spleen") == pytest.approx(2 * 1 / 5)
    assert token_f1("右肺下叶", "右肺上叶") == pytest.approx(2 * 3 / 8)
    assert normalised("An image of the Liver") == "image of liver"


def test_rouge_l_is_that_of_rouge_score():
    # rouge-score 0.1.2 (use_stemmer=False); for Chinese with these tokens, as its own drop every character.
    assert rouge_l(*ENGLISH_PAIR) == pytest.approx(0.631578947368421)
    assert rouge_l(*CHINESE_PAIR) == pytest.approx(0.5454545454545454)
    assert rouge_l("", "left") == 0


@pytest.mark.parametrize("language", list(Language))
def test_bleu_is_the_corpus_score_of_sacrebleu(language):
    one, other = ENGLISH_PAIR if language is Language.ENGLISH else CHINESE_PAIR
    said, right = [one, other], [other, one]
    ours = bleu_counts(said, right, language).score(np.arange(2))
    corpus = BLEU(tokenize="zh" if language is Language.CHINESE else "13a").corpus_score(said, [right])
    assert ours == pytest.approx(corpus.score / 100)
    assert 0.1 < ours < 0.9


def test_cider_d_is_what_the_paper_says_worked_out_by_hand():
    """What one of the two references holds weighs log 2, what both hold nothing."""
    scores = cider_d(["x b", "c"], ["x b", "x c"])
    # First: unigrams (x: 0, b: log 2) and the bigram fit: cosine 1 for n = 1, 2 and 0 for n = 3, 4.
    assert scores[0] == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    # Second: "c" against (x: 0, c: log 2) is 1 for n = 1, no bigrams; one token short.
    assert scores[1] == pytest.approx(10 * math.exp(-1 / 72) / 4)


def test_cider_d_counts_no_ngram_more_often_than_the_reference_has_it():
    references = ["effusion on the left", "normal heart"]
    once, twice = (
        cider_d(["effusion", "normal heart"], references),
        cider_d(["effusion effusion", "normal heart"], references),
    )
    # Clipped to one in the dot product, while both stay in the norm: half the cosine.
    longer = math.exp(-(2**2) / 72) / math.exp(-(3**2) / 72)
    assert twice[0] == pytest.approx(once[0] / 2 * longer)


def test_a_flipped_negation_hardly_moves_the_overlap_measures():
    """Why they never stand alone: `report_findings` gives such a report 0."""
    right, flipped = (
        "No pleural effusion is seen in this chest radiograph.",
        "Pleural effusion is seen in this chest radiograph.",
    )
    assert rouge_l(flipped, right) > 0.9
