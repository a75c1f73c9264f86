"""Drives a blocking POP3 connection from a task: threads, time limits, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mailbridge.errors import Unavailable
from mailbridge.sources.pop3_connection import Connection

#: runs a blocking function in a worker thread
Run = Callable[..., Awaitable[Any]]

#: seconds for one verb with all that it brings; the socket's own timeout only ends silence
BUDGET: Final = 900.0


class Driver:
    """Drives a connection's blocking verbs, one at a time, in worker threads."""

    def __init__(self, connection: Connection, run: Run, *, budget: float = BUDGET) -> None:
        self.connection = connection
        self._run = run
        self._budget = budget

    async def call(self, verb: Callable[..., Any], *args: object) -> Any:
        """Call a verb; a cancelled task cuts the connection, so that its thread is free soon."""
        try:
            async with asyncio.timeout(self._budget):
                return await self._run(self.connection.exclusively, verb, *args)
        except TimeoutError as exc:
            self.connection.cut()
            raise Unavailable(
                f"the server took longer than {self._budget:.0f} s", code="pop3.timeout"
            ) from exc
        except asyncio.CancelledError:
            self.connection.cut()
            raise

    async def close(self, *, politely: bool) -> None:
        """Close the connection; goes on in its thread even if this task is cancelled."""
        if not politely:
            self.connection.cut()

        def verb() -> None:
            self.connection.close(politely=politely)

        closing = asyncio.ensure_future(self._run(self.connection.exclusively, verb))
        await asyncio.shield(closing)
