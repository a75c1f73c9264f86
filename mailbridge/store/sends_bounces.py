"""A bounce that came back for a mail: noted once for a recipient, and told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mailbridge.model import Notice, derived_id
from mailbridge.store import enqueue
from mailbridge.store.base import Bounce
from mailbridge.store.rows import SendRow
from mailbridge.store.scan import storable
from mailbridge.store.sends_ending import FAILED, said_of
from mailbridge.store.sends_lookup import by_message_id
from mailbridge.store.sends_writing import REPLY
from mailbridge.store.tables import micros, recipients, sends


def note(
    connection: sa.Connection, bounce: Bounce, listeners: Sequence[str], now: int
) -> str | None:
    """See ``SendStore.bounced``."""
    mails = by_message_id(connection, bounce.message_id)
    if not mails:
        return None
    mail, address = _meant(mails, bounce.recipient)
    if _write(connection, mail, address, bounce):
        data: dict[str, Any] = {
            **said_of(mail.id, mail.sender, mail.message_id, mail.recipients),
            "attempts": mail.attempts,
            "bounced": True,
            "recipient": address or storable(bounce.recipient),
            "reason": storable(bounce.report)[:REPLY] or "it bounced",
            "code": "send.bounced",
        }
        notice = Notice(
            id=derived_id("send.bounced", [mail.id, address]),
            type=FAILED,
            mailbox=mail.mailbox,
            at=bounce.at,
            data=data,
        )
        enqueue.notify(connection, [notice], listeners, now)
    return mail.id


def _meant(mails: Sequence[SendRow], recipient: str) -> tuple[SendRow, str]:
    """Return the mail that a bounce speaks of, and its recipient as it was given, if it is one.

    Of several with the same Message-ID the newest that has gone to that recipient.
    """
    wanted = storable(recipient).casefold()
    for mail in mails:
        for one in mail.recipients:
            if one.address.casefold() == wanted:
                return mail, one.address
    return mails[0], ""


def _write(connection: sa.Connection, mail: SendRow, address: str, bounce: Bounce) -> bool:
    """Note it at the recipient, or at the mail when he is none; false when one is there already."""
    said = {"bounced_at": micros(bounce.at), "bounce": storable(bounce.report)[:REPLY]}
    of_mail = sends.c.id == mail.id
    if not address:
        # Forwarded by a recipient, perhaps; then the report names whom it went on to.
        said["bounce"] = f"{storable(bounce.recipient)}: {said['bounce']}"[:REPLY]
        written = sends.update().where(of_mail, sends.c.bounced_at.is_(None))
    else:
        number = sa.select(sends.c.pk).where(of_mail).scalar_subquery()
        written = recipients.update().where(
            recipients.c.send == number,
            recipients.c.address == address,
            recipients.c.bounced_at.is_(None),
        )
    return connection.execute(written.values(**said)).rowcount > 0
