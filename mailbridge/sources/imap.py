"""IMAP with XOAUTH2 as a source of mail: one folder of one mailbox.

Tuned to Exchange Online and valid for any IMAP4rev1 server: nothing is enabled, commands
stay short, sizes are taken for estimates, mail is read with ``BODY.PEEK[]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from typing import Any, Final

import structlog

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import named
from mailbridge.errors import MailbridgeError, SessionOver, SignInRejected, Unavailable
from mailbridge.model import AccessToken, TokenSource
from mailbridge.sources.imap_connection import Connection, plain
from mailbridge.sources.imap_driver import Driver, Run, session_end, share_of
from mailbridge.sources.imap_errors import TOKEN_EXPIRED
from mailbridge.sources.imap_fetcher import Settling, Start, Watch
from mailbridge.sources.imap_lookout import Lookout
from mailbridge.sources.imap_plan import FetchLimits, Suspects
from mailbridge.sources.imap_session import ImapSession
from mailbridge.sources.push import Openings, Parking
from mailbridge.sources.transport import MailServer

__all__ = ["FetchLimits", "ImapSession", "ImapSource", "Settling", "Start"]

log = structlog.get_logger(__name__)

#: seconds for connecting, signing in and selecting together: a server that trickles holds a
#: worker thread; Exchange Online takes seconds for each of them on a bad day
OPEN_WITHIN: Final = 90.0

#: gives a token that replaces the one which a server refused
Refresh = Callable[[AccessToken], Awaitable[AccessToken]]


class ImapSource:
    """A ``Source`` for one folder; opens sessions one after the other.

    ``token`` gives the token for a new session, ``refresh`` a fresh one when the server
    refuses it. ``run`` runs a blocking function in the shared worker threads. ``fetch_room``
    is entered around every fetch of bodies, so that many mailboxes share a bound on memory.
    ``after`` is what settling does; ``move_to`` names the folder for ``move``. ``push`` asks for
    IDLE where the server has it. ``parking`` and ``openings`` are shared by all sources.
    ``ValueError`` for a name with control characters.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        mailbox: str,
        address: str,
        folder: str,
        server: MailServer,
        token: TokenSource,
        refresh: Refresh,
        run: Run,
        now: Callable[[], datetime],
        start: Start = "new",
        after: Settling = "keep",
        move_to: str | None = None,
        limits: FetchLimits | None = None,
        fetch_room: AbstractAsyncContextManager[Any] | None = None,
        push: bool = False,
        parking: Parking | None = None,
        openings: Openings | None = None,
        ids: Ids | None = None,
    ) -> None:
        if (after == "move") != bool(move_to):
            raise ValueError("`after: move` and the folder to move to belong together")
        self.mailbox = mailbox
        self.folder = plain("folder", folder)
        self._address = plain("address", address)
        plain("target folder", move_to or "")
        self._server = server
        self._token = token
        self._refresh = refresh
        self._run = run
        self._now = now
        self._push = push
        self._parking = parking or Parking()
        self._openings = openings or Openings()
        self._place = (mailbox, self.folder)
        #: what is filled into the fixes of errors
        self._ids = ids or Ids(mailbox=mailbox, address=address)
        self._watch = Watch(
            mailbox=mailbox,
            folder=folder,
            start=start,
            after=after,
            move_to=move_to or "",
            limits=limits or FetchLimits(),
            fetch_room=fetch_room or nullcontext(),
            now=now,
            suspects=Suspects(),
            begun=now(),
        )

        #: the token whose end the server announced
        self._spent: AccessToken | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ImapSession]:
        """Connect, sign in, select the folder; close on exit whatever happened."""
        token = await self._token()
        if token == self._spent:
            # By our clock it lives, by the server's it does not.
            token = await self._refresh(token)
        try:
            driver = await self._open(token)
        except SignInRejected as rejected:
            if rejected.code != "imap.authenticate_failed":
                raise
            fresh = await self._refresh(token)
            if fresh.value == token.value:
                raise
            token = fresh
            driver = await self._open(token)
        politely = False
        try:
            yield self._session(driver, token)
            politely = True
        except SessionOver as over:
            if over.code == TOKEN_EXPIRED:
                self._spent = token
            raise
        finally:
            self._parking.leave(self._place)
            await driver.close(politely=politely)

    async def _open(self, token: AccessToken) -> Driver:
        driver = Driver(Connection(self._server), self._run)
        readonly = self._watch.after == "keep"
        async with self._openings.turn(self._place):
            try:
                async with asyncio.timeout(OPEN_WITHIN):
                    await driver.call(
                        driver.connection.start, self._address, token.value, self.folder, readonly
                    )
            except BaseException as error:
                await driver.close(politely=False)
                if isinstance(error, TimeoutError):
                    raise Unavailable(
                        f"the session was not open after {OPEN_WITHIN:.0f} s", code="imap.timeout"
                    ) from error
                if isinstance(error, MailbridgeError):
                    error.fix = named(error.code, error.fix, self._ids)
                raise
        return driver

    def _session(self, driver: Driver, token: AccessToken) -> ImapSession:
        now = self._now()
        expires_at = session_end(token.expires_at, now, share_of(*self._place))
        log.info(
            "session.opened",
            mailbox=self.mailbox,
            folder=self.folder,
            uidvalidity=driver.connection.uidvalidity,
            exists=driver.connection.exists,
        )
        lookout = Lookout(
            driver,
            push=self._push,
            parking=self._parking,
            place=self._place,
            lasts=(expires_at - now).total_seconds(),
        )
        return ImapSession(self._watch, driver, lookout, expires_at=expires_at)
