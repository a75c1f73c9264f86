"""Looking things up: the mail log, one message with all that happened to it, what waits where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store.dialect import chunks
from mailbridge.store.rows import (
    AttemptRow,
    DeliveryRow,
    MessageRow,
    MessageState,
    ShownState,
    Trace,
)
from mailbridge.store.standing import read_ref
from mailbridge.store.tables import (
    Kept,
    Settle,
    attempts,
    deliveries,
    gaps,
    messages,
    micros,
    moment,
    moment_or_none,
    raw,
)

#: the first of these that one of its deliveries is in names the state of a message
_RANKS: Final[tuple[tuple[DeliveryState, MessageState], ...]] = (
    (DeliveryState.QUEUED, "accepted"),
    (DeliveryState.CLAIMED, "accepted"),
    (DeliveryState.DEAD, "dead"),
    (DeliveryState.HELD, "held"),
    (DeliveryState.DELIVERED, "delivered"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines of the mail log: ``before`` and ``after`` are numbers of lines, for paging."""

    mailbox: str | None = None
    state: MessageState | None = None
    since: datetime | None = None
    limit: int = 100
    before: int | None = None
    after: int | None = None


def in_state(state: DeliveryState) -> sa.TextClause:
    """Return the condition in the words of the partial indexes, so that they are used."""
    return sa.text(f"deliveries.state = '{state.value}'")


def _with(state: DeliveryState) -> sa.ColumnElement[bool]:
    return messages.c.pk.in_(sa.select(deliveries.c.message).where(in_state(state)))


def _with_delivered() -> sa.ColumnElement[bool]:
    # Nearly every message is one of these, so each is asked, newest first, until enough are found.
    return sa.exists().where(
        deliveries.c.message == messages.c.pk,
        deliveries.c.state == DeliveryState.DELIVERED.value,
    )


def _state_condition(state: MessageState) -> list[sa.ColumnElement[bool]]:
    opened = sa.or_(_with(DeliveryState.QUEUED), _with(DeliveryState.CLAIMED))
    dead, held = _with(DeliveryState.DEAD), _with(DeliveryState.HELD)
    conditions: dict[MessageState, list[sa.ColumnElement[bool]]] = {
        "accepted": [opened],
        "dead": [dead, ~opened],
        "held": [held, ~opened, ~dead],
        "delivered": [_with_delivered(), ~opened, ~dead, ~held],
        "dropped": [messages.c.known_as.is_(None), ~_with_delivered(), ~opened, ~dead, ~held],
        "known": [messages.c.known_as.is_not(None)],
        "gap": [sa.false()],
    }
    return conditions[state]


def read_messages(connection: sa.Connection, wanted: Wanted) -> list[MessageRow]:
    """Return lines of the mail log, the newest first; open gaps lead the first page."""
    conditions: list[sa.ColumnElement[bool]] = [messages.c.kept > Kept.PLACE]
    if wanted.mailbox is not None:
        conditions.append(messages.c.mailbox == wanted.mailbox)
    if wanted.since is not None:
        conditions.append(messages.c.accepted_at >= micros(wanted.since))
    if wanted.before is not None:
        conditions.append(messages.c.pk < wanted.before)
    if wanted.after is not None:
        conditions.append(messages.c.pk > wanted.after)
    if wanted.state is not None:
        conditions += _state_condition(wanted.state)
    found = _open_gaps(connection, wanted)
    rows = connection.execute(
        messages.select()
        .where(*conditions)
        .order_by(messages.c.pk.desc())
        .limit(max(0, wanted.limit - len(found)))
    )
    return found + _message_rows(connection, rows.all())


def _open_gaps(connection: sa.Connection, wanted: Wanted) -> list[MessageRow]:
    if wanted.state not in {None, "gap"} or wanted.before is not None or wanted.after is not None:
        return []
    statement = gaps.select().where(gaps.c.vanished_at.is_(None))
    if wanted.mailbox is not None:
        statement = statement.where(gaps.c.mailbox == wanted.mailbox)
    if wanted.since is not None:
        statement = statement.where(gaps.c.first_at >= micros(wanted.since))
    rows = connection.execute(statement.order_by(gaps.c.first_at.desc()).limit(wanted.limit))
    return [_gap_row(row) for row in rows]


def _message_rows(connection: sa.Connection, rows: Sequence[Any]) -> list[MessageRow]:
    states: dict[int, set[str]] = defaultdict(set)
    for ids in chunks([row.pk for row in rows]):
        for message, state in connection.execute(
            sa.select(deliveries.c.message, deliveries.c.state).where(deliveries.c.message.in_(ids))
        ):
            states[message].add(state)
    return [_message_row(row, states[row.pk]) for row in rows]


def _message_row(row: Any, states: set[str]) -> MessageRow:
    state: MessageState = "known" if row.known_as else "dropped"
    for rank, name in _RANKS:
        if rank.value in states:
            state = name
            break
    return MessageRow(
        number=row.pk,
        id=row.id,
        state=state,
        ref=read_ref(row),
        address=row.address,
        message_id=row.message_id,
        received_at=moment_or_none(row.received_at),
        at=moment(row.accepted_at),
        size=row.size,
        sha256=row.sha256,
        settled=None if row.settle == Settle.NOT_WANTED else row.settle == Settle.DONE,
        settled_at=moment_or_none(row.settled_at),
        known_as=row.known_as,
        raw_kept=row.kept == Kept.RAW,
    )


