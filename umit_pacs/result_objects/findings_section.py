"""The lines of the section Findings: the model's words as its words, structured answers in the template's."""

from __future__ import annotations

from collections.abc import Iterator

from umit_pacs.handoffs import FrameReference, RegionKind, Task
from umit_pacs.result_objects.draft import DraftLine, LineOrigin, Marking
from umit_pacs.result_objects.reading import ReadResult, ReadSeries
from umit_pacs.result_objects.sources import SourceStudy
from umit_pacs.result_objects.statements import OVERALL, Statement, contradictions, sentences_of
from umit_pacs.vocabulary import Words

#: A line about a whole stack names one frame of it, through its middle: naming all of them would say nothing.
_MOST_FRAMES_NAMED = 3


def findings_lines(several: tuple[ReadSeries, ...], source: SourceStudy, words: Words) -> tuple[DraftLine, ...]:
    """Report text, structured answers and contradictions, series by series."""
    lines: list[DraftLine] = []
    for series in several:
        of_series = [
            *_report_lines(series, words),
            *_answer_lines(series, source, words),
            *_contradiction_lines(series, words),
        ]
        if of_series and len(several) > 1:
            title = words(
                "findings.of_series", series=series.source.number or "?", title=series.template.title[words.language]
            )
            lines.append(DraftLine(text=title, origin=LineOrigin.HEADING))
        lines += of_series
    return tuple(lines) or (DraftLine(text=words("findings.nothing")),)


