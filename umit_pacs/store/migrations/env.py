"""Runs the migrations on the connection, and in the transaction, that `migrate` holds."""

from alembic import context

from umit_pacs.store.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
