"""A study's path: receive -> assemble -> route -> prepare -> infer -> compose -> deliver -> confirm.

This is the file to read first. Each process of the node runs a part of the path:

    receive    Receiver (steps/receive.py) stores each instance and records it
    schedule   assemble          a study is complete, its input set is made        -> ASSEMBLED
               route_study       the rules decide                                  -> ROUTED or NOT_ROUTED
    deliver    look_for_prior    beside the path, see prior_path.py: the earlier study that it is compared with
    work       analyse           prepare and infer                                 -> ANALYSED
                                 guard, then compose                               -> COMPOSED or HELD
    deliver    return_results    retire: earlier versions are taken back
                                 deliver                                           -> DELIVERED
                                 confirm                                           -> CONFIRMED
    schedule   sweep             starts whatever should be under way and is not

Routing is a workflow of its own before `analyse`: the rules say how urgent a study is, and the queue for the model must
know that when the study enters it.

The catalogue's state says what is done, so every step may run again: it looks at the state, does its work, records the
result and only then changes the state. A step that was killed before its state change runs again and comes to the same
result, because identifiers and bytes are derived from the input; after it, the step does nothing the second time.
Waiting (for a peer that is away, for storage commitment) is a time in the catalogue and never a blocked thread: a
workflow does what can be done now and ends, and the sweep starts the next one when the time has come.

What goes wrong (`umit_pacs.worker_boundary`): RetryLater is tried again after growing pauses, up to a limit.
StudyUnusable, OperatorMustAct and what nobody foresaw end in FAILED with the reason. Nothing is lost by that; a person
may take the study up anew (`umit_pacs.interventions`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from dbos import DBOS
from pydicom.uid import generate_uid

from umit_pacs.durable_work import MAXIMUM_RECOVERIES, Stage, StageOfStudy, parsed
from umit_pacs.errors import ResultInvalid
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import Findings, InputSet, Mode, ModelIdentity, Priority, RoutingDecision, TaskOrder
from umit_pacs.prior_path import has_search, is_prior_awaited, read_prior, start_search, sweep_priors, want_prior
from umit_pacs.routing.rules import RuleSet
from umit_pacs.routing.rules_text import parse_rules
from umit_pacs.states import InputSetState
from umit_pacs.steps.ask import Asker, rules_of_question, with_chosen_frames
from umit_pacs.steps.assemble import CountInstances, assemble_due, next_due
from umit_pacs.steps.compose import compose
from umit_pacs.steps.confirm import Confirmer, confirm
from umit_pacs.steps.deliver import deliver
from umit_pacs.steps.guard import guard
from umit_pacs.steps.infer import infer
from umit_pacs.steps.measure import measure
from umit_pacs.steps.prepare import prepare
from umit_pacs.steps.retire import Retirer, retire
from umit_pacs.steps.route import choose_kinds, name_destinations, route
from umit_pacs.steps.settle import settle_by_deliveries
from umit_pacs.store import results, studies
from umit_pacs.store.database import utc_now
from umit_pacs.store.deliveries import deliveries, plan_deliveries
from umit_pacs.store.guardings import guarded, record_guarding, why_withheld
from umit_pacs.store.priors import prior_search
from umit_pacs.store.returns import input_sets_to_return
from umit_pacs.store.rules import current_rules
from umit_pacs.store.stopped import record_stopped_objects
from umit_pacs.store.studies import change_state, input_set_state
from umit_pacs.store.withdrawals import supersede_earlier
from umit_pacs.worker_boundary import STAGE_OF, Tools, equipped_tools, take_in_hand

if TYPE_CHECKING:  # the engine's module loads torch, which only a work process needs
    from umit_pacs.umit_model.engine import Engine

log = logging.getLogger(__name__)

# --- assemble, in the schedule process -----------------------------------------------------------------------------


def assemble(tools: Tools, count_instances: CountInstances) -> datetime | None:
    """Make the input sets that are due, and have them routed; returns when the next may be due, None for none."""
    made = assemble_due(
        tools.catalogue,
        tools.settings.assemble,
        now=utc_now(),
        count_instances=count_instances,
        files=tools.files,
        read=tools.headers.read,
    )
    for input_set in made:
        tools.starter.start(Stage.ROUTE, input_set.input_set_id)
    return next_due(tools.catalogue, tools.settings.assemble, now=utc_now())


# --- route, in the schedule process --------------------------------------------------------------------------------


@DBOS.workflow(name=Stage.ROUTE, max_recovery_attempts=MAXIMUM_RECOVERIES)
def route_study(input_set_id: str, attempt: int) -> None:
    """The rules decide what is asked about the study, and how urgent it is."""
    take_in_hand(Stage.ROUTE, input_set_id, attempt, decide_by_rules)
    start_search(equipped_tools(), input_set_id)
    start_analysis(equipped_tools(), input_set_id)


@DBOS.step()
def decide_by_rules(input_set_id: str) -> None:
    """ASSEMBLED -> ROUTED, or NOT_ROUTED when no rule matched or the one that did has nothing to ask."""
    tools = equipped_tools()
    if input_set_state(tools.catalogue, input_set_id) is not InputSetState.ASSEMBLED:
        return
    input_set = with_chosen_frames(asker(tools), studies.input_set(tools.catalogue, input_set_id))
    version, rules = _rules_for(tools, input_set)
    decision = route(input_set, rules, version, tools.files, tools.templates, tools.headers.read)
    decision = name_destinations(tools.catalogue, decision, input_set)
    decision = choose_kinds(tools.catalogue, decision, tools.settings.compose.profiles)
    decision = results.record_decision(tools.catalogue, decision)
    if decision.orders:
        want_prior(tools, input_set, decision)
        change_state(tools.catalogue, input_set_id, InputSetState.ROUTED, reason=decision.rule or "")
    else:
        reason = "no_rule_matched" if decision.rule is None else "nothing_to_ask"
        change_state(tools.catalogue, input_set_id, InputSetState.NOT_ROUTED, reason=reason)


def _rules_for(tools: Tools, input_set: InputSet) -> tuple[int, RuleSet]:
    """The rules in force with their version; for what a person asked, the rule that the question amounts to."""
    if input_set.asked_by is not None:
        return 0, rules_of_question(asker(tools), input_set)
    published = current_rules(tools.catalogue)
    version, text = (published.version, published.text) if published is not None else (0, "")
    return version, parse_rules(text, source=f"rules version {version}")


def asker(tools: Tools) -> Asker:
    """What a process takes questions with."""
    quiet_period_s = tools.settings.assemble.quiet_period_s
    return Asker(catalogue=tools.catalogue, files=tools.files, templates=tools.templates, quiet_period_s=quiet_period_s)


def start_analysis(tools: Tools, input_set_id: str) -> None:
    """Put a routed study into the model's queue, the urgent ones in front."""
    if input_set_state(tools.catalogue, input_set_id) in {InputSetState.ROUTED, InputSetState.ANALYSED}:
        is_urgent = _decision(tools, input_set_id).priority is Priority.URGENT
        tools.starter.start(Stage.ANALYSE, input_set_id, is_urgent=is_urgent)


