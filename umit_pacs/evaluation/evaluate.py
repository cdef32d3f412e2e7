"""The whole evaluation of one checkpoint on some samples: ask, grade, measure, probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from umit_pacs.errors import InvalidConfiguration, StudyUnusable
from umit_pacs.evaluation.agreement import agreement, language_pairs
from umit_pacs.evaluation.asking import Asked, ShownTogether, ask_all, together
from umit_pacs.evaluation.bootstrap import REPLICATES, mean_interval
from umit_pacs.evaluation.figures import Figure, cells, figures
from umit_pacs.evaluation.foreign_pixels import ForeignPixels
from umit_pacs.evaluation.grading import Grade, grade
from umit_pacs.evaluation.probes import Noted, ProbeFigure, probe_figures, probe_picture
from umit_pacs.evaluation.selective import AbstentionCheck, ConformalCheck, abstention_check, conformal_check
from umit_pacs.handoffs import ModelIdentity, Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.samples import Split, read_samples
from umit_pacs.vocabulary import TemplateLibrary

#: told (what is done, steps of it, steps in all)
OnStep = Callable[[str, int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What is asked beside the samples themselves."""

    #: share of conformal sets that may miss the right option
    alpha: float = 0.1
    #: share of kept answers that may be wrong
    stated_risk: float = 0.05
    #: pictures that the probes are tried on; 0: no probes
    probe_pictures: int = 40
    #: DICOM images of another body part, for data that has only one
    foreign_files: tuple[Path, ...] = ()
    #: draws of a bootstrap interval
    replicates: int = REPLICATES


@dataclass(frozen=True, kw_only=True, slots=True)
class Selective:
    """Conformal sets and the abstention threshold of one task and modality."""

    task: Task
    modality: str
    conformal: ConformalCheck | None
    abstention: AbstentionCheck | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything that was found, but the single answers."""

    model: ModelIdentity
    #: samples, and the pictures and patients (or studies) that they are about
    samples: int
    pictures: int
    studies: int
    figures: tuple[Figure, ...]
    selective: tuple[Selective, ...]
    probes: tuple[ProbeFigure, ...]
    #: task -> reason -> how often
    abstentions: dict[str, dict[str, int]]
    #: reason -> pictures that could not be read
    unusable: dict[str, int]


def read_data(path: Path, *, split: Split | None = "test", limit: int | None = None) -> list[ShownTogether]:
    """The samples of one file, or of every `*.jsonl` of a folder, by their pixels; at most `limit` pictures.

    split: only samples of it; None: all. Raises SampleInvalid for a line that the node would not ask or read so, and
    InvalidConfiguration when no sample is left.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found: list[ShownTogether] = []
    for file in files:
        samples = (sample for sample in read_samples(file) if split is None or sample.split == split)
        found += together(file.parent, samples)
    if not found:
        raise InvalidConfiguration(f"{path}: no samples" + (f" of the split {split!r}" if split else ""))
    return found[:limit]


def evaluate(
    engine: Engine,
    data: Sequence[ShownTogether],
    templates: TemplateLibrary,
    settings: ModelSettings,
    request: EvaluationRequest,
    *,
    on_step: OnStep = lambda what, done, total: None,
) -> tuple[Evaluation, tuple[Grade, ...]]:
    """The evaluation, and the grade of every answer in the order of the data."""
    unusable: Counter[str] = Counter()
    asked: list[list[Asked]] = []
    answers = ask_all(engine, data, templates, on_unusable=lambda _, why: unusable.update([why.reason]))
    for about in answers:
        asked.append(about)
        on_step("Asking", len(asked), len(data))
    grades = tuple(grade(each, templates) for about in asked for each in about)
    if not grades:
        raise InvalidConfiguration("no picture of the data could be read: " + ", ".join(unusable))
    total = len(list(cells(grades)))
    done = iter(range(1, total + 1))
    found = figures(grades, replicates=request.replicates, on_cell=lambda: on_step("Measuring", next(done), total))
    notes = _probe(engine, data, asked, templates, settings, request, on_step)
    return (
        Evaluation(
            model=engine.identity,
            samples=len(grades),
            pictures=len(data),
            studies=len({each.asked.study for each in grades}),
            figures=(*found, *language_agreement([each.asked for each in grades], templates)),
            selective=tuple(_selective(grades, request)),
            probes=probe_figures(notes),
            abstentions=_abstentions(grades),
            unusable=dict(unusable),
        ),
        grades,
    )


def language_agreement(asked: Sequence[Asked], templates: TemplateLibrary) -> Iterator[Figure]:
    """How often the two languages give the same answer to the same question, per task and modality."""
    pairs = [(one, agreement(one, other, templates)) for one, other in language_pairs(asked)]
    known = [(one, same) for one, same in pairs if same is not None]
    known.sort(key=lambda pair: _kind(pair[0]))
    for (task, modality), group in groupby(known, key=lambda pair: _kind(pair[0])):
        own = list(group)
        values = [same for _, same in own]
        is_share = all(value in (0.0, 1.0) for value in values)
        mean = mean_interval([one.study for one, _ in own], values, is_share=is_share)
        yield Figure(
            task=Task(task),
            modality=modality,
            language=None,
            finding="",
            metric="language_agreement",
            value=mean.value,
            low=mean.low,
            high=mean.high,
            answers=len(own),
            studies=len({one.study for one, _ in own}),
        )


def _kind(asked: Asked) -> tuple[str, str]:
    return asked.sample.task.value, asked.sample.modality


def _probe(
    engine: Engine,
    data: Sequence[ShownTogether],
    asked: Sequence[list[Asked]],
    templates: TemplateLibrary,
    settings: ModelSettings,
    request: EvaluationRequest,
    on_step: OnStep,
) -> list[Noted]:
    chosen = [(shown, before) for shown, before in zip(data, asked, strict=True) if before][: request.probe_pictures]
    notes: list[Noted] = []
    if not chosen:
        return notes
    with ForeignPixels(engine, data, request.foreign_files, settings) as foreign:
        for number, (shown, before) in enumerate(chosen, 1):
            try:
                notes += probe_picture(engine, shown, before, templates, foreign=foreign)
            except StudyUnusable:
                # Another picture, chosen as the foreign one, cannot be read; that is told of where it is asked about.
                continue
            on_step("Probing", number, len(chosen))
    return notes


def _selective(grades: Sequence[Grade], request: EvaluationRequest) -> Iterator[Selective]:
    for cell in cells(grades):
        if cell.language is not None or cell.finding:
            continue
        conformal = conformal_check(cell.grades, alpha=request.alpha)
        abstention = abstention_check(cell.grades, stated_risk=request.stated_risk)
        if conformal is not None or abstention is not None:
            yield Selective(task=cell.task, modality=cell.modality, conformal=conformal, abstention=abstention)


def _abstentions(grades: Sequence[Grade]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for each in grades:
        abstention = each.asked.answer.abstention
        if abstention is not None:
            of_task = found.setdefault(each.asked.sample.task.value, {})
            of_task[abstention.reason] = of_task.get(abstention.reason, 0) + 1
    return found
