"""The places where SQLite and PostgreSQL are asked in different words."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def insert(dialect: str, table: sa.Table) -> Any:
    """Return an INSERT that knows ``ON CONFLICT``; both databases mean the same by it."""
    # Only the one in use is imported: the other's is a tenth of the start.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


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


def write_raw(connection: sa.Connection, table: sa.Table, rows: list[tuple[int, bytes]]) -> None:
    """Insert rows of (number, bytes) as fast as the driver can.

    PostgreSQL takes long values half again as fast, at less than half the processor time of
    ours, by a binary COPY, which SQLAlchemy has no words for.
    """
    if connection.dialect.name != "postgresql":
        names = ", ".join(column.name for column in table.c)
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES (?, ?)", rows)  # noqa: S608 - our own names
        return
    driver: Any = connection.connection.driver_connection
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {table.name} FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["int8", "bytea"])
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        lost = connection.dialect.is_disconnect(error, driver, None)
        raise sa.exc.DBAPIError("COPY", None, error, connection_invalidated=lost) from error


def chunks(values: list[Any], size: int = 500) -> list[list[Any]]:
    """Cut a list so that no statement has more parameters than a database takes."""
    return [values[start : start + size] for start in range(0, len(values), size)]
