"""One session: fetch what the listing has and the store does not know, and settle.

::

    listing ── no checkpoint ──────────────► before ─────┐
            ── all UIDLs changed, or IMAP ─► recognise ──┤
            ── known UIDLs ──────────────────────────────┴► new ones ──► gaps that are due

The set of UIDLs that were dealt with is the checkpoint. A session shows a snapshot: whatever
comes after the sign-in is seen by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import structlog

from mailbridge.model import Batch, Checkpoint, MessageRef
from mailbridge.sources.base import Known, Memory
from mailbridge.sources.imap_plan import RECENT, SAME_TIME, came_after
from mailbridge.sources.pop3_driver import Driver
from mailbridge.sources.pop3_fetcher import FOLDER, Fetcher, Watch
from mailbridge.sources.pop3_plan import IMAP_APART, Listing, Recognition, came_since, wanted

log = structlog.get_logger(__name__)


class Pop3Session:
    """A ``Session`` on POP3; see ``mailbridge.sources.base``.

    ``reopen`` connects and signs in anew: QUIT, which alone deletes, also ends the connection.
    """

    def __init__(
        self,
        watch: Watch,
        driver: Driver,
        *,
        reopen: Callable[[], Awaitable[Driver]],
        expires_at: datetime,
    ) -> None:
        self.expires_at = expires_at
        self.pushes = False
        self.lasts = False
        self._watch = watch
        self._driver = driver
        self._reopen = reopen
        self._listing: Listing | None = None
        self._log = log.bind(mailbox=watch.mailbox, folder=FOLDER)

    # -- fetch --------------------------------------------------------------------------------

    async def fetch(self, known: Known, memory: Memory) -> AsyncIterator[Batch]:
        """Yield what is new, oldest first, then the gaps that can be closed now."""
        if self._listing is not None:
            await self._renew()
        listing = await self._list()
        watch = self._watch
        uidls = await memory.uidls()
        first = await self._first(known.checkpoint, listing, set(uidls), memory)
        batch = replace(first, **_told(uidls, listing, first))
        checkpoint, seen = batch.checkpoint, set(uidls)
        seen.update(batch.before, (ref.uidl for ref, _ in batch.known))
        new = sorted(set(listing.numbers) - seen, key=listing.first)
        if known.checkpoint != checkpoint or batch.before or batch.gone or batch.known:
            yield batch
        watch.suspects.forget_all_but(listing.numbers)
        get = Fetcher(watch, self._driver, listing)
        async with aclosing(get.fetched(new, checkpoint)) as found:
            async for batch in found:
                yield batch
        async with aclosing(get.due(known.gaps, checkpoint)) as found:
            async for batch in found:
                yield batch

    async def _first(
        self, checkpoint: Checkpoint | None, listing: Listing, uidls: set[str], memory: Memory
    ) -> Batch:
        """Return the checkpoint, and what belongs to it when there was none of ours."""
        watch = self._watch
        unseen = [uidl for uidl in listing.numbers if uidl not in uidls]
        if checkpoint is None:
            before = await self._unwanted(unseen, listing)
            checkpoint = Checkpoint(
                mailbox=watch.mailbox,
                folder=FOLDER,
                uidvalidity=0,
                uid=0,
                # POP3 has no numbers; this says whether anything lay there that is not wanted.
                baseline_uid=1 if before else 0,
                since=watch.start if isinstance(watch.start, date) else None,
                watching_since=watch.now(),
            )
            return watch.batch(checkpoint, before=before)
        if checkpoint.uidvalidity:
            return await self._recognised(checkpoint, unseen, listing, memory)
        # A mailbox that was moved has other UIDLs, all of them. Where everything is deleted
        # once it is stored, none is expected to be left, and that is not what has happened.
        moved = listing.complete and bool(uidls) and uidls.isdisjoint(listing.numbers)
        empties = watch.after == "delete" and not checkpoint.baseline_uid
        if unseen and moved and not empties:
            return await self._recognised(checkpoint, unseen, listing, memory)
        return watch.batch(checkpoint)

    async def _unwanted(self, unseen: Sequence[str], listing: Listing) -> tuple[str, ...]:
        start = self._watch.start
        if start == "new":
            # The first look may come long after the watch began; see ``ImapSession``.
            recent = sorted(unseen, key=listing.first)[-RECENT:]
            heads = await Fetcher(self._watch, self._driver, listing).heads(recent)
            begun = self._watch.begun
            came = {uidl for uidl in recent if came_after(heads[uidl].received_at, begun)}
            return tuple(uidl for uidl in unseen if uidl not in came)
        if start == "all":
            return ()
        heads = await Fetcher(self._watch, self._driver, listing).heads(unseen)
        return tuple(uidl for uidl in unseen if not came_since(heads[uidl], start))

    async def _recognised(
        self, old: Checkpoint, unseen: Sequence[str], listing: Listing, memory: Memory
    ) -> Batch:
        """Tell what was stored under another place from what is new: nothing lost, nothing twice.

        What is stored is remembered under its UIDL; what lay there before the watch is not
        wanted now either. All in one batch: a crash before it is committed changes nothing.
        """
        watch = self._watch
        apart = IMAP_APART if old.uidvalidity else SAME_TIME
        recognition = Recognition(await memory.fingerprints(old.uidvalidity), apart)
        heads = await Fetcher(self._watch, self._driver, listing).heads(unseen)
        matches = {uidl: recognition.find(head) for uidl, head in heads.items()}
        known = tuple((watch.ref(uidl), name) for uidl, name in matches.items() if name)
        before = tuple(
            uidl for uidl, name in matches.items() if not name and not wanted(heads[uidl], old)
        )
        self._log.warning(
            "folder.renumbered",
            old=old.uidvalidity,
            listed=len(listing.numbers),
            known=len(known),
            baseline=len(before),
            delivered=len(unseen) - len(known) - len(before),
        )
        checkpoint = replace(old, uidvalidity=0, uid=0, baseline_uid=min(old.baseline_uid, 1))
        return watch.batch(checkpoint, before=before, known=known)

    # -- waiting ------------------------------------------------------------------------------

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        """See ``Session``; a snapshot cannot tell."""
        del checkpoint
        return False

    async def stand_by(self, woken: asyncio.Event, until: datetime) -> None:
        """See ``Session``."""
        left = (until - self._watch.now()).total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left)):
                await woken.wait()

    # -- settle -------------------------------------------------------------------------------

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        """Delete these messages if ``after`` says so; returns those that are settled.

        Only the answer to QUIT makes it true. Without it nothing was deleted; they are still
        listed under their UIDLs, are not delivered again, and are deleted by the next session.
        What is not listed (any more) counts as settled.
        """
        ours = [ref for ref in refs if (ref.mailbox, ref.folder) == (self._watch.mailbox, FOLDER)]
        if self._watch.after != "delete" or not ours:
            return ours
        if not self._driver.connection.ready:
            await self._renew()
        listing = self._listing or await self._list()
        copies = {ref: listing.copies(ref.uidl) for ref in ours if ref.uidl in listing.numbers}
        if not copies:
            return ours
        numbers = sorted(number for some in copies.values() for number in some)
        connection = self._driver.connection
        marked: set[int] = await self._driver.call(connection.delete, numbers)
        deleted: bool = await self._driver.call(connection.quit)
        if not deleted:
            self._log.warning("mailbox.not_deleted", count=len(marked))
        return [
            ref for ref in ours if ref not in copies or (deleted and marked.issuperset(copies[ref]))
        ]

    # -- the connection -----------------------------------------------------------------------

    async def _list(self) -> Listing:
        self._listing = await self._driver.call(self._driver.connection.listing)
        return self._listing

    async def _renew(self) -> None:
        """Replace the connection by one with a fresh snapshot."""
        await self.close(politely=True)
        self._listing = None
        self._driver = await self._reopen()

    async def close(self, *, politely: bool) -> None:
        """Close the connection; goes on in its thread even if this task is cancelled."""
        await self._driver.close(politely=politely)


def _told(uidls: Mapping[str, bool], listing: Listing, first: Batch) -> dict[str, Any]:
    """Return what the store has to learn: UIDLs that are gone now, or are there again."""
    if not listing.complete:
        return {}
    missing = {uidl for uidl in uidls if uidls[uidl]}
    gone = tuple(uidl for uidl in uidls if uidl not in listing.numbers and uidl not in missing)
    back = tuple(uidl for uidl in missing if uidl in listing.numbers)
    return {"gone": gone, "before": first.before + back}