def shown_frames(frames: tuple[FrameReference, ...]) -> tuple[FrameReference, ...]:
    """The frames that a line names: all of a few, the middle one of many."""
    return frames if len(frames) <= _MOST_FRAMES_NAMED else (frames[len(frames) // 2],)


def place_of(marking: Marking, source: SourceStudy, words: Words) -> str:
    """Where a marking is, in the words of a viewer: series and image number."""
    frame, frames = marking.key_frame, marking.region.frames
    series = source.series_of(frame.series_instance_uid).number or "?"
    if marking.region.kind is RegionKind.BOX_3D and len(frames) > 1 and frame.frame_number is None:
        first, last = source.image_number(frames[0]), source.image_number(frames[-1])
        return words("findings.place_slices", series=series, first=first, last=last)
    if frame.frame_number is not None:
        image = source.image_number(frame)
        return words("findings.place_frame", series=series, image=image, frame=frame.frame_number)
    return words("findings.place", series=series, image=source.image_number(frame))


def _report_lines(series: ReadSeries, words: Words) -> Iterator[DraftLine]:
    for read in series.results:
        if read.report is None:
            continue
        heading = "findings.report_text_changed" if read.report.is_changed else "findings.report_text"
        yield DraftLine(text=words(heading), origin=LineOrigin.HEADING)
        frames = shown_frames(read.result.frames)
        confidences = {statement.sentence: statement.confidence for statement in read.report.statements}
        for sentence in read.report.sentences:
            confidence = confidences.get(sentence)
            if confidence is not None:
                support = words.confidence(confidence)
                sentence = words("findings.supported", statement=sentence, support=support)
            yield DraftLine(text=sentence, origin=LineOrigin.MODEL_TEXT, frames=frames)


def _answer_lines(series: ReadSeries, source: SourceStudy, words: Words) -> Iterator[DraftLine]:
    answered = [read for read in series.results if read.result.abstention is None and read.report is None]
    if answered:
        yield DraftLine(text=words("findings.single_answers"), origin=LineOrigin.HEADING)
    landmarks = [read for read in answered if read.result.order.task is Task.LANDMARK]
    for read in answered:
        if read not in landmarks:
            yield _answer_line(read, source, words)
            yield from _measured_lines(read, words)
    yield from _landmark_lines(landmarks, source, words)


def _answer_line(read: ReadResult, source: SourceStudy, words: Words) -> DraftLine:
    statement, is_open = _statement_text(read, words)
    regions = [_region_text(marking, source, words, len(read.markings)) for marking in read.markings]
    support = words("findings.separator").join([*regions, *_support(read, words)])
    return DraftLine(
        text=capitalised(words("findings.supported", statement=statement, support=support)),
        origin=LineOrigin.MODEL_TEXT if is_open else LineOrigin.STRUCTURED,
        frames=_evidence(read),
    )


def _measured_lines(read: ReadResult, words: Words) -> Iterator[DraftLine]:
    """What was measured of each region, apart from what the model said."""
    for marking in read.markings:
        if marking.measured:
            listed = words("findings.separator").join(each.text for each in marking.measured)
            region = words("findings.region", number=marking.number)
            text = words("findings.measured", region=region, name=marking.name, listed=listed)
            yield DraftLine(text=capitalised(text), origin=LineOrigin.STRUCTURED, frames=(marking.key_frame,))


def _landmark_lines(landmarks: list[ReadResult], source: SourceStudy, words: Words) -> Iterator[DraftLine]:
    """All landmarks in one line: each is a place and nothing more."""
    marked = [(read, marking) for read in landmarks for marking in read.markings]
    if marked:
        listed = words.listed(
            words(
                "findings.supported",
                statement=marking.name,
                support=words("findings.separator").join(
                    [_region_text(marking, source, words, 1), words.confidence(marking.confidence)]
                ),
            )
            for _, marking in marked
        )
        frames = tuple(dict.fromkeys(marking.key_frame for _, marking in marked))
        text = words("findings.landmarks", listed=listed)
        yield DraftLine(text=text, origin=LineOrigin.STRUCTURED, frames=frames)
    missing = [read for read in landmarks if not read.markings]
    if missing:
        names = words.listed(read.template.finding_name(read.result.order.target, words.language) for read in missing)
        text = words("findings.landmarks_absent", listed=names)
        yield DraftLine(text=text, origin=LineOrigin.STRUCTURED, frames=_evidence(missing[0]))


def _statement_text(read: ReadResult, words: Words) -> tuple[str, bool]:
    """The answer as a sentence, and whether it is the model's own wording."""
    result, order = read.result, read.result.order
    if order.task is Task.CLASSIFICATION and result.option_index is not None:
        answer = order.options[result.option_index]
        return words("findings.classified", question=order.question, answer=answer), False
    if order.task in (Task.VQA, Task.CLASSIFICATION):
        is_open = result.option_index is None
        answer = " ".join(sentences_of(result.text)) if is_open else order.options[result.option_index or 0]
        return words("findings.asked", question=order.question, answer=answer), is_open
    if read.statements:
        return read.statements[0].sentence, False
    name = read.template.finding_name(order.target, words.language)
    if read.markings:
        return words("findings.found", name=name, count=len(read.markings)), False
    return words("findings.not_found", name=name), False


def _support(read: ReadResult, words: Words) -> Iterator[str]:
    """What is said of the whole answer, after its regions."""
    result = read.result
    if result.order.task in (Task.DETECTION, Task.DETECTION_3D) and not read.markings:
        yield words("findings.no_region")
        is_unsure = any(statement.presence == "uncertain" for statement in read.statements)
        if is_unsure and result.confidence is not None:
            # "Nothing there" was said, too unsurely to deny the finding: what counts is how likely it is.
            yield words.probability(1 - result.confidence)
            return
    if result.confidence is not None or all(marking.confidence is None for marking in read.markings):
        yield words.confidence(result.confidence)


def _region_text(marking: Marking, source: SourceStudy, words: Words, count: int) -> str:
    """Number and place of a region, and its own confidence where there are several."""
    text = words("findings.region", number=marking.number)
    if source.image_count > 1:
        text = words("findings.region_at", region=text, place=place_of(marking, source, words))
    if count > 1 and marking.region.confidence is not None:
        percent = words.percent(marking.region.confidence)
        text = words("findings.region_confidence", region=text, percent=percent)
    return text


def capitalised(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def _evidence(read: ReadResult) -> tuple[FrameReference, ...]:
    marked = tuple(dict.fromkeys(marking.key_frame for marking in read.markings))
    return marked or shown_frames(read.result.frames)


def _contradiction_lines(series: ReadSeries, words: Words) -> Iterator[DraftLine]:
    for first, second in contradictions(series.statements):
        text = words(
            "contradictions.line",
            first_source=words(f"contradictions.{first.source}"),
            first=first.sentence.rstrip(".。"),
            second_source=words(f"contradictions.{second.source}"),
            second=second.sentence.rstrip(".。"),
        )
        yield DraftLine(text=text, origin=LineOrigin.CONTRADICTION, frames=frames_about(series, first, second))


def frames_about(series: ReadSeries, *statements: Statement) -> tuple[FrameReference, ...]:
    """The frames that the answers behind these statements rest on."""
    named = [frame for read in series.results if set(read.statements) & set(statements) for frame in _evidence(read)]
    return tuple(dict.fromkeys(named))


def contradicted_findings(series: ReadSeries) -> frozenset[str]:
    """Keys of the findings that the answers contradict one another about; OVERALL for the image as a whole."""
    pairs = contradictions(series.statements)
    keys = {statement.finding for pair in pairs for statement in pair}
    has_overall_only = any(pair[0].finding == pair[1].finding == OVERALL for pair in pairs)
    return frozenset(keys if has_overall_only else keys - {OVERALL})
