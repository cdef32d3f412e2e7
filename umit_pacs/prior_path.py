"""The side path of a study, beside the way to its draft: its earlier study is found and fetched while it waits.

    schedule   want_prior        the study is routed and an earlier one may be compared with     -> WANTED
    deliver    look_for_prior    peers are asked, the newest comparable study is fetched          -> FETCHED or NONE
    work       read_prior        the model answers the same questions about it; images deleted    -> READ or NONE

The draft waits for it until the time limit, counted from routing, and not at all where no peer is asked. Whatever goes
wrong here ends here, with its reason in the catalogue; the study goes on.
"""

from __future__ import annotations

import logging

from dbos import DBOS

from umit_pacs.durable_work import MAXIMUM_RECOVERIES, Stage, StageOfStudy
from umit_pacs.errors import LeaseLost, UmitPacsError
from umit_pacs.handoffs import Findings, InputSet, Priority, RoutingDecision
from umit_pacs.prior_files import forget_prior, images_of, priors_held
from umit_pacs.prior_studies import PriorSearch, PriorState
from umit_pacs.states import InputSetState
from umit_pacs.steps.fetch_prior import (
    TOO_LATE,
    PriorFetcher,
    begin_search,
    end_fetching,
    fetch_prior,
    forget_unused,
)
from umit_pacs.steps.infer import infer
from umit_pacs.steps.prepare import prepare
from umit_pacs.steps.read_prior import orders_about_prior, reading_of, why_nothing_was_read
from umit_pacs.steps.route import read_facts
from umit_pacs.store import results, studies
from umit_pacs.store.database import utc_now
from umit_pacs.store.priors import (
    awaited_priors,
    begin_reading,
    end_search,
    prior_search,
    prior_studies_in_use,
    priors_wanted,
    record_reading,
    stranded_priors,
)
from umit_pacs.store.studies import input_set_state
from umit_pacs.worker_boundary import Tools, equipped_tools

log = logging.getLogger(__name__)

#: while the study is in one of these an earlier one is of use to it.
_WAITING = frozenset({InputSetState.ROUTED, InputSetState.ANALYSED})


def want_prior(tools: Tools, input_set: InputSet, decision: RoutingDecision) -> None:
    """Note that an earlier study is wanted, where a peer is asked for them; the same again changes nothing."""
    begin_search(tools.catalogue, tools.settings, input_set, decision, utc_now())


def start_search(tools: Tools, input_set_id: str) -> None:
    """Have an earlier study looked for that is wanted."""
    if is_prior_awaited(tools, input_set_id):
        tools.starter.start(Stage.PRIOR, input_set_id)


@DBOS.workflow(name=Stage.PRIOR, max_recovery_attempts=MAXIMUM_RECOVERIES)
def look_for_prior(input_set_id: str, attempt: int) -> None:
    """An earlier study is fetched, or it is known why not; then the draft need not wait for it any more."""
    del attempt
    fetch_images(input_set_id)
    tools = equipped_tools()
    if input_set_state(tools.catalogue, input_set_id) in _WAITING:
        decision = results.decision(tools.catalogue, input_set_id)
        is_urgent = decision is not None and decision.priority is Priority.URGENT
        tools.starter.start(Stage.ANALYSE, input_set_id, is_urgent=is_urgent)


@DBOS.step()
def fetch_images(input_set_id: str) -> None:
    """WANTED -> FETCHED or NONE."""
    tools = equipped_tools()
    decision = results.decision(tools.catalogue, input_set_id)
    assert decision is not None, "a study is routed before an earlier one is looked for"
    put_down = tools.on_study()
    try:
        fetch_prior(_fetcher(tools), studies.input_set(tools.catalogue, input_set_id), decision)
    except Exception as exc:  # a worker boundary: what is wrong with an earlier study must not stop this one
        log.exception("prior_failed", extra={"input_set_id": input_set_id})
        end_fetching(_fetcher(tools), input_set_id, "defect", f"{type(exc).__name__}; the log says where")
    finally:
        put_down()


@DBOS.step()
def read_prior(input_set_id: str) -> None:
    """FETCHED -> READ, or NONE with the reason; the earlier images are deleted either way."""
    tools = equipped_tools()
    search = prior_search(tools.catalogue, input_set_id)
    is_due = input_set_state(tools.catalogue, input_set_id) is InputSetState.ANALYSED
    if search is None or not is_due or search.state not in (PriorState.FETCHED, PriorState.READING):
        return
    if begin_reading(tools.catalogue, input_set_id):
        _read_without_harm(tools, search)
    else:
        end_search(tools.catalogue, input_set_id, PriorState.READING, "reading_broke_off")
    forget_unused(tools.catalogue, tools.files, search.study_instance_uid)


