"""What a person may do to deliveries: retry, drop, deliver again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from mailbridge.errors import PermanentError
from mailbridge.model import DeliveryState
from mailbridge.store import order, sends_again
from mailbridge.store.dialect import chunks
from mailbridge.store.enqueue import MAIL, PING, Event, write_deliveries
from mailbridge.store.lookup import events_of, in_state
from mailbridge.store.sends_lookup import PREFIX
from mailbridge.store.tables import Kept, deliveries, messages, micros, moment, raw

_OPEN = (DeliveryState.QUEUED.value, DeliveryState.CLAIMED.value, DeliveryState.HELD.value)
_ENDED = (DeliveryState.DEAD.value, DeliveryState.HELD.value)


def requeue(connection: sa.Connection, ids: Sequence[str], now: int) -> int:
    """Queue dead and held deliveries anew, and make waiting ones due; returns how many.

    ``ids`` are numbers of deliveries or event ids. The budget of attempts begins anew for what
    was dead. A mail to be sent goes to whoever does not have it; one that is in doubt is looked
    for first. Raises ``PermanentError`` when retention has taken the raw bytes of one.
    """
    done = 0
    for name in ids:
        found = connection.execute(
            sa.select(deliveries.c.pk, deliveries.c.state, deliveries.c.message, deliveries.c.send)
            .where(events_of(name))
            .with_for_update()
        ).all()
        ended = [row for row in found if row.state in _ENDED]
        _refuse_without_raw(connection, [row.message for row in ended if row.message], name)
        sends_again.reopen(connection, [row.send for row in ended if row.send], name)
        waiting = [row.pk for row in found if row.state == DeliveryState.QUEUED]
        _queue(connection, [row.pk for row in ended], now)
        for chunk in chunks(waiting):
            connection.execute(
                deliveries.update()
                .where(deliveries.c.pk.in_(chunk))
                .values(due_at=now, expires_at=None)
            )
        done += len(ended) + len(waiting)
    return done


def requeue_dead(connection: sa.Connection, sink: str | None, now: int) -> int:
    """Queue every dead letter anew, or those of one sink; returns how many.

    Retention takes raw bytes only together with the dead letter, so none is without.
    """
    statement = sa.select(deliveries.c.pk).where(in_state(DeliveryState.DEAD))
    if sink is not None:
        statement = statement.where(deliveries.c.sink == sink)
    ids = list(connection.execute(statement.order_by(deliveries.c.pk).with_for_update()).scalars())
    mails = sa.select(deliveries.c.send).where(
        in_state(DeliveryState.DEAD), sa.text("deliveries.send IS NOT NULL")
    )
    if sink is None or sink.startswith(PREFIX):
        only = mails if sink is None else mails.where(deliveries.c.sink == sink)
        sends_again.reopen(connection, list(connection.execute(only).scalars()), "a mail")
    _queue(connection, ids, now)
    return len(ids)


def _queue(connection: sa.Connection, ids: list[int], now: int) -> None:
    for chunk in chunks(ids):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.pk.in_(chunk))
            .values(
                state=DeliveryState.QUEUED.value,
                attempts=0,
                rescues=0,
                due_at=now,
                first_due_at=now,
                resolved_at=None,
                # A person has looked at it: it may be as old as it is.
                expires_at=None,
                # What was held goes to another sink after as long a wait as it would have.
                fall_back_at=deliveries.c.fall_back_at + now - deliveries.c.first_due_at,
                ordered=order.kept_by(deliveries.c.sink),
            )
        )


def drop(connection: sa.Connection, ids: Sequence[str], now: int) -> int:
    """Drop deliveries that wait, are held or dead; returns how many.

    One that is in hand at this moment is not touched: its attempt may already have arrived.
    """
    done = 0
    for name in ids:
        found = connection.execute(
            sa.select(deliveries.c.pk)
            .where(
                events_of(name),
                deliveries.c.state.in_([DeliveryState.QUEUED.value, *_ENDED]),
            )
            .with_for_update()
        ).scalars()
        dropped = list(found)
        end(connection, dropped, "dropped by a person", now)
        sends_again.dropped(connection, dropped, now)
        done += len(dropped)
    return done


def end(connection: sa.Connection, ids: list[int], reason: str, now: int) -> None:
    """Take deliveries out of the queue for good, with the reason in their row."""
    for chunk in chunks(ids):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.pk.in_(chunk))
            .values(state=DeliveryState.DROPPED.value, resolved_at=now, last_reason=reason)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What to deliver again: ``ids``, or all mail of ``mailbox`` accepted since ``since``.

    ``sinks`` are where to; ``None``: wherever each went before.
    """

    ids: Sequence[str] = ()
    mailbox: str | None = None
    since: datetime | None = None
    sinks: Sequence[str] | None = None


def replay(connection: sa.Connection, again: Again, now: int) -> int:
    """Queue new deliveries of old events, under the same webhook-id; see ``Store.replay``."""
    made = sum(_replay_notice(connection, name, again.sinks, now) for name in again.ids)
    for chunk in chunks(_chosen(connection, again)):
        sinks = again.sinks
        if sinks is None:
            sinks = list(
                connection.execute(
                    sa.select(deliveries.c.sink).where(deliveries.c.message.in_(chunk)).distinct()
                ).scalars()
            )
        for sink in sorted(set(sinks)):
            made += _replay_to(connection, chunk, sink, now, went_there=again.sinks is None)
    return made


