"""The store: everything that must survive a crash, behind methods of one transaction each."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy as sa
import structlog

from mailbridge.errors import StoreFull, StoreRefused
from mailbridge.model import (
    Accepted,
    Batch,
    Checkpoint,
    Delivery,
    Fingerprint,
    Gap,
    MessageRef,
    Notice,
    Resolution,
)
from mailbridge.store import incoming, outgoing, schema
from mailbridge.store.engine import Address, Database, Mode
from mailbridge.store.files import Lock, Reserve
from mailbridge.store.tables import SCHEMA, micros, moment_or_none
from mailbridge.store.translate import translated

T = TypeVar("T")

log = structlog.get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class Store:
    """Implements ``IntakeStore`` and ``DispatchStore``; made by ``Store.open``.

    A method that returned is durable: no crash and no power cut undoes it. A method that raised
    has changed nothing, except that a connection to PostgreSQL lost during the commit leaves
    open whether it happened; every method may then simply be called again.

    Errors: ``StoreFull`` (nothing stored; try later), ``TemporaryError`` and its kinds (try
    later), ``StoreRefused`` (do not go on; with ``code`` ``store.io`` end the process).
    """

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        owner: str,
        lock: Lock | None,
        reserve: Reserve | None,
    ) -> None:
        self._database = database
        self._now = now
        self._owner = owner
        self._lock = lock
        self._reserve = reserve
        self._background: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(  # noqa: PLR0913 - settings, all by keyword
        cls,
        url: str,
        *,
        now: Callable[[], datetime] = _utc_now,
        owner: str = "",
        mode: Mode = "write",
        upgrade: bool = True,
        synchronous: str = "FULL",
    ) -> Store:
        """Open the database at ``url``, created and upgraded if need be, and recover.

        ``mode="read"`` opens it beside a running daemon: nothing can be written. ``owner``
        names this process in claims. ``synchronous`` is for tests that prove what it is worth.
        Raises ``StoreRefused`` for a database that is held by another process, damaged,
        missing (to read), of a newer or, without ``upgrade``, of an older schema.
        """
        address = Address.parse(url)
        loop = asyncio.get_running_loop()
        lock = reserve = None
        try:
            if address.file:
                prepare = _prepare_to_write if mode == "write" else _prepare_to_read
                lock, reserve = await loop.run_in_executor(None, prepare, address, now)
            database = Database(address, mode=mode, synchronous=synchronous)
        except BaseException:
            _release(lock)
            raise
        store = cls(database, now=now, owner=owner or _this_process(), lock=lock, reserve=reserve)
        try:
            await store._begin(mode, upgrade=upgrade)
        except BaseException:
            await store.close()
            raise
        return store

    async def _begin(self, mode: Mode, *, upgrade: bool) -> None:
        found = await self._database.run(schema.version)
        schema.refuse_newer(found)
        if found != SCHEMA:
            if mode == "read" or not upgrade:
                raise StoreRefused(
                    f"the database has schema {found or 'none'}, this mailbridge needs {SCHEMA}",
                    code="store.older",
                    fix="run `mailbridge db upgrade`",
                )
            await self._database.run(lambda connection: schema.upgrade(connection, self._now()))
        if mode == "write" and self._lock:
            # The lock is ours, so whoever claimed these is dead: no need to wait for a lease.
            rescued = await self._run(
                lambda connection, now: outgoing.rescue(connection, now, every=True)
            )
            if rescued:
                log.info("store.rescued", deliveries=rescued)

    async def close(self) -> None:
        """Wait for what is running, close the database, give the lock back."""
        if self._background:
            await asyncio.wait(self._background)
        await self._database.close()
        _release(self._lock)
        self._lock = None

    @property
    def commits(self) -> int:
        """Transactions committed since it was opened."""
        return self._database.commits

    async def _run(self, work: Callable[[sa.Connection, int], T], *, again: bool = False) -> T:
        """Run a transaction; on a full disk give the reserve free and run it once more."""
        now = micros(self._now())
        try:
            return await self._database.run(lambda connection: work(connection, now), again=again)
        except StoreFull:
            if not self._reserve or not await self._database.call(self._reserve.release):
                raise
            return await self._database.run(lambda connection: work(connection, now), again=again)

    # -- intake ---------------------------------------------------------------------------

    async def checkpoint(self, mailbox: str, folder: str) -> Checkpoint | None:
        """Return how far the folder was read, ``None`` before the first look."""
        return await self._run(
            lambda connection, _: incoming.checkpoint(connection, mailbox, folder)
        )

    async def gaps_due(self, mailbox: str, folder: str, now: datetime) -> Sequence[Gap]:
        """Return the gaps whose next try is due at ``now``, the longest waiting first."""
        return await self._run(
            lambda connection, _: incoming.gaps_due(connection, mailbox, folder, micros(now))
        )

    async def fingerprints(
        self, mailbox: str, folder: str, uidvalidity: int
    ) -> Sequence[Fingerprint]:
        """Return what the messages of one epoch are recognised by, in the order of their UIDs."""
        return await self._run(
            lambda connection, _: incoming.fingerprints(connection, mailbox, folder, uidvalidity)
        )

    async def accept(self, batch: Batch, *, address: str, settles: bool) -> Accepted:
        """Make a batch durable in one commit; see ``IntakeStore.accept``.

        Raises ``StoreFull`` already while the disk is nearly full, so that what was accepted
        before can still be delivered and written down.
        """
        reserve, now = self._reserve, micros(self._now())

        def work(connection: sa.Connection) -> Accepted:
            if reserve:
                reserve.admit()
            return incoming.accept(connection, batch, address=address, settles=settles, now=now)

        try:
            return await self._database.run(work, again=True)
        except StoreFull:
            if reserve:
                await self._database.call(reserve.release)
            raise

    async def unsettled(self, mailbox: str, folder: str, limit: int) -> Sequence[MessageRef]:
        """Return accepted messages that the server has not been told about, oldest first."""
        return await self._run(
            lambda connection, _: incoming.unsettled(connection, mailbox, folder, limit)
        )

    async def settled(self, refs: Sequence[MessageRef]) -> None:
        """Remember that the server has been told."""
        await self._run(lambda connection, now: incoming.settled(connection, refs, now))

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Queue events that are not mails for these sinks; a known ``Notice.id`` is ignored."""
        await self._run(
            lambda connection, now: incoming.notify(connection, notices, sinks, now), again=True
        )

    # -- dispatch -------------------------------------------------------------------------

    async def claim(
        self, sink: str, *, limit: int, max_bytes: int, lease: float, alone: bool = False
    ) -> Sequence[Delivery]:
        """Take deliveries that are due; see ``DispatchStore.claim``.

        A caller that is cancelled while it waits holds nothing: what was claimed for it is
        given back as soon as the claim is through.
        """
        wanted = outgoing.Wanted(limit=limit, max_bytes=max_bytes, lease=lease, alone=alone)
        running = asyncio.ensure_future(
            self._run(
                lambda connection, now: outgoing.claim(connection, sink, wanted, self._owner, now)
            )
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            undo = asyncio.ensure_future(self._give_back(running))
            self._background.add(undo)
            undo.add_done_callback(self._background.discard)
            raise

    async def _give_back(self, running: asyncio.Future[list[Delivery]]) -> None:
        try:
            await self.release(await running)
        except Exception as error:  # noqa: BLE001 - nobody waits; the lease ends by itself
            log.warning("store.claim_not_given_back", error=str(error))

    async def renew(self, deliveries: Sequence[Delivery], *, lease: float) -> None:
        """Prolong the leases of claims still in hand (heartbeat)."""
        await self._run(
            lambda connection, now: outgoing.renew(connection, deliveries, lease=lease, now=now)
        )

    async def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolution]:
        """Write what attempts came to, in one commit; returns those whose claim still held."""
        return await self._run(
            lambda connection, now: outgoing.resolve(connection, resolutions, now)
        )

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back claims that were not attempted (clean stop); they are due at once."""
        await self._run(lambda connection, _: outgoing.release(connection, deliveries))

    async def next_due(self, sink: str) -> datetime | None:
        """Return when the next queued delivery of the sink is due, ``None`` when none waits."""
        return moment_or_none(
            await self._run(lambda connection, _: outgoing.next_due(connection, sink))
        )

    async def rescue(self) -> int:
        """Queue again what is claimed under an expired lease; returns how many."""
        return await self._run(outgoing.rescue)


def _prepare_to_write(
    address: Address, now: Callable[[], datetime]
) -> tuple[Lock | None, Reserve | None]:
    """Take the lock, then look at the file, then create it: nobody else can be doing the same."""
    file = address.file
    assert file is not None  # noqa: S101 - for the type checker; the caller has asked
    with translated(address.shown):
        lock = Lock(file)
        try:
            if schema.look_at_sqlite(file):
                file.chmod(0o600)
            else:
                schema.create_sqlite(file, now())
            return lock, Reserve(file)
        except BaseException:
            lock.release()
            raise


def _prepare_to_read(
    address: Address, _now: Callable[[], datetime]
) -> tuple[Lock | None, Reserve | None]:
    file = address.file
    assert file is not None  # noqa: S101 - for the type checker; the caller has asked
    with translated(address.shown):
        if not schema.look_at_sqlite(file):
            raise StoreRefused(
                f"there is no database at {file}",
                code="store.missing",
                fix="start the daemon once, or check state.database",
            )
    return None, None


def _release(lock: Lock | None) -> None:
    if lock:
        lock.release()
