"""What the draft states without marking a region, as questions and coded answers."""

from __future__ import annotations

from collections.abc import Iterator

from umit_pacs.handoffs import Task
from umit_pacs.result_objects.draft import CodedAnswer
from umit_pacs.result_objects.reading import ReadResult, ReadSeries
from umit_pacs.result_objects.statements import Statement, class_key
from umit_pacs.vocabulary import Coding, Presence, Words

#: CID 240 (Present-Absent).
PRESENCES: dict[Presence, Coding] = {
    "present": Coding(value="52101004", scheme="SCT", meaning="Present"),
    "absent": Coding(value="272519000", scheme="SCT", meaning="Absent"),
    "uncertain": Coding(value="373068000", scheme="SCT", meaning="Undetermined"),
}
_CLASSIFICATION = Coding(value="classification", scheme="99UMIT", meaning="Classification")
_QUESTION = Coding(value="question", scheme="99UMIT", meaning="Question")


def coded_answers(series: tuple[ReadSeries, ...], words: Words) -> tuple[CodedAnswer, ...]:
    """The answers in the order of the orders; a finding once for each series, as detected before as reported."""
    found: list[CodedAnswer] = []
    for one in series:
        marked = {read.finding for read in one.results if read.markings}
        detected = {read.finding for read in one.results if read.finding}
        for read in one.results:
            if read.result.abstention is None and not read.markings:
                known = marked if read.report is None else detected
                found += _of_result(read, known, words)
    return tuple(found)


def _of_result(read: ReadResult, known: set[str], words: Words) -> Iterator[CodedAnswer]:
    result, order = read.result, read.result.order
    if order.task is Task.CLASSIFICATION and (key := class_key(result, read.template)) is not None:
        assert read.template.classification is not None
        term = read.template.classification.classes[key]
        yield CodedAnswer(
            question=_CLASSIFICATION,
            question_text=order.question,
            answer=term.code,
            answer_text=term.names[words.language],
            confidence=result.confidence,
            frames=result.frames,
        )
    elif order.task in (Task.VQA, Task.CLASSIFICATION):
        yield CodedAnswer(
            question=_QUESTION,
            question_text=order.question,
            answer_text=result.text if result.option_index is None else order.options[result.option_index],
            confidence=result.confidence,
            frames=result.frames,
        )
    else:
        seen = set(known)
        for statement in read.statements:
            if statement.finding not in seen and statement.finding in read.template.findings:
                seen.add(statement.finding)
                yield _of_statement(statement, read, words)


def _of_statement(statement: Statement, read: ReadResult, words: Words) -> CodedAnswer:
    term = read.template.findings[statement.finding]
    # The probability of what is possible only is that of no answer.
    of_detection = None if statement.presence == "uncertain" else read.result.confidence
    return CodedAnswer(
        question=term.code,
        question_text=term.names[words.language],
        answer=PRESENCES[statement.presence],
        answer_text=words(f"presences.{statement.presence}"),
        confidence=of_detection if read.report is None else statement.confidence,
        frames=read.result.frames,
    )
