"""Removing what is done and old, a bounded piece at a time. What is open is never removed.

Two walks over the messages, and two over outgoing mail, oldest first: raw bytes go when every
delivery is over and old enough, the rows of the log go later. Of a message in the present epoch
of its folder the place stays for good (some 200 bytes): without it, a mail that still lies on the
server would be accepted a second time. That of a POP3 message stays for as long as its UIDL is
remembered. The rows of the last days stay in any case: a look-back asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store import recent, routing, sends_purge, uidls
from mailbridge.store.dialect import chunks
from mailbridge.store.queue import end
from mailbridge.store.rows import Purged
from mailbridge.store.tables import (
    Kept,
    Settle,
    attempts,
    checkpoints,
    deliveries,
    gaps,
    messages,
    raw,
)

#: microseconds for which the row of a message stays, whatever the settings: a sweep looks back
#: over 48 hours and must recognise what it meets there
LOOK_BACK: Final = 3 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Before which moments things go, in microseconds; ``limit`` is messages looked at a walk."""

    delivered_before: int
    dead_before: int
    log_before: int
    limit: int


@dataclass(slots=True)
class Walk:
    """Where the walks stand. Kept between calls: what is open is not looked at every time."""

    raw: tuple[int, int] = (0, 0)
    log: tuple[int, int] = (0, 0)
    #: of outgoing mail
    sent_raw: tuple[int, int] = (0, 0)
    sent_log: tuple[int, int] = (0, 0)


def purge(connection: sa.Connection, limits: Limits, walk: Walk, now: int) -> tuple[Purged, Walk]:
    """Take one step of each walk; returns what went and where the walks stand then."""
    newest = max(limits.delivered_before, limits.dead_before)
    step = _step(connection, Kept.RAW, newest, walk.raw, limits.limit)
    freed, buried = _purge_raw(connection, [row.pk for row in step], limits, now)
    further = Walk(raw=_stand(step, limits.limit))
    old = min(limits.log_before, now - LOOK_BACK)
    step = _step(connection, Kept.LOG, old, walk.log, limits.limit)
    forgotten = _forget(connection, step)
    further.log = _stand(step, limits.limit)
    sent, keys = _purge_sends(connection, limits, walk, further, now)
    notices = _purge_notices(connection, limits)
    connection.execute(gaps.delete().where(gaps.c.vanished_at < limits.log_before))
    forgotten_uidls = uidls.purge(connection, now, limits.limit)
    forgotten_recent = recent.purge(connection, now, limits.limit)
    done = Purged(
        raw=freed,
        dead_letters=buried,
        messages=forgotten,
        notices=notices,
        uidls=forgotten_uidls,
        recent=forgotten_recent,
        sent=sent,
        more=further != Walk()
        or max(notices, forgotten_uidls, forgotten_recent, keys) >= limits.limit,
    )
    return done, further


def _purge_sends(
    connection: sa.Connection, limits: Limits, walk: Walk, further: Walk, now: int
) -> tuple[int, int]:
    """Take one step over outgoing mail; returns how many lost their bytes, and keys that went."""
    newest = max(limits.delivered_before, limits.dead_before)
    step = sends_purge.step(connection, Kept.RAW, newest, walk.sent_raw, limits.limit)
    freed = sends_purge.free(
        connection,
        [row.pk for row in step],
        sent_before=limits.delivered_before,
        dead_before=limits.dead_before,
        now=now,
    )
    further.sent_raw = _stand(step, limits.limit)
    # Bounces come late, and what was sent counts for a day.
    old = min(limits.log_before, now - LOOK_BACK)
    step = sends_purge.step(connection, Kept.LOG, old, walk.sent_log, limits.limit)
    sends_purge.forget(connection, [row.pk for row in step])
    further.sent_log = _stand(step, limits.limit)
    return freed, sends_purge.forget_keys(connection, now, limits.limit)


def _step(
    connection: sa.Connection, kept: int, before: int, after: tuple[int, int], limit: int
) -> Sequence[Any]:
    return connection.execute(
        messages.select()
        .where(
            messages.c.kept == kept,
            messages.c.accepted_at < before,
            sa.tuple_(messages.c.accepted_at, messages.c.pk) > after,
        )
        .order_by(messages.c.accepted_at, messages.c.pk)
        .limit(limit)
    ).all()


