"""Every check of the answers of one study, the gravest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
from umit_pacs.handoffs import Findings, Language
from umit_pacs.result_objects.guard.content import check_body_part, check_comparison, check_measurement, check_scope
from umit_pacs.result_objects.guard.identity import identity_of
from umit_pacs.result_objects.guard.laterality import check_laterality
from umit_pacs.result_objects.guard.material import Material, Person, Prior, material_of
from umit_pacs.result_objects.guard.negation import check_negation
from umit_pacs.result_objects.guard.person import check_age, check_identity, check_sex
from umit_pacs.result_objects.guard.wording import check_instruction, check_language, check_repetition
from umit_pacs.result_objects.reading import read_findings
from umit_pacs.result_objects.sources import SourceStudy, age_years, header_text
from umit_pacs.vocabulary import TemplateLibrary

Check = Callable[[Material], Iterable[Fault]]

CHECKS: dict[GuardCheck, Check] = {
    GuardCheck.IDENTITY: check_identity,
    GuardCheck.INSTRUCTION: check_instruction,
    GuardCheck.LATERALITY: check_laterality,
    GuardCheck.NEGATION: check_negation,
    GuardCheck.SEX: check_sex,
    GuardCheck.AGE: check_age,
    GuardCheck.BODY_PART: check_body_part,
    GuardCheck.COMPARISON: check_comparison,
    GuardCheck.MEASUREMENT: check_measurement,
    GuardCheck.SCOPE: check_scope,
    GuardCheck.LANGUAGE: check_language,
    GuardCheck.REPETITION: check_repetition,
}
_ORDER = {outcome: rank for rank, outcome in enumerate(reversed(FaultOutcome))}


def check_answers(
    findings: Findings,
    source: SourceStudy,
    templates: TemplateLibrary,
    language: Language,
    priors: tuple[Prior, ...] = (),
) -> tuple[Fault, ...]:
    """The faults of all answers, those that hold the draft back first, then those that are left out.

    priors: earlier studies that were really read; without any, nothing may be compared.
    """
    person = person_of(source)
    series = read_findings(findings, source, templates, templates.in_language(language))
    materials = [material_of(one, language, person, priors) for one in series]
    return tuple(sorted(_faults(materials), key=lambda fault: _ORDER[fault.outcome]))


def person_of(source: SourceStudy) -> Person:
    """What the header says about the patient."""
    return Person(
        sex=header_text(source.header, "PatientSex").upper(),
        age_years=age_years(source.header),
        identity=identity_of(source.header),
    )


def _faults(materials: Iterable[Material]) -> Iterator[Fault]:
    for material in materials:
        for check in CHECKS.values():
            yield from check(material)
