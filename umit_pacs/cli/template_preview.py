"""What a template writes: the node's own drafts of findings that are invented, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from pydicom.dataset import Dataset

from umit_pacs.handoffs import (
    Abstention,
    Findings,
    FrameReference,
    InstanceUID,
    Language,
    ModelIdentity,
    Region,
    RegionKind,
    RoutingDecision,
    SeriesUID,
    Task,
    TaskOrder,
    TaskResult,
)
from umit_pacs.result_objects.sources import SourceSeries, SourceStudy
from umit_pacs.result_objects.statements import NORMAL_CLASS
from umit_pacs.result_objects.write_draft import write_draft
from umit_pacs.vocabulary import Presence, SRTemplate, TemplateLibrary

_CASES: tuple[Presence | Literal["not_assessed"], ...] = ("present", "absent", "uncertain", "not_assessed")
_SERIES = SeriesUID("2.25.1")
_EDGE_PX = 512
#: frames of a series that the template reads as a stack.
_STACK = 24
#: any value would do; this one shows the decimals.
_MEASURED = 12.345
_MODEL = ModelIdentity(
    name="preview",
    version="0",
    sha256="0" * 64,
    quantisation="none",
    device="no device",
    licence="none",
    intended_use="Shows how a template words a draft.",
)


def preview_text(templates: TemplateLibrary, template: SRTemplate, language: Language) -> str:
    """One draft for each presence with every finding in it, then the measurements and what is never claimed."""
    parts = [f"PREVIEW of the template {template.identity}. Study, findings and figures are invented.\n"]
    for case in _CASES:
        invented = _Invented(template=template, language=language, case=case)
        decision = RoutingDecision(
            input_set_id="preview", rule="preview", rules_version=0, rule_text="", reasons=(), language=language
        )
        findings = Findings(input_set_id="preview", model=_MODEL, results=tuple(invented.results()))
        draft = write_draft(decision, findings, invented.source(), templates)
        parts.append(f"===== PREVIEW: every finding {case.replace('_', ' ')} =====\n\n{draft.as_text()}")
    parts.append("===== PREVIEW: measurements =====\n\n" + "".join(_measurement_lines(template, language)))
    never = dict.fromkeys(texts[language] for texts in template.never_claims)
    prior = dict.fromkeys(texts[language] for texts in template.claims_needing_prior)
    parts.append(f"===== PREVIEW: never claimed =====\n\n{', '.join(never)}\n\nOnly with a prior: {', '.join(prior)}\n")
    return "\n".join(parts)


def _measurement_lines(template: SRTemplate, language: Language) -> Iterator[str]:
    for key, term in template.findings.items():
        for name in term.measurements:
            measured = template.measurements[name]
            code = f"({measured.code.value}, {measured.code.scheme}) in ({measured.unit.value}, {measured.unit.scheme})"
            text = template.measured(name, _MEASURED, language)
            yield f"{template.finding_name(key, language)}: {text} {code}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Invented:
    """A study of one series, and answers that state every finding in one way."""

    template: SRTemplate
    language: Language
    case: Presence | Literal["not_assessed"]

    def source(self) -> SourceStudy:
        series = SourceSeries(
            series_instance_uid=_SERIES,
            modality=next(iter(self.template.modalities), "OT"),
            body_part=next(iter(self.template.body_parts), ""),
            number="1",
            left_direction=1,
        )
        numbers = {frame.sop_instance_uid: str(number) for number, frame in enumerate(self._frames(), 1)}
        return SourceStudy(
            study_instance_uid="2.25.2",
            header=Dataset(),
            series={_SERIES: series},
            image_numbers=numbers,
            image_count=len(numbers),
            composed_at=datetime(2000, 1, 1, tzinfo=UTC),
        )

    def results(self) -> Iterator[TaskResult]:
        """A report, every finding, the classification, every landmark."""
        yield self._answer(self._order(Task.REPORT), text=self._report())
        is_stack = len(self._frames()) > 1
        for index, key in enumerate(self.template.findings):
            has_region = self.case in ("present", "uncertain")
            yield self._answer(
                self._order(Task.DETECTION_3D if is_stack else Task.DETECTION, target=key),
                regions=(self._box(key, is_on_left=index % 2 == 0),) if has_region else (),
                presence=self.case if self.case != "not_assessed" else "",
            )
        if self.template.classification is not None:
            yield self._classified()
        for index, key in enumerate(self.template.landmarks, 1):
            yield self._answer(self._order(Task.LANDMARK, target=key), regions=(self._point(key, index),))

    def _report(self) -> str:
        if self.case == "not_assessed" or not self.template.findings:
            return self.template.normal_sentence[self.language]
        return " ".join(self.template.sentence(key, self.case, "none", self.language) for key in self.template.findings)

    def _classified(self) -> TaskResult:
        assert self.template.classification is not None, "checked before"
        classes = self.template.classification.classes
        is_normal = self.case == "absent"
        chosen = next((index for index, key in enumerate(classes) if (key == NORMAL_CLASS) == is_normal), 0)
        order = self._order(
            Task.CLASSIFICATION,
            question=self.template.classification.question[self.language],
            options=tuple(term.names[self.language] for term in classes.values()),
        )
        return self._answer(order, option_index=chosen)

    def _order(self, task: Task, *, target: str = "", question: str = "", options: tuple[str, ...] = ()) -> TaskOrder:
        return TaskOrder(
            task=task,
            language=self.language,
            series_instance_uid=_SERIES,
            template=self.template.key,
            target=target,
            question=question,
            options=options,
        )

    def _answer(
        self,
        order: TaskOrder,
        *,
        text: str = "",
        regions: tuple[Region, ...] = (),
        presence: str = "",
        option_index: int | None = None,
    ) -> TaskResult:
        silent = TaskResult(order=order, instruction="", answer_text="", frames=self._frames())
        if self.case == "not_assessed":
            return replace(silent, abstention=Abstention(reason="outside_training"))
        return replace(
            silent,
            text=text,
            regions=regions,
            presence=presence,
            option_index=option_index,
            confidence=0.55 if self.case == "uncertain" else 0.9,
        )

    def _frames(self) -> tuple[FrameReference, ...]:
        count = _STACK if "{slices}" in self.template.technique[self.language] else 1
        return tuple(
            FrameReference(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                sop_instance_uid=InstanceUID(f"2.25.3{number:03}"),
                series_instance_uid=_SERIES,
                frame_number=None,
                rows=_EDGE_PX,
                columns=_EDGE_PX,
            )
            for number in range(1, count + 1)
        )

    def _box(self, label: str, *, is_on_left: bool) -> Region:
        left_px = 300.0 if is_on_left else 100.0
        frames = self._frames()
        return Region(
            kind=RegionKind.BOX_3D if len(frames) > 1 else RegionKind.BOX,
            label=label,
            frames=frames[len(frames) // 4 : len(frames) // 2] or frames,
            points_xy_px=((left_px, 200.0), (left_px + 80.0, 280.0)),
        )

    def _point(self, label: str, index: int) -> Region:
        return Region(
            kind=RegionKind.POINT, label=label, frames=self._frames()[:1], points_xy_px=((40.0 * index, 100.0),)
        )
