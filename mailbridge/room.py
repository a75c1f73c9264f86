"""Bounds: on what is held in memory over all mailboxes, on the connections of one mailbox."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Any, Final, Self

from mailbridge.errors import Throttled

#: connections of one mailbox at a time. Exchange Online publishes no limit; on premises it is
#: 16, and others have met the same online, where fast reconnects seem to count, too
CONNECTIONS: Final = 3
#: seconds between two sign-ins of one mailbox
LOGIN_GAP: Final = 1.0
#: sign-ins that may follow so soon upon sessions that ended, whatever ended them: an alarm must
#: not wait longer because the network failed a few times
RETURNS: Final = 6
#: seconds until one more may, and between two sign-ins when all are used up
PER_RETURN: Final = 30.0


class Room:
    """So many may be inside at once, but nobody waits longer than ``patience`` seconds.

    A place may be held by a fetch on a connection that has gone silent, until its timeout. If
    the others waited for that, a few dead mailboxes would stop all the living; so the bound is
    soft, and holds whenever the servers answer.
    """

    def __init__(self, places: int, *, patience: float) -> None:
        self._free = asyncio.Semaphore(places)
        self._patience = patience
        self._inside: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        """Wait for a place, or for the end of patience."""
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            return self
        self._inside.add(self._me())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the place back, if there was one."""
        me = self._me()
        if me in self._inside:
            self._inside.discard(me)
            self._free.release()

    @staticmethod
    def _me() -> asyncio.Task[object]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        return task


class MailboxSlots:
    """The connections of one mailbox, shared by its folders: how many, and how often.

    Each folder needs one of its own. Where there are more folders than ``limit``, the first
    ``limit - 1`` keep theirs, and the others take turns with the last one: they are polled.
    Sign-ins are a second apart. When sessions that were to be kept have ended a few times, one
    comes in half a minute, so that nobody hammers a server that hangs up each time. While the
    server throttles the mailbox, no folder of it signs in.
    """

    def __init__(
        self,
        folders: int = 1,
        *,
        limit: int = CONNECTIONS,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = folders if folders <= limit else limit - 1
        self._shared = asyncio.Semaphore(1)
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._clock = clock
        self._free_at = 0.0
        self._held_until = 0.0
        #: sign-ins that may come soon, and when they were counted last
        self._returns = float(RETURNS)
        self._counted_at = clock()

    def claim(self) -> bool:
        """Give the next folder its place; ``True`` if that is its own and a session may be kept."""
        self._left -= 1
        return self._left >= 0

    def place(self, *, own: bool) -> AbstractAsyncContextManager[Any]:
        """Return what is held while a connection is open; waits for the others without one."""
        return nullcontext() if own else self._shared

    def book(self) -> float:
        """Book the next sign-in; returns the seconds until then, ``check`` follows upon them.

        Raises what ``check`` does.
        """
        self.check()
        now = self._clock()
        at = max(now, self._free_at)
        self._free_at = at + self._jittered(LOGIN_GAP)
        return at - now

    def check(self) -> None:
        """Raise ``Throttled`` while the server has asked this mailbox to wait."""
        left = self._held_until - self._clock()
        if left > 0:
            raise Throttled("the server throttles a folder of this mailbox", retry_after=left)

    def hold(self, seconds: float) -> None:
        """Let no folder of the mailbox sign in for so long: the server asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    def ended(self) -> None:
        """Note that a session ended which was to be kept."""
        now = self._clock()
        earned = (now - self._counted_at) / PER_RETURN
        self._returns, self._counted_at = min(RETURNS, self._returns + earned), now
        soon = self._returns >= 1.0
        self._returns -= soon
        gap = LOGIN_GAP if soon else PER_RETURN
        self._free_at = max(self._free_at, now + self._jittered(gap))

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1.0, 1.25)
