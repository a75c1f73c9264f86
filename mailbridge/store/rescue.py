"""Taking back what was in hand when its owner died, and setting aside what owners die of."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store import letters
from mailbridge.store.dialect import chunks, clock
from mailbridge.store.enqueue import Listeners
from mailbridge.store.outgoing import CLAIMED, QUEUED
from mailbridge.store.tables import ALONE_AFTER, POISON_AFTER, deliveries

_ALL_CLAIMED: Final = sa.select(deliveries.c.pk).where(CLAIMED).with_for_update(skip_locked=True)
LATE: Final = _ALL_CLAIMED.where(
    deliveries.c.lease_until <= sa.bindparam("at", type_=sa.BigInteger)
)
_POISON: Final = (
    sa.select(deliveries.c.pk)
    .where(QUEUED, sa.text(f"deliveries.rescues >= {ALONE_AFTER}"))
    # The index is of all suspects.
    .where(deliveries.c.rescues >= POISON_AFTER)
    .with_for_update(skip_locked=True)
)


def rescue(connection: sa.Connection, now: int, *, listeners: Listeners | None = None) -> int:
    """Queue again what is claimed under an expired lease; returns how many.

    What was in hand at too many deaths becomes a dead letter, and ``listeners`` are told.
    """
    rescued = take_back(connection, now)
    ids = list(connection.execute(_POISON).scalars())
    reason = f"poison: the daemon died {POISON_AFTER} times while holding it"
    for chunk in chunks(ids):
        letters.bury(connection, chunk, reason, now, listeners)
    return rescued


def take_back(connection: sa.Connection, now: int, *, every: bool = False) -> int:
    """Queue again what is claimed under an expired lease, or each claim: its owner is dead.

    What has now become poison is no more claimed, and is set aside by ``rescue``.
    """
    if every:
        found = connection.execute(_ALL_CLAIMED)
    else:
        at = connection.execute(sa.select(clock(connection, now))).scalar_one()
        found = connection.execute(LATE, {"at": at})
    ids = list(found.scalars())
    for chunk in chunks(ids):
        connection.execute(
            deliveries.update()
            .where(deliveries.c.pk.in_(chunk))
            .values(
                state=DeliveryState.QUEUED.value,
                rescues=deliveries.c.rescues + 1,
                lease_until=None,
                owner=None,
                # Whoever held it is shut out at once, not only after the next claim.
                fence=deliveries.c.fence + 1,
            )
        )
    return len(ids)