# --- prepare, infer, compose, in a work process --------------------------------------------------------------------


@DBOS.workflow(name=Stage.ANALYSE, max_recovery_attempts=MAXIMUM_RECOVERIES)
def analyse(input_set_id: str, attempt: int) -> None:
    """The model reads the study and its answers become DICOM objects."""
    take_in_hand(Stage.ANALYSE, input_set_id, attempt, ask_the_model)
    tools = equipped_tools()
    if is_prior_awaited(tools, input_set_id):
        return  # whoever fetches it starts this again, or the sweep when the time is over
    # Work in hand that was recorded before there were searches has no such step.
    about_prior = [read_prior] if has_search(tools, input_set_id) else []
    take_in_hand(Stage.ANALYSE, input_set_id, attempt, *about_prior, guard_answers, write_results)
    start_return(tools, input_set_id)


@DBOS.step()
def ask_the_model(input_set_id: str) -> None:
    """ROUTED -> ANALYSED: pixels are prepared and every order is answered, or abstained from with its reason."""
    tools = equipped_tools()
    if input_set_state(tools.catalogue, input_set_id) is not InputSetState.ROUTED:
        return
    assert tools.engine_for is not None, "analyse runs in a work process only"
    input_set, decision = studies.input_set(tools.catalogue, input_set_id), _decision(tools, input_set_id)
    with tools.engine_for(decision.checkpoint, decision.priority) as engine:
        templates = tools.templates.identities(order.template for order in decision.orders)
        if results.is_as_before(tools.catalogue, input_set, decision, engine.identity, templates):
            change_state(tools.catalogue, input_set_id, InputSetState.UNCHANGED, reason="nothing_changed")
            return
        findings = results.findings(tools.catalogue, input_set_id)
        if findings is None or not _answers(findings, decision, engine.identity):
            findings = _found_by_model(tools, engine, input_set, decision)
            tools.assert_may_act(input_set_id)
            results.record_findings(tools.catalogue, findings)
    change_state(tools.catalogue, input_set_id, InputSetState.ANALYSED)


