"""The three places where SQLite and PostgreSQL are asked in different words."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def insert(dialect: str, table: sa.Table) -> Any:
    """Return an INSERT that knows ``ON CONFLICT``; both databases mean the same by it."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def upsert(dialect: str, table: sa.Table, changed: dict[str, Any]) -> Any:
    """Return an INSERT that replaces the row of the same primary key.

    ``changed`` overrides what a column becomes when the row exists; it may use the columns of
    the table as they were.
    """
    statement = insert(dialect, table)
    key = [column.name for column in table.primary_key]
    values = {
        column.name: statement.excluded[column.name] for column in table.c if column.name not in key
    }
    return statement.on_conflict_do_update(index_elements=key, set_=values | changed)


def clock(connection: sa.Connection, now: int) -> sa.ColumnElement[int]:
    """Return the clock that leases are measured by, in microseconds.

    PostgreSQL is shared by hosts whose clocks differ, so there it is the database's own; a
    SQLite file belongs to one process, and its clock is the one that tests can move.
    """
    if connection.dialect.name == "postgresql":
        return sa.literal_column(
            "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)", sa.BigInteger
        )
    return sa.literal(now, sa.BigInteger)


def chunks(values: list[Any], size: int = 500) -> list[list[Any]]:
    """Cut a list so that no statement has more parameters than a database takes."""
    return [values[start : start + size] for start in range(0, len(values), size)]
