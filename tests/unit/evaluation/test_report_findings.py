"""Findings in reports of both languages: said, denied, doubted, and on which side."""

from __future__ import annotations

import pytest

from umit_pacs.evaluation.report_findings import outcomes
from umit_pacs.finding_phrases import Stated, read_findings
from umit_pacs.handoffs import Language
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.vocabulary import load_templates

TEMPLATES = [template for template in load_templates().templates if template.findings]
CHEST = load_templates().by_key("chest_radiograph")


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
def test_the_phrase_table_reads_every_sentence_of_every_template(template, language):
    for key, term in template.findings.items():
        for presence in ("present", "absent", "uncertain"):
            sides = ("left", "right", "both") if term.has_side and presence != "absent" else ("none",)
            for side in sides:
                sentence = template.sentence(key, presence, side, language)
                assert read_findings(sentence, language, template) == {key: Stated(presence=presence, side=side)}, (
                    sentence
                )


READINGS = [
    ("No pneumothorax or pleural effusion.", "pneumothorax absent, pleural_effusion absent"),
    (
        "There is no focal consolidation, pleural effusion, or pneumothorax.",
        "consolidation absent, pleural_effusion absent, pneumothorax absent",
    ),
    ("No pneumothorax, small left pleural effusion.", "pneumothorax absent, pleural_effusion present left"),
    (
        "Pneumothorax, effusion, or consolidation are not identified.",
        "pneumothorax absent, pleural_effusion absent, consolidation absent",
    ),
    ("The heart is not enlarged.", "cardiomegaly absent"),
    ("Heart size is normal. The lungs are clear.", "cardiomegaly absent"),
    ("Right apical pneumothorax has resolved.", "pneumothorax absent"),
    ("A left lower lobe consolidation cannot be excluded.", "consolidation uncertain left"),
    ("Cardiomegaly with no evidence of pulmonary edema.", "cardiomegaly present, oedema absent"),
    ("Left and right pleural effusions, unchanged.", "pleural_effusion present both"),
    (
        "Right pneumothorax and small left pleural effusion.",
        "pneumothorax present right, pleural_effusion present left",
    ),
    ("No change in the right pleural effusion.", "pleural_effusion present right"),
    ("Nodule in the right upper lobe; no mass on the left.", "nodule present right"),
    ("Blunting of the left costophrenic angle may represent a small effusion.", "pleural_effusion uncertain left"),
    ("The costophrenic angles are sharp.", "pleural_effusion absent"),
    (
        "Pericardial effusion is present without pleural effusion.",
        "pericardial_effusion present, pleural_effusion absent",
    ),
    ("未见气胸及胸腔积液。", "pneumothorax absent, pleural_effusion absent"),
    ("左侧胸腔少量积液，未见气胸。", "pleural_effusion present left, pneumothorax absent"),
    ("双侧胸腔积液，右肺下叶实变。", "pleural_effusion present both, consolidation present right"),
    ("心影不大，双肺未见明显实变影。", "cardiomegaly absent, consolidation absent"),
    ("左肺结节可能。", "nodule uncertain left"),
    ("右肺中叶肿块，肺癌待排。", "nodule present right"),
    ("心影未见增大。", "cardiomegaly absent"),
    ("右侧气胸已吸收。", "pneumothorax absent"),
    ("双侧肋膈角锐利。", "pleural_effusion absent"),
    ("右侧胸腔积液较前无明显变化。", "pleural_effusion present right"),
    ("左右两侧胸腔积液。", "pleural_effusion present both"),
    ("不能排除左侧气胸。", "pneumothorax uncertain left"),
    ("左侧气胸，不能除外右肺感染。", "pneumothorax present left, pneumonia uncertain right"),
]


@pytest.mark.parametrize(("text", "expected"), READINGS)
def test_reports_in_other_words_are_read(text, expected):
    language = Language.CHINESE if any("\u4e00" <= character <= "\u9fff" for character in text) else Language.ENGLISH
    read = read_findings(text, language)
    found = [
        " ".join([key, said.presence, *([said.side] if said.side != "none" else [])]) for key, said in read.items()
    ]
    assert ", ".join(found) == expected


def test_the_same_word_is_another_finding_in_another_region():
    said = Stated(presence="present", side="left")
    assert read_findings("There is a left mass.", Language.ENGLISH, CHEST) == {"nodule": said}
    assert read_findings("There is a left mass.", Language.ENGLISH, load_templates().by_key("brain_mr")) == {
        "mass": said
    }


@pytest.mark.parametrize("language", list(Language))
def test_the_templates_own_sentences_come_before_the_table(language):
    own = CHEST.sentence("nodule", "absent", "none", language)
    other = {Language.ENGLISH: " Small left effusion, no nodule.", Language.CHINESE: "左侧胸水，未见结节。"}[language]
    assert read_report(own + other, CHEST, language) == {
        "nodule": Stated(presence="absent"),
        "pleural_effusion": Stated(presence="present", side="left"),
    }


PRESENT_LEFT, PRESENT_RIGHT, ABSENT = (
    Stated(presence="present", side="left"),
    Stated(presence="present", side="right"),
    Stated(presence="absent"),
)


def test_each_finding_is_a_hit_missed_made_up_or_flipped():
    wanted = {"nodule": PRESENT_LEFT, "pneumothorax": ABSENT, "consolidation": PRESENT_RIGHT}
    said = {"nodule": PRESENT_LEFT, "pneumothorax": PRESENT_LEFT, "pleural_effusion": ABSENT}
    found = outcomes(wanted, said)
    assert [each.finding for each in found if each.is_hit] == ["nodule"]
    assert [each.finding for each in found if each.is_miss] == ["consolidation"]
    assert [each.finding for each in found if each.is_false_alarm] == ["pneumothorax"]
    assert [each.finding for each in found if each.is_flipped] == ["pneumothorax"]


def test_a_flipped_negation_is_no_hit():
    wanted, said = (
        read_report(text, CHEST, Language.ENGLISH)
        for text in ("Large left pleural effusion.", "No large left pleural effusion.")
    )
    (found,) = outcomes(wanted, said)
    assert (found.is_hit, found.is_miss, found.is_flipped) == (False, True, True)


def test_the_wrong_side_is_counted_on_its_own():
    both = Stated(presence="present", side="both")
    doubtful = Stated(presence="uncertain", side="left")
    sideless = Stated(presence="present")
    pairs = [(PRESENT_LEFT, PRESENT_RIGHT), (both, PRESENT_LEFT), (PRESENT_LEFT, doubtful), (PRESENT_LEFT, sideless)]
    found = [each for wanted, said in pairs for each in outcomes({"nodule": wanted}, {"nodule": said})]
    found += outcomes({"nodule": PRESENT_LEFT}, {"nodule": ABSENT})
    found += outcomes({"cardiomegaly": sideless}, {"cardiomegaly": sideless})
    assert [each.has_sides for each in found] == [True, True, True, True, False, False]
    assert [each.is_on_wrong_side for each in found] == [True, True, False, False, False, False]
    assert [each.is_right for each in found] == [False, False, False, True, False, True]
