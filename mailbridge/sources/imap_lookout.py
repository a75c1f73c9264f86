"""What a session does between two looks: it proves that nothing is new, or waits for news.

All of it happens in the event loop, without a thread. Every change that the server speaks of is
counted (``Wire.changes``), whoever reads it; mail has been looked for once a SEARCH began after
the last change. As long as that is not so, nobody waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from mailbridge.model import Checkpoint
from mailbridge.sources.imap_driver import Driver
from mailbridge.sources.push import Parking, Place

#: seconds in one IDLE: servers hang up after 30 minutes, and some go deaf long before that
#: (docs/exchange-online, "Limits and timing")
IDLE_FOR: Final = 540.0
#: seconds by which a wait may outlast its session
SLACK: Final = 1.0
#: seconds by which a loop's timer may be early
TICK: Final = 0.005
#: searches in one question, while the server keeps saying that something changed
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What a SEARCH beyond ``uid`` brought, and how many changes there were when it began."""

    uid: int
    uids: list[int]
    changes: int


class Lookout:
    """Belongs to one session, which lasts for ``lasts`` seconds and is good for no wait then.

    ``pushes`` says whether IDLE is used; it may turn ``False``.
    """

    def __init__(
        self, driver: Driver, *, push: bool, parking: Parking, place: Place, lasts: float
    ) -> None:
        #: by a clock that nobody sets; whoever counts the same seconds comes here a bit earlier
        self._ends = asyncio.get_running_loop().time() + lasts + SLACK
        self._driver = driver
        self._server = driver.connection
        self._wire = driver.connection.client.wire
        self.pushes = push and driver.connection.client.offers_idle
        self._parking = parking
        self._place = place
        #: the server has told what is new, by SELECT, NOOP or a push, and nobody has looked yet
        self._fresh = True
        #: changes when the last SEARCH for new mail began
        self._heard = -1
        self._found: Found | None = None
        self._looked = False

    # -- looking ------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Let the server say what is new (NOOP), unless it has just done so."""
        if not self._fresh:
            await self._driver.call(self._server.refresh)
        self._fresh = False
        self._looked = True

    async def beyond(self, uid: int) -> list[int]:
        """Return the UIDs above ``uid``; those that a question has just found at once."""
        found, self._found = self._found, None
        self._heard = self._wire.changes
        if found is not None and (found.uid, found.changes) == (uid, self._heard):
            return found.uids
        uids: list[int] = await self._driver.call(self._server.uids, uid + 1)
        return uids

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        """See ``Session``. Raises ``Unavailable`` when there is no answer within 15 s.

        A SEARCH may overlook mail that the server has not told of, and NOOP is what makes it
        tell (RFC 3501, 5.2 and 6.1.2). What is told meanwhile calls for another SEARCH.
        """
        if checkpoint.uidvalidity != self._server.uidvalidity:
            return False
        uid = checkpoint.uid
        if self._looked and checkpoint.since is not None:
            # What lay there at the beginning was looked through, and some of it is not wanted.
            uid = max(uid, checkpoint.baseline_uid)
        line = await self._driver.quiet()
        refresh, self._found, self._fresh = not self._fresh, None, False
        for _ in range(ROUNDS):
            changes = self._wire.changes
            uids = await line.search_from(uid + 1, refresh=refresh)
            refresh = False
            if uids is None:
                return False
            if uids:
                self._found, self._fresh = Found(uid, sorted(set(uids)), changes), True
                return False
            if self._wire.changes == changes:
                self._heard = changes
                return True
        return False

    # -- waiting ------------------------------------------------------------------------------

    async def stand_by(self, woken: asyncio.Event, seconds: float) -> None:
        """See ``Session``; waits for ``seconds`` at most.

        A connection that is lost meanwhile only ends the wait, and whatever is asked next
        raises the reason. IDLE is renewed after nine minutes.
        """
        loop = asyncio.get_running_loop()
        until = min(loop.time() + seconds, self._ends)
        line = await self._driver.quiet()
        line.check()
        heard = self._heard
        while not (
            woken.is_set()
            or line.failure
            or self._wire.changes != heard
            or loop.time() >= until - TICK
        ):
            if not self.pushes:
                await line.wait(woken, until, heard)
            elif not await line.idle(
                woken, min(until, loop.time() + IDLE_FOR), heard, self._parked
            ):
                self.pushes = False
                self._parking.leave(self._place)
        # What the server has told of, it also finds; no need to ask it to look.
        self._fresh = self._fresh or self._wire.changes != heard

    def _parked(self) -> None:
        self._parking.enter(self._place)