def _found_by_model(tools: Tools, engine: Engine, input_set: InputSet, decision: RoutingDecision) -> Findings:
    input_set = with_chosen_frames(asker(tools), input_set)
    with tools.preparing:
        started = time.monotonic()
        prepared = prepare(input_set, decision.orders, tools.files, engine.requirements, tools.settings.model)
    prepare_s = time.monotonic() - started
    findings = infer(input_set.input_set_id, decision.orders, prepared, engine, tools.templates)
    with tools.preparing:
        findings = measure(input_set, findings, tools.files, tools.templates, tools.settings.model)
    return replace(
        findings,
        excluded=(*decision.excluded, *findings.excluded),
        timings_s={"prepare_s": round(prepare_s, 3), **findings.timings_s},
    )


def _answers(findings: Findings, decision: RoutingDecision, model: ModelIdentity) -> bool:
    """Whether these findings were recorded for this decision by this model, so that it need not be asked again."""

    def subject(order: TaskOrder) -> tuple[str, ...]:
        return (order.series_instance_uid, order.task, order.target, order.language)

    asked = [subject(order) for order in decision.orders]
    return findings.model == model and asked == [subject(result.order) for result in findings.results]


@DBOS.step()
def guard_answers(input_set_id: str) -> None:
    """What is wrong with the answers is recorded; the draft leaves it out, or is held back."""
    tools = equipped_tools()
    if input_set_state(tools.catalogue, input_set_id) is not InputSetState.ANALYSED:
        return
    if guarded(tools.catalogue, input_set_id) is not None:
        return
    input_set, decision = studies.input_set(tools.catalogue, input_set_id), _decision(tools, input_set_id)
    findings = results.findings(tools.catalogue, input_set_id)
    assert findings is not None, "ANALYSED has findings"
    settings = tools.settings
    search = prior_search(tools.catalogue, input_set_id)
    earlier = search.reading if search is not None else None
    found = guard(input_set, decision, findings, tools.files, tools.templates, settings.guard, settings.model, earlier)
    tools.assert_may_act(input_set_id)
    record_guarding(tools.catalogue, input_set_id, found)
    if found.faults:
        counts = Counter(fault.outcome.value for fault in found.faults)
        log.warning("answers_faulty", extra={"input_set_id": input_set_id, **counts})


@DBOS.step()
def write_results(input_set_id: str) -> None:
    """ANALYSED -> COMPOSED, with a delivery planned to every destination; -> HELD when the mode says so."""
    tools = equipped_tools()
    if input_set_state(tools.catalogue, input_set_id) is not InputSetState.ANALYSED:
        return
    input_set, decision = studies.input_set(tools.catalogue, input_set_id), _decision(tools, input_set_id)
    findings = results.findings(tools.catalogue, input_set_id)
    assert findings is not None, "ANALYSED has findings"
    tools.assert_may_act(input_set_id)
    predecessor = results.predecessor_results(tools.catalogue, input_set)
    with tools.composing:
        composed = compose(
            input_set,
            decision,
            findings,
            predecessor,
            tools.files,
            tools.settings.compose,
            tools.settings.model,
            replace(
                guarded(tools.catalogue, input_set_id) or Guarding(faults=()),
                prior=prior_search(tools.catalogue, input_set_id),
            ),
        )
    record_stopped_objects(tools.catalogue, input_set_id, composed.stopped)
    stopped = "; ".join(f"{item.kind} {item.number}: {item.detail}" for item in composed.stopped)
    if stopped and not composed.objects:
        raise ResultInvalid(f"every object was stopped: {stopped}")
    results.record_result_objects(tools.catalogue, input_set_id, composed.objects)
    if decision.mode is Mode.SEND and not why_withheld(tools.catalogue, input_set_id):
        plan_deliveries(tools.catalogue, input_set_id, decision.destinations, decision.kinds)
    reason = "objects_stopped" if stopped else ""
    change_state(tools.catalogue, input_set_id, InputSetState.COMPOSED, reason=reason, detail=stopped)


# --- deliver and confirm, in the deliver process -------------------------------------------------------------------


def start_return(tools: Tools, input_set_id: str) -> None:
    """Have composed results sent, unless they are held for a person."""
    if input_set_state(tools.catalogue, input_set_id) is InputSetState.COMPOSED:
        if deliveries(tools.catalogue, input_set_id=input_set_id):
            tools.starter.start(Stage.RETURN, input_set_id)
        else:
            settle(tools, input_set_id)


@DBOS.workflow(name=Stage.RETURN, max_recovery_attempts=MAXIMUM_RECOVERIES)
def return_results(input_set_id: str, attempt: int) -> None:
    """One pass: send what is due, ask about what was sent. The sweep starts the next one when there is more to do.

    Of a study that is being retracted these are the notes about it.
    """
    take_in_hand(Stage.RETURN, input_set_id, attempt, send_what_is_due, confirm_what_was_sent)


