"""Alembic's entry: the caller brings the connection and owns the transaction."""

from __future__ import annotations

from alembic import context

from mailbridge.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll a CREATE TABLE back; Alembic assumes otherwise unless told.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
