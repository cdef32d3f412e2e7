"""What the checks look at: the sentences of one series' answers, what else was answered, and what the header says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
from umit_pacs.finding_phrases import Stated, read_findings
from umit_pacs.handoffs import Language
from umit_pacs.prior_studies import PriorReading
from umit_pacs.result_objects.comparison import FindingChange, changes_of
from umit_pacs.result_objects.guard.identity import Identity
from umit_pacs.result_objects.guard.words import GuardWords, guard_words
from umit_pacs.result_objects.reading import ReadSeries
from umit_pacs.result_objects.statements import Statement, sentences_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """An earlier study that was really read."""

    study_date: date
    #: what the model read in it; None bears no comparison out.
    reading: PriorReading | None = None

    def changes_of(self, series: ReadSeries) -> tuple[FindingChange, ...]:
        """What became of the findings of one series since; () where it is not compared."""
        uid = series.source.series_instance_uid
        earlier = self.reading.compared_with(uid) if self.reading is not None else None
        return changes_of(series, earlier) if earlier is not None else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """What the header says about the patient that an answer can contradict."""

    #: M, F, O, or "" when it is not said.
    sex: str
    age_years: float | None
    identity: Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """One sentence in the model's own words."""

    #: 0-based position in Findings.results.
    result_index: int
    #: 0-based position in the answer.
    index: int
    text: str
    #: what it states, where it is one of the template's own sentences in the language of the draft.
    statement: Statement | None
    #: what it states about each finding, read by phrases; of a template's sentence: the one statement.
    stated: dict[str, Stated]

    @property
    def is_known(self) -> bool:
        """One of the template's own sentences, which can hold no word that the template did not bring."""
        return self.statement is not None

    def fault(
        self,
        check: GuardCheck,
        reason: str,
        outcome: FaultOutcome = FaultOutcome.REMOVED,
        *,
        subjects: tuple[str, ...] = (),
    ) -> Fault:
        """A fault of this sentence, about the findings that it names and about `subjects`."""
        return Fault(
            check=check,
            reason=reason,
            outcome=outcome,
            result_index=self.result_index,
            sentence_index=self.index,
            subjects=tuple(dict.fromkeys((*self.stated, *subjects))),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """One series for the checks."""

    series: ReadSeries
    language: Language
    words: GuardWords
    person: Person
    priors: tuple[Prior, ...]
    sentences: tuple[Sentence, ...]

    @property
    def free_sentences(self) -> Iterator[Sentence]:
        """Those that are not the template's own."""
        return (sentence for sentence in self.sentences if not sentence.is_known)


def material_of(series: ReadSeries, language: Language, person: Person, priors: tuple[Prior, ...]) -> Material:
    """The material of one series."""
    return Material(
        series=series,
        language=language,
        words=guard_words(language),
        person=person,
        priors=priors,
        sentences=tuple(_sentences(series, language)),
    )


def _sentences(series: ReadSeries, language: Language) -> Iterator[Sentence]:
    for read in series.results:
        result = read.result
        if result.abstention is not None or not result.text or result.option_index is not None:
            continue
        known = read.report.known if read.report is not None else {}
        for index, text in enumerate(sentences_of(result.text)):
            statement = known.get(index)
            if statement is not None:
                stated = {statement.finding: Stated(presence=statement.presence, side=statement.side)}
            else:
                stated = read_findings(text, language, read.template)
            yield Sentence(
                result_index=read.index,
                index=index,
                text=text,
                statement=statement,
                stated={key: value for key, value in stated.items() if key},
            )
