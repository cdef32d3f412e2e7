"""Which earlier study, and which series of it, a study may be compared with."""

import pytest

from tests.prior_fixtures import PATIENT, match, new_study, series_facts
from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.prior_studies import Patient, SeriesMatch
from umit_pacs.routing.comparable import compared_series, earlier_studies, series_to_compare, series_to_fetch
from umit_pacs.routing.facts import StudyFacts
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
FIVE_YEARS = {"oldest_days": 1826, "modalities": {"CR", "DX"}}


def chosen(*found, **changes):
    return [study.study_instance_uid for study in earlier_studies(found, new_study(**changes), **FIVE_YEARS).studies]


def passed_over(*found, **changes):
    return earlier_studies(found, new_study(**changes), **FIVE_YEARS).passed_over


def test_the_newest_earlier_study_comes_first_and_each_study_once():
    found = [match("2.25.5", "20240101"), match("2.25.7", "20250101"), match("2.25.7", "20250101", peer="other")]
    assert chosen(*found) == ["2.25.7", "2.25.5"]


@pytest.mark.parametrize(
    ("uid", "date", "time", "reason"),
    [
        ("2.25.1", "20260302", "101500", "same_study"),
        ("2.25.2", "20260303", "", "not_earlier"),
        ("2.25.2", "20260302", "101500", "not_earlier"),
        ("2.25.2", "20260302", "", "not_earlier"),
        ("2.25.2", "", "", "not_earlier"),
        ("2.25.2", "19991231", "", "too_old"),
    ],
)
def test_what_is_not_an_earlier_study_has_its_reason(uid, date, time, reason):
    assert passed_over(match(uid, date, time)) == {reason: 1}


def test_an_earlier_study_of_the_same_day_is_known_by_its_time():
    assert chosen(match("2.25.2", "20260302", "0930"), match("2.25.3", "20260302", "101459.999")) == [
        "2.25.3",
        "2.25.2",
    ]


@pytest.mark.parametrize(
    "other",
    [
        Patient(patient_id="PAT-0002", birth_date="19600214"),
        Patient(patient_id="PAT-0001", birth_date="19600215"),
        Patient(patient_id="PAT-0001", issuer="OTHER HOSPITAL", birth_date="19600214"),
    ],
)
def test_a_study_of_another_patient_is_never_chosen(other):
    us = Patient(patient_id="PAT-0001", issuer="HOSPITAL", birth_date="19600214")
    assert passed_over(match("2.25.2", "20250101", patient=other), patient=us) == {"other_patient": 1}


def test_what_a_peer_does_not_say_contradicts_nothing():
    silent = Patient(patient_id="PAT-0001")
    assert chosen(match("2.25.2", "20250101", patient=silent)) == ["2.25.2"]


def test_a_study_without_the_modality_is_passed_over_and_one_that_does_not_say_is_not():
    with_ct = match("2.25.2", "20250101", modalities=("CT", "SR"))
    assert passed_over(with_ct) == {"other_modality": 1}
    assert chosen(match("2.25.2", "20250101", modalities=("SR", "DX")), match("2.25.3", "20240101")) == [
        "2.25.2",
        "2.25.3",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patient": Patient(patient_id="")}, "no_patient_id"),
        ({"patient": Patient(patient_id="PAT*")}, "patient_id_is_a_pattern"),
        ({"patient": Patient(patient_id="A\\B")}, "patient_id_is_a_pattern"),
        ({"study_date": "2026"}, "no_study_date"),
        ({}, ""),
    ],
)
def test_who_cannot_be_asked_about_is_not(changes, reason):
    assert new_study(**changes).why_not_searched == reason


def test_only_series_with_answers_that_can_be_compared_are_looked_for():
    facts = StudyFacts(series=(series_facts("2.25.11"), series_facts("2.25.12")))
    report = TaskOrder(task=Task.REPORT, language=Language.ENGLISH, series_instance_uid=SeriesUID("2.25.11"))
    search = TaskOrder(task=Task.DETECTION, language=Language.ENGLISH, series_instance_uid=SeriesUID("2.25.12"))
    assert [one.series_instance_uid for one in compared_series(facts, [report, search])] == ["2.25.12"]


def test_series_of_the_same_template_are_fetched_and_others_are_not():
    offered = [
        SeriesMatch(series_instance_uid="2.25.21", modality="DX", body_part="CHEST"),
        SeriesMatch(series_instance_uid="2.25.22", modality="CR", body_part="HAND"),
        SeriesMatch(series_instance_uid="2.25.23", modality="SR"),
        SeriesMatch(series_instance_uid="2.25.24", modality="CR"),
    ]
    fetched = series_to_fetch(offered, [series_facts("2.25.11")], TEMPLATES)
    assert [one.series_instance_uid for one in fetched] == ["2.25.24", "2.25.21"]


def test_of_a_study_in_slices_the_most_alike_series_is_fetched():
    new = series_facts("2.25.11", Modality="CT", is_volume=True, number_of_slices=120.0, SeriesDescription="Lung 1.0")
    offered = [
        SeriesMatch(series_instance_uid=uid, modality="CT", body_part="CHEST", description=text, instances=count)
        for uid, text, count in (("2.25.21", "Scout", 2), ("2.25.22", "LUNG 1.0", 400), ("2.25.23", "Soft", 120))
    ]
    assert [one.series_instance_uid for one in series_to_fetch(offered, [new], TEMPLATES)] == ["2.25.22"]


def test_a_lateral_view_is_not_compared_with_a_frontal_one():
    new = [series_facts("2.25.11")]
    lateral, frontal = series_facts("2.25.21", ViewPosition="LL"), series_facts("2.25.22", ViewPosition="PA")
    assert series_to_compare(StudyFacts(series=(lateral,)), new, TEMPLATES) == {}
    assert series_to_compare(StudyFacts(series=(lateral, frontal)), new, TEMPLATES) == {"2.25.11": "2.25.22"}


def test_what_is_never_analysed_is_not_compared():
    kept_out = series_facts("2.25.21")
    own = type(kept_out)(
        series_instance_uid=kept_out.series_instance_uid, values=kept_out.values, kept_out="own_result"
    )
    assert series_to_compare(StudyFacts(series=(own,)), [series_facts("2.25.11")], TEMPLATES) == {}


def test_a_volume_is_compared_with_a_volume_only():
    new = [series_facts("2.25.11", Modality="CT", is_volume=True, number_of_slices=40.0)]
    flat = series_facts("2.25.21", Modality="CT", is_volume=False)
    assert series_to_compare(StudyFacts(series=(flat,)), new, TEMPLATES) == {}


def test_the_patient_is_the_same_where_nothing_contradicts():
    assert not PATIENT.is_other(Patient(patient_id="PAT-0001", issuer="A"))
