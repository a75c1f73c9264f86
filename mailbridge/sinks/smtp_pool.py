"""The connections of one mailbox to its server: a few, used again, and closed when idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from mailbridge.sinks.smtp_session import SmtpSession

#: seconds that an idle connection is kept: mails come in bursts, and Exchange counts sessions
IDLE: Final = 20.0
#: seconds of idleness after which a connection is asked whether it lives
FRESH: Final = 1.0
#: a session whose token has less left is not used again
_MARGIN: Final = timedelta(minutes=1)


class Pool:
    """At most ``most`` sessions, opened by ``opener`` when they are needed.

    A session that was left in the middle of something is closed, never used again. Until it is,
    it counts: the server counts it too.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[SmtpSession]],
        *,
        most: int,
        now: Callable[[], datetime],
        idle: float = IDLE,
    ) -> None:
        self._opener = opener
        self._now = now
        self._idle_seconds = idle
        self._most = most
        self._slots = asyncio.Semaphore(most)
        #: those who have a session, or are about to
        self._users = 0
        #: the one used last comes first: the others grow old and are closed
        self._idle: list[tuple[SmtpSession, float]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[SmtpSession]:
        """Give a session that lives; waits while all are in use."""
        async with self._slots:
            self._users += 1
            try:
                session = await self._taken()
                try:
                    yield session
                except BaseException:
                    self._end(session, politely=False)
                    raise
                if session.usable:
                    self._put(session)
                else:
                    self._end(session, politely=False)
            finally:
                self._users -= 1

    async def close(self) -> None:
        """Close what is idle, and wait until everything is closed."""
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._end(self._idle.pop()[0], politely=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _taken(self) -> SmtpSession:
        while self._idle:
            session, since = self._idle.pop()
            young = session.expires_at - self._now() > _MARGIN
            rested = asyncio.get_running_loop().time() - since > FRESH
            if young and session.usable and (not rested or await session.ready()):
                return session
            self._end(session, politely=not young)
        while self._closing and self._users + len(self._closing) > self._most:
            await asyncio.wait(self._closing, return_when=asyncio.FIRST_COMPLETED)
        return await self._opener()

    def _put(self, session: SmtpSession) -> None:
        loop = asyncio.get_running_loop()
        self._idle.append((session, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(self._idle_seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long; they lie in the order of their last use."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._idle and loop.time() - self._idle[0][1] >= self._idle_seconds:
            self._end(self._idle.pop(0)[0], politely=True)
        if self._idle:
            due = self._idle[0][1] + self._idle_seconds
            self._timer = loop.call_at(due, self._sweep)

    def _end(self, session: SmtpSession, *, politely: bool) -> None:
        """Close in the background: nobody waits for a farewell."""
        task = asyncio.get_running_loop().create_task(session.close(politely=politely))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
