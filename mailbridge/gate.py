"""The gate in front of a sink: attempts pass it as its breaker allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailbridge.breaker import Breaker, Change
from mailbridge.model import Outcome


class Gate:
    """Lets attempts through, as many at a time as the breaker allows; ``clock`` is steady."""

    def __init__(self, breaker: Breaker, clock: Callable[[], float]) -> None:
        self.breaker = breaker
        self._clock = clock
        self._under_way = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def shut(self) -> bool:
        """Whether nothing may begin, apart from a probe."""
        return self.breaker.shut(self._clock())

    @property
    def probe_due(self) -> bool:
        """Whether a probe may be made."""
        return self.breaker.probe_due(self._clock())

    @property
    def wait(self) -> float:
        """Seconds until something may begin; 0 when it may now."""
        return self.breaker.wait(self._clock())

    @property
    def claims(self) -> int | None:
        """How many deliveries are worth having in hand; ``None``: as many as there is room for.

        Not many while the breaker is finding out: they would only have to be given back.
        """
        if self.breaker.state == "closed":
            return None
        return 2 * self.breaker.room(self._clock()) if self.breaker.state == "ramping" else 1

    def open(self) -> None:
        """Begin anew, with nothing under way."""
        self._closed = False
        self._under_way = 0
        self.breaker.forget_attempts()

    def close(self) -> None:
        """Let nothing through any more: the daemon stops."""
        self._closed = True
        self._tell()

    async def enter(self) -> int | None:
        """Wait for a place. Returns the epoch for ``leave``; ``None``: give it back unattempted."""
        while not self._closed:
            now = self._clock()
            if self.breaker.shut(now):
                return None
            if self._under_way < self.breaker.room(now):
                self._under_way += 1
                return self.breaker.epoch
            await self._changed.wait()
        return None

    def leave(self, epoch: int, outcome: Outcome | None) -> Change | None:
        """Note what came of an attempt; ``None``: nothing was sent."""
        self._under_way -= 1
        change = self.breaker.saw(outcome, epoch, self._clock())
        self._tell()
        return change

    def _tell(self) -> None:
        # Whoever waits on the old event looks again; a new one takes its place.
        self._changed.set()
        self._changed = asyncio.Event()
