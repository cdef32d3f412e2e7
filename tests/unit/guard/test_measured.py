"""A number in the text stays exactly when the node measured it of the region that the sentence is about."""

from __future__ import annotations

import pytest

from tests.unit.guard.studies import findings_of, header_of, report, search, source_of
from umit_pacs.faults import Fault, GuardCheck
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.guard import check_answers
from umit_pacs.vocabulary import load_templates

NODULE = {"longest_diameter": 23.2, "volume": 6.08, "mean_attenuation": -31.4}
LESION = {"suv_max": 7.41, "metabolic_volume": 12.3}


def faults_of(text: str, language: Language, *searches: object, template: str = "chest_ct") -> tuple[Fault, ...]:
    findings = findings_of(report(text, template, language), *searches)  # type: ignore[arg-type]
    return check_answers(findings, source_of(header_of(template)), load_templates(), language)


@pytest.mark.parametrize(
    "text",
    [
        "A nodule of 2.3 cm is seen in the left lung.",
        "A 23 mm nodule is seen in the left lung.",
        "A 23-mm nodule is seen in the left lung.",
        "There is a left nodule; volume 6.1 mL.",
        "There is a left nodule of 23 mm and 6.1 ml.",
        "The left nodule has a volume of 6 cm3.",
        "The left nodule measures 2 centimetres.",
        "The left nodule has an attenuation of -31 HU.",
        "It measures 2.3 cm.",
    ],
)
def test_what_was_measured_may_be_said(text):
    assert faults_of(text, Language.ENGLISH, search("nodule", "left", "chest_ct", Language.ENGLISH, NODULE)) == ()


@pytest.mark.parametrize(
    "text", ["左肺见结节影，直径约2.3厘米。", "左肺见结节影，大小约23mm，体积6.1毫升。", "左肺结节CT值约-31HU。"]
)
def test_what_was_measured_may_be_said_in_chinese(text):
    assert faults_of(text, Language.CHINESE, search("nodule", "left", "chest_ct", Language.CHINESE, NODULE)) == ()


@pytest.mark.parametrize(
    "text",
    ["Focal FDG uptake in the left lung with SUVmax 7.4.", "Left lung lesion, SUVmax of 7.4, volume 12.3 ml."],
)
def test_the_maximum_uptake_that_was_measured_may_be_said(text):
    found = search("lung_lesion", "left", "fdg_pet_ct", Language.ENGLISH, LESION)
    assert faults_of(text, Language.ENGLISH, found, template="fdg_pet_ct") == ()


@pytest.mark.parametrize(
    "text",
    [
        "A nodule of 2.4 cm is seen in the left lung.",
        "A nodule of 23 cm is seen in the left lung.",
        "A 23 mm nodule with a volume of 7 mL is seen in the left lung.",
        "A nodule of 2.3 cm2 is seen in the left lung.",
        "A nodule of 6.1 mm is seen in the left lung.",
        "Two left nodules of 12 and 23 mm are seen.",
        "The left nodule measures two centimetres.",
        "The left nodule has an attenuation of 31 HU.",
        "The left nodule has grown by 23 %.",
        "No nodule of 23 mm is seen.",
    ],
)
def test_what_was_not_measured_may_not(text):
    found = faults_of(text, Language.ENGLISH, search("nodule", "left", "chest_ct", Language.ENGLISH, NODULE))
    assert GuardCheck.MEASUREMENT in {fault.check for fault in found}


def test_a_number_belongs_to_the_side_that_it_was_measured_on():
    searches = [
        search("nodule", side, "chest_ct", Language.ENGLISH, {"longest_diameter": size})
        for side, size in (("left", 23.0), ("right", 11.0))
    ]
    assert faults_of("The right nodule measures 11 mm.", Language.ENGLISH, *searches) == ()
    found = faults_of("The left nodule measures 11 mm.", Language.ENGLISH, *searches)
    assert GuardCheck.MEASUREMENT in {fault.check for fault in found}


def test_without_a_measurement_every_number_goes():
    found = search("nodule", "left", "chest_ct", Language.ENGLISH)
    (fault,) = faults_of("A nodule of 2.3 cm is seen in the left lung.", Language.ENGLISH, found)
    assert fault.reason == "measurement_without_object"