def _read_without_harm(tools: Tools, search: PriorSearch) -> None:
    """What is wrong with an earlier study ends its reading and not the study."""
    try:
        _read(tools, search)
    except LeaseLost:
        raise
    except UmitPacsError as exc:
        end_search(tools.catalogue, search.input_set_id, PriorState.READING, exc.reason, exc.detail)
    except Exception as exc:  # a worker boundary, as in `fetch_images`
        log.exception("prior_failed", extra={"input_set_id": search.input_set_id})
        detail = f"{type(exc).__name__}; the log says where"
        end_search(tools.catalogue, search.input_set_id, PriorState.READING, "defect", detail)


def _read(tools: Tools, search: PriorSearch) -> None:
    assert tools.engine_for is not None, "an earlier study is read in a work process only"
    assert search.study is not None, "what was fetched is a study"
    decision, findings = (read(tools.catalogue, search.input_set_id) for read in (results.decision, results.findings))
    assert isinstance(decision, RoutingDecision), "ANALYSED has a decision"
    assert isinstance(findings, Findings), "ANALYSED has findings"
    images = images_of(search.study)
    pairs, orders = orders_about_prior(decision, read_facts(images, tools.files), tools.templates)
    with tools.engine_for(decision.checkpoint, decision.priority) as engine:
        if engine.identity != findings.model:
            end_search(tools.catalogue, search.input_set_id, PriorState.READING, "another_checkpoint")
            return
        with tools.preparing:
            prepared = prepare(images, orders, tools.files, engine.requirements, tools.settings.model)
        answers = infer(search.input_set_id, orders, prepared, engine, tools.templates)
    reading = reading_of(search.study, answers, pairs, tools.files, tools.templates, decision.language)
    tools.assert_may_act(search.input_set_id)
    if reason := why_nothing_was_read(reading):
        end_search(tools.catalogue, search.input_set_id, PriorState.READING, reason)
    else:
        record_reading(tools.catalogue, search.input_set_id, reading)


def has_search(tools: Tools, input_set_id: str) -> bool:
    """Whether an earlier study was wanted."""
    return prior_search(tools.catalogue, input_set_id) is not None


def is_prior_awaited(tools: Tools, input_set_id: str) -> bool:
    """Whether the earlier study may still come in time; a search whose time is over is ended."""
    search = prior_search(tools.catalogue, input_set_id)
    if search is None or search.state is not PriorState.WANTED:
        return False
    if utc_now() < search.until:
        return True
    end_fetching(_fetcher(tools), input_set_id, TOO_LATE)
    return False


def sweep_priors(tools: Tools, under_way: frozenset[StageOfStudy]) -> frozenset[str]:
    """Start searches that should be under way and are not; returns the input sets that wait for one."""
    awaited = awaited_priors(tools.catalogue, utc_now())
    sweep_overdue(tools, awaited)
    for input_set_id in awaited:
        if StageOfStudy(Stage.PRIOR, input_set_id) not in under_way:
            tools.starter.start(Stage.PRIOR, input_set_id)
    return awaited


def sweep_overdue(tools: Tools, awaited: frozenset[str]) -> None:
    """End the searches that nothing waits for any more."""
    for input_set_id in priors_wanted(tools.catalogue):
        if input_set_id not in awaited:
            end_fetching(_fetcher(tools), input_set_id, TOO_LATE)


def forget_unused_priors(tools: Tools) -> None:
    """Delete images of earlier studies that no search needs any more, such as a process left behind when it died."""
    for search in stranded_priors(tools.catalogue):
        end_search(tools.catalogue, search.input_set_id, search.state, "study_ended")
    sweep_overdue(tools, awaited_priors(tools.catalogue, utc_now()))
    for study_instance_uid in priors_held(tools.files) - prior_studies_in_use(tools.catalogue):
        forget_prior(tools.files, study_instance_uid)


def _fetcher(tools: Tools) -> PriorFetcher:
    return PriorFetcher(
        catalogue=tools.catalogue,
        files=tools.files,
        settings=tools.settings,
        templates=tools.templates,
        read_facts=lambda input_set: read_facts(input_set, tools.files),
    )
