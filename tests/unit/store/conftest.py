"""Every test of the store runs on SQLite and on PostgreSQL."""

from tests.postgres_fixtures import postgresql_server
from tests.store_fixtures import catalogue, catalogue_url, empty_database_url, migrated_database

__all__ = ["catalogue", "catalogue_url", "empty_database_url", "migrated_database", "postgresql_server"]
