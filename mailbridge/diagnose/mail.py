"""What ``test-mailbox`` does on a mail server, by the verbs that the daemon itself uses.

Nothing is changed there: folders are opened read-only, headers are read. Looking for a test mail
means: what lies there beyond what lay there before, and has its Message-ID.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from mailbridge.config import Mailbox
from mailbridge.diagnose.finding import Fault, Told
from mailbridge.diagnose.words import told
from mailbridge.model import AccessToken
from mailbridge.sources import imap_connection, pop3_connection
from mailbridge.sources.imap_plan import bare_id
from mailbridge.sources.pop3_errors import TOKEN_LIMIT
from mailbridge.sources.pop3_plan import read_head, received_at
from mailbridge.sources.transport import MailServer

Run = Callable[..., Awaitable[Any]]

#: of the mails that came meanwhile, so many headers are read in one look
NEWEST: Final = 50


class Probe(Protocol):
    """A ``Protocol``: the steps of one mail protocol, called in this order; each says what it saw.

    They raise ``Fault`` and the errors of ``mailbridge.errors``.
    """

    async def starttls(self) -> Told:
        """Connect and change to TLS, as the daemon does."""

    async def sign_in(self, token: AccessToken) -> Told:
        """Connect and sign in."""

    async def folder(self) -> Told:
        """Open every folder that is watched."""

    async def header(self) -> Told:
        """Read the header of the newest message."""

    async def push(self) -> Told:
        """Tell how new mail is noticed."""

    async def arrived(self, token: AccessToken, message_id: str) -> Told | None:
        """Look once for a mail that came since ``folder``; tells where it lies.

        Connects anew where the connection is no more.
        """

    async def close(self) -> None:
        """Close the connection, if there is one."""


def probe(mailbox: Mailbox, server: MailServer, run: Run) -> Probe:
    """Return the probe of a mailbox's protocol; ``run`` runs what blocks in a thread."""
    return (Pop3Probe if mailbox.fetch.protocol == "pop3" else ImapProbe)(mailbox, server, run)


def often(mailbox: Mailbox) -> Told:
    """Return the words for how often a mailbox is looked at."""
    fetch = mailbox.fetch
    if fetch.cron:
        return told("cron", cron=fetch.cron)
    return told("every", seconds=fetch.every.total_seconds())


def _at(moment: datetime | None) -> Told:
    return told("at", at=f"{moment:%Y-%m-%d %H:%M:%S}") if moment else told("at.unknown")


class ImapProbe:
    """See ``Probe``."""

    def __init__(self, mailbox: Mailbox, server: MailServer, run: Run) -> None:
        self._mailbox, self._run = mailbox, run
        self._server = server
        self._connection = imap_connection.Connection(server)
        self._signed_in = False
        #: by folder, the first UID that was not given yet
        self._next: dict[str, int] = {}

    async def starttls(self) -> Told:
        """See ``Probe``."""
        connection = imap_connection.Connection(self._server)
        try:
            await self._run(connection.open)
        finally:
            await self._run(connection.close, politely=True)
        return told("tls.starttls", verb="STARTTLS")

    async def sign_in(self, token: AccessToken) -> Told:
        """See ``Probe``."""
        await self._run(self._connection.open)
        await self._run(self._connection.sign_in, self._mailbox.address, token.value)
        self._signed_in = True
        return told("sign_in.ok", address=self._mailbox.address)

    async def folder(self) -> Told:
        """See ``Probe``."""
        connection, opened = self._connection, []
        for folder in self._mailbox.fetch.folders:
            await self._run(connection.select, folder, readonly=True)
            self._next[folder] = connection.uidnext or await self._run(connection.last_uid) + 1
            said = told(
                "folder.one",
                folder=folder,
                exists=connection.exists,
                uidvalidity=connection.uidvalidity,
                uidnext=connection.uidnext,
            )
            opened.append(told("as_said", said=said))
        return told("as_said", said=opened)

    async def header(self) -> Told:
        """See ``Probe``."""
        last = await self._run(self._connection.last_uid)
        if not last:
            return told("header.empty")
        heads = await self._run(self._connection.heads, [last])
        if last not in heads:
            raise Fault(told("imap.no_data", uid=last), code="imap.no_data", warning=True)
        head = heads[last]
        return told("header.imap", uid=last, at=_at(head.received_at), size=head.size)

    async def push(self) -> Told:
        """See ``Probe``."""
        how_often = often(self._mailbox)
        if not self._mailbox.fetch.push:
            return told("push.off", often=how_often)
        if self._connection.client.has_capability("IDLE"):
            return told("push.ok", often=how_often)
        raise Fault(told("imap.no_idle", often=how_often), code="imap.no_idle", warning=True)

    async def arrived(self, token: AccessToken, message_id: str) -> Told | None:
        """See ``Probe``."""
        if not self._signed_in:
            self._connection = imap_connection.Connection(self._server)
            await self.sign_in(token)
        try:
            for folder, first in self._next.items():
                uid = await self._run(self._look, folder, first, bare_id(message_id))
                if uid:
                    return told("arrival.imap", folder=folder, uid=uid)
        except BaseException:
            await self.close()
            raise
        return None

    def _look(self, folder: str, first: int, wanted: str) -> int:
        """Return the UID of the wanted mail among those from ``first`` on, else 0. Blocking."""
        connection = self._connection
        connection.select(folder, readonly=True)
        new = connection.uids(first)[-NEWEST:]
        heads = connection.heads(new) if new else {}
        return max(
            (uid for uid, head in heads.items() if bare_id(head.message_id) == wanted), default=0
        )

    async def close(self) -> None:
        """See ``Probe``."""
        self._signed_in = False
        await self._run(self._connection.close, politely=True)


