"""Writes the draft: deterministic sections out of the model's answers, the template and the headers.

Nothing is stated that no answer, header or setting says, and an answer that could not be read is listed as not
assessed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from umit_pacs import __version__
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import (
    Abstention,
    Findings,
    FrameReference,
    RoutingDecision,
    SeriesExclusion,
    SeriesUID,
    Task,
    TaskOrder,
    TemplateIdentity,
)
from umit_pacs.lesion_masks import RegionMasks
from umit_pacs.result_objects.coded_answers import coded_answers
from umit_pacs.result_objects.comparison import comparison_lines, earlier_images
from umit_pacs.result_objects.draft import Draft, DraftLine, DraftSection, LineOrigin, Marking, SectionKind
from umit_pacs.result_objects.findings_section import capitalised, findings_lines
from umit_pacs.result_objects.guard.lines import guard_lines
from umit_pacs.result_objects.impression import impression_lines
from umit_pacs.result_objects.reading import ReadSeries, read_findings
from umit_pacs.result_objects.sources import SourceStudy
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary, Words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Material:
    decision: RoutingDecision
    findings: Findings
    source: SourceStudy
    series: tuple[ReadSeries, ...]
    #: the template of the first series, the general one where there is none: it orders the draft.
    main: SRTemplate
    words: Words
    supersedes: bool
    guarding: Guarding
    masks: RegionMasks
    #: what the draft is worded with.
    templates: tuple[TemplateIdentity, ...]


def write_draft(
    decision: RoutingDecision,
    findings: Findings,
    source: SourceStudy,
    templates: TemplateLibrary,
    *,
    supersedes: bool = False,
    guarding: Guarding | None = None,
    masks: RegionMasks | None = None,
) -> Draft:
    """The draft in the decision's language; `supersedes`: an earlier draft of the study exists.

    guarding: what the consistency guard found, and the earlier study that it was given; what it leaves out is listed
    under "Not assessed".
    masks: of the boxes in volumes; a box that has none is listed there, too.
    """
    found = guarding or Guarding(faults=())
    words = templates.in_language(decision.language)
    series = read_findings(findings, source, templates, words, found.faults)
    main = series[0].template if series else templates.by_key("general")
    used = templates.identities([main.key, *(one.template.key for one in series)])
    material = _Material(
        decision=decision,
        findings=findings,
        source=source,
        series=series,
        main=main,
        words=words,
        supersedes=supersedes,
        guarding=found,
        masks=masks or {},
        templates=(*used, templates.phrases.identity),
    )
    markings = tuple(marking for one in series for read in one.results for marking in read.markings)
    frames = tuple(dict.fromkeys(frame for result in findings.results for frame in result.frames))
    return Draft(
        language=decision.language,
        banner=words("banner"),
        title=main.title[decision.language],
        procedure=main.procedure,
        body_part=(series[0].source.body_part if series else "") or next(iter(main.body_parts), ""),
        sections=_sections(material),
        markings=markings,
        frames=frames,
        key_frames=key_frames(series, markings, frames),
        templates=material.templates,
        answers=coded_answers(series, words),
        earlier=earlier_images(found.prior),
    )


def key_frames(
    series: tuple[ReadSeries, ...], markings: tuple[Marking, ...], frames: tuple[FrameReference, ...]
) -> tuple[FrameReference, ...]:
    """The frames worth showing: those with markings, then the middle one of each series without any."""
    marked = list(dict.fromkeys(marking.key_frame for marking in markings))
    seen: set[SeriesUID] = {frame.series_instance_uid for frame in marked}
    for one in series:
        uid = one.source.series_instance_uid
        own = [frame for frame in frames if frame.series_instance_uid == uid]
        if own and uid not in seen:
            marked.append(own[len(own) // 2])
    return tuple(marked)


def _sections(material: _Material) -> tuple[DraftSection, ...]:
    """The sections as the main template codes and orders them."""
    words = material.words
    lines: dict[SectionKind, Iterable[DraftLine]] = {
        SectionKind.STATUS: _status_lines(material),
        SectionKind.TECHNIQUE: _technique_lines(material),
        SectionKind.COMPARISON: comparison_lines(material.series, material.guarding.prior, words),
        SectionKind.FINDINGS: findings_lines(material.series, material.source, words),
        SectionKind.IMPRESSION: impression_lines(material.series, words),
        SectionKind.NOT_ASSESSED: _not_assessed_lines(material),
        SectionKind.IDENTITY: _identity_lines(material),
    }
    return tuple(
        DraftSection(
            kind=kind,
            heading=words(f"headings.{kind}"),
            code=material.main.sections[kind].code,
            line_code=material.main.sections[kind].line,
            lines=tuple(lines[kind]),
        )
        for kind in material.main.section_order
    )


def _status_lines(material: _Material) -> Iterator[DraftLine]:
    yield DraftLine(text=material.words("banner"))
    yield DraftLine(text=material.words("not_a_diagnosis"))
    if material.supersedes:
        yield DraftLine(text=material.words("supersedes"))


def _technique_lines(material: _Material) -> Iterator[DraftLine]:
    words = material.words
    for one in material.series:
        frames = tuple(dict.fromkeys(frame for read in one.results for frame in read.result.frames))
        text = one.template.technique[words.language].format(slices=len(frames))
        if len(frames) != 1:
            key = "technique.frames" if frames else "technique.no_frames"
        else:
            key = "technique.one_frame"
        series, modality = one.source.number or "?", one.source.modality or "?"
        shown = "" if "{slices}" in one.template.technique[words.language] and frames else words(key, count=len(frames))
        line = words("technique.series", series=series, modality=modality, text=text)
        yield DraftLine(text=words("technique.joined", text=line, shown=shown).strip(), frames=frames)
    if not material.series:
        yield DraftLine(text=words("technique.no_frames"))


def _not_assessed_lines(material: _Material) -> Iterator[DraftLine]:
    words = material.words
    yield from _abstention_lines(material)
    yield from guard_lines(material.guarding, material.series, material.source, words)
    yield from _unlikely_place_lines(material)
    yield from _outline_lines(material)
    yield from _unmeasured_lines(material)
    for exclusion in _excluded(material):
        series = material.source.series_of(exclusion.series_instance_uid)
        description = f" ({series.modality})" if series.modality else ""
        reason = words.reason(exclusion.reason, exclusion.detail)
        text = words("not_assessed.series", series=series.number or "?", description=description, reason=reason)
        yield DraftLine(text=text)
    for one in material.series:
        if names := _not_asked(one, words):
            yield DraftLine(text=words("not_assessed.not_asked", names=words.listed(names)))
    used = [one.template for one in material.series] or [material.main]
    never = dict.fromkeys(text[words.language] for template in used for text in template.never_assessed)
    yield from (DraftLine(text=text) for text in never)
    if material.guarding.prior is None or material.guarding.prior.reading is None:
        yield DraftLine(text=words("not_assessed.comparison"))
    yield from (DraftLine(text=words("not_assessed.remark", text=text)) for text in material.decision.remarks)


def _abstention_lines(material: _Material) -> Iterator[DraftLine]:
    """One line for each reason, with the findings that were not assessed because of it, and one with all else."""
    words = material.words
    findings: dict[str, dict[str, None]] = {}
    others: dict[str, dict[str, None]] = {}
    for read in (read for one in material.series for read in one.results):
        if (abstention := read.result.abstention) is not None:
            reason = words.reason(abstention.reason, abstention.detail)
            if read.finding:
                sentence = read.template.sentence(read.finding, "not_assessed", "none", words.language)
                findings.setdefault(reason, {})[sentence] = None
            else:
                others.setdefault(reason, {})[_name_of(read.result.order, read.template, words)] = None
    for reason, names in others.items():
        text = words("not_assessed.answer", what=words.listed(names), reason=reason)
        yield DraftLine(text=capitalised(text), origin=LineOrigin.STRUCTURED)
    for reason, sentences in findings.items():
        text = words("not_assessed.findings", sentences=" ".join(sentences), reason=reason)
        yield DraftLine(text=text, origin=LineOrigin.STRUCTURED)


def _unlikely_place_lines(material: _Material) -> Iterator[DraftLine]:
    """The findings of which a place was left out because it was hardly likely to be right."""
    words = material.words
    for read in (read for one in material.series for read in one.results):
        if read.finding and "unlikely_place_dropped" in read.result.repairs:
            name = read.template.finding_name(read.finding, words.language)
            yield DraftLine(text=capitalised(words("not_assessed.place", name=name)), origin=LineOrigin.STRUCTURED)


def _outline_lines(material: _Material) -> Iterator[DraftLine]:
    """The regions of which no outline could be made, and why."""
    words = material.words
    for marking in (marking for one in material.series for read in one.results for marking in read.markings):
        mask = material.masks.get(marking.region)
        if isinstance(mask, Abstention):
            region, reason = words("findings.region", number=marking.number), words.reason(mask.reason, mask.detail)
            text = words("not_assessed.outline", region=region, name=marking.name, reason=reason)
            yield DraftLine(text=capitalised(text), origin=LineOrigin.STRUCTURED, frames=(marking.key_frame,))


def _unmeasured_lines(material: _Material) -> Iterator[DraftLine]:
    """What could not be measured of a region, by reason; one that has no outline has a line that says so already."""
    words = material.words
    for read in (read for one in material.series for read in one.results):
        for marking in read.markings:
            if isinstance(material.masks.get(marking.region), Abstention):
                continue
            by_reason: dict[str, list[str]] = {}
            for missing in marking.region.unmeasured:
                term = read.template.measurements.get(missing.key)
                name = term.names[words.language] if term else missing.key.replace("_", " ")
                by_reason.setdefault(words.reason(missing.reason, missing.detail), []).append(name)
            region = words("findings.region", number=marking.number)
            for reason, names in by_reason.items():
                listed = words.listed(names)
                text = words("not_assessed.measurement", region=region, name=marking.name, listed=listed, reason=reason)
                yield DraftLine(text=capitalised(text), origin=LineOrigin.STRUCTURED, frames=(marking.key_frame,))


def _excluded(material: _Material) -> tuple[SeriesExclusion, ...]:
    """Kept out by the rule or by preparation; the first reason of a series counts."""
    by_series: dict[SeriesUID, SeriesExclusion] = {}
    for exclusion in (*material.decision.excluded, *material.findings.excluded):
        by_series.setdefault(exclusion.series_instance_uid, exclusion)
    return tuple(by_series.values())


def _not_asked(series: ReadSeries, words: Words) -> list[str]:
    """Findings of the template that no answer says anything about."""
    asked = {read.finding for read in series.results} | {statement.finding for statement in series.statements}
    return [term.names[words.language] for key, term in series.template.findings.items() if key not in asked]


def _name_of(order: TaskOrder, template: SRTemplate, words: Words) -> str:
    name = template.finding_name(order.target, words.language) if order.target else ""
    if order.task in (Task.VQA, Task.CLASSIFICATION) and order.question:
        return words("tasks.vqa", question=order.question)
    return words(f"tasks.{order.task}", name=name)


def _identity_lines(material: _Material) -> Iterator[DraftLine]:
    words, model, decision = material.words, material.findings.model, material.decision
    yield DraftLine(
        text=words(
            "identity.model",
            name=model.name,
            version=model.version,
            sha256=model.sha256[:12],
            quantisation=model.quantisation,
            device=model.device,
        )
    )
    yield DraftLine(text=words("identity.templates", templates=words.listed(map(str, material.templates))))
    yield DraftLine(text=words("identity.licence", licence=model.licence, intended_use=model.intended_use))
    yield DraftLine(
        text=words(
            "identity.software",
            version=__version__,
            rule=decision.rule or "",
            rules_version=decision.rules_version,
            input_set=material.findings.input_set_id[:12],
        )
    )
