"""Mail that is brought to us by SMTP, and goes through routes as if it had been fetched.

Its place is made of its content, so that a client that did not hear our 250 and brings the mail
again gets the same webhook-id for it, and the store sees that it is known.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from mailbridge.model import Batch, Checkpoint, MessageRef, RawMessage
from mailbridge.relay.hooks import Brought, aside
from mailbridge.routing import Routing
from mailbridge.store.base import IntakeStore

#: the mailbox under which such mails stand
MAILBOX: Final = "relay"
#: by what a mail differs from the next one with the same words
_TELLING: Final = re.compile(rb"(?im)^(received|message-id|date)[ \t]*:[ \t]*\S")
_HELO: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,100}")
#: bytes in which a header is looked for
_SCANNED: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A mail that the store has; ``known`` when it had it before."""

    id: str
    known: bool


class Inbound:
    """Takes mails for the addresses that have routes. ``routings`` is by address, as written."""

    def __init__(
        self,
        *,
        store: IntakeStore,
        routings: Mapping[str, Routing],
        on_accepted: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self.routings = routings
        self._store = store
        self._on_accepted = on_accepted
        self._now = now
        self._since = now()

    async def take(self, address: str, mail: Brought) -> Taken:
        """Make a mail durable, with one delivery for each webhook that its routes name.

        One commit; when this returns, no crash loses it. Raises ``StoreFull`` (nothing stored),
        or ``TemporaryError``.
        """
        now = self._now()
        place = await aside(functools.partial(digest, address), mail.content)
        ref = MessageRef(mailbox=MAILBOX, folder=address, protocol="smtp", uidl=place)
        raw = trace(mail, now) + mail.content
        checkpoint = Checkpoint(
            mailbox=MAILBOX, folder=address, uidvalidity=0, uid=0, watching_since=self._since
        )
        batch = Batch(
            mailbox=MAILBOX,
            folder=address,
            checkpoint=checkpoint,
            messages=(RawMessage(ref=ref, raw=raw, received_at=now),),
        )
        batch = await self.routings[address].ruled(batch)
        done = await self._store.accept(batch, address=address, settles=False)
        if done.new:
            self._on_accepted()
        return Taken(id=ref.message_id, known=not done.new)


def digest(address: str, content: bytes) -> str:
    """Return what stands for the place of a mail: the same when it is brought again.

    Some devices write neither a Message-ID nor a date, and two of their alarms are the same to
    the byte. Taking the second for a repeat would lose it, so such a mail is always a new one:
    after a lost 250 it comes twice, under two ids.
    """
    hashed = hashlib.sha256(address.encode() + b"\0")
    hashed.update(content)
    if not tells_itself_apart(content):
        hashed.update(secrets.token_bytes(16))
    return hashed.hexdigest()


def tells_itself_apart(content: bytes) -> bool:
    """Tell whether no other mail has this content: by a server's trace, or an id and a date."""
    head = (b"\n" + content[:_SCANNED].replace(b"\r\n", b"\n")).partition(b"\n\n")[0]
    found = {match[1].lower() for match in _TELLING.finditer(head)}
    return b"received" in found or {b"message-id", b"date"} <= found


def trace(mail: Brought, now: datetime) -> bytes:
    """Return the field by which a server says that a mail passed it (RFC 5321, section 4.4).

    It stands above all that the sender wrote. No results of authentication below it are
    believed, since the server that it names is not one of Exchange Online's.
    """
    helo = mail.helo if _HELO.fullmatch(mail.helo) else "unknown"
    when = format_datetime(now)
    return (
        f"Received: from {helo} ([{mail.client}])\r\n"
        f"\tby mailbridge with {mail.protocol}; {when}\r\n"
    ).encode()
