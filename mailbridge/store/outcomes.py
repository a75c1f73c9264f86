"""What came of attempts: written conditionally, so that nobody speaks for a claim he has lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeGuard

import sqlalchemy as sa

from mailbridge.model import (
    Dead,
    Deferred,
    Delivered,
    Delivery,
    DeliveryState,
    Done,
    Dropped,
    Held,
    Outcome,
    Rejected,
    Resolution,
    Retry,
)
from mailbridge.store import enqueue, letters, routing, sends_ending
from mailbridge.store.driver import Many, among
from mailbridge.store.outgoing import CLAIMED
from mailbridge.store.scan import storable
from mailbridge.store.tables import attempts, deliveries, micros, moment

#: characters of an answer that are kept with an attempt
_DETAIL: Final = 1_000

_IN_HAND: Final = (
    sa.select(deliveries.c.pk, deliveries.c.fence)
    .where(among(deliveries.c.pk), CLAIMED)
    .with_for_update()
)
_RESOLVE: Final = Many(
    deliveries.update()
    .where(deliveries.c.pk == sa.bindparam("number"), deliveries.c.fence == sa.bindparam("held"))
    .values(
        state=sa.bindparam("state"),
        attempts=deliveries.c.attempts + sa.bindparam("made", type_=sa.Integer),
        rescues=sa.literal_column("0"),
        due_at=sa.func.coalesce(sa.bindparam("due", type_=sa.BigInteger), deliveries.c.due_at),
        resolved_at=sa.bindparam("resolved_at"),
        lease_until=sa.null(),
        owner=sa.null(),
        last_status=sa.bindparam("last_status"),
        last_reason=sa.bindparam("last_reason"),
    ),
    *("state", "made", "due", "resolved_at", "last_status", "last_reason", "number", "held"),
)
_ATTEMPT: Final = Many(
    attempts.insert(),
    *("delivery", "fence", "at", "number", "seconds", "outcome", "status", "reason", "detail"),
)


def resolve(
    connection: sa.Connection, resolutions: Sequence[Resolution], now: int
) -> list[Resolution]:
    """See ``DispatchStore.resolve``."""
    numbers = [one.delivery.id for one in resolutions]
    found = connection.execute(_IN_HAND, {"ids": numbers}).all()
    in_hand: dict[int, int] = {row[0]: row[1] for row in found}
    held = [one for one in resolutions if in_hand.get(one.delivery.id) == one.delivery.fence]
    if held:
        held = sends_ending.decided(connection, held, now)
        _RESOLVE.run(connection, [_resolved(one, now) for one in held])
        made = [_attempted(one, one.outcome) for one in held if counts(one.outcome)]
        if made:
            _ATTEMPT.run(connection, made)
        _tell(connection, held, now)
    return held


def _tell(connection: sa.Connection, held: Sequence[Resolution], now: int) -> None:
    """Tell of dead letters and of what is held, in the transaction that makes them so."""
    dead: dict[tuple[str, ...], list[int]] = {}
    for one in held:
        if one.delivery.send is not None:
            continue
        if isinstance(one.decision, Dead):
            sinks = one.listeners.get(letters.DEAD, ())
            dead.setdefault(sinks, []).append(one.delivery.id)
        elif isinstance(one.decision, Held):
            notice = routing.held_notice(
                message=one.delivery.event_id,
                webhook=one.delivery.sink,
                mailbox=one.delivery.mailbox,
                route=one.delivery.route,
                reason=one.decision.reason,
                at=moment(now),
            )
            enqueue.notify(connection, [notice], one.listeners.get(routing.HELD, ()), now)
    for sinks, ids in sorted(dead.items()):
        letters.tell(connection, ids, now, lambda _mailbox, _kind, sinks=sinks: sinks)  # type: ignore[misc]  # the default binds the loop's present value


def _resolved(one: Resolution, now: int) -> tuple[Any, ...]:
    status, reason = None, ""
    if one.outcome is not None:
        status, reason, _ = _told(one.delivery, one.outcome)
    due: int | None = None
    resolved_at: int | None = now
    match one.decision:
        case Done():
            state = DeliveryState.DELIVERED
        case Retry(due_at=due_at):
            state, due, resolved_at = DeliveryState.QUEUED, micros(due_at), None
        case Dead(reason=reason):
            state = DeliveryState.DEAD
        case Held(reason=reason):
            state, resolved_at = DeliveryState.HELD, None
        case Dropped(reason=reason):
            state = DeliveryState.DROPPED
    where = (one.delivery.id, one.delivery.fence)
    made = int(counts(one.outcome))
    return (state.value, made, due, resolved_at, status, storable(reason), *where)


def counts(outcome: Outcome | None) -> TypeGuard[Outcome]:
    """Tell whether it came of an attempt: the sink was asked to take it."""
    return outcome is not None and not (isinstance(outcome, Deferred) and outcome.unasked)


def _attempted(one: Resolution, outcome: Outcome) -> tuple[Any, ...]:
    delivery = one.delivery
    status, reason, detail = _told(delivery, outcome)
    return (
        delivery.id,
        delivery.fence,
        micros(one.started_at),
        delivery.attempts + 1,
        one.seconds,
        type(outcome).__name__.lower(),
        status,
        storable(reason),
        storable(detail[:_DETAIL]),
    )


def _told(delivery: Delivery, outcome: Outcome) -> tuple[int | None, str, str]:
    status, reason, detail = _answer(outcome)
    if delivery.fallback_of is None:
        return status, reason, detail
    instead = f"fallback for {delivery.fallback_of}"
    return status, f"{instead}: {reason}" if reason else instead, detail


def _answer(outcome: Outcome) -> tuple[int | None, str, str]:
    match outcome:
        case Delivered(status=status, detail=detail):
            return status, "", detail
        case (
            Deferred(status=status, reason=reason, detail=detail)
            | Rejected(status=status, reason=reason, detail=detail)
        ):
            return status, reason, detail
