"""The intake of one folder: woken, it fetches, accepts and settles, in this order.

::

    wake ──▶ fetch a batch ──▶ accept (one commit) ──▶ next batch … ──▶ settle what is unsettled

Nothing is told to the server before ``accept`` has returned. What a crash interrupts is done
again: a batch that was not committed is listed again, a settle that was not noted is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Final, cast

import structlog

from mailbridge.health import FolderHealth
from mailbridge.model import Batch, Fingerprint, MessageRef, Notice, derived_id
from mailbridge.sources.base import Known, Session, Source
from mailbridge.store.base import IntakeStore

log = structlog.get_logger()

#: messages settled with one command and one commit
SETTLE_CHUNK: Final = 500


class Intake:
    """One folder. ``live`` runs one session and returns when it has to be replaced.

    Raises the errors of ``mailbridge.errors``; whoever runs it backs off and calls it again.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        source: Source,
        store: IntakeStore,
        address: str,
        sinks: Sequence[str],
        listeners: Sequence[str],
        settles: bool,
        keeps_session: bool,
        health: FolderHealth,
        on_accepted: Callable[[], None],
        ahead: asyncio.Semaphore,
        now: Callable[[], datetime],
    ) -> None:
        self.mailbox = source.mailbox
        self.folder = source.folder
        self.health = health
        self._source = source
        self._store = store
        self._address = address
        self._sinks = tuple(sinks)
        self._listeners = tuple(listeners)
        self._settles = settles
        self._keeps_session = keeps_session
        self._on_accepted = on_accepted
        #: places for batches that are fetched while another is committed, over all folders
        self._ahead = ahead
        self._now = now
        self._woken = asyncio.Event()
        self._woken.set()

    def wake(self) -> None:
        """Ask for a look now; many wakes before the look are one."""
        self.health.wanted(self._now())
        self._woken.set()

    async def live(self) -> None:
        """Wait to be woken, then check; again and again while the session is good."""
        await self._woken.wait()
        self.health.wanted(self._now())
        async with self._source.session() as session:
            await self._check(session)
            while self._keeps_session and await self._woken_before(session.expires_at):
                await self._check(session)

    async def _woken_before(self, moment: datetime) -> bool:
        left = (moment - self._now()).total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left)):
                await self._woken.wait()
        return self._woken.is_set() and self._now() < moment

    async def _check(self, session: Session) -> None:
        """One full look. Only its end proves that the folder is seen."""
        self._woken.clear()
        try:
            checkpoint = await self._store.checkpoint(self.mailbox, self.folder)
            gaps = await self._store.gaps_due(self.mailbox, self.folder, self._now())
            known = Known(checkpoint=checkpoint, gaps=gaps)
            found = session.fetch(known, self)
            async with aclosing(_one_ahead(found, self._ahead)) as batches:
                async for batch in batches:
                    await self._accept(batch)
            await self._settle(session)
        except BaseException:
            # The look that was asked for has not happened; the next session owes it.
            self._woken.set()
            raise
        self.health.proven(self._now())

    async def fingerprints(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """See ``Memory``."""
        return await self._store.fingerprints(self.mailbox, self.folder, uidvalidity)

    async def unknown(self, uidvalidity: int, uids: Sequence[int]) -> Sequence[int]:
        """See ``Memory``."""
        return await self._store.unknown(self.mailbox, self.folder, uidvalidity, uids)

    async def uidls(self) -> Collection[str]:
        """See ``Memory``."""
        return await self._store.uidls(self.mailbox, self.folder)

    async def _accept(self, batch: Batch) -> None:
        if batch.vanished:
            # Before the commit that forgets the gap: its id is derived, so a repeat is harmless.
            notices = [_vanished(ref, self._address, self._now()) for ref in batch.vanished]
            await self._store.notify(notices, self._listeners)
        accepted = await self._store.accept(
            replace(batch, sinks=self._sinks), address=self._address, settles=self._settles
        )
        self.health.progress(self._now(), accepted.new)
        for gap in batch.gaps:
            log.warning(
                "message.gap",
                mailbox=self.mailbox,
                folder=self.folder,
                uid=gap.ref.uid,
                reason=gap.reason,
                tries=gap.tries,
            )
        if accepted.new:
            log.info(
                "batch.accepted",
                mailbox=self.mailbox,
                folder=self.folder,
                new=accepted.new,
                known=accepted.known,
                uid=batch.checkpoint.uid,
            )
        if accepted.new or batch.vanished:
            self._on_accepted()

    async def _settle(self, session: Session) -> None:
        if not self._settles:
            return
        while refs := await self._store.unsettled(self.mailbox, self.folder, SETTLE_CHUNK):
            done = await session.settle(refs)
            await self._store.settled(done)
            self.health.progress(self._now(), 0)
            log.info("batch.settled", mailbox=self.mailbox, folder=self.folder, count=len(done))
            if len(done) < len(refs):
                return  # the rest is tried again at the next look


async def _one_ahead(
    batches: AsyncIterator[Batch], places: asyncio.Semaphore
) -> AsyncGenerator[Batch, None]:
    """Fetch the next batch while the present one is committed, if there is a place for it.

    Never more than one ahead; when other folders hold the places, one after the other.
    """
    ahead: asyncio.Future[Batch | None] | None = None
    try:
        while True:
            batch = await (anext(batches, None) if ahead is None else ahead)
            if ahead is not None:
                ahead = None
                places.release()
            if batch is None:
                return
            if not places.locked():
                await places.acquire()
                ahead = asyncio.ensure_future(anext(batches, None))
            yield batch
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
            places.release()
        await cast("AsyncGenerator[Batch, None]", batches).aclose()


def _vanished(ref: MessageRef, address: str, now: datetime) -> Notice:
    data = {
        "message": ref.message_id,
        "address": address,
        "folder": ref.folder,
        "source": ref.source(),
        "reason": "the message was listed and was gone from the server before it could be fetched",
    }
    parts: list[object] = [ref.mailbox, ref.folder, ref.uidvalidity, ref.uid, ref.uidl]
    return Notice(
        id=derived_id("vanished", parts),
        type="mail.vanished",
        mailbox=ref.mailbox,
        at=now,
        data=data,
    )
