from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect, text

from tests.store_fixtures import PROCESSES
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.store import migrations
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.instances import count_recorded
from umit_pacs.store.tables import Table


def _checks(inspector, table):
    return {(check["name"], check["sqltext"]) for check in inspector.get_check_constraints(table)}


def _keys(inspector, table):
    return {
        (key["name"], tuple(key["constrained_columns"]), key["referred_table"])
        for key in inspector.get_foreign_keys(table)
    }


def _indexes(inspector, table):
    return {
        (index["name"], tuple(index["column_names"]), tuple(str(value) for value in index["dialect_options"].values()))
        for index in inspector.get_indexes(table)
    }


@pytest.fixture
def engine(empty_database_url):
    """An engine without our event handlers, on a database that was just migrated."""
    migrate(empty_database_url)
    engine = create_engine(empty_database_url)
    yield engine
    engine.dispose()


def test_migrating_an_empty_database_gives_the_tables(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []


def test_constraints_are_the_same_whether_migrated_or_created(engine):
    # Alembic's comparison leaves CHECK constraints and the conditions of indexes out.
    migrated = inspect(engine)
    found = {
        table: (_checks(migrated, table), _keys(migrated, table), _indexes(migrated, table))
        for table in Table.metadata.tables
    }
    Table.metadata.drop_all(engine)
    Table.metadata.create_all(engine)
    created = inspect(engine)
    for table in Table.metadata.tables:
        assert found[table] == (_checks(created, table), _keys(created, table), _indexes(created, table))
    assert "ck_input_sets_state" in {name for name, _ in found["input_sets"][0]}
    assert "ix_instances_waiting" in {name for name, _, _ in found["instances"][2]}


def test_every_constraint_has_a_name_that_a_migration_can_use():
    for table in Table.metadata.tables.values():
        for constraint in table.constraints:
            assert constraint.name is not None, (table.name, constraint)


def test_migrating_again_changes_nothing(catalogue_url):
    migrate(catalogue_url)
    opened = open_catalogue(catalogue_url)
    assert count_recorded(opened) == 0
    opened.close()


def test_processes_that_start_at_once_migrate_once(empty_database_url):
    with ProcessPoolExecutor(4, mp_context=PROCESSES) as processes:
        for future in [processes.submit(migrate, empty_database_url) for _ in range(12)]:
            future.result()
    opened = open_catalogue(empty_database_url)
    assert count_recorded(opened) == 0
    opened.close()


def test_a_catalogue_of_a_newer_version_is_refused(engine, empty_database_url):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (open_catalogue, migrate):
        with pytest.raises(InvalidConfiguration, match="newer umit-pacs"):
            use(empty_database_url)


def test_a_catalogue_that_was_not_migrated_is_not_opened(empty_database_url):
    with pytest.raises(InvalidConfiguration, match=r"start the node|there is no catalogue yet"):
        open_catalogue(empty_database_url)


def test_the_rows_of_every_older_version_survive(empty_database_url, monkeypatch):
    upgrade, written = command.upgrade, {}
    for revision in _revisions():
        monkeypatch.setattr(command, "upgrade", lambda config, _, to=revision: upgrade(config, to))
        migrate(empty_database_url)
        with _beginning(empty_database_url) as connection:
            _fill_what_is_empty(connection, written)
    assert {"instances", "result_objects", "deliveries", "peers"} <= written.keys() == Table.metadata.tables.keys()
    with _beginning(empty_database_url) as connection:
        for name, (row,) in _rows(connection).items():
            assert {column: row[column] for column in written[name]} == written[name], name


def _revisions():
    """Every revision of the schema, the oldest first."""
    found = ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
    return [script.revision for script in found][::-1]


@contextmanager
def _beginning(url):
    engine = create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def _fill_what_is_empty(connection, written):
    """Put a row with a value in every column into each table that has none, and keep what the database holds of it."""
    reflected = MetaData()
    reflected.reflect(connection)
    for table in reflected.sorted_tables:
        if table.name != "alembic_version" and table.name not in written:
            connection.execute(table.insert().values(_values(connection, table, written)))
            written[table.name] = dict(connection.execute(table.select()).mappings().one())


def _values(connection, table, written):
    words = {}
    for check in inspect(connection).get_check_constraints(table.name):
        if found := re.search(r"(\w+)\W.*?'(\w+)'", check["sqltext"]):
            words[found[1]] = found[2]
    parents = {
        key.parent.name: written[key.column.table.name][key.column.name] if key.column.table is not table else None
        for key in table.foreign_keys
    }
    by_type = {datetime: datetime(2026, 3, 1, 12, 0, tzinfo=UTC), str: "", int: 1, bool: True, float: 0.5, bytes: b"a"}
    plain = {column.name: by_type[column.type.python_type] for column in table.columns}
    return plain | words | parents


def _rows(connection):
    reflected = MetaData()
    reflected.reflect(connection)
    tables = (table for table in reflected.sorted_tables if table.name != "alembic_version")
    return {table.name: connection.execute(table.select()).mappings().all() for table in tables}
