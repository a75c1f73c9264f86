"""What is written of an outgoing mail before its outcome: that it is there, in doubt, answered.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.errors import PermanentError
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

_SEND: Final = sends.insert().returning(sends.c.pk)
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


def accept(connection: sa.Connection, mail: Outgoing, now: int) -> AcceptedSend:
    """Write a mail, its recipients and its delivery; see ``SendStore.accept``."""
    if mail.key and (known := _asked_before(connection, mail, now)):
        return AcceptedSend(id=known, known=True)
    number: int = connection.execute(
        _SEND,
        {
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
        },
    ).scalar_one()
    write_raw(connection, send_raw, [(number, mail.raw)])
    # Somebody who is named twice gets it once.
    addresses = dict.fromkeys(storable(one) for one in mail.recipients)
    rows: list[tuple[Any, ...]] = [
        (number, place, mail.mailbox, address, "open", "", "")
        for place, address in enumerate(addresses)
    ]
    _RECIPIENTS.run(connection, rows)
    event = Event(id=mail.id, type=SEND, send=number, created_at=now)
    write_deliveries(connection, mail.mailbox, f"{PREFIX}{mail.mailbox}", [event], now)
    return AcceptedSend(id=mail.id)


@cache
def _keep_key(dialect: str) -> Any:
    return insert(dialect, idempotency).on_conflict_do_nothing()


def _asked_before(connection: sa.Connection, mail: Outgoing, now: int) -> str:
    """Return the mail that a client's key stands for; the first to come gets it, and goes on."""
    row = {"client": mail.client, "key": mail.key, "digest": mail.digest, "send_id": mail.id}
    written = connection.execute(_keep_key(connection.dialect.name), row | {"at": now})
    if written.rowcount:
        return ""
    asked = {"asker": mail.client, "by": mail.key}
    digest, known = connection.execute(_KNOWN, asked).one()
    if digest == mail.digest:
        return str(known)
    raise PermanentError(
        f"this Idempotency-Key was used before, for another mail ({known})",
        code="send.key_conflict",
        fix="use a key of its own for every mail; repeat a request without a change",
    )


def bare(message_id: str) -> str:
    """Return a Message-ID without its brackets."""
    return message_id.strip().removeprefix("<").removesuffix(">")


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
