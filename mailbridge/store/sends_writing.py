"""What is written of an outgoing mail before its outcome: that it is there, in doubt, answered.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, PermanentError
from mailbridge.model import Delivery, DeliveryState, Outgoing, Recipient
from mailbridge.store.base import AcceptedSend
from mailbridge.store.dialect import insert, write_raw
from mailbridge.store.driver import Many, among
from mailbridge.store.enqueue import Event, write_deliveries
from mailbridge.store.scan import storable
from mailbridge.store.sends_lookup import PREFIX
from mailbridge.store.tables import Kept, deliveries, idempotency, recipients, send_raw, sends

#: the type of a delivery that is a mail to be sent
SEND: Final = "send"
#: characters of a reply that are kept with a recipient
REPLY: Final = 1_000

_SENDS: Final = sends.insert().returning(sends.c.pk, sends.c.id)
_RECIPIENTS: Final = Many(
    recipients.insert(), *("send", "number", "mailbox", "address", "state", "code", "reply")
)
_KNOWN: Final = sa.select(idempotency.c.digest, idempotency.c.send_id).where(
    idempotency.c.client == sa.bindparam("asker"), idempotency.c.key == sa.bindparam("by")
)
_IN_HAND: Final = (
    sa.select(deliveries.c.pk, deliveries.c.send, deliveries.c.state, deliveries.c.fence)
    .where(among(deliveries.c.pk))
    # Hosts that share a database take them in the same order.
    .order_by(deliveries.c.pk)
    .with_for_update()
)
_IN_DOUBT: Final = Many(
    sends.update()
    .where(sends.c.pk == sa.bindparam("one"))
    .values(in_doubt_at=sa.bindparam("when"), released=sa.literal_column("0")),
    *("when", "one"),
)
_ANSWERED: Final = Many(
    sends.update()
    .where(sends.c.pk == sa.bindparam("one"))
    .values(
        in_doubt_at=sa.null(),
        reply=sa.func.coalesce(sa.bindparam("said", type_=sa.Text), sends.c.reply),
    ),
    *("said", "one"),
)
#: whoever has neither got the mail for sure nor been refused
NOT_ENDED: Final = sa.text("recipients.state IN ('open', 'doubt')")
_SURE: Final = (
    recipients.update()
    .where(among(recipients.c.send), recipients.c.state == "doubt")
    .values(state="open")
)
_SETTLE: Final = Many(
    recipients.update()
    .where(
        recipients.c.send == sa.bindparam("one"),
        recipients.c.address == sa.bindparam("whose"),
        NOT_ENDED,
    )
    .values(
        state=sa.bindparam("becomes"),
        code=sa.bindparam("because"),
        reply=sa.bindparam("said"),
        at=sa.bindparam("when"),
    ),
    *("becomes", "because", "said", "when", "one", "whose"),
)


def accept(
    connection: sa.Connection, mails: Sequence[Outgoing], now: int
) -> list[AcceptedSend | MailbridgeError]:
    """Write mails, their recipients and their deliveries; see ``SendStore.accept``."""
    answers = _asked_before(connection, [one for one in mails if one.key], now)
    new = {one.id: one for one in mails if one.id not in answers}
    if new:
        rows = connection.execute(_SENDS, [_row(one, now) for one in new.values()]).all()
        numbers: dict[str, int] = {row.id: row.pk for row in rows}
        write_raw(connection, send_raw, [(numbers[one.id], one.raw) for one in new.values()])
        _RECIPIENTS.run(connection, [row for one in new.values() for row in _to(one, numbers)])
        # Hosts that share a database take these sequences in the same order.
        for mailbox in sorted({one.mailbox for one in new.values()}):
            events = [
                Event(id=one.id, type=SEND, send=numbers[one.id], created_at=now)
                for one in new.values()
                if one.mailbox == mailbox
            ]
            write_deliveries(connection, mailbox, f"{PREFIX}{mailbox}", events, now)
    return [answers.get(one.id) or AcceptedSend(id=one.id) for one in mails]


def _row(mail: Outgoing, now: int) -> dict[str, Any]:
    return {
        "id": mail.id,
        "mailbox": mail.mailbox,
        "sender": storable(mail.sender),
        "message_id": bare(storable(mail.message_id)),
        "via": mail.via,
        "client": mail.client,
        "accepted_at": now,
        "size": len(mail.raw),
        "sha256": hashlib.sha256(mail.raw).hexdigest(),
        "released": 0,
        "kept": Kept.RAW,
    }


def _to(mail: Outgoing, numbers: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """Return the rows of the recipients; who is named twice gets it once."""
    addresses = dict.fromkeys(storable(one) for one in mail.recipients)
    return [
        (numbers[mail.id], place, mail.mailbox, address, "open", "", "")
        for place, address in enumerate(addresses)
    ]


@cache
def _keep_keys(dialect: str) -> Any:
    statement = insert(dialect, idempotency).on_conflict_do_nothing()
    return statement.returning(idempotency.c.send_id)


def _asked_before(
    connection: sa.Connection, mails: Sequence[Outgoing], now: int
) -> dict[str, AcceptedSend | MailbridgeError]:
    """Return the answers to those mails whose client's key stands for a mail already.

    The first to come with a key gets it, and no answer here: that mail is to be written.
    """
    if not mails:
        return {}
    rows = [
        {"client": one.client, "key": one.key, "digest": one.digest, "send_id": one.id, "at": now}
        # In one order, so that two hosts never wait for each other; the first to come first.
        for one in sorted(mails, key=lambda one: (one.client, one.key))
    ]
    new = set(connection.execute(_keep_keys(connection.dialect.name), rows).scalars())
    return {one.id: _known(connection, one) for one in mails if one.id not in new}


def _known(connection: sa.Connection, mail: Outgoing) -> AcceptedSend | MailbridgeError:
    asked = {"asker": mail.client, "by": mail.key}
    digest, known = connection.execute(_KNOWN, asked).one()
    if digest == mail.digest:
        return AcceptedSend(id=known, known=True)
    return PermanentError(
        f"this Idempotency-Key was used before, for another mail ({known})",
        code="send.key_conflict",
        fix="use a key of its own for every mail; repeat a request without a change",
    )


def bare(message_id: str) -> str:
    """Return a Message-ID without its brackets."""
    return message_id.strip().removeprefix("<").removesuffix(">")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is noted of a delivery in hand: whom the dot is about, or what the answer was.

    ``answered`` tells which of the two; ``at`` is in microseconds, the same for all of ``told``.
    """

    delivery: Delivery
    told: Sequence[Recipient]
    answered: bool
    at: int


