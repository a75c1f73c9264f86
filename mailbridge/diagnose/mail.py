"""What ``test-mailbox`` does on a mail server, by the verbs that the daemon itself uses.

Nothing is changed there: folders are opened read-only, one header is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Protocol

from mailbridge.config import Mailbox
from mailbridge.diagnose.finding import Fault
from mailbridge.model import AccessToken
from mailbridge.sources import imap_connection, pop3_connection
from mailbridge.sources.pop3_errors import TOKEN_LIMIT
from mailbridge.sources.pop3_plan import received_at
from mailbridge.sources.transport import MailServer

Run = Callable[..., Awaitable[Any]]

#: the application permission of each protocol
ROLES: Final = {
    "imap": "IMAP.AccessAsApp",
    "pop3": "POP.AccessAsApp",
    "smtp": "SMTP.SendAsApp",
}

#: and what a person consents to
SCOPES: Final = {
    "imap": "IMAP.AccessAsUser.All",
    "pop3": "POP.AccessAsUser.All",
    "smtp": "SMTP.Send",
}


class Probe(Protocol):
    """A ``Protocol``: the steps of one mail protocol, called in this order; each says what it saw.

    They raise ``Fault`` and the errors of ``mailbridge.errors``.
    """

    async def starttls(self) -> str:
        """Connect and change to TLS, as the daemon does."""

    async def sign_in(self, token: AccessToken) -> str:
        """Connect and sign in."""

    async def folder(self) -> str:
        """Open every folder that is watched."""

    async def header(self) -> str:
        """Read the header of the newest message."""

    async def push(self) -> str:
        """Tell how new mail is noticed."""

    async def close(self) -> None:
        """Close the connection, if there is one."""


def probe(mailbox: Mailbox, server: MailServer, run: Run) -> Probe:
    """Return the probe of a mailbox's protocol; ``run`` runs what blocks in a thread."""
    return (Pop3Probe if mailbox.fetch.protocol == "pop3" else ImapProbe)(mailbox, server, run)


def _every(mailbox: Mailbox) -> str:
    fetch = mailbox.fetch
    return f"by cron {fetch.cron}" if fetch.cron else f"every {fetch.every.total_seconds():.0f} s"


def _at(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "an unknown time"


class ImapProbe:
    """See ``Probe``."""

    def __init__(self, mailbox: Mailbox, server: MailServer, run: Run) -> None:
        self._mailbox, self._run = mailbox, run
        self._server = server
        self._connection = imap_connection.Connection(server)

    async def starttls(self) -> str:
        """See ``Probe``."""
        connection = imap_connection.Connection(self._server)
        await self._run(connection.open)
        await self._run(connection.close, politely=True)
        return "STARTTLS, certificate trusted"

    async def sign_in(self, token: AccessToken) -> str:
        """See ``Probe``."""
        await self._run(self._connection.open)
        await self._run(self._connection.sign_in, self._mailbox.address, token.value)
        return f"signed in to {self._mailbox.address} by XOAUTH2"

    async def folder(self) -> str:
        """See ``Probe``."""
        connection, opened = self._connection, []
        for folder in self._mailbox.fetch.folders:
            await self._run(connection.select, folder, readonly=True)
            opened.append(
                f"{folder}: {connection.exists} messages, UIDVALIDITY {connection.uidvalidity}, "
                f"UIDNEXT {connection.uidnext}"
            )
        return "; ".join(opened)

    async def header(self) -> str:
        """See ``Probe``."""
        last = await self._run(self._connection.last_uid)
        if not last:
            return "the folder is empty, so there is nothing to read"
        heads = await self._run(self._connection.heads, [last])
        if last not in heads:
            raise Fault(
                f"the server gives nothing for UID {last}", code="imap.no_data", warning=True
            )
        head = heads[last]
        return f"UID {last}, received {_at(head.received_at)}, {head.size} bytes"

    async def push(self) -> str:
        """See ``Probe``."""
        if not self._mailbox.fetch.push:
            return f"switched off; looked at {_every(self._mailbox)}"
        if self._connection.client.has_capability("IDLE"):
            return f"the server offers IDLE; looked at {_every(self._mailbox)} as well"
        raise Fault(
            f"the server offers no IDLE, so the mailbox is looked at {_every(self._mailbox)}",
            code="imap.no_idle",
            fix=f"nothing is lost; shorten mailboxes.*.fetch.every if {_every(self._mailbox)} "
            "is too seldom",
            warning=True,
        )

    async def close(self) -> None:
        """See ``Probe``."""
        await self._run(self._connection.close, politely=True)


class Pop3Probe:
    """See ``Probe``."""

    def __init__(self, mailbox: Mailbox, server: MailServer, run: Run) -> None:
        self._mailbox, self._run = mailbox, run
        self._server = server
        self._connection = pop3_connection.Connection(server)
        self._last = 0

    async def starttls(self) -> str:
        """See ``Probe``."""
        connection = pop3_connection.Connection(self._server)
        await self._run(connection.open)
        await self._run(connection.close, politely=True)
        return "STLS, certificate trusted"

    async def sign_in(self, token: AccessToken) -> str:
        """See ``Probe``."""
        address = self._mailbox.address
        await self._run(self._connection.open)
        await self._run(self._connection.sign_in, address, token.value, worked_before=False)
        length = len(token.value)
        if length > TOKEN_LIMIT:
            raise Fault(
                f"signed in, but the token has {length:,} characters",
                code="pop3.token_long",
                fix=f"some of Exchange Online's POP3 front ends refuse more than {TOKEN_LIMIT:,}: "
                "make it shorter (fewer groups and optional claims), or use IMAP",
                warning=True,
            )
        return f"signed in to {address} by XOAUTH2, token of {length:,} characters"

    async def folder(self) -> str:
        """See ``Probe``."""
        listing = await self._run(self._connection.listing)
        numbers = [number for copies in listing.numbers.values() for number in copies]
        self._last = max(numbers, default=0)
        return f"the inbox: {len(numbers)} messages, with unique ids (UIDL)"

    async def header(self) -> str:
        """See ``Probe``."""
        if not self._last:
            return "the inbox is empty, so there is nothing to read"
        heads = await self._run(self._connection.heads, [self._last])
        if self._last not in heads:
            raise Fault(
                f"the server gives no header of message {self._last}",
                code="pop3.no_data",
                warning=True,
            )
        return f"message {self._last}, received {_at(received_at(heads[self._last]))}"

    async def push(self) -> str:
        """See ``Probe``."""
        return f"POP3 has none; looked at {_every(self._mailbox)}"

    async def close(self) -> None:
        """See ``Probe``."""
        await self._run(self._connection.close, politely=True)
