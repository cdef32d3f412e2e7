"""The lines under "Not assessed" that say what the guard left out and why; never the words themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck, Guarding
from umit_pacs.handoffs import Task
from umit_pacs.result_objects.draft import DraftLine, LineOrigin
from umit_pacs.result_objects.guard.words import guard_words
from umit_pacs.result_objects.reading import ReadResult, ReadSeries
from umit_pacs.result_objects.sources import SourceStudy
from umit_pacs.vocabulary import Words


def guard_lines(
    guarding: Guarding, several: Sequence[ReadSeries], source: SourceStudy, words: Words
) -> Iterator[DraftLine]:
    """One line for each sentence that was left out or changed, then what stands in the images."""
    answered = {read.index: read for series in several for read in series.results if read.result.abstention is None}
    first: dict[tuple[int, int], Fault] = {}
    for fault in guarding.faults:
        if fault.result_index in answered and fault.sentence_index is not None:
            first.setdefault((fault.result_index, fault.sentence_index), fault)
    for (index, number), fault in sorted(first.items()):
        if fault.check is not GuardCheck.REPETITION:
            text = _sentence_line(fault, number + 1, answered[index], words)
            yield DraftLine(text=text, origin=LineOrigin.STRUCTURED)
    yield from _image_lines(guarding, source, words)


def _sentence_line(fault: Fault, number: int, read: ReadResult, words: Words) -> str:
    order, reason = read.result.order, words.reason(fault.reason)
    what = words("tasks.report") if order.task is Task.REPORT else words("tasks.vqa", question=order.question)
    what = what[:1].upper() + what[1:]
    if fault.outcome is FaultOutcome.REPAIRED:
        return words("not_assessed.sentence_repaired", what=what, number=number, reason=reason)
    if not fault.subjects:
        return words("not_assessed.sentence", what=what, number=number, reason=reason)
    subjects = words.listed(dict.fromkeys(_subject_name(key, read, words) for key in fault.subjects))
    return words("not_assessed.sentence_about", what=what, number=number, subjects=subjects, reason=reason)


def _subject_name(key: str, read: ReadResult, words: Words) -> str:
    if key in read.template.findings:
        return read.template.finding_name(key, words.language)
    return guard_words(words.language).names.get(key, key.replace("_", " "))


def _image_lines(guarding: Guarding, source: SourceStudy, words: Words) -> Iterator[DraftLine]:
    for fault in guarding.faults:
        if fault.sop_instance_uid is not None:
            image = source.image_numbers.get(fault.sop_instance_uid, "") or "?"
            yield DraftLine(text=words("not_assessed.image", image=image, reason=words.reason(fault.reason)))
    if guarding.why_not_read:
        yield DraftLine(text=words("not_assessed.images_not_read", reason=words.reason(guarding.why_not_read)))
