"""Counting: what waits for each sink, and where each folder stands."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store.lookup import in_state
from mailbridge.store.rows import Counts, FolderCount, SinkCount
from mailbridge.store.sends_lookup import PREFIX
from mailbridge.store.standing import read_checkpoint
from mailbridge.store.tables import (
    checkpoints,
    deliveries,
    gaps,
    messages,
    moment,
    moment_or_none,
    sends,
)


def counts(connection: sa.Connection) -> Counts:
    """Count what waits for each sink and where each folder stands, in one consistent look."""
    sinks: dict[str, dict[str, Any]] = defaultdict(dict)
    waiting = sa.select(
        deliveries.c.sink,
        sa.func.count().filter(deliveries.c.attempts == 0).label("queued"),
        sa.func.count().filter(deliveries.c.attempts > 0).label("deferred"),
        sa.func.min(deliveries.c.due_at).label("due"),
        sa.func.min(deliveries.c.first_due_at).label("first"),
    ).where(in_state(DeliveryState.QUEUED))
    for row in connection.execute(waiting.group_by(deliveries.c.sink)):
        sinks[row.sink] |= {
            "queued": row.queued,
            "deferred": row.deferred,
            "oldest_due": moment(row.due),
            "oldest_first_due": moment(row.first),
        }
    for state in (DeliveryState.CLAIMED, DeliveryState.DEAD, DeliveryState.HELD):
        statement = sa.select(deliveries.c.sink, sa.func.count()).where(in_state(state))
        for sink, count in connection.execute(statement.group_by(deliveries.c.sink)):
            sinks[sink][state.value] = count
    doubtful = sa.select(sends.c.mailbox, sa.func.count()).where(
        sa.text("sends.in_doubt_at IS NOT NULL")
    )
    for mailbox, count in connection.execute(doubtful.group_by(sends.c.mailbox)):
        sinks[f"{PREFIX}{mailbox}"]["in_doubt"] = count
    return Counts(
        sinks=tuple(SinkCount(sink=sink, **values) for sink, values in sorted(sinks.items())),
        folders=_folders(connection),
        backlogs=_backlogs(connection),
    )


def _backlogs(connection: sa.Connection) -> dict[str, int]:
    backlogs: dict[str, int] = defaultdict(int)
    for state in (DeliveryState.QUEUED, DeliveryState.CLAIMED, DeliveryState.HELD):
        statement = sa.select(deliveries.c.mailbox, sa.func.count()).where(
            in_state(state), deliveries.c.send.is_(None)
        )
        for mailbox, count in connection.execute(statement.group_by(deliveries.c.mailbox)):
            backlogs[mailbox] += count
    return dict(backlogs)


def _folders(connection: sa.Connection) -> tuple[FolderCount, ...]:
    def by_folder(table: sa.Table, condition: str) -> dict[tuple[str, str], int]:
        statement = (
            sa.select(table.c.mailbox, table.c.folder, sa.func.count())
            .where(sa.text(condition))
            .group_by(table.c.mailbox, table.c.folder)
        )
        return {(row[0], row[1]): row[2] for row in connection.execute(statement)}

    missing = by_folder(gaps, "vanished_at IS NULL")
    untold = by_folder(messages, "settle = 1")
    rows = connection.execute(
        checkpoints.select().order_by(checkpoints.c.mailbox, checkpoints.c.folder)
    )
    return tuple(
        FolderCount(
            mailbox=row.mailbox,
            folder=row.folder,
            checkpoint=read_checkpoint(row),
            gaps=missing.get((row.mailbox, row.folder), 0),
            unsettled=untold.get((row.mailbox, row.folder), 0),
            last_accepted_at=moment_or_none(row.accepted_at),
        )
        for row in rows
    )
