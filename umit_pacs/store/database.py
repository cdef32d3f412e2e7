"""Opening and migrating the catalogue, its transactions, and the one place where the drivers' errors are translated.

A committed change is durable: SQLite runs in WAL mode with synchronous=FULL, PostgreSQL with synchronous_commit on;
both are read back on every new connection. A writing transaction on SQLite takes the write lock when it begins, so that
it waits for its turn instead of failing in the middle.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Insert, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from umit_pacs.errors import (
    CatalogueBusy,
    CatalogueDamaged,
    CatalogueUnavailable,
    InvalidConfiguration,
    StoreFull,
    UmitPacsError,
)
from umit_pacs.store import (  # noqa: F401 (their tables belong to the metadata of all)
    feedback_tables,
    prior_tables,
    question_tables,
)
from umit_pacs.store.tables import Table

#: how long a writer waits for another one.
BUSY_TIMEOUT_S = 30.0
#: execution option that names the kind of BEGIN on SQLite.
_BEGIN = "umit_pacs_begin"
#: key of PostgreSQL's advisory lock for migrations: one bare number for the whole server's database.
_MIGRATION_LOCK = 0x756D6974
#: PRAGMA synchronous: 2 is FULL, 3 is EXTRA.
_DURABLE_SYNCHRONOUS = (2, 3)


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An open catalogue; may be shared by the threads of one process, not by processes."""

    engine: Engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for questions; nothing that it does is kept."""
        with translated_errors(), Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in one transaction: committed and durable when the block ends, undone when it raises."""
        writer = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        with translated_errors(), Session(writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection of this process."""
        self.engine.dispose()


def open_catalogue(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Catalogue:
    """The catalogue at `url`, which `migrate` has made.

    Raises InvalidConfiguration when a commit would not be durable, when the catalogue was not migrated, or when it was
    written by a newer version; CatalogueUnavailable when the server does not answer.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise InvalidConfiguration(
            f"there is no catalogue yet at {parsed.database}; `umit-pacs init` or `serve` makes it; or name a --config"
        )
    engine = _engine(url, busy_timeout_s)
    try:
        with translated_errors(), engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        _require_known_revision(revision)
        if revision != _scripts().get_current_head():
            raise InvalidConfiguration(
                f"the catalogue is at revision {revision or 'none'}; start the node to migrate it"
            )
    except UmitPacsError:
        engine.dispose()
        raise
    return Catalogue(engine)


def migrate(url: str) -> None:
    """Bring the catalogue to this version's tables; does nothing when it is there already.

    Several processes may start at once: each holds the catalogue alone while it looks and changes. SQLite copies a
    table to change a constraint of it, which no foreign key may hinder; so all of them are looked at afterwards.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _engine(url, BUSY_TIMEOUT_S).execution_options(**{_BEGIN: "BEGIN EXCLUSIVE"})
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _leave_foreign_keys_unenforced)
    try:
        with translated_errors(), engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            _require_known_revision(MigrationContext.configure(connection).get_current_revision())
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise CatalogueDamaged("a row refers to another one that is not there")
    finally:
        engine.dispose()


def insert_new(session: Session, table: type[Table]) -> Insert:
    """An INSERT into `table` that passes over rows whose key is there already."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def upsert(session: Session, table: type[Table], row: Mapping[str, Any], *, key: Iterable[str]) -> None:
    """Insert `row`, or overwrite the row with the same `key`."""
    keys = list(key)
    values = {name: value for name, value in row.items() if name not in keys}
    if session.get_bind().dialect.name == "postgresql":
        in_postgresql = postgresql.insert(table).values(**row)
        session.execute(in_postgresql.on_conflict_do_update(index_elements=keys, set_=values))
    else:
        in_sqlite = sqlite.insert(table).values(**row)
        session.execute(in_sqlite.on_conflict_do_update(index_elements=keys, set_=values))


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the node's own errors for what the drivers report; a broken constraint stays what it is: a defect."""
    try:
        yield
    except PoolTimeout as exc:
        raise CatalogueBusy("every connection to the catalogue is in use") from exc
    except DBAPIError as exc:
        translated = _translation(exc)
        if translated is None:
            raise
        raise translated from exc


def _translation(exc: DBAPIError) -> UmitPacsError | None:
    if isinstance(exc.orig, sqlite3.Error):
        return _sqlite_translation(exc.orig)
    sqlstate = getattr(exc.orig, "sqlstate", None)
    if sqlstate is None and (exc.connection_invalidated or "connection" in str(exc.orig)):
        return _failed_connection(str(exc.orig))
    return _postgresql_translation(sqlstate or "")


def _sqlite_translation(error: sqlite3.Error) -> UmitPacsError | None:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return CatalogueBusy("another process kept the catalogue locked beyond the time limit")
    if name == "SQLITE_FULL":
        return StoreFull("the disk of the catalogue is full")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return InvalidConfiguration("the catalogue's file cannot be opened for writing")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")):
        return CatalogueDamaged(f"the catalogue's file cannot be used ({name}); put its backup in its place")
    if "no such table" in str(error):
        return InvalidConfiguration("the catalogue was not migrated; start the node to migrate it")
    return None


def _failed_connection(message: str) -> UmitPacsError:
    """What a failed login means; the driver gives it no SQLSTATE."""
    for refusal in ("does not exist", "authentication failed", "no pg_hba.conf entry", "no password supplied"):
        if refusal in message:
            return InvalidConfiguration(f"the catalogue's server refuses this user or database ({refusal})")
    return CatalogueUnavailable()


def _postgresql_translation(sqlstate: str) -> UmitPacsError | None:
    # PostgreSQL Appendix A: 55P03 lock_not_available, 40001 serialization_failure, 40P01 deadlock_detected,
    # 53100 disk_full, 42P01 undefined_table, classes 08 connection, 53 resources, 57P admin shutdown, 28 and 3D login.
    if sqlstate in {"55P03", "40001", "40P01"}:
        return CatalogueBusy("another process kept a row of the catalogue locked beyond the time limit")
    if sqlstate == "53100":
        return StoreFull("the disk of the catalogue's server is full")
    if sqlstate == "42P01":
        return InvalidConfiguration("the catalogue was not migrated; start the node to migrate it")
    if sqlstate[:2] in {"28", "3D"}:
        return InvalidConfiguration(f"the catalogue's server refuses this user or database (SQLSTATE {sqlstate})")
    if sqlstate[:2] in {"08", "53"} or sqlstate[:3] == "57P":
        return CatalogueUnavailable()
    return None


# --- engines -----------------------------------------------------------------------------------------------------


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as exc:
        raise InvalidConfiguration("store.catalogue_url is not an SQLAlchemy URL") from exc


def _engine(url: str, busy_timeout_s: float) -> Engine:
    parsed = _parsed(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite_engine(parsed, busy_timeout_s)
    if backend == "postgresql":
        return _postgresql_engine(parsed, busy_timeout_s)
    raise InvalidConfiguration(f"store.catalogue_url: {backend} is not supported; use sqlite or postgresql+psycopg")


def _sqlite_engine(url: URL, busy_timeout_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidConfiguration("store.catalogue_url: SQLite needs a file; what is in memory is not durable")
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        with _closing_on_error(connection):
            # The driver must not begin transactions by itself, or it would begin them as readers.
            connection.isolation_level = None
            _enter_wal_mode(connection, busy_timeout_s)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            assert_sqlite_is_durable(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


def _leave_foreign_keys_unenforced(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")


def _enter_wal_mode(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Switch to WAL; SQLite's own waiting does not cover two processes that switch a new file at once."""
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if not exc.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def assert_sqlite_is_durable(connection: sqlite3.Connection) -> None:
    """Raise InvalidConfiguration unless a commit on this connection survives a power cut."""
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if journal_mode != "wal":
        raise InvalidConfiguration(
            f"the catalogue's journal mode is {journal_mode}, not wal; put store.folder on a local disk"
        )
    if synchronous not in _DURABLE_SYNCHRONOUS:
        raise InvalidConfiguration(f"the catalogue's synchronous setting is {synchronous}, not 2 (FULL)")


def _postgresql_engine(url: URL, busy_timeout_s: float) -> Engine:
    lock_timeout_ms = int(busy_timeout_s * 1000)
    options = {"options": f"-c lock_timeout={lock_timeout_ms} -c timezone=UTC", "connect_timeout": 10}
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=options)
    except (ModuleNotFoundError, NoSuchModuleError) as exc:
        raise InvalidConfiguration(f"{url.drivername}: the driver is missing; install umit-pacs[postgresql]") from exc

    @event.listens_for(engine, "connect")
    def check(connection: Any, _: object) -> None:
        with _closing_on_error(connection):
            assert_postgresql_is_durable(connection)

    return engine


@contextmanager
def _closing_on_error(connection: Any) -> Iterator[None]:
    """Close a new connection of the driver that will not be used."""
    try:
        yield
    except (UmitPacsError, sqlite3.Error):
        connection.close()
        raise


def assert_postgresql_is_durable(connection: Any) -> None:
    """Raise InvalidConfiguration when the server would acknowledge a commit that a power cut undoes."""
    with connection.cursor() as cursor:
        for setting in ("synchronous_commit", "fsync", "full_page_writes"):
            (value,) = cursor.execute(f"SHOW {setting}").fetchone()
            if value == "off":
                raise InvalidConfiguration(f"PostgreSQL's {setting} is off, so a commit would not be durable")
    connection.rollback()


# --- migrations --------------------------------------------------------------------------------------------------


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("umit_pacs.store") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic_config())


def _require_known_revision(revision: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if revision is not None and revision not in known:
        raise InvalidConfiguration(
            f"the catalogue is at revision {revision}, which this version does not know: a newer umit-pacs wrote it; "
            "update this one"
        )
