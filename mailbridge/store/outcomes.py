"""What came of attempts: written conditionally, so that nobody speaks for a claim he has lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import (
    Dead,
    Deferred,
    Delivered,
    DeliveryState,
    Done,
    Outcome,
    Rejected,
    Resolution,
    Retry,
)
from mailbridge.store.driver import Many, among
from mailbridge.store.outgoing import CLAIMED
from mailbridge.store.scan import storable
from mailbridge.store.tables import attempts, deliveries, micros

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
        attempts=deliveries.c.attempts + sa.literal_column("1"),
        rescues=sa.literal_column("0"),
        due_at=sa.func.coalesce(sa.bindparam("due", type_=sa.BigInteger), deliveries.c.due_at),
        resolved_at=sa.bindparam("resolved_at"),
        lease_until=sa.null(),
        owner=sa.null(),
        last_status=sa.bindparam("last_status"),
        last_reason=sa.bindparam("last_reason"),
    ),
    *("state", "due", "resolved_at", "last_status", "last_reason", "number", "held"),
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
        _RESOLVE.run(connection, [_resolved(one, now) for one in held])
        _ATTEMPT.run(connection, [_attempted(one) for one in held])
    return held


def _resolved(one: Resolution, now: int) -> tuple[Any, ...]:
    status, reason, _ = _told(one.outcome)
    due: int | None = None
    resolved_at: int | None = now
    match one.decision:
        case Done():
            state = DeliveryState.DELIVERED
        case Retry(due_at=due_at):
            state, due, resolved_at = DeliveryState.QUEUED, micros(due_at), None
        case Dead(reason=reason):
            state = DeliveryState.DEAD
    where = (one.delivery.id, one.delivery.fence)
    return (state.value, due, resolved_at, status, storable(reason), *where)


def _attempted(one: Resolution) -> tuple[Any, ...]:
    delivery, outcome = one.delivery, one.outcome
    status, reason, detail = _told(outcome)
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


def _told(outcome: Outcome) -> tuple[int | None, str, str]:
    match outcome:
        case Delivered(status=status, detail=detail):
            return status, "", detail
        case (
            Deferred(status=status, reason=reason, detail=detail)
            | Rejected(status=status, reason=reason, detail=detail)
        ):
            return status, reason, detail
