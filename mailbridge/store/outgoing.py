"""The dispatcher's side: claiming what is due, and writing what came of it.

::

    queued ──claim──▶ claimed ──Done──▶ delivered
       ▲                │ │ └───Dead──▶ dead ──requeue──▶ queued
       │                │ └────Retry──▶ queued, due later
       └─lease expired──┘      (rescue; apart after 3 in a row, dead after 10)

A claim carries the ``fence`` of its delivery. Every later write about it names that number, so
an owner that lost its lease and comes back late changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import (
    Delivery,
    DeliveryState,
    MessageRef,
    StoredMail,
)
from mailbridge.store.dialect import chunks, clock
from mailbridge.store.driver import among
from mailbridge.store.tables import (
    ALONE_AFTER,
    GROUP,
    POISON_AFTER,
    SINGLE_AFTER,
    deliveries,
    messages,
    moment,
    moment_or_none,
    raw,
)

# The planner uses a partial index only where it can read its condition in the statement.
QUEUED: Final = sa.text("deliveries.state = 'queued'")
CLAIMED: Final = sa.text("deliveries.state = 'claimed'")
_ALONE: Final = sa.text(f"deliveries.rescues >= {ALONE_AFTER}")
_GROUPED: Final = sa.text(
    f"deliveries.rescues >= {ALONE_AFTER} AND deliveries.rescues < {SINGLE_AFTER}"
)
_NOT_ALONE: Final = deliveries.c.rescues < ALONE_AFTER


def _due_statement(suspect: sa.ColumnElement[bool] | sa.TextClause) -> sa.Select[Any]:
    return (
        sa.select(deliveries.c.pk, sa.func.coalesce(messages.c.size, 0).label("size"))
        .select_from(deliveries.outerjoin(messages, deliveries.c.message == messages.c.pk))
        .where(
            QUEUED,
            suspect,
            deliveries.c.sink == sa.bindparam("sink", type_=sa.Text),
            deliveries.c.due_at <= sa.bindparam("now", type_=sa.BigInteger),
        )
        .order_by(deliveries.c.due_at, deliveries.c.pk)
        .limit(sa.bindparam("limit", type_=sa.Integer))
        .with_for_update(of=deliveries, skip_locked=True)
    )


DUE: Final = _due_statement(_NOT_ALONE)
DUE_ALONE: Final = _due_statement(_ALONE)
DUE_GROUPED: Final = _due_statement(_GROUPED)

_CLAIMED_DELIVERIES: Final = sa.select(
    *(
        deliveries.c[name]
        for name in (
            *("pk", "message", "event_id", "type", "body", "sink", "mailbox", "created_at"),
            *("attempts", "first_due_at", "sequence", "replay", "fence"),
        )
    )
).where(among(deliveries.c.pk))
_CLAIMED_MAILS: Final = (
    sa.select(
        *(
            messages.c[name]
            for name in (
                *("pk", "id", "mailbox", "folder", "protocol", "uidvalidity", "uid", "uidl"),
                *("address", "received_at", "accepted_at", "sha256"),
            )
        ),
        raw.c.bytes,
    )
    .join_from(messages, raw, messages.c.pk == raw.c.message)
    .where(among(messages.c.pk))
)
NEXT_DUE: Final = sa.select(sa.func.min(deliveries.c.due_at)).where(
    QUEUED, deliveries.c.sink == sa.bindparam("sink", type_=sa.Text)
)
_ALL_CLAIMED: Final = sa.select(deliveries.c.pk).where(CLAIMED).with_for_update(skip_locked=True)
LATE: Final = _ALL_CLAIMED.where(
    deliveries.c.lease_until <= sa.bindparam("at", type_=sa.BigInteger)
)
_RELEASE: Final = (
    deliveries.update()
    .where(
        deliveries.c.pk == sa.bindparam("number"),
        deliveries.c.fence == sa.bindparam("held"),
        CLAIMED,
    )
    .values(state=DeliveryState.QUEUED.value, lease_until=None, owner=None)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a dispatcher asks for; ``lease`` in seconds, the rest as in ``DispatchStore.claim``."""

    limit: int
    max_bytes: int
    lease: float
    alone: bool


def claim(
    connection: sa.Connection, sink: str, wanted: Wanted, owner: str, now: int
) -> list[Delivery]:
    """See ``DispatchStore.claim``."""
    ids = _due(connection, sink, wanted, now)
    if not ids:
        return []
    connection.execute(
        _claim_statement(connection, now),
        {"ids": ids, "me": owner, "lease": round(wanted.lease * 1_000_000)},
    )
    rows = {row[0]: row for row in connection.execute(_CLAIMED_DELIVERIES, {"ids": ids}).all()}
    numbers = [row[1] for row in rows.values() if row[1] is not None]
    mails: dict[int, StoredMail] = {}
    if numbers:
        found = connection.execute(_CLAIMED_MAILS, {"ids": numbers}).all()
        mails = {row[0]: _read_mail(row) for row in found}
    lost = [row[0] for row in rows.values() if row[1] is not None and row[1] not in mails]
    if lost:
        bury(connection, lost, "its raw bytes are gone", now)
    return [_read_delivery(rows[number], mails) for number in ids if number not in lost]


