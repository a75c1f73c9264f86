"""When a folder is looked back over: at the first look of a session, and every 15 minutes.

A look-back asks for what lies behind the checkpoint and is not known. In a healthy run there
is nothing: it heals what a restored database, a failover or a bug of ours has dropped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

#: how far back a sweep looks
BACK: Final = timedelta(hours=48)
#: seconds between two sweeps of a folder at most; up to a fifth less, so that those of many
#: folders, which began together, part
EVERY: Final = 900.0
#: sweeps at once over all mailboxes; who finds no place goes on and asks at its next check
AT_ONCE: Final = 4


class Sweeps:
    """What the folders' sweeps share: places, so that a thousand of them come one by one."""

    def __init__(
        self,
        places: int = AT_ONCE,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = asyncio.Semaphore(places)
        self._rng = rng or random.Random()  # noqa: S311 - spreads work, keeps no secret
        self._clock = clock

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self._places.locked()

    def place(self) -> asyncio.Semaphore:
        """Return what is held during a sweep."""
        return self._places

    def next(self) -> float:
        """Return when a folder that is swept now is to be swept again."""
        return self._clock() + EVERY * self._rng.uniform(0.8, 1.0)

    def due(self, at: float) -> bool:
        """Tell whether a sweep that is wanted ``at`` a time can begin."""
        return self._clock() >= at and not self.full


class LookBack:
    """One folder's sweeps: when the next one is due, whatever became of the last."""

    def __init__(self, sweeps: Sweeps) -> None:
        self._sweeps = sweeps
        self._at = 0.0
        self._under_way = False

    @property
    def due(self) -> bool:
        """Whether one is to begin now."""
        return self._sweeps.due(self._at)

    def begin(self) -> asyncio.Semaphore:
        """Begin one; returns the place to hold meanwhile."""
        self._at = self._sweeps.next()
        self._under_way = True
        return self._sweeps.place()

    def end(self, *, more: bool) -> None:
        """Note that it came to its end; with ``more`` to do the next one follows at once."""
        self._under_way = False
        if more:
            self._at = 0.0

    def session_opened(self) -> None:
        """Make one due, since nobody knows what happened between two sessions.

        But when it was a sweep that cost the session, the next one comes at its usual time: the
        folder would otherwise lose every session to it.
        """
        if not self._under_way:
            self._at = 0.0
        self._under_way = False
