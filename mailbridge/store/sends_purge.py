"""Removing outgoing mail that is over and old, as ``retention`` does with what came in.

The bytes go first, the rows of the log later. A client's key goes after a week, whatever
``state.keep`` says: for so long a request may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store.driver import among
from mailbridge.store.queue import end
from mailbridge.store.tables import (
    Kept,
    attempts,
    deliveries,
    idempotency,
    recipients,
    send_raw,
    sends,
)

#: microseconds for which a key is kept
KEYS: Final = 8 * 86_400 * 1_000_000

_AT: Final = sa.bindparam("at", type_=sa.BigInteger)
_NUMBER: Final = sa.bindparam("number", type_=sa.BigInteger)
STEP: Final = (
    sa.select(sends.c.accepted_at, sends.c.pk)
    .where(
        sends.c.kept == sa.bindparam("what", type_=sa.SmallInteger),
        sends.c.accepted_at < sa.bindparam("before", type_=sa.BigInteger),
        sa.tuple_(sends.c.accepted_at, sends.c.pk) > sa.tuple_(_AT, _NUMBER),
    )
    .order_by(sends.c.accepted_at, sends.c.pk)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_OVER: Final = sa.select(
    deliveries.c.pk, deliveries.c.send, deliveries.c.state, deliveries.c.resolved_at
).where(among(deliveries.c.send))
_NUMBERS: Final = sa.select(deliveries.c.pk).where(among(deliveries.c.send))
OLD_KEYS: Final = (
    sa.select(idempotency.c.client, idempotency.c.key)
    .where(idempotency.c.at < sa.bindparam("before", type_=sa.BigInteger))
    .order_by(idempotency.c.at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def step(
    connection: sa.Connection, kept: int, before: int, after: tuple[int, int], limit: int
) -> Sequence[Any]:
    """Return the next mails of which so much is kept, older than ``before``."""
    asked = {"what": kept, "before": before, "at": after[0], "number": after[1], "most": limit}
    return connection.execute(STEP, asked).all()


def free(
    connection: sa.Connection,
    numbers: list[int],
    *,
    sent_before: int,
    dead_before: int,
    now: int,
) -> int:
    """Remove the bytes of mails that are over since before these moments; returns how many.

    A dead letter ends with them. What is open or held stays.
    """
    gone, dead = [], []
    for row in connection.execute(_OVER, {"ids": numbers}) if numbers else ():
        is_dead = row.state == DeliveryState.DEAD
        if row.resolved_at is None or row.resolved_at >= (dead_before if is_dead else sent_before):
            continue
        gone.append(row.send)
        if is_dead:
            dead.append(row.pk)
    if gone:
        connection.execute(send_raw.delete().where(among(send_raw.c.send)), {"ids": gone})
        log = sends.update().where(among(sends.c.pk)).values(kept=Kept.LOG)
        connection.execute(log, {"ids": gone})
        end(connection, dead, "a dead letter for longer than state.keep.dead", now)
    return len(gone)


def forget(connection: sa.Connection, numbers: list[int]) -> None:
    """Remove the rows of mails whose bytes are gone."""
    if not numbers:
        return
    these = {"ids": numbers}
    connection.execute(attempts.delete().where(attempts.c.delivery.in_(_NUMBERS)), these)
    connection.execute(deliveries.delete().where(among(deliveries.c.send)), these)
    connection.execute(recipients.delete().where(among(recipients.c.send)), these)
    connection.execute(sends.delete().where(among(sends.c.pk)), these)


def forget_keys(connection: sa.Connection, now: int, limit: int) -> int:
    """Remove the oldest keys that no request is repeated under any more; returns how many."""
    old = connection.execute(OLD_KEYS, {"before": now - KEYS, "most": limit}).all()
    if old:
        connection.execute(
            idempotency.delete().where(
                idempotency.c.client == sa.bindparam("asker"),
                idempotency.c.key == sa.bindparam("by"),
            ),
            [{"asker": client, "by": key} for client, key in old],
        )
    return len(old)
