"""Looking up outgoing mail: for those who send it, for its status, for the budget, for bounces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import DeliveryState, Recipient, StoredSend
from mailbridge.store.driver import among
from mailbridge.store.rows import BounceRow, SendRow, SendState
from mailbridge.store.tables import (
    Kept,
    deliveries,
    moment,
    moment_or_none,
    recipients,
    send_raw,
    sends,
)

#: how the sink of a mailbox that sends begins; a webhook's name has no colon
PREFIX: Final = "send:"
#: mails with one Message-ID that are shown: a broken program may give it to all of its mails
SAME: Final = 100
#: digits of a number that fits into 64 bits, whatever they are
_DIGITS: Final = 18

_RECIPIENTS: Final = (
    sa.select(
        *(recipients.c[name] for name in ("send", "address", "state", "code", "reply")),
        *(recipients.c[name] for name in ("bounced_at", "bounce")),
    )
    .where(among(recipients.c.send))
    .order_by(recipients.c.send, recipients.c.number)
)
CLAIMED: Final = (
    sa.select(sends, send_raw.c.bytes)
    .join_from(sends, send_raw, sends.c.pk == send_raw.c.send)
    .where(among(sends.c.pk))
)
_ROWS: Final = sa.select(
    *(column for column in sends.c if column.name != "kept"),
    (sends.c.kept == Kept.RAW).label("raw_kept"),
    deliveries.c.pk.label("number"),
    *(deliveries.c[name] for name in ("state", "attempts", "due_at", "last_reason")),
).join_from(sends, deliveries, deliveries.c.send == sends.c.pk)
_SINCE: Final = sa.bindparam("since", type_=sa.BigInteger)
_OF: Final = sa.bindparam("mailbox", type_=sa.Text)
# In the words of the partial indexes.
SPENT: Final = (
    sa.select(recipients.c.at, sa.func.count())
    .where(sa.text("recipients.at IS NOT NULL"), recipients.c.mailbox == _OF)
    .where(recipients.c.at > _SINCE)
    .group_by(recipients.c.at, recipients.c.send)
)
UNSURE: Final = (
    sa.select(sends.c.in_doubt_at, sa.func.count())
    .join_from(sends, recipients, recipients.c.send == sends.c.pk)
    .where(sa.text("sends.in_doubt_at IS NOT NULL"), sends.c.mailbox == _OF)
    .where(sends.c.in_doubt_at > _SINCE, recipients.c.state == "doubt")
    .group_by(sends.c.in_doubt_at, sends.c.pk)
)
_STATES: Final[dict[str, SendState]] = {
    DeliveryState.QUEUED: "queued",
    DeliveryState.CLAIMED: "sending",
    DeliveryState.DELIVERED: "sent",
    DeliveryState.DEAD: "failed",
    DeliveryState.HELD: "held",
    DeliveryState.DROPPED: "dropped",
}


def claimed(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, StoredSend]:
    """Return the mails with these numbers, with their bytes, as those who send get them."""
    if not numbers:
        return {}
    rows = connection.execute(CLAIMED, {"ids": list(numbers)}).all()
    those = recipients_of(connection, [row.pk for row in rows])
    return {
        row.pk: StoredSend(
            id=row.id,
            mailbox=row.mailbox,
            sender=row.sender,
            message_id=row.message_id,
            accepted_at=moment(row.accepted_at),
            recipients=tuple(those[row.pk]),
            raw=row.bytes,
            in_doubt_at=moment_or_none(row.in_doubt_at),
            released=bool(row.released),
        )
        for row in rows
    }


def recipients_of(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, list[Recipient]]:
    """Return the recipients of these mails, in the order in which they were named."""
    found: dict[int, list[Recipient]] = {number: [] for number in numbers}
    for row in connection.execute(_RECIPIENTS, {"ids": list(numbers)}) if numbers else ():
        found[row.send].append(_recipient(row))
    return found


def _recipient(row: Any) -> Recipient:
    return Recipient(address=row.address, state=row.state, code=row.code, reply=row.reply)


def spent(connection: sa.Connection, mailbox: str, since: int) -> list[tuple[int, int]]:
    """Return when, and to how many, a mailbox has submitted; see ``SendStore.spent``."""
    asked = {"mailbox": mailbox, "since": since}
    found = [*connection.execute(SPENT, asked), *connection.execute(UNSURE, asked)]
    return sorted((at, count) for at, count in found)


def by_id(connection: sa.Connection, name: str) -> SendRow | None:
    """Return a mail by its ``out_`` id."""
    return next(iter(_read(connection, _ROWS.where(sends.c.id == name))), None)


def by_message_id(connection: sa.Connection, message_id: str) -> list[SendRow]:
    """Return the mails with this Message-ID, the newest first."""
    text = message_id.strip().removeprefix("<").removesuffix(">")
    statement = _ROWS.where(sends.c.message_id == text).order_by(sends.c.pk.desc()).limit(SAME)
    return _read(connection, statement)


def delivery_number(digits: str) -> int:
    """Return the number of a delivery; 0, which none has, where no database has such numbers."""
    return int(digits) if len(digits) <= _DIGITS else 0


def traced(connection: sa.Connection, name: str) -> list[SendRow]:
    """Return the mails that ``name`` may mean: an id, a delivery's number, a Message-ID."""
    if name.isdecimal():
        return _read(connection, _ROWS.where(deliveries.c.pk == delivery_number(name)))
    one = by_id(connection, name)
    return by_message_id(connection, name) if one is None else [one]


def _read(connection: sa.Connection, statement: sa.Select[Any]) -> list[SendRow]:
    rows = connection.execute(statement).all()
    those: dict[int, list[Any]] = defaultdict(list)
    if rows:
        for one in connection.execute(_RECIPIENTS, {"ids": [row.pk for row in rows]}):
            those[one.send].append(one)
    return [_row(row, those[row.pk]) for row in rows]


def _row(row: Any, those: Sequence[Any]) -> SendRow:
    state = _STATES[row.state]
    bounces = [(one.address, one.bounced_at, one.bounce) for one in those]
    bounces.append(("", row.bounced_at, row.bounce))
    return SendRow(
        id=row.id,
        number=row.number,
        state="deferred" if state == "queued" and row.attempts else state,
        mailbox=row.mailbox,
        sender=row.sender,
        message_id=row.message_id,
        via=row.via,
        client=row.client,
        accepted_at=moment(row.accepted_at),
        size=row.size,
        sha256=row.sha256,
        recipients=tuple(_recipient(one) for one in those),
        attempts=row.attempts,
        due_at=moment(row.due_at) if state == "queued" else None,
        ended_at=moment_or_none(row.ended_at),
        in_doubt_at=moment_or_none(row.in_doubt_at),
        reason=row.last_reason or "",
        reply=row.reply or "",
        bounces=tuple(
            BounceRow(recipient=address, at=moment(at), report=report or "")
            for address, at, report in bounces
            if at is not None
        ),
        raw_kept=bool(row.raw_kept),
    )
