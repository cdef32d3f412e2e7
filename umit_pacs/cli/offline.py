"""The path without a network: files in place -> route, prepare, infer, compose -> objects, pictures and JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset
from rich.markup import escape
from rich.panel import Panel

from umit_pacs.cli.demo_report import said_in_words, save_pages
from umit_pacs.cli.guard_story import guard_details, guard_text
from umit_pacs.errors import StudyUnusable
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import (
    CompletionReason,
    Findings,
    InputSet,
    InstanceUID,
    Language,
    ResultObject,
    RoutingDecision,
    SeriesUID,
    StoppedObject,
    StoredInstance,
    StudyUID,
    Task,
)
from umit_pacs.pixels.headers import read_header
from umit_pacs.routing.rules import Action, Question, Rule, RuleSet
from umit_pacs.routing.rules_text import default_rules_text, parse_rules
from umit_pacs.settings import Settings
from umit_pacs.steps.assemble import input_set_of
from umit_pacs.steps.compose import compose
from umit_pacs.steps.guard import guard
from umit_pacs.steps.infer import infer
from umit_pacs.steps.measure import measure
from umit_pacs.steps.prepare import prepare
from umit_pacs.steps.route import route
from umit_pacs.store.files import PayloadFiles, file_sha256
from umit_pacs.store.payload import to_json
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.engines import open_engine
from umit_pacs.vocabulary import TemplateLibrary, load_templates


class FilesInPlace(PayloadFiles):
    """A store whose instances lie where the user has them; only results are written below `root`."""

    def __init__(self, root: Path, instances: Mapping[str, Path]) -> None:
        super().__init__(root)
        self._instances = instances

    def path(self, relative_path: str) -> Path:
        """The user's own file for an instance, else a path below the root."""
        return self._instances.get(relative_path) or super().path(relative_path)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineStudy:
    """The files of one study."""

    study_instance_uid: StudyUID
    headers: Mapping[Path, Dataset]


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineRequest:
    """What the user asks of every study; without tasks the shipped rules decide."""

    tasks: tuple[Task, ...]
    language: Language
    questions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def rules(self) -> RuleSet:
        """The rules that stand for the request."""
        if not self.tasks and not self.questions:
            return parse_rules(default_rules_text(self.language))
        detects = Task.DETECTION in self.tasks or Task.DETECTION_3D in self.tasks
        action = Action(
            report=Task.REPORT in self.tasks,
            classification=Task.CLASSIFICATION in self.tasks,
            findings=("all",) if detects else (),
            landmarks=("all",) if Task.LANDMARK in self.tasks else (),
            questions=tuple(Question(question=text, options=self.options) for text in self.questions),
            language=self.language,
            destinations=("sender",),
        )
        return RuleSet(rules=(Rule(name="command-line", matches_everything=True, action=action),))


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineOutcome:
    """What became of one study."""

    study_instance_uid: StudyUID
    folder: Path
    decision: RoutingDecision | None = None
    findings: Findings | None = None
    guarding: Guarding | None = None
    objects: tuple[ResultObject, ...] = ()
    stopped: tuple[StoppedObject, ...] = ()
    pictures: tuple[Path, ...] = ()
    #: why there is no draft; "" where there is one.
    failure: str = ""

    @property
    def is_analysed(self) -> bool:
        return self.findings is not None

    @property
    def facts(self) -> dict[str, Any]:
        """The outcome as JSON can hold it."""
        return {
            "study_instance_uid": self.study_instance_uid,
            "rule": self.decision.rule if self.decision else None,
            "failure": self.failure,
            "findings": json.loads(to_json(self.findings)) if self.findings else None,
            "guard": asdict(self.guarding) if self.guarding else None,
            "objects": [str(self.folder / item.relative_path) for item in self.objects],
            "stopped": [asdict(item) for item in self.stopped],
            "pictures": [str(path) for path in self.pictures],
        }


def find_studies(paths: Iterable[Path]) -> tuple[OfflineStudy, ...]:
    """The DICOM files in `paths`, by study; files that are no DICOM are passed over."""
    headers: dict[StudyUID, dict[Path, Dataset]] = defaultdict(dict)
    for path in _files(paths):
        try:
            header = read_header(path)
        except StudyUnusable:
            continue
        if uid := str(header.get("StudyInstanceUID", "")):
            headers[StudyUID(uid)][path] = header
    return tuple(OfflineStudy(study_instance_uid=uid, headers=found) for uid, found in headers.items())


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in (given.resolve() for given in paths):
        yield from sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else (path,)


