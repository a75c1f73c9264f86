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
from mailbridge.store.dialect import chunks
from mailbridge.store.outgoing import CLAIMED
from mailbridge.store.scan import storable
from mailbridge.store.tables import attempts, deliveries, micros

#: characters of an answer that are kept with an attempt
_DETAIL: Final = 1_000

_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)
_IN_HAND: Final = (
    sa.select(deliveries.c.pk, deliveries.c.fence)
    .where(deliveries.c.pk.in_(_IDS), CLAIMED)
    .with_for_update()
)
_RESOLVE: Final = (
    deliveries.update()
    .where(deliveries.c.pk == sa.bindparam("number"), deliveries.c.fence == sa.bindparam("held"))
    .values(
        state=sa.bindparam("state"),
        attempts=deliveries.c.attempts + 1,
        rescues=0,
        due_at=sa.func.coalesce(sa.bindparam("due", type_=sa.BigInteger), deliveries.c.due_at),
        resolved_at=sa.bindparam("resolved_at"),
        lease_until=None,
        owner=None,
        last_status=sa.bindparam("last_status"),
        last_reason=sa.bindparam("last_reason"),
    )
)


def resolve(
    connection: sa.Connection, resolutions: Sequence[Resolution], now: int
) -> list[Resolution]:
    """See ``DispatchStore.resolve``."""
    in_hand: dict[int, int] = {}
    for ids in chunks([one.delivery.id for one in resolutions]):
        in_hand.update(tuple(row) for row in connection.execute(_IN_HAND, {"ids": ids}))
    held = [one for one in resolutions if in_hand.get(one.delivery.id) == one.delivery.fence]
    if held:
        connection.execute(_RESOLVE, [_resolved(one, now) for one in held])
        connection.execute(attempts.insert(), [_attempted(one) for one in held])
    return held


def _resolved(one: Resolution, now: int) -> dict[str, Any]:
    status, reason, _ = _told(one.outcome)
    due: int | None = None
    resolved_at: int | None = now
    match one.decision:
        case Retry(due_at=due_at):
            state, due, resolved_at = DeliveryState.QUEUED, micros(due_at), None
        case Dead(reason=reason):
            state = DeliveryState.DEAD
        case Done():
            state = DeliveryState.DELIVERED
    return {
        "number": one.delivery.id,
        "held": one.delivery.fence,
        "state": state.value,
        "due": due,
        "resolved_at": resolved_at,
        "last_status": status,
        "last_reason": storable(reason),
    }


def _attempted(one: Resolution) -> dict[str, Any]:
    status, reason, detail = _told(one.outcome)
    return {
        "delivery": one.delivery.id,
        "fence": one.delivery.fence,
        "at": micros(one.started_at),
        "number": one.delivery.attempts + 1,
        "seconds": one.seconds,
        "outcome": type(one.outcome).__name__.lower(),
        "status": status,
        "reason": storable(reason),
        "detail": storable(detail[:_DETAIL]),
    }


def _told(outcome: Outcome) -> tuple[int | None, str, str]:
    match outcome:
        case Delivered(status=status, detail=detail):
            return status, "", detail
        case (
            Deferred(status=status, reason=reason, detail=detail)
            | Rejected(status=status, reason=reason, detail=detail)
        ):
            return status, reason, detail
