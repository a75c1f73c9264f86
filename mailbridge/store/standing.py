"""Where the intake stands: checkpoints, gaps that are due, what is known, what is to be settled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import Checkpoint, Fingerprint, Gap, MessageRef, Protocol
from mailbridge.store.dialect import chunks
from mailbridge.store.scan import storable
from mailbridge.store.tables import (
    Settle,
    checkpoints,
    gaps,
    messages,
    moment,
    moment_or_none,
)

_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)
UNSETTLED: Final = (
    messages.select()
    .where(
        messages.c.mailbox == sa.bindparam("mailbox"),
        messages.c.folder == sa.bindparam("folder"),
        # Written out, so that the planner sees that the partial index holds these rows.
        sa.text("settle = 1"),
    )
    .order_by(messages.c.pk)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_SETTLED: Final = (
    messages.update()
    .where(messages.c.id.in_(_IDS), messages.c.settle == Settle.WANTED)
    .values(settle=Settle.DONE, settled_at=sa.bindparam("at"))
)


def read_ref(row: Any) -> MessageRef:
    """Return the place that a row of ``messages`` or ``gaps`` tells."""
    protocol: Protocol = row.protocol
    return MessageRef(
        mailbox=row.mailbox,
        folder=row.folder,
        protocol=protocol,
        uidvalidity=row.uidvalidity,
        uid=row.uid,
        uidl=row.uidl,
    )


def read_checkpoint(row: Any) -> Checkpoint:
    """Return the checkpoint that a row tells."""
    return Checkpoint(
        mailbox=row.mailbox,
        folder=row.folder,
        uidvalidity=row.uidvalidity,
        uid=row.uid,
        baseline_uid=row.baseline_uid,
        since=None if row.since is None else date.fromisoformat(row.since),
        watching_since=moment(row.watching_since),
    )


def checkpoint(connection: sa.Connection, mailbox: str, folder: str) -> Checkpoint | None:
    """See ``IntakeStore.checkpoint``."""
    row = connection.execute(
        checkpoints.select().where(
            checkpoints.c.mailbox == mailbox, checkpoints.c.folder == storable(folder)
        )
    ).one_or_none()
    return None if row is None else read_checkpoint(row)


def unknown(
    connection: sa.Connection, mailbox: str, folder: str, uidvalidity: int, uids: Sequence[int]
) -> list[int]:
    """See ``IntakeStore.unknown``; a gap that vanished is unknown, should it be listed again."""
    if not uids:
        return []
    there: set[int] = set()
    for table, stands in ((messages, sa.true()), (gaps, gaps.c.vanished_at.is_(None))):
        found = sa.select(table.c.uid).where(
            table.c.mailbox == mailbox,
            table.c.folder == storable(folder),
            table.c.uidvalidity == uidvalidity,
            table.c.uid.between(min(uids), max(uids)),
            stands,
        )
        there.update(connection.execute(found).scalars())
    return [uid for uid in uids if uid not in there]


def gaps_due(connection: sa.Connection, mailbox: str, folder: str, now: int) -> list[Gap]:
    """See ``IntakeStore.gaps_due``."""
    rows = connection.execute(
        gaps.select()
        .where(
            gaps.c.mailbox == mailbox,
            gaps.c.folder == storable(folder),
            gaps.c.vanished_at.is_(None),
            gaps.c.due_at <= now,
        )
        .order_by(gaps.c.due_at, gaps.c.uid)
    )
    return [
        Gap(
            ref=read_ref(row),
            reason=row.reason,
            tries=row.tries,
            first_at=moment(row.first_at),
            due_at=moment(row.due_at),
        )
        for row in rows
    ]


def fingerprints(
    connection: sa.Connection, mailbox: str, folder: str, uidvalidity: int
) -> list[Fingerprint]:
    """See ``IntakeStore.fingerprints``; the id is that of the message under its first place."""
    rows = connection.execute(
        sa.select(
            sa.func.coalesce(messages.c.known_as, messages.c.id).label("id"),
            messages.c.uid,
            messages.c.message_id,
            messages.c.received_at,
            messages.c.size,
        )
        .where(
            messages.c.mailbox == mailbox,
            messages.c.folder == storable(folder),
            messages.c.uidvalidity == uidvalidity,
        )
        .order_by(messages.c.uid)
    )
    return [
        Fingerprint(
            id=row.id,
            uid=row.uid,
            message_id=row.message_id or "",
            received_at=moment_or_none(row.received_at),
            size=row.size,
        )
        for row in rows
    ]


def unsettled(connection: sa.Connection, mailbox: str, folder: str, limit: int) -> list[MessageRef]:
    """See ``IntakeStore.unsettled``."""
    rows = connection.execute(
        UNSETTLED, {"mailbox": mailbox, "folder": storable(folder), "limit": limit}
    )
    return [read_ref(row) for row in rows]


def settled(connection: sa.Connection, refs: Sequence[MessageRef], now: int) -> None:
    """See ``IntakeStore.settled``."""
    for ids in chunks([ref.message_id for ref in refs]):
        connection.execute(_SETTLED, {"ids": ids, "at": now})