def _chosen(connection: sa.Connection, again: Again) -> list[int]:
    """Return the rows of the messages, all of them with their raw bytes."""
    numbers: set[int] = set()
    for name in again.ids:
        found = connection.execute(
            sa.select(sa.func.coalesce(messages.c.known_as, messages.c.id)).where(
                messages.c.id == name, messages.c.test.is_(None)
            )
        ).scalar_one_or_none()
        if found is not None:
            number = connection.execute(
                sa.select(messages.c.pk).where(messages.c.id == found)
            ).scalar_one_or_none()
            _refuse_without_raw(connection, [number], name)
            numbers.add(number or 0)
    if again.mailbox is not None:
        conditions = [messages.c.mailbox == again.mailbox, messages.c.known_as.is_(None)]
        conditions.append(messages.c.test.is_(None))  # nobody is to be called by an old test
        if again.since is not None:
            conditions.append(messages.c.accepted_at >= micros(again.since))
        rows = connection.execute(
            sa.select(messages.c.pk, messages.c.kept, messages.c.accepted_at)
            .where(*conditions)
            .order_by(messages.c.pk)
        ).all()
        gone = [row.accepted_at for row in rows if row.kept != Kept.RAW]
        if gone:
            raise PermanentError(
                f"the raw bytes of {len(gone)} of these {len(rows)} messages were removed by "
                f"retention, the last of them accepted at {moment(max(gone)).isoformat()}",
                code="store.raw_purged",
                fix="choose a later time",
            )
        numbers.update(row.pk for row in rows)
    return sorted(numbers)


def _replay_to(
    connection: sa.Connection, numbers: list[int], sink: str, now: int, *, went_there: bool
) -> int:
    """Queue mails for a sink again, except those that still wait for it or are on their way."""
    before = deliveries.c.sink == sink
    statement = (
        sa.select(
            messages.c.pk,
            messages.c.id,
            messages.c.mailbox,
            sa.func.max(deliveries.c.replay).label("replay"),
            # The same at every replay, so that the body stays the same too.
            sa.func.max(deliveries.c.route).label("route"),
        )
        .join_from(
            messages,
            deliveries,
            sa.and_(deliveries.c.message == messages.c.pk, before),
            isouter=not went_there,
        )
        .where(messages.c.pk.in_(numbers))
        .group_by(messages.c.pk, messages.c.id, messages.c.mailbox)
        .having(sa.func.count().filter(deliveries.c.state.in_(_OPEN)) == 0)
        .order_by(messages.c.pk)
    )
    rows = connection.execute(statement).all()
    superseded = connection.execute(
        sa.select(deliveries.c.pk).where(
            before,
            deliveries.c.message.in_([row.pk for row in rows]),
            deliveries.c.state == DeliveryState.DEAD.value,
        )
    ).scalars()
    end(connection, list(superseded), "replayed", now)
    events: dict[str, list[Event]] = defaultdict(list)
    for row in rows:
        count = 0 if row.replay is None else row.replay + 1
        event = Event(
            id=row.id, type=MAIL, message=row.pk, created_at=now, replay=count, route=row.route
        )
        events[row.mailbox].append(event)
    for mailbox, wanted in sorted(events.items()):
        write_deliveries(connection, mailbox, sink, wanted, now)
    return len(rows)


def _replay_notice(
    connection: sa.Connection, name: str, sinks: Sequence[str] | None, now: int
) -> int:
    rows = connection.execute(
        deliveries.select()
        .where(
            deliveries.c.message.is_(None),
            deliveries.c.send.is_(None),
            deliveries.c.event_id == name,
        )
        .order_by(deliveries.c.replay)
    ).all()
    made = 0
    last = {row.sink: row for row in rows}
    if rows and rows[0].type == PING:
        sinks = None  # it is for those whose way was tried, and no alarm server has words for it
    for sink in sorted(set(last if sinks is None else sinks)) if rows else ():
        went = last.get(sink)
        if went is not None and went.state in _OPEN:
            continue
        if went is not None and went.state == DeliveryState.DEAD:
            end(connection, [went.pk], "replayed", now)
        event = Event(
            id=name,
            type=rows[0].type,
            body=rows[0].body,
            created_at=rows[0].created_at,
            replay=0 if went is None else went.replay + 1,
        )
        write_deliveries(connection, rows[0].mailbox, sink, [event], now)
        made += 1
    return made


def _refuse_without_raw(connection: sa.Connection, numbers: list[int | None], name: str) -> None:
    wanted = set(numbers)
    there = set(
        connection.execute(
            sa.select(raw.c.message).where(raw.c.message.in_([n for n in wanted if n is not None]))
        ).scalars()
    )
    if wanted - there:
        raise PermanentError(
            f"the raw bytes of {name} were removed by retention; it cannot be delivered again",
            code="store.raw_purged",
            fix="lengthen state.keep to be able to go back further",
        )
