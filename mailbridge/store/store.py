"""The store: everything that must survive a crash, behind methods of one transaction each."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar, Unpack

import sqlalchemy as sa
import structlog

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
from mailbridge.store import (
    care,
    counting,
    enqueue,
    handing,
    lookup,
    outcomes,
    outgoing,
    queue,
    rescue,
    retention,
    rows,
    schema,
    standing,
    uidls,
)
from mailbridge.store.access import Access
from mailbridge.store.bringing import Bringing
from mailbridge.store.engine import Mode
from mailbridge.store.files import this_process
from mailbridge.store.grants import Grants
from mailbridge.store.outages import Outages
from mailbridge.store.probes import Probes
from mailbridge.store.sealing import Key
from mailbridge.store.sends import Sends
from mailbridge.store.tables import micros, moment_or_none, utc_now
from mailbridge.store.tail import Tail

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Store:
    """Implements ``IntakeStore``, ``DispatchStore``; the rest: ``grants``, ``outages``, ``sends``.

    A method that returned is durable: no crash and no power cut undoes it. A method that raised
    has changed nothing, except that a connection to PostgreSQL lost during the commit leaves
    open whether it happened; every method may then simply be called again.

    Errors: ``StoreFull`` (nothing stored; try later), ``TemporaryError`` and its kinds (try
    later), ``StoreRefused`` (do not go on; with ``code`` ``store.io`` end the process).
    """

    def __init__(
        self, access: Access, *, now: Callable[[], datetime], owner: str, grants: Grants
    ) -> None:
        self._access = access
        self.grants = grants
        self._now = now
        self._owner = owner
        self._walk = retention.Walk()
        self._background: set[asyncio.Future[None]] = set()
        self.outages = Outages(self._run)
        self.probes = Probes(access, self._run)
        self.sends = Sends(access, now, self._background)
        self._bringing = Bringing(access, now, self._background)

    @classmethod
    async def open(  # noqa: PLR0913 - settings, all by keyword
        cls,
        url: str,
        *,
        now: Callable[[], datetime] = utc_now,
        owner: str = "",
        mode: Mode = "write",
        keys: Sequence[Key] | None = None,
        upgrade: bool = True,
        synchronous: str = "FULL",
    ) -> Store:
        """Open the database at ``url``, created and upgraded if need be, and recover.

        ``mode="read"`` opens it beside a running daemon: nothing can be written. ``owner``
        names this process in claims. ``keys`` (``sealing.ring``) are those of ``state.key``, grants
        are brought under the first; ``None`` is for whoever leaves grants alone. ``synchronous``
        is for tests that prove what it is worth. Raises ``StoreRefused`` for a database that is
        held by another process, damaged, missing (to read), of a newer or, without ``upgrade``,
        of an older schema, or whose grants are under another key.
        """
        access = await Access.open(url, now=now, mode=mode, synchronous=synchronous)
        grants = Grants(access, keys)
        store = cls(access, now=now, owner=owner or this_process(), grants=grants)
        try:
            await access.prepare_schema(upgrade=upgrade and mode == "write")
            await grants.prepare(mode)
            if access.alone:
                # The lock is ours, so whoever claimed these is dead: no need to wait for a lease.
                back = functools.partial(rescue.take_back, every=True)
                if rescued := await store._run(back):
                    log.info("store.rescued", deliveries=rescued)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Wait for what is running, close the database, give the lock back; may be repeated."""
        if self._background:
            await asyncio.wait(self._background)
        await self._access.close()

    @property
    def commits(self) -> int:
        """Transactions committed since it was opened."""
        return self._access.database.commits

    def on_commit(self, observe: Callable[[float], None]) -> None:
        """Tell ``observe`` the seconds that each commit takes, from the thread that makes it."""
        self._access.database.on_commit = observe

    async def _run(self, work: Callable[[sa.Connection, int], T], *, again: bool = False) -> T:
        now = micros(self._now())
        return await self._access.run(lambda connection: work(connection, now), again=again)

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._access.reading().run(work)

    async def checkpoint(self, mailbox: str, folder: str) -> Checkpoint | None:
        """Return how far the folder was read, ``None`` before the first look."""
        return await self._run(lambda it, _: standing.checkpoint(it, mailbox, folder))

    async def gaps_due(self, mailbox: str, folder: str, now: datetime) -> Sequence[Gap]:
        """Return the gaps whose next try is due at ``now``, the longest waiting first."""
        return await self._run(
            lambda connection, _: standing.gaps_due(connection, mailbox, folder, micros(now))
        )

    async def fingerprints(
        self, mailbox: str, folder: str, uidvalidity: int
    ) -> Sequence[Fingerprint]:
        """Return what the messages of one epoch are recognised by, in the order of their UIDs."""
        return await self._run(
            lambda it, _: standing.fingerprints(it, mailbox, folder, uidvalidity)
        )

    async def unknown(
        self, mailbox: str, folder: str, uidvalidity: int, uids: Sequence[int]
    ) -> Sequence[int]:
        """Return those of ``uids`` that are neither stored, nor remembered, nor a gap."""
        return await self._run(
            lambda connection, _: standing.unknown(connection, mailbox, folder, uidvalidity, uids)
        )

    async def uidls(self, mailbox: str, folder: str) -> Mapping[str, bool]:
        """Return every POP3 UIDL that was dealt with, and whether the server lists it no more."""
        return await self._read(lambda connection: uidls.known(connection, mailbox, folder))

    async def accept(self, batch: Batch, *, address: str, settles: bool) -> Accepted:
        """Make a batch durable in one commit; see ``IntakeStore.accept``.

        Raises ``StoreFull`` already while the disk is nearly full, so that what was accepted
        before can still be delivered and written down.
        """
        return await self._bringing.accept(batch, address=address, settles=settles)

    async def unsettled(self, mailbox: str, folder: str, limit: int) -> Sequence[MessageRef]:
        """Return accepted messages that the server has not been told about, oldest first."""
        return await self._run(lambda it, _: standing.unsettled(it, mailbox, folder, limit))

    async def settled(self, refs: Sequence[MessageRef]) -> None:
        """Remember that the server has been told."""
        await self._run(lambda connection, now: standing.settled(connection, refs, now))

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Queue events that are not mails for these sinks; a known ``Notice.id`` is ignored."""
        await self._run(
            lambda connection, now: enqueue.notify(connection, notices, sinks, now), again=True
        )

    async def claim(self, sink: str, **asked: Unpack[outgoing.Asked]) -> Sequence[Delivery]:
        """Take deliveries that are due; see ``DispatchStore.claim``.

        A caller that is cancelled while it waits holds nothing: what was claimed for it is
        given back as soon as the claim is through.
        """
        wanted = outgoing.Wanted(**asked)
        taking = self._run(
            lambda connection, now: outgoing.claim(connection, sink, wanted, self._owner, now)
        )
        return await handing.over(taking, self.release, self._background)

    async def renew(self, deliveries: Sequence[Delivery], *, lease: float) -> None:
        """Prolong the leases of claims still in hand (heartbeat)."""
        await self._run(
            lambda connection, now: outgoing.renew(connection, deliveries, lease=lease, now=now)
        )

    async def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolution]:
        """Write what attempts came to, in one commit; returns those whose claim still held."""
        if all(one.delivery.send is not None for one in resolutions):
            return await self.sends.resolve(resolutions)
        return await self._run(
            lambda connection, now: outcomes.resolve(connection, resolutions, now)
        )

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back claims that were not attempted (clean stop); they are due at once."""
        await self._run(lambda connection, _: outgoing.release(connection, deliveries))

    async def next_due(self, sink: str, *, ordered: bool = False) -> datetime | None:
        """Return when the next queued delivery of the sink is due, ``None`` when none waits."""
        return moment_or_none(
            await self._run(lambda found, _: outgoing.next_due(found, sink, ordered=ordered))
        )

    async def rescue(self, *, listeners: enqueue.Listeners | None = None) -> int:
        """Queue again what is claimed under an expired lease; see ``rescue.rescue``."""
        return await self._run(functools.partial(rescue.rescue, listeners=listeners), again=True)

    async def messages(self, **filters: Unpack[lookup.Filters]) -> Sequence[rows.MessageRow]:
        """Return the mail log, newest first; ``before`` and ``after`` are ``MessageRow.number``."""
        return await self._read(lambda it: lookup.read_messages(it, lookup.Wanted(**filters)))

    def tail(self, **filters: Unpack[lookup.Filters]) -> Tail:
        """Return what follows the mail log as it grows."""
        return Tail(self._read, lookup.Wanted(**filters))

    async def trace(self, name: str) -> rows.Trace:
        """Return all about a webhook-id, a Message-ID (bare or in ``<>``) or a delivery number."""
        return await self._read(lambda connection: lookup.trace(connection, name))

    async def raw(self, name: str) -> bytes | None:
        """Return the raw bytes of a message by its webhook-id, ``None`` when they are not here."""
        return await self._read(lambda connection: lookup.raw_bytes(connection, name))

    async def deliveries(
        self, *, state: rows.ShownState | None = None, sink: str | None = None, limit: int = 100
    ) -> Sequence[rows.DeliveryRow]:
        """Return deliveries of one state, by default all that are not over."""
        return await self._read(
            lambda connection: lookup.read_deliveries(connection, state, sink, limit)
        )

    async def counts(self) -> rows.Counts:
        """Return what waits for each sink, and where each folder stands."""
        return await self._read(counting.counts)

    async def requeue(
        self,
        ids: Sequence[int | str] | None = None,
        *,
        all_dead: bool = False,
        sink: str | None = None,
    ) -> int:
        """Queue dead and held deliveries anew, by number or event id, or ``all_dead`` ones.

        Waiting ones among ``ids`` become due now. Returns how many; raises ``PermanentError``
        when retention has removed the raw bytes of one.
        """
        if all_dead:
            return await self._run(
                lambda connection, now: queue.requeue_dead(connection, sink, now)
            )
        names = [str(name) for name in ids or ()]
        return await self._run(lambda connection, now: queue.requeue(connection, names, now))

    async def drop(self, ids: Sequence[int | str]) -> int:
        """Drop deliveries that wait, are held or dead, by number or event id; returns how many."""
        names = [str(name) for name in ids]
        return await self._run(lambda connection, now: queue.drop(connection, names, now))

    async def replay(
        self,
        ids: Sequence[str] | None = None,
        *,
        mailbox: str | None = None,
        since: datetime | None = None,
        sink: str | None = None,
        sinks: Sequence[str] | None = None,
    ) -> int:
        """Deliver events again under their ids; returns how many deliveries are queued for it.

        ``sink`` (or each of ``sinks``) gets them; without either, wherever each went before.
        Where one still waits it is not queued twice; a dead letter is superseded. Raises
        ``PermanentError``, and queues nothing, when retention has removed raw bytes.
        """
        wanted = queue.Again(
            ids=tuple(ids or ()),
            mailbox=mailbox,
            since=since,
            sinks=sinks if sink is None else (sink,),
        )
        return await self._run(lambda connection, now: queue.replay(connection, wanted, now))

    async def purge(
        self,
        *,
        delivered_before: datetime,
        dead_before: datetime,
        log_before: datetime,
        limit: int = 500,
    ) -> rows.Purged:
        """Take one bounded step of retention; call again while ``more``.

        Raw bytes go when every delivery is over since before these moments; an open delivery
        is never removed, whatever its age.
        """
        limits = retention.Limits(
            delivered_before=micros(delivered_before),
            dead_before=micros(dead_before),
            log_before=micros(log_before),
            limit=limit,
        )
        walk = self._walk
        done, self._walk = await self._run(
            lambda connection, now: retention.purge(connection, limits, walk, now)
        )
        return done

    async def backup(self, file: Path) -> None:
        """Write a consistent copy of a SQLite database, 0600 and durable, while others write."""
        reader = self._access.reading()
        await reader.call(lambda: care.backup(reader.address.file, file))

    async def check(self) -> Sequence[str]:
        """Search the database for damage; returns a sentence for each fault."""
        return await self._read(care.check)

    async def schema_version(self) -> str | None:
        """Return the revision of the schema."""
        return await self._read(schema.version)