def _gap_row(row: Any) -> MessageRow:
    return MessageRow(
        number=0,
        id=row.id,
        state="gap",
        ref=read_ref(row),
        address="",
        message_id=None,
        received_at=None,
        at=moment(row.first_at),
        size=0,
        sha256="",
        settled=None,
        settled_at=None,
        known_as=None,
        raw_kept=False,
        reason=row.reason if row.vanished_at is None else f"vanished; before: {row.reason}",
        tries=row.tries,
    )


def _delivery_row(row: Any) -> DeliveryRow:
    state: ShownState = row.state
    return DeliveryRow(
        id=row.pk,
        event_id=row.event_id,
        type=row.type,
        sink=row.sink,
        mailbox=row.mailbox,
        state="deferred" if state == "queued" and row.attempts else state,
        attempts=row.attempts,
        rescues=row.rescues,
        due_at=moment(row.due_at),
        first_due_at=moment(row.first_due_at),
        created_at=moment(row.created_at),
        resolved_at=moment_or_none(row.resolved_at),
        owner=row.owner,
        lease_until=moment_or_none(row.lease_until),
        sequence=row.sequence,
        replay=row.replay,
        last_status=row.last_status,
        last_reason=row.last_reason,
    )


def read_deliveries(
    connection: sa.Connection, state: ShownState | None, sink: str | None, limit: int
) -> list[DeliveryRow]:
    """Return deliveries of one state, or all that are not over, in the order they will go."""
    shown: Iterable[ShownState] = (
        ("claimed", "queued", "deferred", "held", "dead") if state is None else (state,)
    )
    rows: list[DeliveryRow] = []
    for one in shown:
        stored = DeliveryState.QUEUED if one == "deferred" else DeliveryState(one)
        statement = deliveries.select().where(in_state(stored))
        if one == "deferred":
            statement = statement.where(deliveries.c.attempts > 0)
        elif one == "queued":
            statement = statement.where(deliveries.c.attempts == 0)
        if sink is not None:
            statement = statement.where(deliveries.c.sink == sink)
        order = deliveries.c.due_at if stored == DeliveryState.QUEUED else deliveries.c.pk
        found = connection.execute(
            statement.order_by(order, deliveries.c.pk).limit(max(0, limit - len(rows)))
        )
        rows += [_delivery_row(row) for row in found]
    return rows


def events_of(name: str) -> sa.ColumnElement[bool]:
    """Return the condition for the deliveries of an event id or with a delivery number."""
    if name.isdecimal():
        return deliveries.c.pk == int(name)
    return sa.or_(
        deliveries.c.message.in_(sa.select(messages.c.pk).where(messages.c.id == name)),
        sa.and_(deliveries.c.message.is_(None), deliveries.c.event_id == name),
    )


def trace(connection: sa.Connection, name: str) -> Trace:
    """Return all that is known under a webhook-id, a Message-ID or the number of a delivery."""
    direct = sa.select(messages.c.pk, messages.c.id, messages.c.known_as)
    if name.isdecimal():
        statement = direct.where(
            messages.c.pk.in_(sa.select(deliveries.c.message).where(deliveries.c.pk == int(name)))
        )
    else:
        bare = f"<{name}>"
        statement = direct.where(
            sa.or_(messages.c.id == name, messages.c.message_id.in_([name, bare]))
        )
    hits = connection.execute(statement).all()
    ids = {row.id for row in hits} | {row.known_as for row in hits if row.known_as}
    found = connection.execute(
        messages.select()
        .where(
            messages.c.kept > Kept.PLACE,
            sa.or_(messages.c.id.in_(ids), messages.c.known_as.in_(ids)),
        )
        .order_by(messages.c.pk)
    ).all()
    open_or_vanished = connection.execute(gaps.select().where(gaps.c.id == name)).all()
    numbers = [row.pk for row in found]
    sent = connection.execute(
        deliveries.select()
        .where(sa.or_(deliveries.c.message.in_(numbers), events_of(name)))
        .order_by(deliveries.c.pk)
    ).all()
    tries = connection.execute(
        attempts.select()
        .where(attempts.c.delivery.in_([row.pk for row in sent]))
        .order_by(attempts.c.delivery, attempts.c.fence)
    ).all()
    return Trace(
        messages=(
            *_message_rows(connection, found),
            *(_gap_row(row) for row in open_or_vanished),
        ),
        deliveries=tuple(_delivery_row(row) for row in sent),
        attempts=tuple(_attempt_row(row) for row in tries),
    )


def _attempt_row(row: Any) -> AttemptRow:
    return AttemptRow(
        delivery=row.delivery,
        number=row.number,
        at=moment(row.at),
        seconds=row.seconds,
        outcome=row.outcome,
        status=row.status,
        reason=row.reason,
        detail=row.detail,
    )


def raw_bytes(connection: sa.Connection, name: str) -> bytes | None:
    """Return the raw bytes of a message by its webhook-id, under any of its places."""
    row = connection.execute(
        sa.select(messages.c.pk, messages.c.known_as).where(messages.c.id == name)
    ).one_or_none()
    if row is None:
        return None
    if row.known_as:
        return raw_bytes(connection, row.known_as)
    content: bytes | None = connection.execute(
        sa.select(raw.c.bytes).where(raw.c.message == row.pk)
    ).scalar_one_or_none()
    return content
