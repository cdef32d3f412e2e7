from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from tests.store_fixtures import NOON, PROCESSES, stored_instance
from umit_pacs.errors import (
    CatalogueBusy,
    CatalogueDamaged,
    CatalogueUnavailable,
    InvalidConfiguration,
    RetryLater,
    StoreFull,
)
from umit_pacs.store.database import (
    assert_sqlite_is_durable,
    migrate,
    open_catalogue,
    translated_errors,
    upsert,
)
from umit_pacs.store.instances import count_recorded, record_instances, studies_waiting
from umit_pacs.store.marks import mark, remove_mark, set_mark
from umit_pacs.store.rules import publish_rules
from umit_pacs.store.tables import Mark, PeerRow


def _pragma(catalogue, name):
    with catalogue.reading() as session:
        return session.scalar(text(f"PRAGMA {name}"))


def test_a_commit_on_sqlite_survives_a_power_cut(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
    migrate(url)
    catalogue = open_catalogue(url, busy_timeout_s=7)
    assert _pragma(catalogue, "journal_mode") == "wal"
    assert _pragma(catalogue, "synchronous") == 2
    assert _pragma(catalogue, "foreign_keys") == 1
    assert _pragma(catalogue, "busy_timeout") == 7000
    catalogue.close()


@pytest.mark.parametrize("setting", ["OFF", "NORMAL"])
def test_sqlite_that_does_not_flush_is_refused(tmp_path, setting):
    connection = sqlite3.connect(tmp_path / "catalogue.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    assert_sqlite_is_durable(connection)
    connection.execute(f"PRAGMA synchronous = {setting}")
    with pytest.raises(InvalidConfiguration, match="FULL"):
        assert_sqlite_is_durable(connection)
    connection.close()


def test_sqlite_without_a_write_ahead_log_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "catalogue.sqlite")
    with pytest.raises(InvalidConfiguration, match="journal mode is delete"):
        assert_sqlite_is_durable(connection)
    connection.close()


@pytest.mark.peer
@pytest.mark.xdist_group("postgresql")
def test_postgresql_that_acknowledges_before_it_flushes_is_refused(postgresql_server):
    database = postgresql_server.new_database()
    url = postgresql_server.url(database)
    migrate(url)
    with postgresql_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    for use in (open_catalogue, migrate):
        with pytest.raises(InvalidConfiguration, match="synchronous_commit is off"):
            use(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("mysql://somewhere/x", "mysql is not supported"),
        ("not a url", "not an SQLAlchemy URL"),
    ],
)
def test_an_unusable_url_is_a_wrong_configuration(url, message):
    with pytest.raises(InvalidConfiguration, match=message):
        migrate(url)


def test_a_server_that_is_not_there_is_asked_again_later(tmp_path):
    with pytest.raises(CatalogueUnavailable):
        open_catalogue(f"postgresql+psycopg://umit@/catalogue?host={tmp_path}")


@pytest.mark.peer
@pytest.mark.xdist_group("postgresql")
def test_a_database_that_is_not_there_is_a_wrong_configuration(postgresql_server):
    with pytest.raises(InvalidConfiguration, match="does not exist"):
        open_catalogue(postgresql_server.url("nowhere"))


def test_opening_makes_no_file(tmp_path):
    path = tmp_path / "catalogue.sqlite"
    with pytest.raises(InvalidConfiguration, match=f"no catalogue yet at {path}; `umit-pacs init`"):
        open_catalogue(f"sqlite:///{path}")
    assert not path.exists()


def test_something_else_in_place_of_the_file_is_named(tmp_path):
    path = tmp_path / "catalogue.sqlite"
    path.write_bytes(b"this is no database, and long enough that SQLite looks at it" * 100)
    with pytest.raises(CatalogueDamaged):
        open_catalogue(f"sqlite:///{path}")


def test_a_locked_catalogue_says_try_later(catalogue_url):
    blocker, hasty = open_catalogue(catalogue_url), open_catalogue(catalogue_url, busy_timeout_s=0.2)
    set_mark(blocker, "k", "before")
    with blocker.writing() as session:
        upsert(session, Mark, {"key": "k", "value": "held", "set_at": NOON}, key=["key"])
        session.flush()
        with pytest.raises(CatalogueBusy) as caught:
            set_mark(hasty, "k", "other")
        assert mark(hasty, "k") == "before"  # Readers go on.
    assert isinstance(caught.value, RetryLater)
    assert caught.value.reason == "catalogue_busy"
    set_mark(hasty, "k", "other")
    assert mark(blocker, "k") == "other"
    blocker.close()
    hasty.close()


def test_a_writer_waits_for_its_turn(catalogue_url):
    blocker, patient = open_catalogue(catalogue_url), open_catalogue(catalogue_url)
    with blocker.writing() as session:
        upsert(session, Mark, {"key": "k", "value": "first", "set_at": NOON}, key=["key"])
        session.flush()
        writer = threading.Thread(target=set_mark, args=(patient, "k", "second"))
        writer.start()
    writer.join(timeout=30)
    assert mark(blocker, "k") == "second"
    blocker.close()
    patient.close()


