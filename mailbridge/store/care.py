"""Keeping the database well: a consistent copy of it, and a search for damage."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from mailbridge.errors import StoreRefused
from mailbridge.store.engine import connect_sqlite
from mailbridge.store.files import create_private, sync_directory
from mailbridge.store.tables import Kept, attempts, deliveries, messages, raw


def backup(database: Path | None, target: Path) -> None:
    """Copy a SQLite database into ``target`` (0600), consistent while the daemon goes on.

    The copy appears under its name complete and durable, or not at all. Raises
    ``StoreRefused`` for PostgreSQL, which has its own tools, and for an existing ``target``.
    """
    if database is None:
        raise StoreRefused(
            "PostgreSQL makes its own backups",
            code="store.backup",
            fix="pg_dump --format=custom --file=FILE DATABASE",
        )
    if target.exists():
        raise StoreRefused(f"{target} exists already", code="store.backup", fix="name a new file")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    os.close(create_private(unfinished, target.parent))
    try:
        # In one step, hence of one moment: pages in small steps begin anew with every commit.
        with (
            contextlib.closing(connect_sqlite(database, mode="read")) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as copy,
        ):
            source.backup(copy)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_directory(target.parent)


def check(connection: sa.Connection) -> list[str]:
    """Search for damage; returns a sentence for each fault, none when all is well."""
    faults: list[str] = []
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars()
        faults += [f"integrity_check: {line}" for line in found if line != "ok"]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        faults += [f"row {row[1]} of {row[0]} refers to a missing {row[2]}" for row in broken[:20]]
    for count, what in (
        (_without_deliveries(connection), "messages without the deliveries they were routed to"),
        (_without_raw(connection), "messages whose raw bytes are missing"),
        (_open_without_raw(connection), "open deliveries whose raw bytes are missing"),
        (_unexplained(connection), "delivered deliveries without an attempt"),
    ):
        if count:
            faults.append(f"{count} {what}")
    return faults


def _count(connection: sa.Connection, statement: sa.Select[tuple[int]]) -> int:
    return connection.execute(
        sa.select(sa.func.count()).select_from(statement.subquery())
    ).scalar_one()


def _without_deliveries(connection: sa.Connection) -> int:
    return _count(
        connection,
        sa.select(messages.c.pk)
        .outerjoin_from(messages, deliveries, deliveries.c.message == messages.c.pk)
        .where(messages.c.kept > Kept.PLACE, messages.c.routed > 0)
        .group_by(messages.c.pk, messages.c.routed)
        .having(sa.func.count(deliveries.c.pk) < messages.c.routed),
    )


def _without_raw(connection: sa.Connection) -> int:
    return _count(
        connection,
        sa.select(messages.c.pk)
        .outerjoin_from(messages, raw, raw.c.message == messages.c.pk)
        .where(messages.c.kept == Kept.RAW, raw.c.message.is_(None)),
    )


def _open_without_raw(connection: sa.Connection) -> int:
    return _count(
        connection,
        sa.select(deliveries.c.pk)
        .outerjoin_from(deliveries, raw, raw.c.message == deliveries.c.message)
        .where(
            deliveries.c.message.is_not(None),
            deliveries.c.resolved_at.is_(None),
            raw.c.message.is_(None),
        ),
    )


def _unexplained(connection: sa.Connection) -> int:
    return _count(
        connection,
        sa.select(deliveries.c.pk)
        .outerjoin_from(deliveries, attempts, attempts.c.delivery == deliveries.c.pk)
        .where(deliveries.c.state == "delivered", attempts.c.delivery.is_(None)),
    )
