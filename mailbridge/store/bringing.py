"""Taking in mails: a batch in one commit; those that are brought one by one share one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa

from mailbridge.model import Accepted, Batch
from mailbridge.store import incoming
from mailbridge.store.access import Access
from mailbridge.store.tables import micros
from mailbridge.store.together import Together


class Bringing:
    """``IntakeStore.accept``. What comes by SMTP comes alone, and from many at the same time."""

    def __init__(
        self,
        access: Access,
        now: Callable[[], datetime],
        background: set[asyncio.Future[None]],
    ) -> None:
        self._access = access
        self._now = now
        self._together = Together(access.admit, self._write, background)

    async def accept(self, batch: Batch, *, address: str, settles: bool) -> Accepted:
        """Make a batch durable; see ``IntakeStore.accept``."""
        if settles or any(one.ref.protocol != "smtp" for one in batch.messages):
            now = micros(self._now())
            return await self._access.admit(
                lambda connection: incoming.accept(
                    connection, batch, address=address, settles=settles, now=now
                )
            )
        size = sum(len(one.raw) for one in batch.messages)
        return await self._together.run((batch, address), size=size)

    def _write(
        self, connection: sa.Connection, items: Sequence[tuple[Batch, str]]
    ) -> list[Accepted]:
        now = micros(self._now())
        return [
            incoming.accept(connection, batch, address=address, settles=False, now=now)
            for batch, address in items
        ]
