"""What is written of an outgoing mail before its outcome: that it is there, in doubt, answered.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, PermanentError
from mailbridge.model import Delivery, DeliveryState, Outgoing, Recipient
from mailbridge.store.base import AcceptedSend
from mailbridge.store.dialect import insert, write_raw
from mailbridge.store.driver import Many
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
    sa.select(deliveries.c.send, deliveries.c.state, deliveries.c.fence)
    .where(deliveries.c.pk == sa.bindparam("number", type_=sa.BigInteger))
    .with_for_update()
)
_SENT: Final = sends.update().where(sends.c.pk == sa.bindparam("one", type_=sa.BigInteger))
_IN_DOUBT: Final = _SENT.values(
    in_doubt_at=sa.bindparam("at", type_=sa.BigInteger), released=sa.literal_column("0")
)
_ANSWERED: Final = _SENT.values(
    in_doubt_at=sa.null(),
    reply=sa.func.coalesce(sa.bindparam("said", type_=sa.Text), sends.c.reply),
)
_THOSE: Final = recipients.c.send == sa.bindparam("one", type_=sa.BigInteger)
#: whoever has neither got the mail for sure nor been refused
NOT_ENDED: Final = sa.text("recipients.state IN ('open', 'doubt')")
_OPEN: Final = sa.select(recipients.c.number, recipients.c.address).where(_THOSE, NOT_ENDED)
_SURE: Final = recipients.update().where(_THOSE, recipients.c.state == "doubt").values(state="open")
_SETTLE: Final = Many(
    recipients.update()
    .where(
        recipients.c.send == sa.bindparam("one"),
        recipients.c.number == sa.bindparam("nth"),
        NOT_ENDED,
    )
    .values(
        state=sa.bindparam("becomes"),
        code=sa.bindparam("because"),
        reply=sa.bindparam("said"),
        at=sa.bindparam("when"),
    ),
    *("becomes", "because", "said", "when", "one", "nth"),
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


#: something that is noted of one delivery; tells whether its claim held
Note = Callable[[sa.Connection], bool]


def note(connection: sa.Connection, notes: Sequence[tuple[int, Note]]) -> list[bool]:
    """Note things of deliveries, by number; hosts that share a database go by that order."""
    order = sorted(range(len(notes)), key=lambda place: notes[place][0])
    held = {place: notes[place][1](connection) for place in order}
    return [held[place] for place in range(len(notes))]


def in_doubt(connection: sa.Connection, delivery: Delivery, asked: Sequence[str], now: int) -> bool:
    """Note that the dot is about to be written for these; false when the claim is lost."""
    send, ours = _held(connection, delivery)
    if send is None or not ours:
        return False
    connection.execute(_SURE, {"one": send})
    settle(connection, send, [Recipient(address=one, state="doubt") for one in asked], now)
    connection.execute(_IN_DOUBT, {"one": send, "at": now})
    return True


def answered(
    connection: sa.Connection, delivery: Delivery, told: Sequence[Recipient], now: int
) -> bool:
    """Note what the server said of recipients; false when the claim is lost.

    Then only that somebody has the mail is noted: it is true whoever says so, and keeps the
    one who holds the claim now, or the next, from sending it there again.
    """
    send, ours = _held(connection, delivery)
    if send is None:
        return False
    settle(connection, send, [one for one in told if ours or one.state == "taken"], now)
    if ours:
        connection.execute(_SURE, {"one": send})
        said = next((one.reply for one in reversed(told) if one.reply), None)
        connection.execute(_ANSWERED, {"one": send, "said": said and storable(said)[:REPLY]})
    return ours


def settle(connection: sa.Connection, send: int, told: Sequence[Recipient], now: int) -> None:
    """Write what became of recipients that are open; what has ended stays as it is."""
    said = {storable(one.address): one for one in told}
    rows: list[tuple[Any, ...]] = []
    for number, address in connection.execute(_OPEN, {"one": send}).all() if said else ():
        if (one := said.get(address)) is not None:
            at = now if one.state in {"taken", "refused"} else None
            reply = storable(one.reply)[:REPLY]
            rows.append((one.state, storable(one.code), reply, at, send, number))
    if rows:
        _SETTLE.run(connection, rows)


def _held(connection: sa.Connection, delivery: Delivery) -> tuple[int | None, bool]:
    """Return the row of a delivery's mail, and whether its claim holds; nobody changes it now."""
    row = connection.execute(_IN_HAND, {"number": delivery.id}).one_or_none()
    if row is None:
        return None, False
    return row.send, row.state == DeliveryState.CLAIMED and row.fence == delivery.fence
