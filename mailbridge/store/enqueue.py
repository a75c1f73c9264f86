"""Making deliveries: of mails and of events, under the next sequence numbers of their sinks.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState, Notice
from mailbridge.store import order
from mailbridge.store.dialect import insert
from mailbridge.store.driver import Many
from mailbridge.store.tables import deliveries, micros, sequences

MAIL: Final = "mail.received"
PING: Final = "test.ping"
#: the sinks that hear of a kind of event of a mailbox, asked as (mailbox, kind)
Listeners = Callable[[str, str], Sequence[str]]
QUEUED: Final = DeliveryState.QUEUED.value

# One id at a time: for several at once SQLite would look at every event there is.
SINKS_OF: Final = sa.select(deliveries.c.sink).where(
    sa.text("deliveries.message IS NULL"),
    deliveries.c.event_id == sa.bindparam("id", type_=sa.Text),
)
_DELIVERIES: Final = Many(
    deliveries.insert(),
    *("message", "event_id", "type", "body", "sink", "mailbox", "state", "attempts", "rescues"),
    *("due_at", "first_due_at", "fence", "sequence", "replay", "created_at"),
    *("last_reason", "route", "expires_at", "otherwise", "fall_back_at", "fallback_of"),
    *("ordered", "send"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is to be delivered: a stored mail (``message``, its row) or a finished ``body``.

    Or an outgoing mail (``send``, its row). The rest is as in the table; what a route has said of
    it, mostly.
    """

    id: str
    type: str
    message: int | None = None
    body: str | None = None
    created_at: int
    replay: int = 0
    state: str = QUEUED
    reason: str | None = None
    route: str | None = None
    expires_at: int | None = None
    otherwise: str | None = None
    fall_back_at: int | None = None
    fallback_of: str | None = None
    send: int | None = None


def write_deliveries(
    connection: sa.Connection, mailbox: str, sink: str, events: Sequence[Event], now: int
) -> None:
    """Queue events for a sink, due at once, under the next sequence numbers."""
    if not events:
        return
    first, ordered = next_sequence(connection, mailbox, sink, len(events))
    rows = []
    for sequence, one in enumerate(events, first):
        what = (one.message, one.id, one.type, one.body, sink, mailbox, one.state)
        when = (0, 0, now, now, 0, sequence, one.replay, one.created_at)
        said = (one.reason, one.route, one.expires_at, one.otherwise)
        rows.append((*what, *when, *said, one.fall_back_at, one.fallback_of, ordered, one.send))
    _DELIVERIES.run(connection, rows)


@cache
def _next_sequence(dialect: str) -> Any:
    statement = insert(dialect, sequences)
    return statement.on_conflict_do_update(
        index_elements=["mailbox", "sink"],
        set_={"last": sequences.c.last + statement.excluded["last"]},
    ).returning(sequences.c.last, order.kept_by(sequences.c.sink))


def next_sequence(
    connection: sa.Connection, mailbox: str, sink: str, count: int
) -> tuple[int, int | None]:
    """Take ``count`` sequence numbers of this mailbox and sink.

    Returns the first, and the value of ``ordered`` that goes with them.
    """
    last, ordered = connection.execute(
        _next_sequence(connection.dialect.name), {"mailbox": mailbox, "sink": sink, "last": count}
    ).one()
    return last - count + 1, ordered


def notify(
    connection: sa.Connection, notices: Sequence[Notice], sinks: Sequence[str], now: int
) -> None:
    """See ``IntakeStore.notify``."""
    for mailbox in sorted({notice.mailbox for notice in notices}):
        told = [notice for notice in notices if notice.mailbox == mailbox]
        for sink, events in sorted(untold(connection, told, sinks).items()):
            write_deliveries(connection, mailbox, sink, events, now)


def untold(
    connection: sa.Connection, notices: Sequence[Notice], sinks: Iterable[str]
) -> dict[str, list[Event]]:
    """Return the events that each of these sinks has not been told of yet."""
    if not notices or not sinks:
        return {}
    by_id = {notice.id: notice for notice in notices}
    told = {
        (name, sink)
        for name in by_id
        for sink in connection.execute(SINKS_OF, {"id": name}).scalars()
    }
    events = {
        name: Event(
            id=name,
            type=notice.type,
            body=json.dumps(notice.data, separators=(",", ":")),
            created_at=micros(notice.at),
        )
        for name, notice in by_id.items()
    }
    return {
        sink: [event for name, event in events.items() if (name, sink) not in told]
        for sink in set(sinks)
    }
