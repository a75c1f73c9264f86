"""Dead letters: how a delivery becomes one, and the event that tells of it.

Both happen in one transaction, so nobody finds a dead letter that nobody was told of. An event
that could not be delivered is no reason for another event: those would feed themselves.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState, Notice, derived_id
from mailbridge.store import enqueue, sends_ending
from mailbridge.store.base import Letter
from mailbridge.store.driver import among
from mailbridge.store.enqueue import Listeners
from mailbridge.store.scan import storable
from mailbridge.store.tables import attempts, deliveries, moment

DEAD: Final = "delivery.dead"
_LAST: Final = (
    sa.select(attempts.c.at)
    .where(attempts.c.delivery == deliveries.c.pk)
    .order_by(attempts.c.fence.desc())
    .limit(1)
    .scalar_subquery()
)
_LETTERS: Final = sa.select(
    *(
        deliveries.c[name]
        for name in (
            *("event_id", "sink", "replay", "mailbox", "message", "attempts", "first_due_at"),
            "last_reason",
        )
    ),
    _LAST.label("last_attempt_at"),
).where(among(deliveries.c.pk))
_FALL_BACK_NOW: Final = (
    deliveries.update()
    .where(among(deliveries.c.pk), deliveries.c.fall_back_at.is_not(None))
    .values(fall_back_at=sa.bindparam("at", type_=sa.BigInteger))
)


_MAILS: Final = sa.select(deliveries.c.pk).where(
    among(deliveries.c.pk), sa.text("deliveries.send IS NOT NULL")
)


def bury(
    connection: sa.Connection, ids: list[int], reason: str, now: int, listeners: Listeners | None
) -> list[Letter]:
    """Set deliveries aside as dead letters without an attempt, and tell those who listen.

    A mail to be sent goes by its recipients; while it is in doubt it is held.
    """
    if not ids:
        return []
    mails = set(connection.execute(_MAILS, {"ids": ids}).scalars())
    given_up = sends_ending.bury(connection, sorted(mails), reason, now, listeners)
    rest = _bury_events(
        connection, [one for one in ids if one not in mails], reason, now, listeners
    )
    return [Letter(event_id=one.id, mailbox=one.mailbox) for one in given_up] + rest


def _bury_events(
    connection: sa.Connection, ids: list[int], reason: str, now: int, listeners: Listeners | None
) -> list[Letter]:
    if not ids:
        return []
    connection.execute(
        deliveries.update()
        .where(among(deliveries.c.pk))
        .values(
            state=DeliveryState.DEAD.value,
            resolved_at=now,
            last_reason=storable(reason),
            lease_until=None,
            owner=None,
        ),
        {"ids": ids},
    )
    return tell(connection, ids, now, listeners)


def tell(
    connection: sa.Connection, ids: list[int], now: int, listeners: Listeners | None
) -> list[Letter]:
    """Tell of deliveries that have become dead letters, and let them fall back at once."""
    connection.execute(_FALL_BACK_NOW, {"ids": ids, "at": now})
    rows = connection.execute(_LETTERS, {"ids": ids}).all()
    notices: dict[str, list[Notice]] = defaultdict(list)
    for row in rows:
        if row.message is not None:
            notices[row.mailbox].append(_notice(row, now))
    if listeners is not None:
        for mailbox, told in sorted(notices.items()):
            enqueue.notify(connection, told, listeners(mailbox, DEAD), now)
    return [Letter(event_id=row.event_id, mailbox=row.mailbox) for row in rows]


def _notice(row: Any, now: int) -> Notice:
    last = row.last_attempt_at
    return Notice(
        # A retry by hand begins anew, so that what dies a second time is told a second time.
        id=derived_id("dead", [row.event_id, row.sink, row.replay, row.first_due_at]),
        type=DEAD,
        mailbox=row.mailbox,
        at=moment(now),
        data={
            "message": row.event_id,
            "webhook": row.sink,
            "reason": row.last_reason,
            "attempts": row.attempts,
            "first_due_at": _text(row.first_due_at),
            "last_attempt_at": None if last is None else _text(last),
        },
    )


def _text(at: int) -> str:
    return moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