def _stand(step: Sequence[Any], limit: int) -> tuple[int, int]:
    """Return where the next step goes on; from the beginning when this one reached the end."""
    return (step[-1].accepted_at, step[-1].pk) if len(step) == limit else (0, 0)


def _purge_raw(
    connection: sa.Connection, numbers: list[int], limits: Limits, now: int
) -> tuple[int, int]:
    keep: set[int] = set()
    dead: dict[int, list[int]] = {}
    for chunk in chunks(numbers):
        rows = connection.execute(
            sa.select(
                deliveries.c.pk,
                deliveries.c.message,
                deliveries.c.state,
                deliveries.c.resolved_at,
            ).where(deliveries.c.message.in_(chunk))
        )
        for number, message, state, resolved_at in rows:
            if state == DeliveryState.DEAD:
                dead.setdefault(message, []).append(number)
                limit = limits.dead_before
            else:
                limit = limits.delivered_before
            if resolved_at is None or resolved_at >= limit:
                keep.add(message)
    gone = [number for number in numbers if number not in keep]
    for chunk in chunks(gone):
        connection.execute(raw.delete().where(raw.c.message.in_(chunk)))
        connection.execute(messages.update().where(messages.c.pk.in_(chunk)).values(kept=Kept.LOG))
    buried = [number for message in gone for number in dead.get(message, ())]
    end(connection, buried, "a dead letter for longer than state.keep.dead", now)
    return len(gone), len(buried)


def _forget(connection: sa.Connection, step: Sequence[Any]) -> int:
    numbers = [row.pk for row in step if row.settle != Settle.WANTED]
    routing.forget(connection, numbers)
    for chunk in chunks(numbers):
        _delete_deliveries(
            connection, sa.select(deliveries.c.pk).where(deliveries.c.message.in_(chunk))
        )
        current = sa.exists().where(
            checkpoints.c.mailbox == messages.c.mailbox,
            checkpoints.c.folder == messages.c.folder,
            checkpoints.c.uidvalidity == messages.c.uidvalidity,
        )
        # What was brought by SMTP stands in no list, and is not brought again after so long.
        protocol = messages.c.protocol
        stays = sa.or_(
            sa.and_(protocol == "pop3", uidls.lists(messages)),
            sa.and_(protocol == "imap", current),
        )
        connection.execute(
            messages.update()
            .where(messages.c.pk.in_(chunk), stays)
            .values(kept=Kept.PLACE, address="")
        )
        connection.execute(messages.delete().where(messages.c.pk.in_(chunk), ~stays))
    return len(numbers)


def _purge_notices(connection: sa.Connection, limits: Limits) -> int:
    old = sa.or_(
        sa.and_(
            deliveries.c.state == DeliveryState.DEAD.value,
            deliveries.c.resolved_at < limits.dead_before,
        ),
        sa.and_(
            deliveries.c.state.in_([DeliveryState.DELIVERED.value, DeliveryState.DROPPED.value]),
            deliveries.c.resolved_at < limits.log_before,
        ),
    )
    found = connection.execute(
        sa.select(deliveries.c.pk)
        .where(
            sa.text(
                "deliveries.message IS NULL AND deliveries.send IS NULL "
                "AND deliveries.resolved_at IS NOT NULL"
            ),
            deliveries.c.resolved_at < max(limits.dead_before, limits.log_before),
            old,
        )
        .order_by(deliveries.c.resolved_at)
        .limit(limits.limit)
    ).scalars()
    numbers = list(found)
    for chunk in chunks(numbers):
        _delete_deliveries(connection, chunk)
    return len(numbers)


def _delete_deliveries(connection: sa.Connection, numbers: list[int] | sa.Select[Any]) -> None:
    connection.execute(attempts.delete().where(attempts.c.delivery.in_(numbers)))
    connection.execute(deliveries.delete().where(deliveries.c.pk.in_(numbers)))
