"""The order that a sink keeps: of each mailbox only the oldest open delivery may leave.

``meta`` says which sinks keep it; every delivery that is made or queued again for one of them is
marked, ``deliveries.ordered``, and only marked ones are in the index for it. Nobody else pays.
The oldest of each mailbox, its head, is found by a walk over mailboxes, so a claim costs what
mailboxes wait, however many deliveries wait behind the heads.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState
from mailbridge.store.driver import among
from mailbridge.store.tables import (
    ALONE_AFTER,
    POISON_AFTER,
    SINGLE_AFTER,
    deliveries,
    messages,
    meta,
)

#: deliveries that are marked in one transaction
STEP: Final = 1000
_KEY: Final = "order:"
_SINK: Final = sa.bindparam("sink", type_=sa.Text)
_CLAIMED: Final = sa.text(f"deliveries.state = '{DeliveryState.CLAIMED}'")
_QUEUED: Final = sa.text(f"deliveries.state = '{DeliveryState.QUEUED}'")
# In the words of the partial index, so that it is used.
_OPEN: Final = sa.text("deliveries.ordered = 1 AND deliveries.state IN ('queued', 'claimed')")


def kept_by(sink: sa.Column[str]) -> sa.ColumnElement[int]:
    """Return the value of ``deliveries.ordered`` for a sink: 1, or NULL when it keeps none.

    ``sink`` is a column of the statement around it.
    """
    # As text: in a RETURNING, SQLAlchemy would join the table to itself instead of meaning its row.
    name = f"{sink.table.name}.{sink.name}"
    text = f"(SELECT 1 FROM meta WHERE meta.key = '{_KEY}' || {name})"  # noqa: S608 - our own names
    return sa.literal_column(text, sa.SmallInteger)


def _walk() -> sa.CTE:
    """Return the mailboxes that have something open for the sink, one look-up for each."""
    first = sa.select(sa.func.min(deliveries.c.mailbox).label("mailbox"))
    boxes = first.where(_OPEN, deliveries.c.sink == _SINK).cte("boxes", recursive=True)
    then = (
        sa.select(sa.func.min(deliveries.c.mailbox))
        .where(_OPEN, deliveries.c.sink == _SINK, deliveries.c.mailbox > boxes.c.mailbox)
        .scalar_subquery()
    )
    return boxes.union_all(sa.select(then).where(boxes.c.mailbox.is_not(None)))


def _heads(*columns: Any) -> sa.Select[Any]:
    """Return what may be claimed: heads that wait, of mailboxes of which nothing is in hand."""
    boxes = _walk()
    oldest = (
        sa.select(deliveries.c.pk)
        .where(_OPEN, deliveries.c.sink == _SINK, deliveries.c.mailbox == boxes.c.mailbox)
        .order_by(deliveries.c.sequence)
        .limit(1)
        .correlate(boxes)
        .scalar_subquery()
    )
    # One that was queued again by a person may be older than one that is in hand.
    busy = sa.select(deliveries.c.mailbox).where(_CLAIMED, deliveries.c.sink == _SINK)
    return (
        sa.select(*columns)
        .select_from(
            boxes.join(deliveries, deliveries.c.pk == oldest).outerjoin(
                messages, deliveries.c.message == messages.c.pk
            )
        )
        .where(_QUEUED, deliveries.c.mailbox.not_in(busy.correlate(None)))
    )


_SIZE: Final = sa.func.coalesce(messages.c.size, 0).label("size")
_DUE: Final = (
    _heads(deliveries.c.pk, _SIZE)
    .where(deliveries.c.due_at <= sa.bindparam("now", type_=sa.BigInteger))
    .order_by(deliveries.c.due_at, deliveries.c.pk)
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .with_for_update(of=deliveries, skip_locked=True)
)
DUE: Final = _DUE.where(deliveries.c.rescues < ALONE_AFTER)
DUE_GROUPED: Final = _DUE.where(
    deliveries.c.rescues >= ALONE_AFTER, deliveries.c.rescues < SINGLE_AFTER
)
DUE_ALONE: Final = _DUE.where(
    deliveries.c.rescues >= ALONE_AFTER, deliveries.c.rescues < POISON_AFTER
)
NEXT_DUE: Final = _heads(sa.func.min(deliveries.c.due_at))
OLDEST: Final = _heads(sa.func.min(deliveries.c.pk)).where(
    deliveries.c.pk > sa.bindparam("after", type_=sa.BigInteger)
)

_UNMARKED: Final = (
    sa.select(deliveries.c.pk)
    .where(deliveries.c.sink == _SINK, deliveries.c.ordered.is_(None))
    .limit(STEP)
)
_MARKED: Final = sa.select(deliveries.c.pk).where(_OPEN, deliveries.c.sink == _SINK).limit(STEP)


def kept(connection: sa.Connection, sink: str) -> bool:
    """Tell whether a sink keeps the order."""
    return (
        connection.execute(sa.select(meta.c.key).where(meta.c.key == _KEY + sink)).scalar()
        is not None
    )


def one_at_a_time(connection: sa.Connection, sink: str) -> None:
    """Let no other host claim for this sink until the transaction ends.

    Two that look at the same moment could each take one of the same mailbox. SQLite has one
    writer anyway.
    """
    if connection.dialect.name == "postgresql":
        text = sa.text("SELECT pg_advisory_xact_lock(hashtext('mailbridge'), hashtext(:sink))")
        connection.execute(text, {"sink": sink})


def keep(connection: sa.Connection, sink: str, *, strict: bool) -> bool:
    """Let a sink keep the order of each mailbox, or no longer; tells whether to call again.

    Nothing may be claimed in order before this has returned false: what is not marked yet would
    be passed over.
    """
    key = _KEY + sink
    if kept(connection, sink) != strict:
        if connection.dialect.name == "postgresql":
            # Whoever is adding deliveries now may not have seen the change: wait for him.
            connection.execute(sa.text("LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE"))
        connection.execute(meta.delete().where(meta.c.key == key))
        if strict:
            connection.execute(meta.insert(), {"key": key, "value": "strict"})
    if strict:
        found = connection.execute(_UNMARKED.where(_QUEUED), {"sink": sink}).scalars().all()
        if not found:
            found = connection.execute(_UNMARKED.where(_CLAIMED), {"sink": sink}).scalars().all()
    else:
        found = connection.execute(_MARKED, {"sink": sink}).scalars().all()
    if found:
        marking = deliveries.update().where(among(deliveries.c.pk))
        connection.execute(marking.values(ordered=1 if strict else None), {"ids": list(found)})
    return bool(found)
