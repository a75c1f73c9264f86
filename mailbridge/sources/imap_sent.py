r"""Looks whether a mail lies in the sent items, over IMAP and without changing anything.

Exchange Online keeps a copy of what was submitted by SMTP AUTH there, so the copy tells what the
server's lost answer would have told. Servers that only relay keep none: then nothing is found.

::

    sign in ── EXAMINE \Sent ─┬─ SEARCH HEADER Message-ID, X-Mailbridge-Id
                              └─ the newest few, whatever the search says: its index may lag
                                  └── FETCH their Message-IDs ── those that are the same count
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from mailbridge.errors import MailbridgeError, SignInRejected, Unavailable
from mailbridge.model import AccessToken, TokenSource
from mailbridge.sources.imap_connection import Connection, plain
from mailbridge.sources.imap_driver import Driver, Run
from mailbridge.sources.imap_errors import Refused
from mailbridge.sources.transport import MailServer

#: seconds that one look may take, from connecting to the answer
WITHIN: Final = 60.0
#: messages whose Message-ID is read, of those found and of the newest
MOST: Final = 100
NEWEST: Final = 50
_SENT: Final = r"\Sent"

#: gives a token that replaces the one which a server refused
Refresh = Callable[[AccessToken], Awaitable[AccessToken]]


class SentItems:
    """The sent items of those mailboxes that may hold the copy.

    ``addresses`` are the mailbox, and who signs in for it: Exchange keeps the copy with one of
    them or with both. ``run`` runs a blocking function in a worker thread.
    """

    def __init__(
        self,
        *,
        addresses: Iterable[str],
        server: MailServer,
        token: TokenSource,
        refresh: Refresh,
        run: Run,
    ) -> None:
        self._addresses = tuple(dict.fromkeys(plain("address", one) for one in addresses))
        self._server = server
        self._token = token
        self._refresh = refresh
        self._run = run

    async def copies(self, message_id: str, send_id: str) -> int:
        """Return how many copies there are, by Message-ID (in brackets or not) or our own id.

        Raises the errors of ``mailbridge.errors`` when nobody can tell now: a mailbox cannot be
        opened and no other one holds a copy.
        """
        most = 0
        failure: MailbridgeError | None = None
        for address in self._addresses:
            try:
                most = max(most, await self._copies(address, message_id, send_id))
            except MailbridgeError as error:
                failure = failure or error
        if failure is not None and not most:
            raise failure
        return most

    async def _copies(self, address: str, message_id: str, send_id: str) -> int:
        token = await self._token()
        try:
            return await self._look(address, token, message_id, send_id)
        except SignInRejected as rejected:
            if rejected.code != "imap.authenticate_failed":
                raise
            fresh = await self._refresh(token)
            if fresh.value == token.value:
                raise
        return await self._look(address, fresh, message_id, send_id)

    async def _look(self, address: str, token: AccessToken, message_id: str, send_id: str) -> int:
        driver = Driver(Connection(self._server), self._run)
        politely = False
        try:
            async with asyncio.timeout(WITHIN):
                await driver.call(driver.connection.start, address, token.value, _SENT, True)  # noqa: FBT003 - read-only
                found: int = await driver.call(_count, driver.connection, message_id, send_id)
            politely = True
        except TimeoutError as error:
            raise Unavailable(
                f"the sent items could not be read within {WITHIN:.0f} s", code="imap.timeout"
            ) from error
        finally:
            await driver.close(politely=politely)
        return found


def _count(connection: Connection, message_id: str, send_id: str) -> int:
    """Return how many messages of the selected folder are copies of the mail. Blocking."""
    wanted = bare(message_id)
    ours = _found(connection, "X-Mailbridge-Id", send_id)
    alike = _found(connection, "Message-ID", wanted)
    last = connection.last_uid()
    newest = connection.uids(max(1, last - NEWEST)) if last else []
    uids = sorted({*alike[-MOST:], *newest[-NEWEST:]})
    heads = connection.heads(uids) if uids else {}
    same = {uid for uid, head in heads.items() if wanted and bare(head.message_id) == wanted}
    # A search finds parts of words as well; nobody has a part of an id that we made by chance.
    return len(same.union(ours))


def _found(connection: Connection, field: str, value: str) -> Sequence[int]:
    """Return what the server finds; nothing, when it does not search for that."""
    if not value or not value.isascii():
        return ()
    client = connection.client
    client.forget("SEARCH")
    try:
        found: list[int] = connection.ask(
            "search the sent items", client.search, ["HEADER", field, plain("value", value)]
        )
    except Refused as refused:
        if refused.transient:
            raise
        return ()
    return sorted(found)


def bare(message_id: str) -> str:
    """Return a Message-ID without its brackets and the space around it."""
    return message_id.strip().removeprefix("<").removesuffix(">").strip()
