"""What outlasts an outage of a sink: that it fails, what waits, what another sink gets instead.

The state of a sink is a row of ``meta``, so a restart neither tells of an outage twice nor forgets
to tell that it is over. Whatever may concern many deliveries is done in steps, each a short
transaction of its own, so that nobody else waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa

from mailbridge.model import Failing, Notice
from mailbridge.store import enqueue, letters, order, outgoing
from mailbridge.store.base import Fallback, FellBack, Letter, Place
from mailbridge.store.driver import among
from mailbridge.store.tables import deliveries, meta, micros, moment, moment_or_none

T = TypeVar("T")

#: deliveries that become due in one transaction, that are looked at for their age, and that
#: become dead letters: those are told of, which is more work
HASTEN: Final = 500
LOOK: Final = 500
BURY: Final = 50
#: deliveries that fall back in one transaction
FALL_BACK: Final = 100
_FAILING: Final = "failing:"
#: answers that blamed the mail, whose next try has nothing to do with the sink's health
_REFUSED: Final = (400, 413, 415, 422)

_SINK: Final = sa.bindparam("sink", type_=sa.Text)
_NOW: Final = sa.bindparam("now", type_=sa.BigInteger)
WAITING: Final = (
    sa.select(deliveries.c.pk)
    .where(
        outgoing.QUEUED,
        deliveries.c.sink == _SINK,
        deliveries.c.due_at > _NOW,
        sa.or_(
            deliveries.c.last_status.is_(None),
            deliveries.c.last_status.not_in([sa.literal(code) for code in _REFUSED]),
        ),
    )
    .order_by(deliveries.c.due_at)
    .limit(HASTEN)
    .with_for_update(skip_locked=True)
)
AGED: Final = (
    sa.select(deliveries.c.pk, deliveries.c.due_at, deliveries.c.first_due_at)
    .where(
        outgoing.QUEUED,
        deliveries.c.sink == _SINK,
        deliveries.c.due_at <= _NOW,
        sa.tuple_(deliveries.c.due_at, deliveries.c.pk)
        > sa.tuple_(
            sa.bindparam("due", type_=sa.BigInteger), sa.bindparam("number", type_=sa.BigInteger)
        ),
    )
    .order_by(deliveries.c.due_at, deliveries.c.pk)
    .limit(LOOK)
)
_STILL: Final = (
    sa.select(deliveries.c.pk)
    .where(among(deliveries.c.pk), outgoing.QUEUED)
    .with_for_update(skip_locked=True)
)
# In the words of the partial index.
_FALLS_BACK: Final = sa.text(
    "deliveries.fall_back_at IS NOT NULL AND deliveries.state IN ('queued', 'claimed', 'dead')"
)
FALLING_BACK: Final = (
    sa.select(deliveries)
    .where(_FALLS_BACK, deliveries.c.fall_back_at <= _NOW)
    .order_by(deliveries.c.fall_back_at)
    .limit(FALL_BACK)
    .with_for_update(skip_locked=True)
)
NEXT_FALL_BACK: Final = sa.select(sa.func.min(deliveries.c.fall_back_at)).where(_FALLS_BACK)
_FELL_BACK: Final = deliveries.update().where(among(deliveries.c.pk)).values(fall_back_at=sa.null())
_THERE: Final = sa.select(deliveries.c.message, deliveries.c.replay).where(
    among(deliveries.c.message), deliveries.c.sink == _SINK
)


class Run(Protocol):
    """A ``Protocol``: runs work in one transaction, with the present moment."""

    def __call__(
        self, work: Callable[[sa.Connection, int], T], *, again: bool = False
    ) -> Awaitable[T]:
        """Return what ``work`` returns, once that is committed."""


class Outages:
    """Implements ``OutageStore`` and ``FallbackStore``; ``Store.outages``.

    Each method is one transaction, but for ``keep_order``, which may be called again.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    async def keep_order(self, sink: str, *, strict: bool) -> None:
        """Let a sink keep the order of each mailbox from now on, or no longer."""
        more = True
        while more:
            more = await self._run(
                lambda connection, _: order.keep(connection, sink, strict=strict), again=True
            )

    async def failing(self, sink: str) -> Failing | None:
        """Return the outage of a sink that was told of and is not over."""
        return await self._run(lambda connection, _: _read_failing(connection, sink))

    async def begin(
        self, sink: str, failing: Failing, notice: Notice, sinks: Sequence[str]
    ) -> None:
        """Remember that a sink fails, and tell ``sinks``; nothing, when that is known."""
        await self._run(
            lambda connection, now: _begin(connection, sink, failing, notice, sinks, now),
            again=True,
        )

    async def end(self, sink: str, notice: Notice, sinks: Sequence[str]) -> None:
        """Remember that a sink answers again, and tell ``sinks`` if it was known to fail."""
        await self._run(
            lambda connection, now: _end(connection, sink, notice, sinks, now), again=True
        )

    async def hasten(self, sink: str) -> bool:
        """Make what waits for its retry due at once, the next to come first; a bounded step.

        Tells whether more of it waits.
        """
        return await self._run(lambda connection, now: _hasten(connection, sink, now))

    async def give_up(
        self,
        sink: str,
        place: Place | None,
        *,
        before: datetime,
        reason: str,
        listeners: enqueue.Listeners,
    ) -> tuple[Place | None, Sequence[Letter]]:
        """Make dead letters of what began until ``before`` and waits; a bounded step.

        Begins with ``place`` ``None``. Returns where to go on, ``None`` when all was looked at,
        and what is given up.
        """
        doom = _Doom(before=micros(before), reason=reason, listeners=listeners)
        return await self._run(
            lambda connection, now: _give_up(connection, sink, place or Place(), doom, now)
        )

    async def fall_back(self, to: Mapping[str, Fallback]) -> Sequence[FellBack]:
        """Give deliveries whose time has come to another sink too; some of them, if many.

        ``to`` is by sink. A sink that has no fallback any more keeps its deliveries to itself.
        """
        return await self._run(lambda connection, now: _fall_back(connection, to, now), again=True)

    async def next_fall_back(self) -> datetime | None:
        """Return when the next delivery falls back, ``None`` when none is going to."""
        due = await self._run(lambda connection, _: connection.execute(NEXT_FALL_BACK).scalar_one())
        return moment_or_none(due)


