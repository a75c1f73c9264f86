"""The fallback: what one sink has not taken in time goes to another one too.

Only while some webhook has a fallback does this loop run. Which deliveries fall back, and when,
stands in the database, and each does so once, in a transaction: a crash before it changes nothing,
and after it the other sink's delivery is queued as durably as any. The first sink goes on trying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import structlog

from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.store.base import Fallback, FallbackStore

log = structlog.get_logger()

#: seconds between two looks: a dead letter falls back at once, and nobody says so here
EVERY: Final = 1.0


class Fallbacks:
    """Looks every second, and when the next delivery is due to fall back; never scans.

    ``to`` returns, by sink, where to and after how many seconds: a reload may change it.
    ``on_fall_back`` is called when another sink has something new.
    """

    def __init__(
        self,
        *,
        store: FallbackStore,
        to: Callable[[], Mapping[str, Fallback]],
        on_fall_back: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._to = to
        self._on_fall_back = on_fall_back
        self._now = now
        self._trouble = ""

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            seconds = EVERY
            try:
                if to := self._to():
                    seconds = await self._look(to)
                self._trouble = ""
            except StoreRefused:
                raise
            except MailbridgeError as error:
                if self._trouble != error.code:
                    self._trouble = error.code
                    log.warning("store.trouble", work="fallback", error=str(error), code=error.code)
            except Exception:
                # A bug of ours must not end the daemon, whose other work is whole.
                log.exception("fallback.bug")
            await asyncio.sleep(seconds)

    async def _look(self, to: Mapping[str, Fallback]) -> float:
        """Let fall back what is due; returns the seconds until the next look."""
        due = await self._store.next_fall_back()
        left = EVERY if due is None else (due - self._now()).total_seconds()
        if left > 0:
            return min(EVERY, left)
        fell = await self._store.fall_back(to)
        for one in fell:
            log.warning(
                "delivery.fell_back",
                mailbox=one.mailbox,
                event_id=one.event_id,
                sink=one.sink,
                to=one.to,
                made=one.made,
            )
        if any(one.made for one in fell):
            self._on_fall_back()
        return 0.0
