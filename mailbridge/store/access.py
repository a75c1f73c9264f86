"""Access to one database: its transactions, the lock and the reserve beside a SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa

from mailbridge.errors import StoreFull, StoreRefused
from mailbridge.store import schema
from mailbridge.store.engine import Address, Database, Mode, free_inside
from mailbridge.store.opening import Hold, prepare
from mailbridge.store.tables import SCHEMA

T = TypeVar("T")


class Access:
    """Runs transactions and knows what to do about a full disk; made by ``Access.open``.

    For SQLite it holds the lock that makes it the only writer.
    """

    def __init__(self, database: Database, hold: Hold | None, now: Callable[[], datetime]) -> None:
        self.database = database
        self._hold = hold
        self._now = now
        # Commands that read a lot must not make the one writing connection wait. PostgreSQL has
        # connections to spare; for SQLite a second, read-only one is made when it is needed.
        self._reader: Database | None = None if hold else database
        self._unfinished: set[asyncio.Future[None]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls, url: str, *, now: Callable[[], datetime], mode: Mode, synchronous: str
    ) -> Access:
        """Take the lock and open what is at ``url``; see ``Store.open``."""
        address = Address.parse(url)
        hold = None
        if address.file:
            loop = asyncio.get_running_loop()
            hold = await loop.run_in_executor(None, prepare, address.file, mode, now)
        try:
            database = Database(address, mode=mode, synchronous=synchronous)
        except BaseException:
            if hold:
                hold.lock.release()
            raise
        return cls(database, hold, now)

    @property
    def alone(self) -> bool:
        """Whether no other process can be writing here."""
        return self._hold is not None

    async def prepare_schema(self, *, upgrade: bool) -> None:
        """Bring the schema up to date, or refuse a database that is not of our version."""
        found = await self.database.run(schema.version)
        schema.refuse_newer(found)
        if found == SCHEMA:
            return
        if not upgrade:
            raise StoreRefused(
                f"the database has schema {found or 'none'}, this mailbridge needs {SCHEMA}",
                code="store.older",
                fix="run `mailbridge db upgrade`",
            )
        await self.database.run(lambda connection: schema.upgrade(connection, self._now()))

    async def run(self, work: Callable[[sa.Connection], T], *, again: bool = False) -> T:
        """Run a transaction; on a full disk give the reserve free and run it once more."""
        try:
            return await self.database.run(work, again=again)
        except StoreFull:
            if not await self._release_reserve():
                raise
            return await self.database.run(work, again=again)

    async def see_through(self, work: Callable[[sa.Connection], None]) -> None:
        """Run a transaction that happens also when its caller is cancelled while it waits.

        Without this, one that still waits for the thread would be forgotten.
        """
        running = asyncio.ensure_future(self.run(work))
        self._unfinished.add(running)
        running.add_done_callback(self._unfinished.discard)
        await asyncio.shield(running)

    async def admit(self, work: Callable[[sa.Connection], T]) -> T:
        """Run a transaction that takes in mail; on a full disk it is refused, and waits.

        The reserve is not for this: it is given free for writing what came of deliveries.
        """

        def admitted(connection: sa.Connection) -> T:
            if self._hold:
                self._hold.reserve.admit(lambda: free_inside(connection))
            return work(connection)

        try:
            return await self.database.run(admitted, again=True)
        except StoreFull:
            await self._release_reserve()
            raise

    def reading(self) -> Database:
        """Return where long reads run without making writers wait."""
        if self._reader is None:
            self._reader = Database(self.database.address, mode="read", synchronous="FULL")
        return self._reader

    async def close(self) -> None:
        """Close the connections, then give the lock back; may be repeated."""
        if self._closed:
            return
        self._closed = True
        if self._unfinished:
            await asyncio.wait(self._unfinished)
        if self._reader and self._reader is not self.database:
            await self._reader.close()
        await self.database.close()
        if self._hold:
            self._hold.lock.release()

    async def _release_reserve(self) -> bool:
        return self._hold is not None and await self.database.call(self._hold.reserve.release)