def note(connection: sa.Connection, notes: Sequence[Note]) -> list[bool]:
    """Note things of deliveries, each of another one; tells for each whether its claim held.

    An answer of which the claim is lost says only who has the mail: that is true whoever says
    so, and keeps the one who holds the claim now, or the next, from sending it there again.
    """
    numbers = [one.delivery.id for one in notes]
    rows = connection.execute(_IN_HAND, {"ids": numbers}).all()
    mails: dict[int, int] = {number: send for number, send, _, _ in rows}
    fences = {number: fence for number, _, state, fence in rows if state == DeliveryState.CLAIMED}
    held = [fences.get(one.delivery.id) == one.delivery.fence for one in notes]
    ours = [one for one, holds in zip(notes, held, strict=True) if holds]
    doubts = [mails[one.delivery.id] for one in ours if not one.answered]
    answers = {mails[one.delivery.id]: one for one in ours if one.answered}
    if doubts:
        connection.execute(_SURE, {"ids": doubts})
    settled = [
        row
        for one, holds in zip(notes, held, strict=True)
        if holds or (one.answered and one.delivery.id in mails)
        for row in _settled(mails[one.delivery.id], one, holds=holds)
    ]
    if settled:
        _SETTLE.run(connection, settled)
    if doubts:
        began = [(one.at, mails[one.delivery.id]) for one in ours if not one.answered]
        _IN_DOUBT.run(connection, began)
    if answers:
        connection.execute(_SURE, {"ids": list(answers)})
        _ANSWERED.run(connection, [(_last_word(one), send) for send, one in answers.items()])
    return held


def _settled(send: int, note: Note, *, holds: bool) -> list[tuple[Any, ...]]:
    """Return the rows for recipients that are open; what has ended stays as it is."""
    said = {storable(one.address): one for one in note.told if holds or one.state == "taken"}
    return [
        (
            one.state,
            storable(one.code),
            storable(one.reply)[:REPLY],
            note.at if one.state in {"taken", "refused"} else None,
            send,
            address,
        )
        for address, one in said.items()
    ]


def _last_word(note: Note) -> str | None:
    said = next((one.reply for one in reversed(note.told) if one.reply), None)
    return said and storable(said)[:REPLY]