def _due(connection: sa.Connection, sink: str, wanted: Wanted, now: int) -> list[int]:
    """Choose what to claim. A death among suspects leaves few to ask, and then one."""
    asked = {"sink": sink, "now": now}
    if not wanted.alone:
        due = connection.execute(DUE, asked | {"limit": wanted.limit}).all()
    else:
        few = min(wanted.limit, GROUP)
        due = connection.execute(DUE_GROUPED, asked | {"limit": few}).all()
        due = due or connection.execute(DUE_ALONE, asked | {"limit": 1}).all()
    return _within(due, wanted.max_bytes)


def _claim_statement(connection: sa.Connection, now: int) -> sa.Update:
    return (
        deliveries.update()
        .where(among(deliveries.c.pk))
        .values(
            state=DeliveryState.CLAIMED.value,
            owner=sa.bindparam("me"),
            lease_until=clock(connection, now) + sa.bindparam("lease", type_=sa.BigInteger),
            fence=deliveries.c.fence + 1,
        )
    )


def _within(due: Iterable[sa.Row[int, int]], max_bytes: int) -> list[int]:
    """Return the leading deliveries whose bytes fit together, at least one."""
    ids: list[int] = []
    total = 0
    for number, size in due:
        total += size
        if ids and total > max_bytes:
            break
        ids.append(number)
    return ids


# These two run for every mail that leaves; taking a row apart by position is four times faster
# than asking it for its columns by name.
def _read_mail(row: tuple[Any, ...]) -> StoredMail:
    (_, name, mailbox, folder, protocol, uidvalidity, uid, uidl, *rest) = row
    address, received_at, accepted_at, sha256, content = rest
    ref = MessageRef(
        mailbox=mailbox,
        folder=folder,
        protocol=protocol,
        uidvalidity=uidvalidity,
        uid=uid,
        uidl=uidl,
    )
    return StoredMail(
        id=name,
        ref=ref,
        address=address,
        received_at=moment_or_none(received_at),
        accepted_at=moment(accepted_at),
        raw=content,
        raw_sha256=sha256,
    )


def _read_delivery(row: tuple[Any, ...], mails: dict[int, StoredMail]) -> Delivery:
    (number, message, event_id, kind, body, sink, mailbox, created_at, *rest) = row
    made, first_due_at, sequence, replay, fence = rest
    return Delivery(
        id=number,
        sink=sink,
        event_id=event_id,
        type=kind,
        mailbox=mailbox,
        created_at=moment(created_at),
        attempts=made,
        first_due_at=moment(first_due_at),
        sequence=sequence,
        replay=replay,
        fence=fence,
        mail=None if message is None else mails[message],
        body=None if body is None else json.loads(body),
    )


def renew(connection: sa.Connection, held: Sequence[Delivery], *, lease: float, now: int) -> None:
    """See ``DispatchStore.renew``."""
    if not held:
        return
    connection.execute(
        deliveries.update()
        .where(
            deliveries.c.pk == sa.bindparam("number"),
            deliveries.c.fence == sa.bindparam("held"),
            CLAIMED,
        )
        .values(lease_until=clock(connection, now) + sa.bindparam("lease", type_=sa.BigInteger)),
        [{"number": one.id, "held": one.fence, "lease": round(lease * 1_000_000)} for one in held],
    )


def release(connection: sa.Connection, held: Sequence[Delivery]) -> None:
    """See ``DispatchStore.release``. It is no rescue, and it does not end a row of rescues."""
    if held:
        connection.execute(_RELEASE, [{"number": one.id, "held": one.fence} for one in held])


def next_due(connection: sa.Connection, sink: str) -> int | None:
    """See ``DispatchStore.next_due``; in microseconds. Those to be claimed alone count too."""
    due: int | None = connection.execute(NEXT_DUE, {"sink": sink}).scalar_one()
    return due


def rescue(connection: sa.Connection, now: int, *, every: bool = False) -> int:
    """See ``DispatchStore.rescue``. ``every`` takes each claim: their owner is known to be dead."""
    if every:
        found = connection.execute(_ALL_CLAIMED)
    else:
        at = connection.execute(sa.select(clock(connection, now))).scalar_one()
        found = connection.execute(LATE, {"at": at})
    ids = list(found.scalars())
    for chunk in chunks(ids):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.pk.in_(chunk))
            .values(
                state=DeliveryState.QUEUED.value,
                rescues=deliveries.c.rescues + 1,
                lease_until=None,
                owner=None,
                # Whoever held it is shut out at once, not only after the next claim.
                fence=deliveries.c.fence + 1,
            )
        )
        poison = connection.execute(
            sa.select(deliveries.c.pk).where(
                deliveries.c.pk.in_(chunk), deliveries.c.rescues >= POISON_AFTER
            )
        ).scalars()
        bury(
            connection,
            list(poison),
            f"poison: the daemon died {POISON_AFTER} times while holding it",
            now,
        )
    return len(ids)


def bury(connection: sa.Connection, ids: list[int], reason: str, now: int) -> None:
    """Set deliveries aside as dead letters without an attempt."""
    for chunk in chunks(ids):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.pk.in_(chunk))
            .values(
                state=DeliveryState.DEAD.value,
                resolved_at=now,
                last_reason=reason,
                lease_until=None,
                owner=None,
            )
        )
