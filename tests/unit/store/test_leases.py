from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.store_fixtures import PROCESSES, after, input_set_of, stored_instance
from umit_pacs.errors import LeaseLost
from umit_pacs.store.database import open_catalogue
from umit_pacs.store.instances import record_instances
from umit_pacs.store.leases import (
    assert_lease,
    expired_workers,
    heartbeat,
    hold_lease,
    leases_of,
    living_workers,
    release_lease,
    remove_worker,
)
from umit_pacs.store.studies import create_input_set


@pytest.fixture(autouse=True)
def _input_set(catalogue):
    record_instances(catalogue, [stored_instance(1)])
    create_input_set(catalogue, input_set_of("a", stored_instance(1)))


def test_a_living_worker_keeps_what_it_holds(catalogue):
    heartbeat(catalogue, "w1", 10, now=after(0))
    heartbeat(catalogue, "w2", 10, now=after(0))
    hold_lease(catalogue, "w1", "a", now=after(1))
    hold_lease(catalogue, "w1", "a", now=after(2))
    assert_lease(catalogue, "w1", "a", now=after(9))
    with pytest.raises(LeaseLost, match="w1 holds"):
        hold_lease(catalogue, "w2", "a", now=after(9))
    with pytest.raises(LeaseLost, match="does not hold"):
        assert_lease(catalogue, "w2", "a", now=after(9))
    assert leases_of(catalogue, "w1") == ("a",)


def test_a_silent_worker_loses_its_work_and_may_not_act_any_more(catalogue):
    heartbeat(catalogue, "slow", 10, now=after(0))
    hold_lease(catalogue, "slow", "a", now=after(1))
    with pytest.raises(LeaseLost, match="no heartbeat"):
        assert_lease(catalogue, "slow", "a", now=after(10))
    heartbeat(catalogue, "w2", 10, now=after(11))
    hold_lease(catalogue, "w2", "a", now=after(12))
    # The slow one wakes up: its heart beats again, and the study is not its own any more.
    heartbeat(catalogue, "slow", 10, now=after(13))
    with pytest.raises(LeaseLost):
        assert_lease(catalogue, "slow", "a", now=after(13))
    with pytest.raises(LeaseLost):
        hold_lease(catalogue, "slow", "a", now=after(13))
    assert_lease(catalogue, "w2", "a", now=after(13))


def test_a_worker_without_a_heartbeat_holds_nothing(catalogue):
    with pytest.raises(LeaseLost):
        hold_lease(catalogue, "w1", "a", now=after(0))
    heartbeat(catalogue, "w1", 10, now=after(0))
    with pytest.raises(LeaseLost):
        hold_lease(catalogue, "w1", "a", now=after(10))


def test_what_is_given_back_is_free(catalogue):
    for worker in ("w1", "w2"):
        heartbeat(catalogue, worker, 10, now=after(0))
    hold_lease(catalogue, "w1", "a", now=after(1))
    release_lease(catalogue, "w2", "a")  # It is not w2's to give back.
    assert_lease(catalogue, "w1", "a", now=after(1))
    release_lease(catalogue, "w1", "a")
    release_lease(catalogue, "w1", "a")
    hold_lease(catalogue, "w2", "a", now=after(1))


def test_silent_workers_are_found_and_forgotten_with_what_they_held(catalogue):
    assert heartbeat(catalogue, "silent", 5, now=after(0)) == after(5)
    heartbeat(catalogue, "lively", 50, now=after(0))
    hold_lease(catalogue, "silent", "a", now=after(1))
    assert expired_workers(catalogue, after(4)) == ()
    assert expired_workers(catalogue, after(5)) == ("silent",)
    assert living_workers(catalogue, after(5)) == ("lively",)
    assert remove_worker(catalogue, "silent") == ("a",)
    assert remove_worker(catalogue, "silent") == ()
    assert expired_workers(catalogue, after(5)) == ()


def _try_to_hold(url, worker):
    catalogue = open_catalogue(url)
    heartbeat(catalogue, worker, 600)
    try:
        hold_lease(catalogue, worker, "a")
    except LeaseLost:
        return False
    else:
        return True
    finally:
        catalogue.close()


def test_of_several_workers_one_gets_the_lease(catalogue_url):
    with ProcessPoolExecutor(3, mp_context=PROCESSES) as processes:
        held = list(processes.map(_try_to_hold, [catalogue_url] * 6, [f"w{number}" for number in range(6)]))
    assert held.count(True) == 1
