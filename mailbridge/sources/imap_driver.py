"""Drives a blocking connection from a task: threads, time limits, cancellation.

A connection is in one of two hands: of a worker thread, verb by verb (``call``), or of the
event loop (``quiet``), where it stays until the next verb.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final

from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.sources.imap_connection import Connection
from mailbridge.sources.imap_quiet import QuietLine

#: runs a blocking function in a worker thread
Run = Callable[..., Awaitable[Any]]

#: seconds for one command with all that it brings; the socket's own timeout only ends silence
COMMAND_BUDGET: Final = 900.0
#: a session is replaced so long before its token ends, and up to as long again earlier
EARLY: Final = timedelta(minutes=5)


class Driver:
    """Drives a connection's blocking verbs from a task, one at a time, in worker threads."""

    def __init__(self, connection: Connection, run: Run, *, budget: float = COMMAND_BUDGET) -> None:
        self.connection = connection
        self._run = run
        self._budget = budget
        self._quiet: QuietLine | None = None

    async def call(self, verb: Callable[..., Any], *args: object) -> Any:
        """Call a verb; a cancelled task cuts the connection, so that its thread is free soon."""
        self._take_back()
        try:
            async with asyncio.timeout(self._budget):
                return await self._run(self.connection.exclusively, verb, *args)
        except TimeoutError as exc:
            self.connection.cut()
            raise Unavailable(
                f"one command took longer than {self._budget:.0f} s", code="imap.timeout"
            ) from exc
        except asyncio.CancelledError:
            self.connection.cut()
            raise

    async def quiet(self) -> QuietLine:
        """Return the connection as the event loop holds it; no verb is under way then."""
        if self._quiet is None:
            connection = self.connection
            if connection.busy:
                await self.call(lambda: connection.client)
            self._quiet = QuietLine(
                connection.lend(), uidvalidity=connection.uidvalidity, cut=connection.cut
            )
        return self._quiet

    def _take_back(self) -> None:
        if self._quiet is not None:
            self._quiet.hand_back()
            self._quiet = None

    async def close(self, *, politely: bool) -> None:
        """Close the connection; goes on in its thread even if this task is cancelled."""
        try:
            self._take_back()
        except MailbridgeError:
            politely = False  # it is broken, and whoever asked it something has been told why
        if not politely:
            self.connection.cut()

        def verb() -> None:
            self.connection.close(politely=politely)

        closing = asyncio.ensure_future(self._run(self.connection.exclusively, verb))
        await asyncio.shield(closing)


def session_end(token_ends: datetime, now: datetime, share: float = 0.0) -> datetime:
    """Return when a session has to be replaced: 5 to 10 minutes before its token ends.

    All sessions of an app share a token; ``share`` (0 to 1) spreads their ends, so that they
    are not replaced in one second. For a token of short life it is a tenth to a fifth of what
    is left of it, so that a session can be used at all.
    """
    early = min(EARLY, max(timedelta(), (token_ends - now) / 10))
    return token_ends - early * (1.0 + share)


def share_of(mailbox: str, folder: str) -> float:
    """Return the share of a folder for ``session_end``: evenly spread, always the same."""
    return zlib.crc32(f"{mailbox}\n{folder}".encode()) / 2**32
