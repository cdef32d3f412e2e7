"""The page of an evaluation: one HTML file with its plots inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from umit_pacs.evaluation.evaluate import Evaluation
from umit_pacs.evaluation.figures import Figure
from umit_pacs.evaluation.grading import Grade
from umit_pacs.evaluation.plots import Plot

#: measures that the overview shows, task by task, where they are known
_OVERVIEW = (
    "accuracy",
    "accuracy_of_the_most_frequent_answer",
    "auc",
    "exact_match",
    "token_f1",
    "presence_accuracy",
    "presence_auc",
    "iou_of_matched_boxes",
    "iou_where_boxes_are_said",
    "f1_iou_0.5",
    "f1_iou_0.3",
    "ap50",
    "error_mm",
    "within_2_mm",
    "within_4_mm",
    "finding_f1",
    "laterality_errors",
    "negation_flips",
    "calibration_error",
    "language_agreement",
    "abstained",
)

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.6rem 0;font-size:.86rem}
th,td{padding:.22rem .7rem;border-bottom:1px solid #e3e3e3}
th{text-align:left;background:#f5f5f5}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.quiet{color:#666}figure{margin:1rem 0}figure img{max-width:100%}figcaption{font-size:.84rem;color:#444}
.note{background:#fff6dd;border-left:4px solid #d9a400;padding:.5rem .8rem}
details{margin:.5rem 0}summary{cursor:pointer}
"""


def html_report(
    evaluation: Evaluation, grades: Sequence[Grade], pictures: Sequence[Plot], *, data: str, date: str
) -> str:
    """The page; nothing in it is fetched from anywhere."""
    model = evaluation.model
    parts = [
        f"<h1>{escape(model.name)} {escape(model.version)}</h1>",
        f"<p class=quiet>{escape(date)} · {escape(data)} · {evaluation.samples} questions about "
        f"{evaluation.pictures} pictures of {evaluation.studies} patients or studies · quantisation "
        f"{escape(model.quantisation)}, {escape(model.device)} · manifest {model.sha256[:12]}</p>",
        f"<p class=note>{escape(model.intended_use)} The figures are about the data named above and nothing else. "
        "Square brackets: 95 % intervals, by drawing patients or studies again.</p>",
        "<h2>Overview</h2>",
        *_overview(evaluation),
        "<h2>Findings</h2>",
        *_findings(evaluation),
        "<h2>Languages</h2>",
        *_languages(evaluation),
        "<h2>Confidence</h2>",
        *_selective(evaluation),
        *(_picture(plot) for plot in pictures),
        "<h2>Probes</h2>",
        *_probes(evaluation),
        "<h2>Not answered</h2>",
        *_not_answered(evaluation),
        "<h2>Wrong and sure</h2>",
        *_surest_errors(grades),
        "<h2>All figures</h2>",
        *_all(evaluation),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>"
        f"Evaluation of {escape(model.name)}</title><style>{_STYLE}</style><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int) -> str:
    """Cells are HTML already; from column `numbers_from` on they are numbers."""
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if n >= numbers_from else ''}>{cell}</td>" for n, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{body}</table>"


def in_words(value: float, low: float | None, high: float | None) -> str:
    """`0.912 [0.880, 0.941]`."""
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _kind(figure: Figure) -> tuple[str, str]:
    return str(figure.task), figure.modality


def _overview(evaluation: Evaluation) -> Iterator[str]:
    whole = [figure for figure in evaluation.figures if not figure.finding and figure.language is None]
    rows = [
        (
            _words(figure.task),
            escape(figure.modality),
            _words(name),
            in_words(figure.value, figure.low, figure.high),
            str(figure.answers),
        )
        for kind in dict.fromkeys(map(_kind, whole))
        for name in _OVERVIEW
        for figure in whole
        if _kind(figure) == kind and figure.metric == name
    ]
    yield _table(("Task", "Modality", "Measure", "Value", "Answers"), rows, numbers_from=3)


def _findings(evaluation: Evaluation) -> Iterator[str]:
    names = (
        "accuracy",
        "auc",
        "presence_auc",
        "f1_iou_0.5",
        "f1_iou_0.3",
        "ap50",
        "error_mm",
        "finding_f1",
        "laterality_errors",
    )
    own = [figure for figure in evaluation.figures if figure.finding and figure.metric in names]
    rows = [
        (
            _words(figure.task),
            escape(figure.modality),
            _words(figure.finding),
            _words(figure.metric),
            in_words(figure.value, figure.low, figure.high),
            str(figure.answers),
        )
        for figure in own
    ]
    yield (
        _table(("Task", "Modality", "Finding", "Measure", "Value", "Answers"), rows, numbers_from=4)
        if rows
        else _none()
    )