class Pop3Probe:
    """See ``Probe``."""

    def __init__(self, mailbox: Mailbox, server: MailServer, run: Run) -> None:
        self._mailbox, self._run = mailbox, run
        self._server = server
        self._connection = pop3_connection.Connection(server)
        self._last = 0
        self._known: frozenset[str] = frozenset()

    async def starttls(self) -> Told:
        """See ``Probe``."""
        connection = pop3_connection.Connection(self._server)
        try:
            await self._run(connection.open)
        finally:
            await self._run(connection.close, politely=True)
        return told("tls.starttls", verb="STLS")

    async def sign_in(self, token: AccessToken) -> Told:
        """See ``Probe``."""
        address = self._mailbox.address
        await self._open(token)
        length = len(token.value)
        if length > TOKEN_LIMIT:
            said = told("pop3.token_long", length=length)
            raise Fault(said, code="pop3.token_long", warning=True)
        return told("sign_in.length", address=address, length=length)

    async def _open(self, token: AccessToken) -> None:
        connection = self._connection
        await self._run(connection.open)
        address = self._mailbox.address
        await self._run(connection.sign_in, address, token.value, worked_before=False)

    async def folder(self) -> Told:
        """See ``Probe``."""
        listing = await self._run(self._connection.listing)
        self._known = frozenset(listing.numbers)
        numbers = [number for copies in listing.numbers.values() for number in copies]
        self._last = max(numbers, default=0)
        return told("folder.pop3", count=len(numbers))

    async def header(self) -> Told:
        """See ``Probe``."""
        if not self._last:
            return told("header.empty.pop3")
        heads = await self._run(self._connection.heads, [self._last])
        if self._last not in heads:
            said = told("pop3.no_data", number=self._last)
            raise Fault(said, code="pop3.no_data", warning=True)
        at = _at(received_at(heads[self._last]))
        return told("header.pop3", number=self._last, at=at)

    async def push(self) -> Told:
        """See ``Probe``."""
        return told("push.pop3", often=often(self._mailbox))

    async def arrived(self, token: AccessToken, message_id: str) -> Told | None:
        """See ``Probe``. What a POP3 session shows was settled when it began: each look is one."""
        await self.close()
        self._connection = pop3_connection.Connection(self._server)
        try:
            await self._open(token)
            listing = await self._run(self._connection.listing)
            new = {
                numbers[-1]: uidl
                for uidl, numbers in listing.numbers.items()
                if uidl not in self._known
            }
            asked = sorted(new)[-NEWEST:]
            heads: Mapping[int, bytes] = {}
            if asked:
                heads = await self._run(self._connection.heads, asked)
        finally:
            await self.close()
        for number, raw in heads.items():
            if read_head(raw).message_id == bare_id(message_id):
                return told("arrival.pop3", uidl=new[number])
        return None

    async def close(self) -> None:
        """See ``Probe``."""
        await self._run(self._connection.close, politely=True)
