"""The dispatcher's side: claiming what is due, and writing what came of it.

::

    queued ──claim──▶ claimed ──Done──▶ delivered
       ▲                │ │ └───Dead──▶ dead ──requeue──▶ queued
       │                │ └────Retry──▶ queued, due later
       └─lease expired──┘      (rescue; apart after 3 in a row, dead after 10)

A sink that keeps the order is asked for in the words of ``order``; nothing else differs.

A claim carries the ``fence`` of its delivery. Every later write about it names that number, so
an owner that lost its lease and comes back late changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NotRequired, TypedDict

import sqlalchemy as sa

from mailbridge.model import (
    Delivery,
    DeliveryState,
    MessageRef,
    StoredMail,
    StoredSend,
)
from mailbridge.store import letters, order, routing, sends_lookup
from mailbridge.store.dialect import clock
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
    sends,
)

# The planner uses a partial index only where it can read its condition in the statement.
QUEUED: Final = sa.text("deliveries.state = 'queued'")
CLAIMED: Final = sa.text("deliveries.state = 'claimed'")
_ALONE: Final = sa.text(
    f"deliveries.rescues >= {ALONE_AFTER} AND deliveries.rescues < {POISON_AFTER}"
)
_GROUPED: Final = sa.text(
    f"deliveries.rescues >= {ALONE_AFTER} AND deliveries.rescues < {SINGLE_AFTER}"
)
_NOT_ALONE: Final = deliveries.c.rescues < ALONE_AFTER


def _due_statement(
    suspect: sa.ColumnElement[bool] | sa.TextClause,
    mails: sa.Table = messages,
    of: sa.Column[Any] = deliveries.c.message,
) -> sa.Select[Any]:
    return (
        sa.select(deliveries.c.pk, sa.func.coalesce(mails.c.size, 0).label("size"))
        .select_from(deliveries.outerjoin(mails, of == mails.c.pk))
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
_UNORDERED: Final = (DUE, DUE_GROUPED, DUE_ALONE)
# Of mails to be sent: these know how large they are from another table.
SENDS_DUE: Final = _due_statement(_NOT_ALONE, sends, deliveries.c.send)
_SENDS: Final = (
    SENDS_DUE,
    _due_statement(_GROUPED, sends, deliveries.c.send),
    _due_statement(_ALONE, sends, deliveries.c.send),
)
_ORDERED: Final = (order.DUE, order.DUE_GROUPED, order.DUE_ALONE)
# A sum, so that no planner looks for the least number in the history of all deliveries; in the
# index of what waits, which holds it, a hundred thousand are looked through in milliseconds.
OLDEST: Final = sa.select(sa.func.min(deliveries.c.pk + sa.literal_column("0"))).where(
    QUEUED,
    deliveries.c.sink == sa.bindparam("sink", type_=sa.Text),
    deliveries.c.pk + sa.literal_column("0") > sa.bindparam("after", type_=sa.BigInteger),
)
_STILL_QUEUED: Final = (
    sa.select(deliveries.c.pk)
    .where(deliveries.c.pk == sa.bindparam("number", type_=sa.BigInteger), QUEUED)
    .with_for_update(skip_locked=True)
)

_CLAIMED_DELIVERIES: Final = sa.select(
    *(
        deliveries.c[name]
        for name in (
            *("pk", "message", "send", "event_id", "type", "body", "sink", "mailbox", "created_at"),
            *("attempts", "first_due_at", "sequence", "replay", "fence"),
            *("route", "expires_at", "otherwise", "fallback_of"),
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
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_RELEASE: Final = (
    deliveries.update()
    .where(
        deliveries.c.pk == sa.bindparam("number"),
        deliveries.c.fence == sa.bindparam("held"),
        CLAIMED,
    )
    .values(state=DeliveryState.QUEUED.value, lease_until=None, owner=None)
)


class Asked(TypedDict):
    """The fields of ``Wanted``, as arguments."""

    limit: int
    max_bytes: int
    lease: float
    alone: NotRequired[bool]
    ordered: NotRequired[bool]
    probe: NotRequired[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a dispatcher asks for; ``lease`` in seconds, the rest as in ``DispatchStore.claim``.

    ``probe``: only the oldest that waits, with a number above this, whether it is due or not.
    """

    limit: int
    max_bytes: int
    lease: float
    alone: bool = False
    ordered: bool = False
    probe: int | None = None


def claim(
    connection: sa.Connection, sink: str, wanted: Wanted, owner: str, now: int
) -> list[Delivery]:
    """See ``DispatchStore.claim``."""
    if wanted.ordered:
        order.one_at_a_time(connection, sink)
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
    outgoing = sends_lookup.claimed(connection, [row[2] for row in rows.values() if row[2]])
    lost = [row[0] for row in rows.values() if row[1] is not None and row[1] not in mails]
    lost += [row[0] for row in rows.values() if row[2] is not None and row[2] not in outgoing]
    letters.bury(connection, lost, "its raw bytes are gone", now, None)
    routed = [(row[1], row[-4]) for row in rows.values() if row[1] is not None and row[-4]]
    fields = routing.fields_of(connection, routed)
    return [
        _read_delivery(rows[number], mails, outgoing, fields)
        for number in ids
        if number not in lost
    ]


def _due(connection: sa.Connection, sink: str, wanted: Wanted, now: int) -> list[int]:
    """Choose what to claim. A death among suspects leaves few to ask, and then one."""
    if wanted.probe is not None:
        return _oldest(connection, sink, wanted.probe, ordered=wanted.ordered)
    sending = sink.startswith(sends_lookup.PREFIX)
    any_, grouped, alone = _ORDERED if wanted.ordered else _SENDS if sending else _UNORDERED
    asked = {"sink": sink, "now": now}
    if not wanted.alone:
        due = connection.execute(any_, asked | {"limit": wanted.limit}).all()
    else:
        few = min(wanted.limit, GROUP)
        due = connection.execute(grouped, asked | {"limit": few}).all()
        due = due or connection.execute(alone, asked | {"limit": 1}).all()
    return _within(due, wanted.max_bytes)


def _oldest(connection: sa.Connection, sink: str, after: int, *, ordered: bool) -> list[int]:
    statement = order.OLDEST if ordered else OLDEST
    number = connection.execute(statement, {"sink": sink, "after": after}).scalar_one()
    if number is None:
        return []
    return list(connection.execute(_STILL_QUEUED, {"number": number}).scalars())


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


def _read_delivery(
    row: tuple[Any, ...],
    mails: dict[int, StoredMail],
    outgoing: dict[int, StoredSend],
    fields: dict[tuple[int, str], dict[str, Any]],
) -> Delivery:
    (number, message, send, event_id, kind, body, sink, mailbox, created_at, *rest) = row
    made, first_due_at, sequence, replay, fence, route, expires_at, otherwise, fallback_of = rest
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
        send=None if send is None else outgoing[send],
        route=route,
        fields=fields.get((message, route), _NOTHING) if route else _NOTHING,
        expires_at=moment_or_none(expires_at),
        otherwise=otherwise or "deliver",
        fallback_of=fallback_of,
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


def next_due(connection: sa.Connection, sink: str, *, ordered: bool = False) -> int | None:
    """See ``DispatchStore.next_due``; in microseconds. Those to be claimed alone count too."""
    statement = order.NEXT_DUE if ordered else NEXT_DUE
    due: int | None = connection.execute(statement, {"sink": sink}).scalar_one()
    return due
