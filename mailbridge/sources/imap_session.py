"""One session: fetch what lies beyond the checkpoint, and settle what was accepted.

::

    fetch ── no checkpoint ─────────────► baseline ──┐
          ── another UIDVALIDITY ───────► recognise ─┤
          ── checkpoint ─────────────────────────────┴► beyond ──► gaps that are due
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date, datetime, timedelta

import structlog

from mailbridge.errors import Unavailable
from mailbridge.model import Batch, Checkpoint, Gap, MessageRef
from mailbridge.sources.base import Known, Memory
from mailbridge.sources.imap_driver import Driver
from mailbridge.sources.imap_errors import Refused
from mailbridge.sources.imap_fetcher import FATAL, Fetcher, Watch
from mailbridge.sources.imap_lookout import Lookout
from mailbridge.sources.imap_plan import (
    COMMAND_LINE,
    RECENT,
    Head,
    Recognition,
    came_after,
    wanted_again,
    windows,
)
from mailbridge.sources.imap_settle import Settler

log = structlog.get_logger(__name__)


class ImapSession:
    """A ``Session`` on IMAP4rev1; see ``mailbridge.sources.base``."""

    def __init__(
        self, watch: Watch, driver: Driver, lookout: Lookout, *, expires_at: datetime
    ) -> None:
        self.expires_at = expires_at
        self.pushes = lookout.pushes
        self.lasts = True
        self._watch = watch
        self._call = driver.call
        self._server = driver.connection
        self._settler = Settler(driver.connection)
        self._get = Fetcher(watch, driver)
        self._lookout = lookout
        self._log = log.bind(mailbox=watch.mailbox, folder=watch.folder)

    # -- fetch --------------------------------------------------------------------------------

    async def fetch(self, known: Known, memory: Memory) -> AsyncIterator[Batch]:
        """Yield what is new, then the gaps that can be closed now."""
        await self._lookout.begin()
        self._get.begin()
        checkpoint = known.checkpoint
        if checkpoint is None:
            checkpoint = await self._baseline()
            yield self._get.batch(checkpoint)
        elif checkpoint.uidvalidity != self._server.uidvalidity:
            async with aclosing(self._renumbered(checkpoint, memory)) as found:
                async for batch in found:
                    yield batch
                    checkpoint = batch.checkpoint
        async with aclosing(self._beyond(checkpoint)) as found:
            async for batch in found:
                yield batch
                checkpoint = batch.checkpoint
        async with aclosing(self._due(known.gaps, checkpoint)) as found:
            async for batch in found:
                yield batch
        if known.sweep_since is not None:
            async with aclosing(self._swept(known.sweep_since, checkpoint, memory)) as found:
                async for batch in found:
                    yield batch

    async def _baseline(self) -> Checkpoint:
        """Draw the line between what lay there and what is new.

        It is UIDNEXT of the SELECT, so that mail which came after it counts as new; for
        ``start: new``, what came since the watch began does so too.
        """
        watch, server = self._watch, self._server
        uidnext = server.uidnext
        last = uidnext - 1 if uidnext else await self._call(server.last_uid)
        if watch.start == "new" and last:
            last = await self._before_the_watch(last)
        baseline = 0 if watch.start == "all" else last
        return Checkpoint(
            mailbox=watch.mailbox,
            folder=watch.folder,
            uidvalidity=server.uidvalidity,
            uid=last if watch.start == "new" else 0,
            baseline_uid=baseline,
            since=watch.start if isinstance(watch.start, date) else None,
            watching_since=watch.now(),
        )

    async def _before_the_watch(self, last: int) -> int:
        """Return the last UID that lay there when the watch began.

        The first look may come long after: a permission that is missing takes up to an hour to
        work. What arrives meanwhile is what the watch was begun for.
        """
        # SEARCH SINCE goes by the day, in a zone that the server tells nobody: be generous.
        day = self._watch.begun.date() - timedelta(days=1)
        listed = await self._call(self._server.uids, 1, last, day)
        recent = listed[-RECENT:]
        heads = await self._call(self._server.heads, recent) if recent else {}
        came = [
            uid for uid, head in heads.items() if came_after(head.received_at, self._watch.begun)
        ]
        return min(came, default=last + 1) - 1

    async def _beyond(self, checkpoint: Checkpoint) -> AsyncGenerator[Batch, None]:
        uids = await self._lookout.beyond(checkpoint.uid)
        baseline = checkpoint.baseline_uid
        if checkpoint.since is not None and checkpoint.uid < baseline:
            first = checkpoint.uid + 1
            old = set(await self._call(self._server.uids, first, baseline, checkpoint.since))
            uids = [uid for uid in uids if uid > baseline or uid in old]
        async with aclosing(self._get.portions(uids)) as portions:
            async for portion in portions:
                async with aclosing(self._get.fetched(portion, checkpoint, advance=True)) as found:
                    async for batch in found:
                        yield batch
                        checkpoint = batch.checkpoint

    # -- gaps ---------------------------------------------------------------------------------

    async def _due(
        self, gaps: Sequence[Gap], checkpoint: Checkpoint
    ) -> AsyncGenerator[Batch, None]:
        """Try gaps one by one, so that one of them cannot take the others along."""
        ours = [gap for gap in gaps if gap.ref.uidvalidity == self._server.uidvalidity]
        uids = [gap.ref.uid for gap in ours]
        there = await self._call(self._server.present, uids) if uids else set()
        # Those of an older UIDVALIDITY were listed anew under their new UIDs.
        gone = tuple(gap.ref for gap in gaps if gap not in ours or gap.ref.uid not in there)
        if gone:
            yield self._get.batch(checkpoint, vanished=gone)
        for gap in ours:
            if gap.ref.uid not in there:
                continue
            failure: Unavailable | None = None
            try:
                outcome = await self._get.again(gap.ref.uid)
            except Unavailable as exc:
                if exc.code not in FATAL:
                    raise
                outcome, failure = str(exc), exc
            if isinstance(outcome, str):
                next_one = self._get.gap(gap.ref.uid, outcome, gap)
                yield self._get.batch(checkpoint, gaps=(next_one,))
            else:
                yield self._get.batch(
                    checkpoint, messages=(self._get.message(gap.ref.uid, outcome),)
                )
            if failure is not None:
                raise failure

    # -- looking back -------------------------------------------------------------------------

    async def _swept(
        self, since: datetime, checkpoint: Checkpoint, memory: Memory
    ) -> AsyncGenerator[Batch, None]:
        """Fetch what lies behind the checkpoint and is not known: holes; mostly there are none."""
        # SEARCH SINCE goes by the day, in a zone that the server tells nobody: be generous.
        day = since.date() - timedelta(days=1)
        try:
            listed = await self._behind(checkpoint, day)
        except Refused as refused:
            self._log.warning("sweep.refused", error=str(refused), code=refused.code)
            return
        holes: list[int] = []
        for window in windows(listed, COMMAND_LINE):
            holes += await memory.unknown(checkpoint.uidvalidity, window)
        async with aclosing(self._get.portions(holes)) as portions:
            async for portion in portions:
                async with aclosing(self._get.fetched(portion, checkpoint, advance=False)) as found:
                    async for batch in found:
                        yield replace(batch, swept=True)

    async def _behind(self, checkpoint: Checkpoint, day: date) -> list[int]:
        """List what was received since that day and is to be known up to the checkpoint.

        What lay there before the watch began is no hole, unless `start` asked for it.
        """
        line, last = checkpoint.baseline_uid, checkpoint.uid
        behind: list[int] = []
        if line and last and checkpoint.since is not None:
            wanted = max(day, checkpoint.since)
            behind += await self._call(self._server.uids, 1, min(line, last), wanted)
        if line < last:
            behind += await self._call(self._server.uids, line + 1, last, day)
        return behind

    # -- another UIDVALIDITY ------------------------------------------------------------------

    async def _renumbered(self, old: Checkpoint, memory: Memory) -> AsyncGenerator[Batch, None]:
        """Recognise what is stored, deliver what is not, draw the line anew at the end.

        All batches but the last keep the old checkpoint: after a crash it begins again, and
        what is stored or remembered by then is found under its new place.
        """
        server, limits = self._server, self._watch.limits
        again = await memory.fingerprints(server.uidvalidity)
        done, found_before = {one.uid for one in again}, {one.id for one in again}
        stored = await memory.fingerprints(old.uidvalidity)
        recognition = Recognition([one for one in stored if one.id not in found_before])
        uids = await self._call(server.uids, 1)
        counts = {"listed": len(uids), "known": len(done), "delivered": 0, "baseline": 0}
        for window in windows([uid for uid in uids if uid not in done], limits.list_window):
            heads = await self._heads(window)
            matches = {uid: recognition.find(head) for uid, head in heads.items()}
            known = tuple((self._get.ref(uid), one.id) for uid, one in matches.items() if one)
            if known:
                yield self._get.batch(old, known=known)
            wanted = [
                uid for uid, one in matches.items() if not one and wanted_again(heads[uid], old)
            ]
            counts["known"] += len(known)
            counts["delivered"] += len(wanted)
            counts["baseline"] += len(window) - len(known) - len(wanted)
            sizes = {uid: heads[uid].size for uid in wanted}
            async with aclosing(self._get.portions(wanted, sizes)) as portions:
                async for portion in portions:
                    async with aclosing(self._get.fetched(portion, old, advance=False)) as found:
                        async for batch in found:
                            yield batch
        self._log.warning(
            "folder.renumbered", old=old.uidvalidity, new=server.uidvalidity, **counts
        )
        last = max(uids, default=0)
        yield self._get.batch(
            replace(
                old,
                uidvalidity=server.uidvalidity,
                uid=last,
                baseline_uid=max(last, 1) if old.baseline_uid else 0,
            )
        )

    async def _heads(self, window: Sequence[int]) -> dict[int, Head]:
        """Return the heads of a window; a message whose head is refused counts as unknown."""
        try:
            heads: dict[int, Head] = await self._call(self._server.heads, window)
        except Refused:
            heads = {}
            for uid in window if len(window) > 1 else ():
                heads |= await self._heads([uid])
        return {
            uid: heads.get(uid) or Head(uid=uid, message_id="", received_at=None, size=0)
            for uid in window
        }

    # -- waiting ------------------------------------------------------------------------------

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        """See ``Session``."""
        return await self._lookout.unchanged(checkpoint)

    async def stand_by(self, woken: asyncio.Event, until: datetime) -> None:
        """See ``Session``."""
        left = until - self._watch.now()
        await self._lookout.stand_by(woken, left.total_seconds())
        self.pushes = self._lookout.pushes

    # -- settle -------------------------------------------------------------------------------

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        """Do what ``after`` says with these messages; all of them are settled afterwards.

        What carries another UIDVALIDITY cannot be told to this server any more and counts as
        settled, too.
        """
        watch, server, settler = self._watch, self._server, self._settler
        ours = [ref for ref in refs if (ref.mailbox, ref.folder) == (watch.mailbox, watch.folder)]
        uids = sorted({ref.uid for ref in ours if ref.uidvalidity == server.uidvalidity})
        if uids and watch.after == "seen":
            await self._call(settler.mark_seen, uids)
        elif uids and watch.after == "delete":
            await self._call(settler.delete, uids)
        elif uids and watch.after == "move":
            await self._call(settler.move, uids, watch.move_to)
        return ours