def analyse_studies(
    studies: Sequence[OfflineStudy],
    request: OfflineRequest,
    settings: Settings,
    out: Path,
    *,
    on_step: Callable[[str], object],
) -> Iterator[OfflineOutcome]:
    """Run the steps for each study; one that cannot be used never stops the next. `on_step` is told what is done."""
    on_step("Loading the checkpoint")
    engine = open_engine(settings.model, settings.checkpoints_folder)
    templates = load_templates(settings.compose.templates_folder)
    for study in studies:
        folder = out / study.study_instance_uid
        try:
            outcome = _analyse(study, request, settings, engine, templates, folder, on_step)
        except StudyUnusable as exc:
            outcome = OfflineOutcome(
                study_instance_uid=study.study_instance_uid, folder=folder, failure=f"{exc.reason}: {exc.detail}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "findings.json").write_text(
            json.dumps(outcome.facts, ensure_ascii=False, indent=2, default=str), encoding="utf-8"
        )
        yield outcome


def _analyse(
    study: OfflineStudy,
    request: OfflineRequest,
    settings: Settings,
    engine: Engine,
    templates: TemplateLibrary,
    folder: Path,
    on_step: Callable[[str], object],
) -> OfflineOutcome:
    uid = study.study_instance_uid
    on_step(f"Routing {uid}")
    places = {f"file/{number}": path for number, path in enumerate(study.headers)}
    input_set = _input_set(study, places)
    files = FilesInPlace(folder, places)
    decision = route(input_set, request.rules(), 0, files, templates)
    if not decision.orders:
        raise StudyUnusable("no rule asks anything of this study; --task asks it all the same", reason="not_routed")
    on_step(f"Preparing {uid}")
    prepared = prepare(input_set, decision.orders, files, engine.requirements, settings.model)
    on_step(f"Reading {uid}")
    findings = infer(input_set.input_set_id, decision.orders, prepared, engine, templates)
    findings = measure(input_set, findings, files, templates, settings.model)
    findings = replace(findings, excluded=decision.excluded + findings.excluded)
    on_step(f"Checking the answers about {uid}")
    found = guard(input_set, decision, findings, files, templates, settings.guard, settings.model)
    on_step(f"Writing the draft of {uid}")
    composed = compose(input_set, decision, findings, (), files, settings.compose, guarding=found)
    return OfflineOutcome(
        study_instance_uid=uid,
        folder=folder,
        decision=decision,
        findings=findings,
        guarding=found,
        objects=composed.objects,
        stopped=composed.stopped,
        pictures=save_pages((folder / item.relative_path for item in composed.objects), folder),
    )


def _input_set(study: OfflineStudy, places: Mapping[str, Path]) -> InputSet:
    instances = tuple(
        StoredInstance(
            study_instance_uid=study.study_instance_uid,
            series_instance_uid=SeriesUID(str(study.headers[path].SeriesInstanceUID)),
            sop_instance_uid=InstanceUID(str(study.headers[path].SOPInstanceUID)),
            sop_class_uid=str(study.headers[path].SOPClassUID),
            transfer_syntax_uid=str(study.headers[path].file_meta.TransferSyntaxUID),
            calling_ae_title="FILES",
            called_ae_title="FILES",
            peer_host="127.0.0.1",
            sha256=file_sha256(path),
            size_bytes=path.stat().st_size,
            relative_path=place,
            received_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        )
        for place, path in places.items()
    )
    return input_set_of(instances, CompletionReason.FILES)


def draft_panel(outcome: OfflineOutcome) -> Panel:
    """What a person wants to see of one study."""
    if outcome.findings is None:
        return Panel(outcome.failure, title=outcome.study_instance_uid, border_style="red")
    lines = [said_in_words(outcome.findings.results)]
    lines += [f"not analysed: {item.reason} {item.detail}" for item in outcome.findings.excluded]
    if outcome.guarding is not None and outcome.guarding.faults:
        lines += [guard_text(outcome.guarding), *guard_details(outcome.guarding)]
    lines += ["", *(f"wrote {outcome.folder / item.relative_path}" for item in outcome.objects)]
    lines += [f"wrote {path}" for path in outcome.pictures]
    lines += [f"stopped: {item.kind} {item.number}: {item.detail}" for item in outcome.stopped]
    return Panel(
        escape("\n".join(lines)), title=f"AI DRAFT, NOT VERIFIED: {outcome.study_instance_uid}", border_style="yellow"
    )