def test_an_exception_undoes_the_whole_transaction(catalogue):
    def half():
        with catalogue.writing() as session:
            upsert(session, Mark, {"key": "k", "value": "v", "set_at": NOON}, key=["key"])
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        half()
    assert mark(catalogue, "k") is None


def test_a_broken_constraint_stays_a_defect(catalogue):
    peer = {
        "name": "p",
        "ae_title": "P",
        "host": "h",
        "port": 70000,
        "may_send": True,
        "receives_results": False,
        "answers_query": False,
        "answers_commitment": False,
        "addresses": "[]",
    }
    with pytest.raises(IntegrityError), catalogue.writing() as session:
        upsert(session, PeerRow, peer, key=["name"])


def test_a_word_outside_its_vocabulary_does_not_enter(catalogue):
    record_instances(catalogue, [stored_instance(1)])
    with pytest.raises(IntegrityError), catalogue.writing() as session:
        session.execute(text("UPDATE instances SET use = 'guessed'"))


def test_a_time_without_a_zone_does_not_enter(catalogue):
    with pytest.raises(StatementError, match="without a zone"):
        record_instances(catalogue, [stored_instance(1, received_at=datetime(2026, 3, 1))])  # noqa: DTZ001


def test_times_come_back_aware_and_in_utc(catalogue):
    in_tokyo = NOON.astimezone(timezone(timedelta(hours=9))) + timedelta(microseconds=123456)
    record_instances(catalogue, [stored_instance(1, received_at=in_tokyo)])
    (waiting,) = studies_waiting(catalogue)
    assert waiting.last_received_at == in_tokyo
    assert waiting.last_received_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("SQLITE_FULL", StoreFull),
        ("SQLITE_BUSY_SNAPSHOT", CatalogueBusy),
        ("SQLITE_READONLY", InvalidConfiguration),
        ("SQLITE_IOERR_FSYNC", CatalogueDamaged),
        ("SQLITE_CORRUPT", CatalogueDamaged),
    ],
)
def test_errors_of_sqlite_get_our_names(error, expected):
    original = sqlite3.OperationalError("as SQLite says it")
    original.sqlite_errorname = error
    with pytest.raises(expected) as caught, translated_errors():
        raise DBAPIError("SELECT 1", {}, original)
    assert caught.value.__cause__.orig is original


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DiskFull, StoreFull),
        (psycopg.errors.DeadlockDetected, CatalogueBusy),
        (psycopg.errors.SerializationFailure, CatalogueBusy),
        (psycopg.errors.LockNotAvailable, CatalogueBusy),
        (psycopg.errors.AdminShutdown, CatalogueUnavailable),
        (psycopg.errors.TooManyConnections, CatalogueUnavailable),
        (psycopg.errors.InvalidPassword, InvalidConfiguration),
        (psycopg.errors.UndefinedTable, InvalidConfiguration),
    ],
)
def test_errors_of_postgresql_get_our_names(error, expected):
    with pytest.raises(expected), translated_errors():
        raise DBAPIError("SELECT 1", {}, error("as PostgreSQL says it"))


def _write_many(url, writer):
    catalogue = open_catalogue(url)
    for number in range(25):
        record_instances(catalogue, [stored_instance(number * 2 + part, series=writer) for part in (0, 1)])
        publish_rules(catalogue, f"rules of {writer}, {number}", author="test")
    catalogue.close()


def test_processes_that_write_at_once_lose_nothing(catalogue_url):
    with ProcessPoolExecutor(3, mp_context=PROCESSES) as processes:
        for future in [processes.submit(_write_many, catalogue_url, writer) for writer in range(4)]:
            future.result()
    catalogue = open_catalogue(catalogue_url)
    assert count_recorded(catalogue) == 4 * 25 * 2
    assert publish_rules(catalogue, "one more", author="test") == 4 * 25 + 1
    catalogue.close()


def test_a_process_killed_in_a_transaction_leaves_nothing_half(catalogue_url):
    context = PROCESSES
    reached = context.Event()
    process = context.Process(target=_stop_inside_a_transaction, args=(catalogue_url, reached))
    process.start()
    assert reached.wait(60)
    process.kill()
    process.join(60)
    catalogue = open_catalogue(catalogue_url)
    assert mark(catalogue, "half") is None
    set_mark(catalogue, "half", "the lock is free again")
    catalogue.close()


def _stop_inside_a_transaction(url, reached):
    with open_catalogue(url).writing() as session:
        upsert(session, Mark, {"key": "half", "value": "v", "set_at": NOON}, key=["key"])
        session.flush()
        reached.set()
        threading.Event().wait()


def test_marks_are_remembered_until_removed(catalogue):
    assert mark(catalogue, "clean_stop") is None
    set_mark(catalogue, "clean_stop", "yes")
    set_mark(catalogue, "clean_stop", "no")
    assert mark(catalogue, "clean_stop") == "no"
    remove_mark(catalogue, "clean_stop")
    remove_mark(catalogue, "clean_stop")
    assert mark(catalogue, "clean_stop") is None
