"""Looking things up: the mail log, one message with all that happened to it, what waits where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store import sends_lookup
from mailbridge.store.dialect import chunks
from mailbridge.store.rows import DeliveryRow, MessageRow, MessageState, ShownState, Trace
from mailbridge.store.shown import attempt_row, delivery_row, gap_row, message_row, ruling_row
from mailbridge.store.tables import (
    Kept,
    attempts,
    deliveries,
    gaps,
    messages,
    micros,
    raw,
    rulings,
    takings,
)

_SENT: Final = sa.select(
    *(
        deliveries.c[name]
        for name in ("pk", "message", "sink", "state", "attempts", "replay", "last_reason")
    )
)
# In the words of the partial index.
_UNROUTED: Final = sa.text("messages.routed = 0 AND messages.known_as IS NULL")


class Filters(TypedDict, total=False):
    """Which lines of the mail log: ``before`` and ``after`` are numbers of lines, for paging.

    ``route`` is one that took the message; ``oldest`` begins at the other end of the log.
    """

    mailbox: str | None
    state: MessageState | None
    since: datetime | None
    limit: int
    before: int | None
    after: int | None
    route: str | None
    oldest: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The same, with what is not said; see ``Filters``."""

    mailbox: str | None = None
    state: MessageState | None = None
    since: datetime | None = None
    limit: int = 100
    before: int | None = None
    after: int | None = None
    route: str | None = None
    oldest: bool = False


def in_state(state: DeliveryState) -> sa.TextClause:
    """Return the condition in the words of the partial indexes, so that they are used."""
    return sa.text(f"deliveries.state = '{state.value}'")


def _with(state: DeliveryState) -> sa.ColumnElement[bool]:
    # Events that are no mails have no message, and nothing is "not in" a list with a NULL in it.
    found = sa.select(deliveries.c.message).where(
        in_state(state), deliveries.c.message.is_not(None)
    )
    return messages.c.pk.in_(found)


def _with_delivered() -> sa.ColumnElement[bool]:
    # Nearly every message is one of these, so each is asked, newest first, until enough are found.
    return sa.exists().where(
        deliveries.c.message == messages.c.pk,
        deliveries.c.state == DeliveryState.DELIVERED.value,
    )


def _with_any() -> sa.ColumnElement[bool]:
    return sa.exists().where(deliveries.c.message == messages.c.pk)


def _taken() -> sa.ColumnElement[bool]:
    return sa.exists().where(rulings.c.message == messages.c.pk, rulings.c.taken > 0)


def _state_condition(state: MessageState) -> list[sa.ColumnElement[bool] | sa.TextClause]:
    opened = sa.or_(_with(DeliveryState.QUEUED), _with(DeliveryState.CLAIMED))
    dead, held = _with(DeliveryState.DEAD), _with(DeliveryState.HELD)
    conditions: dict[MessageState, list[sa.ColumnElement[bool] | sa.TextClause]] = {
        "accepted": [opened],
        "dead": [dead, ~opened],
        "held": [held, ~opened, ~dead],
        "delivered": [_with_delivered(), ~opened, ~dead, ~held],
        "dropped": [
            messages.c.known_as.is_(None),
            *(~_with_delivered(), ~opened, ~dead, ~held),
            sa.or_(_with_any(), _taken()),
        ],
        "unrouted": [_UNROUTED, messages.c.test.is_(None), ~_with_any(), ~_taken()],
        "test": [messages.c.test == 1],
        "known": [messages.c.known_as.is_not(None)],
        "gap": [sa.false()],
    }
    return conditions[state]


def read_messages(connection: sa.Connection, wanted: Wanted) -> list[MessageRow]:
    """Return lines of the mail log, the newest first; open gaps lead the first page."""
    found = _open_gaps(connection, wanted)
    rows = connection.execute(lines(wanted).limit(max(0, wanted.limit - len(found))))
    return found + _message_rows(connection, rows.all())


def lines(wanted: Wanted) -> sa.Select[Any]:
    """Return the statement for the stored messages of the mail log, in its order."""
    statement = messages.select().where(messages.c.kept > Kept.PLACE)
    number: sa.Column[Any] = messages.c.pk
    if wanted.route is not None:
        # The table of that route has them in the order of the log, however few or many.
        number = takings.c.message
        statement = statement.join_from(takings, messages, number == messages.c.pk)
        statement = statement.where(takings.c.route == wanted.route)
    if wanted.mailbox is not None:
        statement = statement.where(messages.c.mailbox == wanted.mailbox)
    if wanted.since is not None:
        statement = statement.where(messages.c.accepted_at >= micros(wanted.since))
    if wanted.before is not None:
        statement = statement.where(number < wanted.before)
    if wanted.after is not None:
        statement = statement.where(number > wanted.after)
    if wanted.state is not None:
        statement = statement.where(*_state_condition(wanted.state))
    return statement.order_by(number if wanted.oldest else number.desc())


