"""route: which tasks a study gets, decided by the first rule that matches, with every reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import InputSet, RoutingDecision, SeriesUID
from umit_pacs.pixels.attributes import text
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.remembered_headers import ReadHeader
from umit_pacs.pixels.stacks import ChosenFrames, classify_series
from umit_pacs.reporting_systems.reports import KIND_OF_REPORT
from umit_pacs.result_objects.profiles import OwnProfiles, kinds_of
from umit_pacs.routing.decide import decide
from umit_pacs.routing.facts import StudyFacts, facts_from_text, facts_to_text
from umit_pacs.routing.header_facts import UNREADABLE, SeriesHeaders, study_facts
from umit_pacs.routing.orders import expand
from umit_pacs.routing.replay import Replayed
from umit_pacs.routing.rules import SENDER, RuleSet
from umit_pacs.routing.rules_text import default_rules_text, parse_rules, read_rules
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.peers import peers, peers_with_ae_title
from umit_pacs.store.results import decision as recorded_decision
from umit_pacs.store.rules import PublishedRules, current_rules, publish_rules
from umit_pacs.store.studies import input_set as stored_input_set
from umit_pacs.store.studies import input_sets_in_state
from umit_pacs.vocabulary import TemplateLibrary, load_templates

#: in the store's folder; what a new node publishes as its first rules
SEED_FILE = "rules.toml"
#: Secondary Capture; its multi-frame kinds (PS3.4 B.5) are numbered below it.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Manufacturer of everything that this node composes.
OWN_MANUFACTURER = "UMIT PACS"
_ACQUIRED_IN_SLICES = frozenset({"CT", "MR", "PT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableSeries:
    """A series of which a header could not be read."""

    error: StudyUnusable


def route(
    input_set: InputSet,
    rules: RuleSet,
    version: int,
    files: PayloadFiles,
    templates: TemplateLibrary | None = None,
    read: ReadHeader = read_header,
) -> RoutingDecision:
    """Decide about an input set from its stored headers.

    read: reads them, or remembers them. A decision without orders (no rule matched, or nothing could be asked) means
    that the study is not routed. Raises StudyUnusable when no series can be read.
    """
    facts = read_facts(input_set, files, read)
    return decide_about(facts, rules, version=version, input_set_id=input_set.input_set_id, templates=templates)


def decide_about(
    facts: StudyFacts,
    rules: RuleSet,
    *,
    version: int = 0,
    input_set_id: str = "",
    templates: TemplateLibrary | None = None,
) -> RoutingDecision:
    """The decision about a study whose facts are known: the step itself, a dry run and a replay are this function."""
    decision = decide(facts, rules)
    expansion = expand(decision, facts, templates or load_templates())
    without_action = RoutingDecision(
        input_set_id=input_set_id,
        rule=None,
        rules_version=version,
        rule_text="",
        reasons=decision.reasons,
        excluded=expansion.excluded,
        facts_text=facts_to_text(facts),
    )
    if decision.rule is None:
        return without_action
    action = decision.rule.action
    return replace(
        without_action,
        rule=decision.rule.name,
        rule_text=decision.rule.model_dump_json(),
        orders=expansion.orders,
        profile=action.profile,
        destinations=action.destinations,
        priority=action.priority,
        mode=action.mode,
        language=action.language,
        checkpoint=action.checkpoint,
        remarks=expansion.remarks,
    )


def name_destinations(catalogue: Catalogue, decision: RoutingDecision, input_set: InputSet) -> RoutingDecision:
    """The decision with the destination `sender` replaced by the names of the peers that sent the study.

    Where stations share an AE title, the address of the last instance tells them apart. An AE title without a peer
    stands for itself: the delivery then ends in a dead letter that names it.
    """
    if SENDER not in decision.destinations:
        return decision
    title = input_set.calling_ae_title
    hosts = {instance.peer_host for instance in input_set.instances if instance.calling_ae_title == title}
    titled = peers_with_ae_title(catalogue, title)
    at_host = [peer for peer in titled if hosts & set(peer.allowed_addresses)]
    known = at_host or titled
    senders = [peer.name for peer in known if peer.receives_results] or [peer.name for peer in known] or [title]
    names = (name for item in decision.destinations for name in (senders if item == SENDER else [item]))
    return replace(decision, destinations=tuple(dict.fromkeys(names)))


def choose_kinds(catalogue: Catalogue, decision: RoutingDecision, own: OwnProfiles) -> RoutingDecision:
    """The decision with the kinds of object that each destination gets: by its own profile, else by the rule's.

    A reporting system gets the one kind that it reads. own: the installation's own profiles. Raises
    InvalidConfiguration when a profile does not exist.
    """
    known = peers(catalogue)
    profiles = {found.name: found.profile for found in known}
    kinds = {name: kinds_of(profiles.get(name) or decision.profile, own) for name in decision.destinations}
    kinds |= {
        found.name: (KIND_OF_REPORT[found.kind],)
        for found in known
        if found.name in kinds and found.kind in KIND_OF_REPORT
    }
    return replace(decision, kinds=kinds)


def read_facts(input_set: InputSet, files: PayloadFiles, read: ReadHeader = read_header) -> StudyFacts:
    """The facts of an input set from its stored headers. Raises StudyUnusable when no series can be read."""
    paths: dict[SeriesUID, list[Path]] = defaultdict(list)
    instances = sorted(input_set.instances, key=lambda instance: instance.sop_instance_uid)
    for instance in instances:
        paths[instance.series_instance_uid].append(files.path(instance.relative_path))
    return facts_of(
        {uid: read_series(of_series, read) for uid, of_series in paths.items()},
        calling_ae_title=input_set.calling_ae_title,
        called_ae_title=instances[-1].called_ae_title if instances else "",
        chosen=input_set.chosen_frames,
    )


def read_series(paths: Sequence[Path], read: ReadHeader = read_header) -> list[Dataset] | UnreadableSeries:
    """The headers of one series' files, or why they cannot be read."""
    try:
        return [read(path) for path in paths]
    except StudyUnusable as exc:
        return UnreadableSeries(error=exc)
    except FileNotFoundError:
        return UnreadableSeries(error=StudyUnusable("a stored file is missing", reason="stored_file_missing"))


