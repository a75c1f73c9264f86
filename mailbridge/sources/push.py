"""What the IMAP sessions of a process share: who is pushed to, and how many open at a time.

The sockets of all parked sessions are watched in one place, the event loop; what is kept here is
the account of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

#: mailbox and folder
Place = tuple[str, str]

#: sessions that are opened at once; each holds a worker thread
OPENING: Final = 20
#: seconds after which an opening no longer counts among those, and how many may be as slow
SLOW: Final = 3.0
SLOW_ONES: Final = 8
#: openings at once of folders whose last one was slow and failed
DOUBTFUL: Final = 8


class Parking:
    """The account of the sessions that a server pushes to, over all folders."""

    def __init__(self) -> None:
        self._pushed_to: set[Place] = set()

    @property
    def push_sessions(self) -> int:
        """How many sessions hear of new mail from their server."""
        return len(self._pushed_to)

    def is_pushed_to(self, place: Place) -> bool:
        """Whether this folder's session does."""
        return place in self._pushed_to

    def enter(self, place: Place) -> None:
        """Note that a server listens and tells; again and again is once."""
        self._pushed_to.add(place)

    def leave(self, place: Place) -> None:
        """Note that it does not, or no longer."""
        self._pushed_to.discard(place)


class Openings:
    """A bound on the worker threads that are busy with connecting and signing in.

    A server that swallows everything holds a thread until its time limit. So an opening that
    takes long gives its place to others, and a folder whose last opening took long and failed
    has to make do with a few places of its own: dead mailboxes wait for each other, not the
    living ones for them. Altogether no more than 36 threads are busy here.
    """

    def __init__(self, places: int = OPENING, *, slow: float = SLOW) -> None:
        self._places = asyncio.Semaphore(places)
        self._doubtful = asyncio.Semaphore(DOUBTFUL)
        self._slow = slow
        self._slow_places = SLOW_ONES
        self._suspects: set[Place] = set()

    @asynccontextmanager
    async def turn(self, place: Place) -> AsyncIterator[None]:
        """Wait for a place, and hold it while a session is opened."""
        doubtful = place in self._suspects
        holding: AbstractAsyncContextManager[Any] = self._doubtful if doubtful else self._held()
        async with holding:
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                yield
            except BaseException:
                if loop.time() - began >= self._slow:
                    self._suspects.add(place)
                raise
            self._suspects.discard(place)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Hold an ordinary place, and change to one of the slow when it takes long."""
        changed = False

        def change() -> None:
            nonlocal changed
            if self._slow_places:
                self._slow_places -= 1
                changed = True
                self._places.release()

        await self._places.acquire()
        timer = asyncio.get_running_loop().call_later(self._slow, change)
        try:
            yield
        finally:
            timer.cancel()
            if changed:
                self._slow_places += 1
            else:
                self._places.release()
