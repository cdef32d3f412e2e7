"""The supervisor keeps its processes running and stops them, against real processes and signals."""

import multiprocessing
import os
import re
import signal

import pytest

from tests.peer_programs import wait_until
from tests.supervised_processes import is_alive, pids
from umit_pacs.node.supervisor import ProcessPlan, restart_pause_s, run_child, serve
from umit_pacs.settings import ServeSettings, Settings, StoreSettings

SPAWN = multiprocessing.get_context("spawn")
QUIET = "tests.supervised_processes:run_quietly"
CRASHING = "tests.supervised_processes:run_and_crash"
DEAF = "tests.supervised_processes:run_deaf"


@pytest.fixture
def start_node(tmp_path):
    """Starts a supervisor in a process of its own; gives back that process. Everything is ended after the test."""
    started = []

    def start(*plans, **serve_settings):
        settings = Settings(
            store=StoreSettings(folder=tmp_path),
            serve=ServeSettings(**{"restart_pause_s": 0.05, "longest_restart_pause_s": 0.1} | serve_settings),
        )
        node = SPAWN.Process(target=_serve, args=(settings, plans))
        node.start()
        started.append(node)
        return node

    yield start
    for node in started:
        node.kill()
        node.join()


def _serve(settings, plans):
    raise SystemExit(serve(settings, plans))


def plan(target, name):
    return ProcessPlan(name, target, (name,))


def test_a_killed_process_is_started_again(start_node, tmp_path):
    start_node(plan(QUIET, "a"), plan(QUIET, "b"))
    wait_until(lambda: pids(tmp_path, "a", "started") and pids(tmp_path, "b", "started"), what="both run")
    (first,) = pids(tmp_path, "a", "started")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(pids(tmp_path, "a", "started")) == 2, what="a runs again")
    assert len(pids(tmp_path, "b", "started")) == 1


def test_a_process_that_always_crashes_stops_no_other(start_node, tmp_path):
    start_node(plan(CRASHING, "a"), plan(QUIET, "b"))
    wait_until(lambda: len(pids(tmp_path, "a", "started")) >= 3, what="a was started three times")
    (pid,) = pids(tmp_path, "b", "started")
    assert is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_every_process_in_order(start_node, tmp_path, number):
    node = start_node(plan(QUIET, "a"), plan(QUIET, "b"))
    wait_until(lambda: pids(tmp_path, "a", "started") and pids(tmp_path, "b", "started"), what="both run")
    os.kill(node.pid, number)
    node.join(30)
    assert node.exitcode == 0
    assert pids(tmp_path, "a", "stopped") == pids(tmp_path, "a", "started")
    assert pids(tmp_path, "b", "stopped") == pids(tmp_path, "b", "started")


def test_a_process_that_does_not_stop_is_killed(start_node, tmp_path, monkeypatch):
    node = start_node(plan(DEAF, "a"), shutdown_grace_s=0.1)
    wait_until(lambda: pids(tmp_path, "a", "started"), what="it runs")
    os.kill(node.pid, signal.SIGTERM)
    node.join(60)
    assert node.exitcode == 1
    assert not is_alive(pids(tmp_path, "a", "started")[0])


def test_processes_end_when_their_supervisor_is_killed(start_node, tmp_path):
    node = start_node(plan(QUIET, "a"))
    wait_until(lambda: pids(tmp_path, "a", "started"), what="it runs")
    os.kill(node.pid, signal.SIGKILL)
    wait_until(lambda: pids(tmp_path, "a", "stopped"), what="it stopped by itself")
    wait_until(lambda: not is_alive(pids(tmp_path, "a", "started")[0]), what="it is gone")


@pytest.mark.parametrize("function", ["run_and_fail_early", "run_and_fail_at_work"])
def test_a_process_that_fails_ends_with_1_and_says_where_but_nothing_of_a_patient(tmp_path, capfd, function):
    settings = Settings(store=StoreSettings(folder=tmp_path))
    reports, child_end = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(
        target=run_child, args=(plan(f"tests.supervised_processes:{function}", "a"), settings, child_end)
    )
    process.start()
    process.join(60)
    log = capfd.readouterr().err
    reports.close()
    child_end.close()
    assert process.exitcode == 1
    assert "process_failed" in log
    assert re.search(rf"supervised_processes\.py:\d+ in {function}\n +ValueError\n", log)
    assert "DOE" not in log


def test_the_pause_before_a_restart_grows_up_to_its_limit():
    settings = ServeSettings(restart_pause_s=1.0, longest_restart_pause_s=60.0)
    pauses = [restart_pause_s(settings, crashes) for crashes in range(1, 10)]
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses[-1] == 60.0
