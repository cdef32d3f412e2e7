"""kill -9 of every process at every boundary between two steps: each study still ends CONFIRMED, each result once."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import sys

import pydicom
import pytest
from sqlalchemy import select

from tests.node_fixtures import destination, running_node, write_radiograph
from tests.peer_programs import running_orthanc, wait_until
from tests.postgres_fixtures import postgresql_server
from umit_pacs.dicom_network.part10 import read_file_meta
from umit_pacs.durable_work import WorkStarter, executor_name
from umit_pacs.states import InputSetState
from umit_pacs.store.results import result_objects
from umit_pacs.store.tables import StateChangeRow

__all__ = ["postgresql_server"]

pytestmark = [pytest.mark.peer, pytest.mark.timeout(900)]

CRASHING_NODE = (sys.executable, "-m", "tests.crashing_node")
WHOLE_PATH = ["assembled", "routed", "analysed", "composed", "delivered", "confirmed"]

#: point, and whether the sender was told that its image is held before the process died.
RECEIVE_POINTS = [
    ("before keep_as", False),
    ("after keep_as", False),
    ("before record_instances", True),
    ("after record_instances", True),
    ("before record_commitment_event", True),
    ("after record_commitment_event", True),
]
SCHEDULE_POINTS = [
    "before create_input_set",
    "after create_input_set",
    "after start route",
    "before record_decision",
    "after record_decision",
    "after change_state routed",
    "after start analyse",
]
WORK_POINTS = [
    "before infer",
    "after infer",
    "after record_findings",
    "after change_state analysed",
    "after compose",
    "after record_result_objects",
    "after plan_deliveries",
    "after change_state composed",
    "after start return",
]
DELIVER_POINTS = [
    "before send_objects",
    "after send_objects",
    "after change_deliveries sent",
    "after change_state delivered",
    "after record_commitment",
    "after request_commitment",
    "after change_deliveries confirmed",
    "before change_state confirmed",
    "after change_state confirmed",
]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("pacs")) as pacs:
        yield pacs


@pytest.fixture(scope="module")
def node(tmp_path_factory, pacs):
    peer = destination("pacs", pacs, answers_commitment=True, answers_query=True)
    with running_node(tmp_path_factory.mktemp("node"), [peer], command=CRASHING_NODE) as node:
        pacs.register(node.address)
        yield node


@pytest.fixture
def study(tmp_path):
    """A radiograph of its own study: (Study Instance UID, file)."""
    return write_radiograph(tmp_path / "study", seed=os.getpid())


def stop_outside_a_transaction(node, pid):
    """Freeze a process while it holds no lock of the two SQLite files: with one it would freeze everybody."""

    def stop():
        os.kill(pid, signal.SIGSTOP)
        if all(may_write(node.settings.store.folder / name) for name in ("catalogue.sqlite", "workflows.sqlite")):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stop, what="it stops outside a transaction")


def may_write(path):
    with contextlib.closing(sqlite3.connect(path, timeout=2.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def kill_at(node, point):
    (node.settings.store.folder / "kill_at").write_text(point)


def name_series(node, word, path):
    series_uid = pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID
    (node.settings.store.folder / word).write_text(series_uid)


def assert_was_killed(node):
    wait_until(
        lambda: not (node.settings.store.folder / "kill_at").exists(), what="a process came to the point and died"
    )


def assert_confirmed_once(node, pacs, study_uid):
    """The study went its path once, and the PACS holds exactly the objects that the catalogue knows, byte for byte."""
    status = node.wait_for_end(study_uid)
    assert status.state is InputSetState.CONFIRMED, node.tail()
    with node.catalogue.reading() as session:
        changes = session.scalars(
            select(StateChangeRow)
            .where(StateChangeRow.input_set_id == status.input_set_id)
            .order_by(StateChangeRow.state_change_id)
        )
        assert [change.state.value for change in changes] == WHOLE_PATH
    composed = result_objects(node.catalogue, status.input_set_id)
    held = {item["MainDicomTags"]["SOPInstanceUID"]: item for item in pacs.instances({"StudyInstanceUID": study_uid})}
    assert set(held) == {item.sop_instance_uid for item in composed}
    assert composed
    for item in composed:
        path = node.settings.store.folder / item.relative_path
        assert hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256
        sent = path.read_bytes()[read_file_meta(path)[1] :]
        assert pacs.rest("GET", f"/instances/{held[item.sop_instance_uid]['ID']}/file").endswith(sent)


@pytest.mark.parametrize("point", [*SCHEDULE_POINTS, *WORK_POINTS, *DELIVER_POINTS])
def test_a_study_survives_a_kill(node, pacs, study, point):
    study_uid, path = study
    kill_at(node, point)
    node.send(path)
    assert_was_killed(node)
    assert_confirmed_once(node, pacs, study_uid)


@pytest.mark.parametrize(("point", "was_told"), RECEIVE_POINTS)
def test_a_study_survives_a_kill_of_the_receiver(node, pacs, study, point, was_told):
    study_uid, path = study
    before = node.starts_of("receive-0")
    kill_at(node, point)
    done = node.send(path, check=was_told and "commitment" in point)
    assert_was_killed(node)
    wait_until(lambda: node.starts_of("receive-0") > before, what="the receiver is back")
    if not was_told or done.returncode != 0:
        node.send(path)  # a sender that was not told sends again
    assert_confirmed_once(node, pacs, study_uid)


def test_a_study_survives_a_kill_of_the_supervisor(node, pacs, study):
    study_uid, path = study
    name_series(node, "waits_over", path)
    node.send(path)
    node.wait_for_state(study_uid, InputSetState.ROUTED)
    node.process.kill()
    node.process.wait()
    (node.settings.store.folder / "waits_over").unlink()
    node.start()
    assert_confirmed_once(node, pacs, study_uid)


@pytest.mark.parametrize(("word", "answer_timeout_s"), [("dies_over", 300.0), ("hangs_over", 20.0)])
def test_a_study_that_ends_its_worker_each_time_fails_and_the_next_is_read(tmp_path, pacs, word, answer_timeout_s):
    peer = destination("pacs", pacs, answers_query=True)
    with running_node(
        tmp_path / "node", [peer], command=CRASHING_NODE, model={"answer_timeout_s": answer_timeout_s}
    ) as node:
        poison_uid, poison = write_radiograph(tmp_path / "poison", seed=1)
        next_uid, following = write_radiograph(tmp_path / "next", seed=2)
        name_series(node, word, poison)
        node.send(poison)
        node.wait_for_state(poison_uid, InputSetState.ROUTED)
        node.send(following)
        status = node.wait_for_end(poison_uid)
        assert (status.state, status.reason) == (InputSetState.FAILED, "worker_died")
        assert_confirmed_once(node, pacs, next_uid)


def test_a_stop_gives_the_study_in_hand_back_without_counting_it(tmp_path, pacs):
    peer = destination("pacs", pacs, answers_query=True)
    with running_node(tmp_path / "node", [peer], command=CRASHING_NODE, serve={"shutdown_grace_s": 0.5}) as node:
        study_uid, path = write_radiograph(tmp_path / "study")
        name_series(node, "hangs_over", path)
        node.send(path)
        starter = WorkStarter(node.settings.workflow_url)
        in_hand = wait_until(lambda: starter.in_hand(executor_name("work-0")), what="the worker has it in hand")
        for _ in range(4):  # more often than it may kill its worker
            assert node.stop() == 0
            assert starter.in_hand(executor_name("work-0")) == ()
            node.start()
            wait_until(lambda: starter.in_hand(executor_name("work-0")) == in_hand, what="it is in hand again")
        assert node.stop() == 0
        (node.settings.store.folder / "hangs_over").unlink()
        node.start()
        assert_confirmed_once(node, pacs, study_uid)
        starter.close()


def test_a_worker_that_is_only_slow_does_not_act_beside_the_one_that_took_over(tmp_path, pacs):
    peer = destination("pacs", pacs, answers_query=True)
    with running_node(tmp_path / "node", [peer], command=CRASHING_NODE, serve={"workers": 2, "lease_s": 3.0}) as node:
        study_uid, path = write_radiograph(tmp_path / "study")
        name_series(node, "waits_over", path)
        node.send(path)
        starter = WorkStarter(node.settings.workflow_url)
        names = ("work-0", "work-1")
        slow = wait_until(
            lambda: next((name for name in names if starter.in_hand(executor_name(name))), None), what="one has it"
        )
        wait_until((node.settings.store.folder / "is_waiting").exists, what="the model is at it")
        slow_pid = node.pid_of(slow)
        stop_outside_a_transaction(node, slow_pid)
        try:
            wait_until(lambda: node.events("worker_silent"), what="it is found silent", timeout_s=60)
            (node.settings.store.folder / "waits_over").unlink()
            assert_confirmed_once(node, pacs, study_uid)
        finally:
            os.kill(slow_pid, signal.SIGCONT)
        wait_until(lambda: node.events("lease_lost"), what="the slow one notices", timeout_s=60)
        assert_confirmed_once(node, pacs, study_uid)
        starter.close()


@pytest.fixture(scope="module")
def node_on_postgresql(tmp_path_factory, pacs, postgresql_server):
    """A node whose catalogue and durable work are in one PostgreSQL database."""
    peer = destination("pacs", pacs, answers_query=True)
    url = postgresql_server.url(postgresql_server.new_database())
    with running_node(
        tmp_path_factory.mktemp("node-on-postgresql"), [peer], command=CRASHING_NODE, store={"catalogue_url": url}
    ) as node:
        yield node


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize(
    "point",
    [
        "before infer",
        "after record_findings",
        "after start return",
        "after send_objects",
        "after change_state delivered",
    ],
)
def test_a_study_survives_a_kill_on_postgresql(node_on_postgresql, pacs, study, point):
    study_uid, path = study
    kill_at(node_on_postgresql, point)
    node_on_postgresql.send(path)
    assert_was_killed(node_on_postgresql)
    assert_confirmed_once(node_on_postgresql, pacs, study_uid)
