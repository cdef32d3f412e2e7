"""Alembic's migrations of the catalogue; `umit_pacs.store.database.migrate` runs them."""
