"""Durable work goes on where a killed process left it, on SQLite and PostgreSQL, with real processes."""

import multiprocessing
from contextlib import closing
from datetime import timedelta
from functools import partial

import pytest
from dbos import DBOS, DBOSClient

from tests import durable_processes
from tests.durable_processes import lines
from tests.peer_programs import wait_until
from tests.store_fixtures import BACKENDS
from umit_pacs.durable_work import (
    APPLICATION,
    MAXIMUM_RECOVERIES,
    Stage,
    StageOfStudy,
    WorkStarter,
    launch,
    prepare_workflow_database,
    take_over,
)
from umit_pacs.store.database import utc_now
from umit_pacs.wake_ups import WakeUps


@pytest.fixture(params=BACKENDS)
def workflow_url(request, tmp_path):
    """The URL of a prepared workflow database, on each database in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'workflows.sqlite'}"
    else:
        server = request.getfixturevalue("postgresql_server")
        url = server.url(server.new_database())
    prepare_workflow_database(url)
    return url


@pytest.fixture
def starter(workflow_url):
    starter = WorkStarter(workflow_url)
    yield starter
    starter.close()


@pytest.fixture
def start_worker(workflow_url, tmp_path):
    """Starts a process that runs workflows; all are killed after the test."""
    started = []

    def start(executor="work-0", studies_in_hand=1):
        worker = multiprocessing.get_context("spawn").Process(
            target=durable_processes.run, args=(workflow_url, tmp_path, executor, studies_in_hand)
        )
        worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.join()


def test_the_same_work_is_started_once(starter):
    assert starter.start(Stage.ANALYSE, "a")
    assert not starter.start(Stage.ANALYSE, "a")
    assert starter.start(Stage.RETURN, "a")
    assert starter.under_way() == {StageOfStudy(Stage.ANALYSE, "a"), StageOfStudy(Stage.RETURN, "a")}


def test_urgent_work_comes_first_and_then_the_oldest(starter, start_worker, tmp_path):
    for name in ("a", "b"):
        starter.start(Stage.ANALYSE, name)
    starter.start(Stage.ANALYSE, "urgent", is_urgent=True)
    start_worker()
    wait_until(lambda: len(lines(tmp_path, "ended")) == 3, what="all ended")
    assert lines(tmp_path, "ended") == ["urgent", "a", "b"]


def test_waiting_work_is_started_by_a_wake_up_and_not_by_the_next_poll(workflow_url, start_worker, tmp_path):
    client = DBOSClient(system_database_url=workflow_url, application_name=APPLICATION)
    client.retrieve_queue(Stage.ANALYSE).set_polling_interval_sec(3600)
    client.destroy()
    start_worker()
    wait_until(lambda: list(tmp_path.glob("wake/analyse.*")), what="the worker listens")
    with closing(WakeUps(tmp_path / "wake")) as wake_ups, closing(WorkStarter(workflow_url, wake_ups)) as starter:
        for name in ("a", "b"):
            starter.start(Stage.ANALYSE, name)
            wait_until(lambda name=name: name in lines(tmp_path, "ended"), what="it ended")


def test_finished_work_may_be_started_again_and_knows_its_attempt(starter, start_worker, tmp_path):
    starter.start(Stage.ANALYSE, "a")
    start_worker()
    wait_until(lambda: not starter.under_way(), what="the first ended")
    assert starter.start(Stage.ANALYSE, "a", attempt=1)
    wait_until(lambda: not starter.under_way(), what="the second ended")
    assert lines(tmp_path, "started") == ["a 0", "a 1"]


def test_finished_work_is_forgotten_after_its_time_and_may_then_be_started_again(starter, start_worker, tmp_path):
    begun = utc_now() - timedelta(seconds=1)  # on SQLite, DBOS notes whole seconds before Python 3.12
    for name in ("a", "b"):
        starter.start(Stage.ANALYSE, name)
    start_worker()
    wait_until(lambda: not starter.under_way(), what="both ended")
    starter.start(Stage.RETURN, "a")  # nobody runs it
    assert starter.forget_finished(begun) == 0
    assert starter.forget_finished(utc_now() + timedelta(seconds=1), at_most=1) == 1
    assert starter.forget_finished(utc_now() + timedelta(seconds=1)) == 1
    assert starter.forget_finished(utc_now() + timedelta(seconds=1)) == 0
    assert starter.under_way() == {StageOfStudy(Stage.RETURN, "a")}
    assert starter.start(Stage.ANALYSE, "a")
    wait_until(lambda: lines(tmp_path, "ended").count("a") == 2, what="it ran again")


def test_new_work_never_takes_the_name_of_work_still_on_record(starter, start_worker, tmp_path):
    start_worker()
    for number in range(2):
        starter.start(Stage.ANALYSE, "a", attempt=number)
        wait_until(lambda: not starter.under_way(), what="it ended")
    assert starter.forget_finished(utc_now() + timedelta(seconds=1), at_most=1) == 1
    assert starter.start(Stage.ANALYSE, "a", attempt=2)
    wait_until(lambda: lines(tmp_path, "ended") == ["a", "a", "a"], what="it ran")


def test_a_killed_process_goes_on_at_its_last_step(starter, start_worker, tmp_path):
    starter.start(Stage.ANALYSE, "once")
    start_worker().join(60)
    start_worker()
    wait_until(lambda: lines(tmp_path, "ended") == ["once"], what="it ended")
    assert lines(tmp_path, "started") == ["once 0"]  # the step before the kill was recorded, so it ran once


def test_work_that_kills_its_process_each_time_is_given_up_and_the_next_runs(starter, start_worker, tmp_path):
    starter.start(Stage.ANALYSE, "poison", is_urgent=True)
    starter.start(Stage.ANALYSE, "next")
    for _ in range(MAXIMUM_RECOVERIES + 1):
        worker = start_worker()
        worker.join(60)
        assert worker.exitcode == 9
    start_worker()
    wait_until(lambda: lines(tmp_path, "ended") == ["next"], what="the next study ended")
    assert starter.given_up() == ("analyse:poison:0",)
    starter.put_away("analyse:poison:0")
    assert starter.given_up() == ()
    assert starter.start(Stage.ANALYSE, "poison")  # a person may ask again


def test_what_kills_its_process_does_so_alone_the_next_time(starter, start_worker, tmp_path):
    names = [f"company-{number}" for number in range(durable_processes.COMPANY)]
    for name in (*names, "poison-with-company"):
        starter.start(Stage.ANALYSE, name)
    for _ in range(MAXIMUM_RECOVERIES + 1):
        worker = start_worker(studies_in_hand=3)
        worker.join(60)
        assert worker.exitcode == 9
    start_worker(studies_in_hand=3)
    wait_until(lambda: sorted(lines(tmp_path, "ended")) == names, what="its company ended")
    wait_until(starter.given_up, what="it is given up")
    assert starter.given_up() == ("analyse:poison-with-company:0",)
    begun = lines(tmp_path, "begun")
    assert [begun.count(name) for name in names] == [2] * len(names)


def test_urgent_work_does_not_wait_for_routine_to_end(starter, start_worker, tmp_path):
    for name in ("endless-a", "endless-b", "c"):
        starter.start(Stage.ANALYSE, name)
    start_worker(studies_in_hand=2)
    wait_until(lambda: len(lines(tmp_path, "begun")) == 2, what="routine is in hand")
    for name in ("urgent-a", "urgent-b"):
        starter.start(Stage.ANALYSE, name, is_urgent=True)
    wait_until(lambda: sorted(lines(tmp_path, "ended")) == ["urgent-a", "urgent-b"], what="the urgent ended")
    assert "c" not in lines(tmp_path, "begun")


def test_work_put_back_runs_elsewhere(starter, start_worker, tmp_path):
    starter.start(Stage.ANALYSE, "endless")
    worker = start_worker("work-0")
    wait_until(lambda: starter.in_hand("work-0"), what="it is in hand")
    worker.kill()
    worker.join()
    starter.put_back(starter.in_hand("work-0"))
    start_worker("work-1")
    wait_until(lambda: starter.in_hand("work-1") == ("analyse:endless:0",), what="the other has it")
    assert starter.in_hand("work-0") == ()


def test_work_of_a_silent_process_is_taken_over_and_its_deaths_are_not_forgotten(
    workflow_url, starter, start_worker, tmp_path
):
    starter.start(Stage.ANALYSE, "endless")
    worker = start_worker("work-0")
    wait_until(lambda: starter.in_hand("work-0"), what="it is in hand")
    worker.kill()
    worker.join()
    launch(workflow_url, "schedule", [Stage.ROUTE])
    try:
        for number in range(MAXIMUM_RECOVERIES):
            assert take_over([f"work-{number}"]) == 1
            worker = start_worker(f"work-{number + 1}")
            wait_until(partial(starter.in_hand, f"work-{number + 1}"), what="another has it")
            worker.kill()
            worker.join()
        assert take_over([f"work-{MAXIMUM_RECOVERIES}"]) == 1
        start_worker("work-9")
        wait_until(starter.given_up, what="given up")
    finally:
        DBOS.destroy()


def test_databases_are_prepared_by_several_processes_at_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=prepare_workflow_database, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
