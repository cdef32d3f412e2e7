"""Sentences of change where an earlier study was read: what the answers about both bear out stays, the rest goes."""

from __future__ import annotations

from datetime import date

import pytest

from tests.unit.guard.studies import findings_of, header_of, report, search, source_of
from tests.unit.test_comparison import reading
from umit_pacs.faults import FaultOutcome, GuardCheck
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.borne_out import read_date
from umit_pacs.result_objects.guard.guard import check_answers
from umit_pacs.result_objects.guard.material import Prior
from umit_pacs.vocabulary import load_templates

EN, ZH = Language.ENGLISH, Language.CHINESE
#: the effusion on the left is new, that on the right is gone, the heart was large before, and nothing else is there.
NOW = {"pleural_effusion": "left", "cardiomegaly": "none", "pneumothorax": "absent", "nodule": "absent"}
THEN = {"pleural_effusion": "right", "cardiomegaly": "none", "pneumothorax": "absent", "nodule": "left"}


def faults(text: str, language: Language = EN, *, is_read: bool = True) -> list[str]:
    """Reasons of the faults of comparison in a report of this one text."""
    answers = [search(finding, what, "chest_radiograph", language) for finding, what in NOW.items()]
    findings = findings_of(report(text, "chest_radiograph", language), *answers)
    priors = (Prior(study_date=date(2025, 6, 1), reading=reading(THEN)),) if is_read else ()
    found = check_answers(findings, source_of(header_of("chest_radiograph")), load_templates(), language, priors)
    about = [fault for fault in found if fault.check is GuardCheck.COMPARISON]
    assert all(fault.outcome is FaultOutcome.REMOVED for fault in about)
    return [fault.reason for fault in about]


BORNE_OUT = [
    ("There is a new left pleural effusion.", EN),
    ("Compared with the previous study, there is a new left pleural effusion.", EN),
    ("New left pleural effusion since 2025-06-01.", EN),
    ("The right pleural effusion is no longer seen.", EN),
    ("Cardiomegaly is again seen.", EN),
    ("Cardiomegaly is still seen compared with the prior radiograph of 1 June 2025.", EN),
    ("No new pneumothorax.", EN),
    ("左侧新出现胸腔积液。", ZH),
    ("与2025-06-01旧片比较，左侧新出现胸腔积液。", ZH),
    ("心影增大仍可见。", ZH),
]
NOT_BORNE_OUT = [
    ("There is a new right pleural effusion.", EN),
    ("New cardiomegaly.", EN),
    ("The left pleural effusion is again seen.", EN),
    ("The pneumothorax has resolved.", EN),
    ("The left pleural effusion has increased.", EN),
    ("New left pleural effusion, larger than before and progressing.", EN),
    ("The cardiac silhouette is unchanged.", EN),
    ("Cardiomegaly is stable.", EN),
    ("New left pleural effusion and new pneumothorax.", EN),
    ("Compared with the previous study there is no significant change.", EN),
    ("右侧新出现胸腔积液。", ZH),
    ("较前片心影增大有所进展。", ZH),
    ("与旧片比较，双肺未见明显变化。", ZH),
]
OTHER_DATES = [
    ("New left pleural effusion since 2025-06-02.", EN),
    ("New left pleural effusion since 3/4/2025.", EN),
    ("Compared with 5 March 2024, there is a new left pleural effusion.", EN),
    ("与2024年6月1日旧片比较，左侧新出现胸腔积液。", ZH),
]


@pytest.mark.parametrize(("text", "language"), BORNE_OUT)
def test_what_both_answers_bear_out_stays(text, language):
    assert faults(text, language) == []


@pytest.mark.parametrize(("text", "language"), [*BORNE_OUT, *NOT_BORNE_OUT, *OTHER_DATES])
def test_without_a_study_that_was_read_every_such_sentence_goes(text, language):
    assert faults(text, language, is_read=False) == ["comparison_without_prior"]


@pytest.mark.parametrize(("text", "language"), NOT_BORNE_OUT)
def test_what_the_answers_do_not_bear_out_goes(text, language):
    assert faults(text, language) == ["comparison_not_borne_out"]


@pytest.mark.parametrize(("text", "language"), OTHER_DATES)
def test_a_date_of_another_study_goes(text, language):
    assert faults(text, language) == ["date_of_another"]


def test_a_prior_of_which_nothing_was_read_bears_nothing_out():
    findings = findings_of(report("The cardiac silhouette is unchanged.", "chest_radiograph", EN))
    prior = Prior(study_date=date(2025, 6, 1))
    (fault,) = check_answers(findings, source_of(header_of("chest_radiograph")), load_templates(), EN, (prior,))
    assert fault.reason == "comparison_not_borne_out"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-06-01", date(2025, 6, 1)),
        ("2025年6月1日", date(2025, 6, 1)),
        ("1st of June 2025", date(2025, 6, 1)),
        ("June 1st, 2025", date(2025, 6, 1)),
        ("13.06.2025", date(2025, 6, 13)),
        ("03/04/2025", None),
        ("2025-13-01", None),
        ("6月1日", None),
    ],
)
def test_dates_are_read_as_reports_write_them(text, expected):
    assert read_date(text) == expected