def _read_failing(connection: sa.Connection, sink: str) -> Failing | None:
    text = connection.execute(sa.select(meta.c.value).where(meta.c.key == _FAILING + sink)).scalar()
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    return Failing(since=moment(found["since"]), attempts=found["attempts"], reason=found["reason"])


def _begin(  # noqa: PLR0913, PLR0917 - what one transaction writes
    connection: sa.Connection,
    sink: str,
    failing: Failing,
    notice: Notice,
    sinks: Sequence[str],
    now: int,
) -> None:
    if _read_failing(connection, sink) is not None:
        return
    value = {
        "since": micros(failing.since),
        "attempts": failing.attempts,
        "reason": failing.reason,
    }
    connection.execute(meta.insert(), {"key": _FAILING + sink, "value": json.dumps(value)})
    enqueue.notify(connection, [notice], sinks, now)


def _end(
    connection: sa.Connection, sink: str, notice: Notice, sinks: Sequence[str], now: int
) -> None:
    gone = connection.execute(meta.delete().where(meta.c.key == _FAILING + sink))
    if gone.rowcount:
        enqueue.notify(connection, [notice], sinks, now)


def _hasten(connection: sa.Connection, sink: str, now: int) -> bool:
    ids = list(connection.execute(WAITING, {"sink": sink, "now": now}).scalars())
    if ids:
        due = deliveries.update().where(among(deliveries.c.pk)).values(due_at=now)
        connection.execute(due, {"ids": ids})
    return len(ids) == HASTEN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doom:
    before: int
    reason: str
    listeners: enqueue.Listeners


def _give_up(
    connection: sa.Connection, sink: str, place: Place, doom: _Doom, now: int
) -> tuple[Place | None, Sequence[Letter]]:
    # Whatever is over its time is due: no retry lies behind the end of the budget, but for one
    # that the sink itself has asked for.
    asked = {"sink": sink, "now": now, "due": place.due, "number": place.number}
    found = connection.execute(AGED, asked).all()
    last = found[-1] if len(found) == LOOK else None
    old = [row for row in found if row.first_due_at <= doom.before]
    if len(old) > BURY:
        old = old[:BURY]
        last = old[-1]
    ids = list(connection.execute(_STILL, {"ids": [row.pk for row in old]}).scalars())
    dead = letters.bury(connection, sorted(ids), doom.reason, now, doom.listeners)
    return (None if last is None else Place(due=last.due_at, number=last.pk)), dead


def _fall_back(
    connection: sa.Connection, to: Mapping[str, Fallback], now: int
) -> Sequence[FellBack]:
    rows = connection.execute(FALLING_BACK, {"now": now}).all()
    fell: list[FellBack] = []
    for sink in sorted({row.sink for row in rows} & to.keys()):
        fell += _stand_in(connection, to[sink], [row for row in rows if row.sink == sink], to, now)
    if rows:
        connection.execute(_FELL_BACK, {"ids": [row.pk for row in rows]})
    return fell


def _stand_in(
    connection: sa.Connection,
    fallback: Fallback,
    rows: Sequence[Any],
    to: Mapping[str, Fallback],
    now: int,
) -> Sequence[FellBack]:
    """Make the deliveries of one sink's fallback, but for what it was given already."""
    numbers = [row.message for row in rows if row.message is not None]
    there = {
        (row.message, row.replay)
        for row in connection.execute(_THERE, {"ids": numbers, "sink": fallback.to})
    }
    following = to.get(fallback.to)
    then = None if following is None else now + round(following.after * 1_000_000)
    events: dict[str, list[enqueue.Event]] = {}
    fell = []
    for row in rows:
        made = row.message is not None and (row.message, row.replay) not in there
        fell.append(
            FellBack(
                event_id=row.event_id,
                mailbox=row.mailbox,
                sink=row.sink,
                to=fallback.to,
                made=made,
            )
        )
        if made:
            event = enqueue.Event(
                id=row.event_id,
                type=row.type,
                message=row.message,
                created_at=row.created_at,
                replay=row.replay,
                reason=f"fallback for {row.sink}",
                route=row.route,
                expires_at=row.expires_at,
                otherwise=row.otherwise,
                fall_back_at=then,
                fallback_of=row.sink,
            )
            events.setdefault(row.mailbox, []).append(event)
    for mailbox, made_events in sorted(events.items()):
        enqueue.write_deliveries(connection, mailbox, fallback.to, made_events, now)
    return fell
