"""Whether two answers say the same: between the languages, and before and after a probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from umit_pacs.evaluation.asking import Asked
from umit_pacs.evaluation.boxes import match
from umit_pacs.evaluation.grading import FOUND_SHARE, said_boxes
from umit_pacs.evaluation.landmarks import error_mm
from umit_pacs.evaluation.report_findings import outcomes
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.vocabulary import TemplateLibrary

_SAME_BOX_IOU = 0.5


def language_pairs(asked: Sequence[Asked]) -> Iterator[tuple[Asked, Asked]]:
    """The same question in English and in Chinese, as far as the samples show that it is the same.

    Samples of one study, task and target are paired in their order when both languages have equally many of them and
    each pair states the same truth.
    """
    groups: dict[tuple[object, ...], dict[Language, list[Asked]]] = {}
    for each in asked:
        sample = each.sample
        key = (sample.paths, sample.task, sample.target, len(sample.options))
        groups.setdefault(key, {}).setdefault(sample.language, []).append(each)
    for by_language in groups.values():
        if len({len(own) for own in by_language.values()}) != 1 or len(by_language) < 2:
            continue
        for one, other in zip(by_language[Language.ENGLISH], by_language[Language.CHINESE], strict=True):
            if one.sample.truth == other.sample.truth:
                yield one, other


def agreement(one: Asked, other: Asked, templates: TemplateLibrary) -> float | None:
    """1 where two answers to the same question say the same, 0 where not; a report's share of findings.

    None where it cannot be told: one of them is an abstention, or both are open text.
    """
    if one.answer.abstention is not None or other.answer.abstention is not None:
        return None
    match one.sample.task:
        case Task.REPORT:
            return _same_findings(one, other, templates)
        case Task.DETECTION | Task.DETECTION_3D:
            return _same_boxes(one, other)
        case Task.LANDMARK:
            first, second = (each.answer.regions[0].points[0] for each in (one, other))
            apart = error_mm(first, second, spacing_row_col_mm=(1.0, 1.0))
            return float(apart <= FOUND_SHARE * one.sample.extent[0])
    if one.answer.option_index is None or other.answer.option_index is None:
        return None
    return float(one.answer.option_index == other.answer.option_index)


def _same_findings(one: Asked, other: Asked, templates: TemplateLibrary) -> float | None:
    template = templates.by_key(one.sample.template)
    first, second = (read_report(each.answer.text, template, each.sample.language) for each in (one, other))
    found = outcomes(first, second)
    return sum(each.wanted == each.said for each in found) / len(found) if found else None


def _same_boxes(one: Asked, other: Asked) -> float:
    first, second = said_boxes(one), said_boxes(other)
    matched = match(first, [box for box, _ in second], _SAME_BOX_IOU)
    return float(matched.hits == len(first) == len(second))