def facts_of(
    series: Mapping[SeriesUID, Sequence[Dataset] | UnreadableSeries],
    *,
    calling_ae_title: str = "",
    called_ae_title: str = "",
    chosen: ChosenFrames = (),
) -> StudyFacts:
    """The facts of a study from its headers by series; `chosen` as in `classify_series`.

    Raises StudyUnusable when no series could be read."""
    errors = [item.error for item in series.values() if isinstance(item, UnreadableSeries)]
    if errors and len(errors) == len(series):
        raise errors[0]
    return study_facts(
        {uid: _judge(item, chosen) for uid, item in series.items()},
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
    )


def _judge(headers: Sequence[Dataset] | UnreadableSeries, chosen: ChosenFrames) -> SeriesHeaders:
    """What a series is, and whether anything of it may be looked at."""
    if isinstance(headers, UnreadableSeries):
        detail = f"{headers.error.reason}: {headers.error.detail}"
        return SeriesHeaders(headers=(), kept_out=UNREADABLE, kept_out_detail=detail)
    if all(text(header, "Manufacturer") == OWN_MANUFACTURER for header in headers):
        return SeriesHeaders(headers=headers, kept_out="own_result", kept_out_detail="composed by this node")
    if all(_is_picture_of_an_acquisition(header) for header in headers):
        detail = "a picture of an acquisition in slices, not the acquisition"
        return SeriesHeaders(headers=headers, kept_out="secondary_capture", kept_out_detail=detail)
    geometry = classify_series(headers, chosen)
    return SeriesHeaders(
        headers=headers,
        number_of_slices=geometry.slices,
        is_volume=geometry.is_volume,
        why_no_volume="" if geometry.reason is None else str(geometry.reason),
        orientation="" if geometry.orientation is None else str(geometry.orientation),
        slice_spacing_mm=geometry.slice_spacing_mm,
        kept_out="" if geometry.unfit is None else str(geometry.unfit),
        kept_out_detail=geometry.detail if geometry.unfit is not None else "",
    )


def _is_picture_of_an_acquisition(header: Dataset) -> bool:
    """Dose reports and screenshots of CT, MR and PET."""
    is_capture = f"{text(header, 'SOPClassUID')}.".startswith(f"{_SECONDARY_CAPTURE}.")
    return is_capture and text(header, "Modality").upper() in _ACQUIRED_IN_SLICES


def replay(
    catalogue: Catalogue,
    files: PayloadFiles,
    rules: RuleSet,
    version: int,
    *,
    templates: TemplateLibrary | None = None,
    last: int,
) -> Iterator[Replayed]:
    """Decide again about those of the `last` input sets on record that rules decided; changes nothing.

    The facts come from the stored headers, and where the files are gone from the decision on record.
    """
    for input_set_id in input_sets_in_state(catalogue, *InputSetState)[-last:]:
        input_set = stored_input_set(catalogue, input_set_id)
        if input_set.asked_by is not None:
            continue
        before, after, problem = recorded_decision(catalogue, input_set_id), None, ""
        try:
            facts = _facts_on_record(input_set, files, before)
            after = decide_about(facts, rules, version=version, input_set_id=input_set_id, templates=templates)
            after = name_destinations(catalogue, after, input_set)
        except StudyUnusable as exc:
            problem = f"{exc.reason}: {exc.detail}"
        yield Replayed(
            input_set_id=input_set_id,
            study_instance_uid=input_set.study_instance_uid,
            before=before,
            after=after,
            problem=problem,
        )


def _facts_on_record(input_set: InputSet, files: PayloadFiles, before: RoutingDecision | None) -> StudyFacts:
    are_files_there = all(files.path(instance.relative_path).is_file() for instance in input_set.instances)
    if before is not None and before.facts_text and not are_files_there:
        return facts_from_text(before.facts_text)
    return read_facts(input_set, files)


def seed_rules(catalogue: Catalogue, folder: Path) -> PublishedRules:
    """The rules in force; on a new node first publishes `rules.toml` of `folder`, or the shipped rules.

    Raises InvalidConfiguration when that file is wrong.
    """
    if (published := current_rules(catalogue)) is not None:
        return published
    path = folder / SEED_FILE
    content, source = (read_rules(path), str(path)) if path.exists() else (default_rules_text(), "the shipped rules")
    parse_rules(content, source=source)
    publish_rules(catalogue, content, author="umit-pacs", comment=f"first start, from {source}")
    if (published := current_rules(catalogue)) is None:
        raise RuntimeError("published rules are not in force")
    return published