def _open_gaps(connection: sa.Connection, wanted: Wanted) -> list[MessageRow]:
    if wanted.state not in {None, "gap"} or wanted.route is not None:
        return []
    if wanted.before is not None or wanted.after is not None:
        return []
    statement = gaps.select().where(gaps.c.vanished_at.is_(None))
    if wanted.mailbox is not None:
        statement = statement.where(gaps.c.mailbox == wanted.mailbox)
    if wanted.since is not None:
        statement = statement.where(gaps.c.first_at >= micros(wanted.since))
    rows = connection.execute(statement.order_by(gaps.c.first_at.desc()).limit(wanted.limit))
    return [gap_row(row) for row in rows]


def _message_rows(connection: sa.Connection, rows: Sequence[Any]) -> list[MessageRow]:
    sent: dict[int, list[Any]] = defaultdict(list)
    steps: dict[int, str] = {}
    for ids in chunks([row.pk for row in rows]):
        for one in connection.execute(_SENT.where(deliveries.c.message.in_(ids))):
            sent[one.message].append(one)
        said = sa.select(rulings.c.message, rulings.c.steps).where(rulings.c.message.in_(ids))
        steps.update((number, text) for number, text in connection.execute(said))
    return [message_row(row, sent[row.pk], steps.get(row.pk)) for row in rows]


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
        rows += [delivery_row(row) for row in found]
    return rows


def events_of(name: str) -> sa.ColumnElement[bool]:
    """Return the condition for the deliveries of an event id or with a delivery number."""
    if name.isdecimal():
        return deliveries.c.pk == sends_lookup.delivery_number(name)
    return sa.or_(
        deliveries.c.message.in_(sa.select(messages.c.pk).where(messages.c.id == name)),
        sa.and_(deliveries.c.message.is_(None), deliveries.c.event_id == name),
    )


def trace(connection: sa.Connection, name: str) -> Trace:
    """Return all known under a webhook-id, an outgoing id, a Message-ID, a delivery's number."""
    found = _messages_of(connection, name)
    mails = sends_lookup.traced(connection, name)
    open_or_vanished = connection.execute(gaps.select().where(gaps.c.id == name)).all()
    numbers = [row.pk for row in found]
    meant = [deliveries.c.message.in_(numbers), events_of(name)]
    if mails:
        meant.append(deliveries.c.pk.in_([mail.number for mail in mails]))
    sent = connection.execute(
        deliveries.select().where(sa.or_(*meant)).order_by(deliveries.c.pk)
    ).all()
    tries = connection.execute(
        attempts.select()
        .where(attempts.c.delivery.in_([row.pk for row in sent]))
        .order_by(attempts.c.delivery, attempts.c.fence)
    ).all()
    ids_of = {row.pk: row.id for row in found}
    said = connection.execute(
        rulings.select().where(rulings.c.message.in_(numbers)).order_by(rulings.c.message)
    )
    return Trace(
        messages=(
            *_message_rows(connection, found),
            *(gap_row(row) for row in open_or_vanished),
        ),
        deliveries=tuple(delivery_row(row) for row in sent),
        attempts=tuple(attempt_row(row) for row in tries),
        rulings=tuple(ruling_row(ids_of[row.message], row.steps) for row in said),
        sends=tuple(mails),
    )


def _messages_of(connection: sa.Connection, name: str) -> Sequence[Any]:
    """Return the rows of a message under every place that it was known by."""
    direct = sa.select(messages.c.pk, messages.c.id, messages.c.known_as)
    if name.isdecimal():
        number = sends_lookup.delivery_number(name)
        statement = direct.where(
            messages.c.pk.in_(sa.select(deliveries.c.message).where(deliveries.c.pk == number))
        )
    else:
        bare = f"<{name}>"
        statement = direct.where(
            sa.or_(messages.c.id == name, messages.c.message_id.in_([name, bare]))
        )
    hits = connection.execute(statement).all()
    ids = {row.id for row in hits} | {row.known_as for row in hits if row.known_as}
    return connection.execute(
        messages.select()
        .where(
            messages.c.kept > Kept.PLACE,
            sa.or_(messages.c.id.in_(ids), messages.c.known_as.in_(ids)),
        )
        .order_by(messages.c.pk)
    ).all()


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
