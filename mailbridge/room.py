"""Bounds on what is held in memory at once, over all mailboxes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


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
