"""POP3 with XOAUTH2 as a source of mail: the one folder of a mailbox that POP3 shows.

Tuned to Exchange Online and valid for any POP3 server with UIDL: short lines, no pipelining
unless it is offered, sizes taken for estimates, nothing deleted before it is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from typing import Any

import structlog

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import named
from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.model import AccessToken, TokenSource
from mailbridge.sources.imap_connection import plain
from mailbridge.sources.imap_driver import session_end
from mailbridge.sources.imap_plan import FetchLimits
from mailbridge.sources.pop3_connection import Connection
from mailbridge.sources.pop3_driver import Driver, Run
from mailbridge.sources.pop3_errors import TRUSTED
from mailbridge.sources.pop3_fetcher import FOLDER, Settling, Start, Watch
from mailbridge.sources.pop3_plan import Suspects
from mailbridge.sources.pop3_session import Pop3Session
from mailbridge.sources.transport import MailServer

__all__ = ["FetchLimits", "Pop3Session", "Pop3Source", "Settling", "Start"]

log = structlog.get_logger(__name__)

#: gives a token that replaces the one which a server refused
Refresh = Callable[[AccessToken], Awaitable[AccessToken]]


class Pop3Source:
    """A ``Source`` for one mailbox; opens sessions one after the other.

    ``token`` gives the token for a new session, ``refresh`` a fresh one when the server
    refuses it. ``run`` runs a blocking function in the shared worker threads. ``fetch_room``
    is entered around every fetch of bodies, so that many mailboxes share a bound on memory.
    ``after`` is what settling does. ``ValueError`` for an address with control characters.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        mailbox: str,
        address: str,
        server: MailServer,
        token: TokenSource,
        refresh: Refresh,
        run: Run,
        now: Callable[[], datetime],
        start: Start = "new",
        after: Settling = "keep",
        limits: FetchLimits | None = None,
        fetch_room: AbstractAsyncContextManager[Any] | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.mailbox = mailbox
        self.folder = FOLDER
        self._address = plain("address", address)
        #: what is filled into the fixes of errors
        self._ids = ids or Ids(mailbox=mailbox, address=address)
        self._server = server
        self._token = token
        self._refresh = refresh
        self._run = run
        self._now = now
        #: when a sign-in succeeded last
        self._worked_at: datetime | None = None
        self._watch = Watch(
            mailbox=mailbox,
            start=start,
            after=after,
            limits=limits or FetchLimits(),
            fetch_room=fetch_room or nullcontext(),
            now=now,
            suspects=Suspects(),
            begun=now(),
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Pop3Session]:
        """Connect and sign in; close on exit whatever happened."""
        driver, token = await self._open()

        async def reopen() -> Driver:
            return (await self._open())[0]

        session = Pop3Session(
            self._watch,
            driver,
            reopen=reopen,
            expires_at=session_end(token.expires_at, self._now()),
        )
        log.debug("session.opened", mailbox=self.mailbox, folder=FOLDER)
        politely = False
        try:
            yield session
            politely = True
        finally:
            await session.close(politely=politely)

    async def _open(self) -> tuple[Driver, AccessToken]:
        token = await self._token()
        try:
            return await self._connect(token), token
        except SignInRejected as rejected:
            if rejected.code not in {"pop3.authenticate_failed", "pop3.basic_auth"}:
                raise
            fresh = await self._refresh(token)
            if fresh.value == token.value:
                raise
            return await self._connect(fresh), fresh

    async def _connect(self, token: AccessToken) -> Driver:
        driver = Driver(Connection(self._server), self._run)
        worked = self._worked_at is not None and self._now() - self._worked_at < TRUSTED
        try:
            await driver.call(driver.connection.start, self._address, token.value, worked)
        except BaseException as error:
            await driver.close(politely=False)
            if isinstance(error, MailbridgeError):
                error.fix = named(error.code, error.fix, self._ids)
            raise
        self._worked_at = self._now()
        return driver
