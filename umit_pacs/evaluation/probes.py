"""Questions whose right reaction is known whatever the picture: does the model look, and does it know its limits?

| probe      | what is changed                                     | what should happen                          |
|------------|-----------------------------------------------------|---------------------------------------------|
| blank      | every pixel has the picture's mean grey             | refused; no finding is stated               |
| mirrored   | left and right of the pixels                        | the sides in the answers change             |
| rephrased  | the words of the question                           | the answer stays                            |
| reordered  | the order of the options                            | the answer stays                            |
| nota       | the right option becomes "none of the above"        | that is chosen, or confidence falls         |
| foreign    | pixels of another body part under the same label    | refused; no finding is stated               |

The node itself refuses a picture of one grey before the model sees it; `blank` asks the model all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from umit_pacs.evaluation.agreement import agreement
from umit_pacs.evaluation.asking import Asked, ChangePixels, ShownTogether, ask
from umit_pacs.evaluation.bootstrap import mean_interval
from umit_pacs.evaluation.mirroring import mirrored, side_changes
from umit_pacs.evaluation.rephrasing import reordered, rephrased, without_right_option
from umit_pacs.handoffs import PreparedSeries, Task, TaskOrder
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.vocabulary import TemplateLibrary

#: with two options "none of the above" in place of the right one is a trick and no test
_FEWEST_OPTIONS = 3
_PLACED = frozenset({Task.DETECTION, Task.DETECTION_3D, Task.REPORT})

#: pixels of another body part that stand in for those of a picture; None where there are none
ForeignPixels = Callable[[ShownTogether], ChangePixels | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """One value of one probe about one study."""

    probe: str
    metric: str
    study: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFigure:
    """The mean of what was noted, with its 95 % interval."""

    probe: str
    metric: str
    value: float
    low: float | None
    high: float | None
    answers: int
    studies: int


def probe_picture(
    engine: Engine,
    shown: ShownTogether,
    before: Sequence[Asked],
    templates: TemplateLibrary,
    *,
    foreign: ForeignPixels = lambda shown: None,
) -> Iterator[Noted]:
    """Everything that is noted about one picture; `before`: the answers to its samples as they are."""
    answered = [each for each in before if each.answer.abstention is None]
    if not answered:
        return
    again = replace(shown, samples=tuple(each.sample for each in answered))
    yield from _unseen("blank", ask(engine, again, templates, change=blank), templates)
    yield from side_notes(answered, ask(engine, again, templates, change=mirrored), templates)
    if (change := foreign(shown)) is not None:
        yield from _unseen("foreign", ask(engine, again, templates, change=change), templates)
    yield from _rephrased(engine, again, answered, templates)
    yield from _none_of_the_above(engine, again, answered, templates)


def probe_figures(notes: Sequence[Noted]) -> tuple[ProbeFigure, ...]:
    """A figure for each metric of each probe, in the order of their first note."""
    groups: dict[tuple[str, str], list[Noted]] = {}
    for note in notes:
        groups.setdefault((note.probe, note.metric), []).append(note)
    found = []
    for (probe, metric), own in groups.items():
        is_share = all(note.value in (0.0, 1.0) for note in own)
        mean = mean_interval([note.study for note in own], [note.value for note in own], is_share=is_share)
        found.append(
            ProbeFigure(
                probe=probe,
                metric=metric,
                value=mean.value,
                low=mean.low,
                high=mean.high,
                answers=len(own),
                studies=len({note.study for note in own}),
            )
        )
    return tuple(found)


# --- pictures that show nothing of what is asked -----------------------------------------------------------------


def blank(series: PreparedSeries) -> PreparedSeries:
    """Every image and the volume in their own mean grey."""

    def mean_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.full_like(pixels, round(float(pixels.mean())))

    images = tuple(replace(image, pixels=mean_grey(image.pixels)) for image in series.images)
    volume = series.volume
    return replace(
        series, images=images, volume=None if volume is None else replace(volume, voxels=mean_grey(volume.voxels))
    )


def _unseen(probe: str, asked: Sequence[Asked], templates: TemplateLibrary) -> Iterator[Noted]:
    for each in asked:
        answer = each.answer
        is_refused = answer.abstention is not None
        yield Noted(probe=probe, metric="refused", study=each.study, value=float(is_refused))
        if each.sample.task in _PLACED:
            stated = not is_refused and states_a_finding(each, templates)
            yield Noted(probe=probe, metric="finding_stated", study=each.study, value=float(stated))
        if answer.confidence is not None:
            yield Noted(probe=probe, metric="confidence_where_answered", study=each.study, value=answer.confidence)


def states_a_finding(asked: Asked, templates: TemplateLibrary) -> bool:
    """A detection that says present, or a report with a finding present."""
    if asked.sample.task is not Task.REPORT:
        return asked.answer.presence == "present"
    template = templates.by_key(asked.sample.template)
    read = read_report(asked.answer.text, template, asked.sample.language)
    return any(stated.presence == "present" for stated in read.values())


# --- left and right ----------------------------------------------------------------------------------------------


def side_notes(before: Sequence[Asked], after: Sequence[Asked], templates: TemplateLibrary) -> Iterator[Noted]:
    """Where an answer names one side, or lies on one: whether it changed with the pixels, stayed, or was lost."""
    for one, other in zip(before, after, strict=True):
        is_refused = other.answer.abstention is not None
        yield Noted(probe="mirrored", metric="refused", study=one.study, value=float(is_refused))
        for change in side_changes(one, other, templates):
            for outcome in ("swapped", "kept", "lost"):
                value = float(change == outcome)
                yield Noted(probe="mirrored", metric=f"side_{outcome}", study=one.study, value=value)


# --- other words -------------------------------------------------------------------------------------------------


def _rephrased(
    engine: Engine, shown: ShownTogether, before: Sequence[Asked], templates: TemplateLibrary
) -> Iterator[Noted]:
    """Questions of people, that is VQA; the other tasks have one wording."""
    asked = [each for each in before if each.sample.task is Task.VQA]
    for probe, change in (("rephrased", rephrased), ("reordered", reordered)):
        own = [each for each in asked if probe == "rephrased" or len(each.sample.options) > 1]
        after = _ask_changed(engine, shown, own, templates, change)
        for one, other in zip(own, after, strict=True):
            yield Noted(
                probe=probe, metric="refused", study=one.study, value=float(other.answer.abstention is not None)
            )
            if probe == "reordered":
                other = _in_first_order(other)
            same = agreement(one, other, templates)
            if same is None and one.answer.text and other.answer.text:
                same = float(one.answer.text == other.answer.text)
            if same is not None:
                yield Noted(probe=probe, metric="same_answer", study=one.study, value=same)


def _in_first_order(asked: Asked) -> Asked:
    index = asked.answer.option_index
    last = len(asked.sample.options) - 1
    return replace(asked, answer=replace(asked.answer, option_index=None if index is None else last - index))


def _none_of_the_above(
    engine: Engine, shown: ShownTogether, before: Sequence[Asked], templates: TemplateLibrary
) -> Iterator[Noted]:
    own = [each for each in before if len(each.answer.order.options) >= _FEWEST_OPTIONS]
    rights = {id(each.sample): each.sample.truth.right_option or 0 for each in own}
    orders = [without_right_option(each.answer.order, rights[id(each.sample)]) for each in own]
    after = _ask_orders(engine, shown, own, orders, templates)
    for one, other in zip(own, after, strict=True):
        for suffix, each in (("_before", one), ("", other)):
            if each.answer.option_index is None:
                continue
            is_right = each.answer.option_index == one.sample.truth.right_option
            yield Noted(probe="nota", metric=f"accuracy{suffix}", study=one.study, value=float(is_right))
            if each.answer.confidence is not None:
                yield Noted(probe="nota", metric=f"confidence{suffix}", study=one.study, value=each.answer.confidence)


def _ask_changed(
    engine: Engine,
    shown: ShownTogether,
    asked: Sequence[Asked],
    templates: TemplateLibrary,
    change: Callable[[TaskOrder], TaskOrder],
) -> list[Asked]:
    return _ask_orders(engine, shown, asked, [change(each.sample.order) for each in asked], templates)


def _ask_orders(
    engine: Engine,
    shown: ShownTogether,
    asked: Sequence[Asked],
    orders: Sequence[TaskOrder],
    templates: TemplateLibrary,
) -> list[Asked]:
    if not asked:
        return []
    only = replace(shown, samples=tuple(each.sample for each in asked))
    return ask(engine, only, templates, orders=orders)