def _languages(evaluation: Evaluation) -> Iterator[str]:
    own = [f for f in evaluation.figures if not f.finding and f.language is not None]
    values = {(*_kind(f), f.metric, f.language): in_words(f.value, f.low, f.high) for f in own}
    languages = list(dict.fromkeys(f.language for f in own if f.language))
    shown = (*_OVERVIEW, "bleu_4", "rouge_l", "cider_d")
    rows = [
        (
            _words(task),
            escape(modality),
            _words(metric),
            *(values.get((task, modality, metric, each), "") for each in languages),
        )
        for task, modality, metric in dict.fromkeys((*_kind(f), f.metric) for f in own)
        if metric in shown
    ]
    yield _table(("Task", "Modality", "Measure", *languages), rows, numbers_from=3) if rows else _none()


def _selective(evaluation: Evaluation) -> Iterator[str]:
    sets = [
        (
            _words(each.task),
            escape(each.modality),
            f"{1 - each.conformal.alpha:.0%}",
            in_words(each.conformal.coverage.value, each.conformal.coverage.low, each.conformal.coverage.high),
            f"{each.conformal.mean_options:.2f}",
            f"{each.conformal.share_single:.0%}",
            str(each.conformal.proven_on),
        )
        for each in evaluation.selective
        if each.conformal is not None
    ]
    if sets:
        yield "<p>Conformal sets (LAC): chosen on one half of the patients, proven on the other.</p>"
        heads = (
            "Task",
            "Modality",
            "Promised",
            "Sets with the right option",
            "Options in a set",
            "Sets of one",
            "Answers",
        )
        yield _table(heads, sets, numbers_from=2)
    thresholds = list(_threshold_rows(evaluation))
    if thresholds:
        yield "<p>Answers below the threshold are withheld: chosen on one half of the patients, proven on the other</p>"
        heads = ("Task", "Modality", "Stated risk", "Threshold", "Kept", "Wrong among the kept", "Answers")
        yield _table(heads, thresholds, numbers_from=2)


def _threshold_rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for each in evaluation.selective:
        check = each.abstention
        if check is None:
            continue
        first = (_words(each.task), escape(each.modality), f"{check.stated_risk:.0%}")
        if check.threshold is None or check.risk is None:
            yield (*first, "none keeps the promise", "", "", str(check.proven_on))
            continue
        risk = in_words(check.risk.value, check.risk.low, check.risk.high)
        yield (*first, f"{check.threshold.confidence_from:.3f}", f"{check.coverage:.0%}", risk, str(check.proven_on))


def _picture(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    picture = f'<img alt="{escape(plot.name)}" src="data:image/png;base64,{data}">'
    return f"<figure>{picture}<figcaption>{escape(plot.caption)}</figcaption></figure>"


#: what a reader should expect of each probe
_EXPECTED = {
    "blank": "one grey: nothing can be seen, so nothing should be found",
    "mirrored": "left and right swapped: the sides should swap",
    "foreign": "another body part under the same label: should be refused",
    "rephrased": "other words: the answer should stay",
    "reordered": "options in reverse: the answer should stay",
    "nota": "the right option became “none of the above”: it should be chosen, or confidence fall",
}


def _probes(evaluation: Evaluation) -> Iterator[str]:
    rows = [
        (
            _words(each.probe),
            escape(_EXPECTED.get(each.probe, "")),
            _words(each.metric),
            in_words(each.value, each.low, each.high),
            str(each.answers),
        )
        for each in evaluation.probes
    ]
    yield (
        _table(("Probe", "What was changed", "Measure", "Value", "Answers"), rows, numbers_from=3) if rows else _none()
    )


def _not_answered(evaluation: Evaluation) -> Iterator[str]:
    rows = [
        (_words(task), _words(reason), str(count))
        for task, reasons in evaluation.abstentions.items()
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    rows += [("picture not read", _words(reason), str(count)) for reason, count in evaluation.unusable.items()]
    yield _table(("Task", "Reason", "Answers"), rows, numbers_from=2) if rows else "<p>Everything was answered.</p>"


def _surest_errors(grades: Sequence[Grade], most: int = 12) -> Iterator[str]:
    wrong = [(judged.confidence, grade) for grade in grades for judged in grade.judged if not judged.is_right]
    wrong.sort(key=lambda pair: -pair[0])
    rows = [
        (
            escape(grade.asked.sample.id),
            _words(grade.asked.sample.task),
            escape(_short(grade.asked.sample.answer)),
            escape(_short(grade.asked.answer.answer_text)),
            f"{confidence:.3f}",
        )
        for confidence, grade in wrong[:most]
    ]
    yield _table(("Sample", "Task", "Right", "Said", "Confidence"), rows, numbers_from=4) if rows else _none()


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _all(evaluation: Evaluation) -> Iterator[str]:
    rows = [
        (
            _words(figure.task),
            escape(figure.modality),
            figure.language or "both",
            _words(figure.finding) or "all",
            _words(figure.metric),
            in_words(figure.value, figure.low, figure.high),
            str(figure.answers),
            str(figure.studies),
        )
        for figure in evaluation.figures
    ]
    heads = ("Task", "Modality", "Language", "Finding", "Measure", "Value", "Answers", "Studies")
    yield f"<details><summary>{len(rows)} figures</summary>{_table(heads, rows, numbers_from=5)}</details>"


def _none() -> str:
    return "<p class=quiet>None.</p>"
