"""The schedule process: wakes things up. Quiet studies, routing, the sweep, the work of processes that went silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection

from apscheduler.schedulers.background import BackgroundScheduler

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import count_instances
from umit_pacs.durable_work import Stage, take_over
from umit_pacs.errors import RetryLater
from umit_pacs.hl7_network.listener import listening
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.node.workflows import running_workflows
from umit_pacs.pipeline import asker, assemble, sweep
from umit_pacs.prior_path import forget_unused_priors
from umit_pacs.settings import Settings
from umit_pacs.steps.ask import take_questions
from umit_pacs.steps.assemble import CountInstances
from umit_pacs.steps.feedback import FeedbackReader, read_reports, take_final_message
from umit_pacs.steps.fetch_reports import ReportFetcher, fetch_reports
from umit_pacs.steps.receive import keeping
from umit_pacs.steps.route import seed_rules
from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.leases import expired_workers, remove_worker
from umit_pacs.store.peers import peers_with_ae_title
from umit_pacs.worker_boundary import Tools

log = logging.getLogger(__name__)

ASSEMBLE_INTERVAL_S = 0.5
SWEEP_INTERVAL_S = 0.5
TAKE_OVER_INTERVAL_S = 5.0
RETENTION_INTERVAL_S = 600.0
FEEDBACK_INTERVAL_S = 1.0
QUESTIONS_INTERVAL_S = 0.5
REPORT_SEARCH_INTERVAL_S = 10.0

#: APScheduler's name for the round of assembling.
ASSEMBLE_JOB = "assemble"


def run_schedule(settings: Settings, *, supervisor: Connection | None = None) -> None:
    """Run the clock until told to stop."""
    life = Lifecycle.begin(settings, "schedule", supervisor)
    with running_workflows(settings, life, Stage.ROUTE) as tools:
        seed_rules(tools.catalogue, settings.store.folder)
        count = peer_counts(tools.catalogue, settings)
        jobs: dict[Callable[[], None], float] = {
            lambda: sweep(tools): SWEEP_INTERVAL_S,
            lambda: take_over_silent_workers(tools): TAKE_OVER_INTERVAL_S,
            lambda: forget_finished_work(tools): RETENTION_INTERVAL_S,
            lambda: forget_unused_priors(tools): RETENTION_INTERVAL_S,
            lambda: look_at_reports(tools): FEEDBACK_INTERVAL_S,
            lambda: look_at_questions(tools): QUESTIONS_INTERVAL_S,
        }
        # The first round in this thread: what is wrong ends the process before it says that it is ready.
        assemble(tools, count)
        for job in jobs:
            job()
        # One at a time; a round that was missed is not made up for.
        scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"max_instances": 1, "coalesce": True})
        for job, interval_s in jobs.items():
            scheduler.add_job(_guarded(job), "interval", seconds=interval_s)
        # Not in the first round: peers may take their time, and the start must not wait for them.
        search = _guarded(lambda: look_for_reports(tools, life.stop.is_set))
        scheduler.add_job(search, "interval", seconds=REPORT_SEARCH_INTERVAL_S)
        assemble_again = _guarded(lambda: assemble_and_look_again(tools, count, scheduler))
        scheduler.add_job(assemble_again, "interval", seconds=ASSEMBLE_INTERVAL_S, id=ASSEMBLE_JOB)
        scheduler.start()
        with taking_messages(tools):
            life.ready()
            life.stop.wait()
        scheduler.shutdown(wait=False)


def assemble_and_look_again(tools: Tools, count_instances: CountInstances, scheduler: BackgroundScheduler) -> None:
    """Make the input sets that are due, and have the next round at the moment when the next may be."""
    due = assemble(tools, count_instances)
    if due is not None and due < utc_now() + timedelta(seconds=ASSEMBLE_INTERVAL_S):
        scheduler.modify_job(ASSEMBLE_JOB, next_run_time=due)


def _guarded(job: Callable[[], None]) -> Callable[[], None]:
    """The job, with what may pass by itself logged; APScheduler logs the rest and goes on with the next round."""

    def run() -> None:
        try:
            job()
        except RetryLater as exc:
            log.warning("round_missed", extra={"reason": exc.reason})

    return run


def take_over_silent_workers(tools: Tools) -> None:
    """Give the work of processes that are silent for longer than their lease back to the queues."""
    silent = expired_workers(tools.catalogue, utc_now())
    if not silent:
        return
    count = take_over(silent)
    for worker in silent:
        remove_worker(tools.catalogue, worker)
        log.warning("worker_silent", extra={"worker": worker, "workflows": count})


def forget_finished_work(tools: Tools) -> None:
    """Delete the records of work that was finished long ago; what happened to a study stays in the catalogue."""
    count = tools.starter.forget_finished(utc_now() - timedelta(seconds=tools.settings.serve.keep_workflows_s))
    if count:
        log.info("finished_work_forgotten", extra={"workflows": count})


def look_at_reports(tools: Tools) -> None:
    """Read what radiologists sent about drafts: assessments and final reports."""
    read_reports(FeedbackReader(catalogue=tools.catalogue, files=tools.files, templates=tools.templates))


def look_at_questions(tools: Tools) -> None:
    """Take up what a person asks about images from the viewer; the sweep starts the rest."""
    take_questions(asker(tools), now=utc_now())


def look_for_reports(tools: Tools, is_stopping: Callable[[], bool]) -> None:
    """Ask the peers that are set so for final reports of drafted studies, until this process has to stop."""
    settings = tools.settings
    fetcher = ReportFetcher(
        catalogue=tools.catalogue,
        settings=settings.final_reports,
        ae_title=settings.listener.ae_title,
        timeouts=_timeouts(settings),
        keeping=lambda: keeping(settings, tools.catalogue, tools.files),
        is_stopping=is_stopping,
    )
    fetch_reports(fetcher, utc_now())


@contextmanager
def taking_messages(tools: Tools) -> Iterator[int | None]:
    """Take final reports as HL7 messages while the block runs; the port, None where no listener is set up."""
    if tools.settings.hl7.port == 0:
        yield None
        return
    reader = FeedbackReader(catalogue=tools.catalogue, files=tools.files, templates=tools.templates)
    with listening(tools.settings.hl7, lambda report: take_final_message(reader, report)) as port:
        yield port


def peer_counts(catalogue: Catalogue, settings: Settings) -> CountInstances:
    """How `assemble` asks the peer that sent a study how many instances it has of it."""
    timeouts = _timeouts(settings)

    def count(ae_title: str, study_uid: str) -> int | None:
        for peer in peers_with_ae_title(catalogue, ae_title):
            if peer.answers_query:
                address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
                return count_instances(
                    address, study_uid, calling_ae_title=settings.listener.ae_title, timeouts=timeouts
                )
        return None

    return count


def _timeouts(settings: Settings) -> NetworkTimeouts:
    return NetworkTimeouts(connect_s=settings.deliver.connect_timeout_s, response_s=settings.deliver.response_timeout_s)