@DBOS.step()
def send_what_is_due(input_set_id: str) -> None:
    """COMPOSED -> DELIVERED once every destination has taken or refused every object."""
    tools = equipped_tools()
    if not _retire(tools, input_set_id):
        return
    deliver(
        tools.catalogue,
        tools.files,
        tools.settings.deliver,
        input_set_id,
        calling_ae_title=tools.settings.listener.ae_title,
        assert_may_act=partial(tools.assert_may_act, input_set_id),
        now=utc_now(),
    )
    settle(tools, input_set_id)


def _retire(tools: Tools, input_set_id: str) -> bool:
    """Take back what this version or a retraction ends; False while something of that is just being sent."""
    state = input_set_state(tools.catalogue, input_set_id)
    if state is InputSetState.COMPOSED:
        supersede_earlier(tools.catalogue, input_set_id)
    elif state is not InputSetState.RETRACTING:
        return True
    retirer = Retirer(
        catalogue=tools.catalogue,
        files=tools.files,
        settings=tools.settings.compose,
        is_at_rest=lambda other: other == input_set_id or not tools.starter.is_running(Stage.RETURN, other),
        assert_may_act=partial(tools.assert_may_act, input_set_id),
    )
    return retire(retirer, input_set_id)


@DBOS.step()
def confirm_what_was_sent(input_set_id: str) -> None:
    """DELIVERED -> CONFIRMED once every destination vouches for every object."""
    tools = equipped_tools()
    confirmer = Confirmer(
        catalogue=tools.catalogue,
        settings=tools.settings.deliver,
        calling_ae_title=tools.settings.listener.ae_title,
        assert_may_act=partial(tools.assert_may_act, input_set_id),
        new_transaction_uid=lambda: str(generate_uid(prefix=None)),
    )
    confirm(confirmer, input_set_id)
    settle(tools, input_set_id)


def settle(tools: Tools, input_set_id: str) -> None:
    """Draw the input set's state from its deliveries."""
    settle_by_deliveries(tools.catalogue, input_set_id)


# --- the sweep, in the schedule process ----------------------------------------------------------------------------


def sweep(tools: Tools) -> None:
    """Start what the catalogue shows should be under way and is not; end what killed its process each time.

    That covers a process killed between a state change and the start of the next workflow, a retry whose pause is over,
    an answered or overdue commitment request, and a lost workflow database.
    """
    fail_what_was_given_up(tools)
    waiting = [
        StageOfStudy(stage, input_set_id)
        for state, stage in STAGE_OF.items()
        if stage is not Stage.RETURN
        for input_set_id in studies.input_sets_in_state(tools.catalogue, state)
    ]
    waiting += [StageOfStudy(Stage.RETURN, item) for item in input_sets_to_return(tools.catalogue, utc_now())]
    if not waiting:
        return
    # In this order: what is given up in between is seen by one of the two, and not started anew.
    under_way = tools.starter.under_way() | {parsed(given_up) for given_up in tools.starter.given_up()}
    awaited = sweep_priors(tools, under_way)
    for item in waiting:
        if item in under_way:
            continue
        if item.input_set_id in awaited and item.stage is Stage.ANALYSE and not _is_unread(tools, item.input_set_id):
            continue
        if item.stage is Stage.ANALYSE:
            start_analysis(tools, item.input_set_id)
        else:
            tools.starter.start(item.stage, item.input_set_id)


def _is_unread(tools: Tools, input_set_id: str) -> bool:
    """Whether the model has yet to read the study, which it does without its earlier one."""
    return input_set_state(tools.catalogue, input_set_id) is InputSetState.ROUTED


def fail_what_was_given_up(tools: Tools) -> None:
    """A study that killed its process again and again is FAILED, and stands in nobody's way any more."""
    for workflow_id in tools.starter.given_up():
        item = parsed(workflow_id)
        state = input_set_state(tools.catalogue, item.input_set_id)
        if STAGE_OF.get(state) is item.stage:
            log.error("study_given_up", extra={"input_set_id": item.input_set_id, "stage": item.stage.value})
            detail = f"the process died {MAXIMUM_RECOVERIES + 1} times at {item.stage}"
            change_state(tools.catalogue, item.input_set_id, InputSetState.FAILED, reason="worker_died", detail=detail)
        tools.starter.put_away(workflow_id)


def _decision(tools: Tools, input_set_id: str) -> RoutingDecision:
    decision = results.decision(tools.catalogue, input_set_id)
    assert decision is not None, "every state after ASSEMBLED has a decision"
    return decision
