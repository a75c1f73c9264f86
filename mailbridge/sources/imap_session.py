"""One session: fetch what lies beyond the checkpoint, and settle what was accepted.

::

    fetch ── no checkpoint ─────────────► baseline ──┐
          ── another UIDVALIDITY ───────► recognise ─┤
          ── checkpoint ─────────────────────────────┴► beyond ──► gaps that are due

A batch that the server refuses is halved until the guilty message stands alone and becomes a
gap. A batch that costs the connection is remembered by the source (``Suspects``), and comes
in smaller portions on the next one. So no message ever stops those behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal

import structlog

from mailbridge.errors import Throttled, Unavailable
from mailbridge.model import Batch, Checkpoint, Gap, MessageRef, RawMessage
from mailbridge.sources.base import Fingerprints, Known
from mailbridge.sources.imap_connection import Body, Connection
from mailbridge.sources.imap_errors import Refused
from mailbridge.sources.imap_plan import (
    FetchLimits,
    Head,
    Recognition,
    Suspects,
    batches,
    halves,
    is_stand_in,
    next_gap,
    wanted_again,
    windows,
)

log = structlog.get_logger(__name__)

Run = Callable[..., Awaitable[Any]]
Start = Literal["new", "all"] | date
Settling = Literal["keep", "seen", "delete", "move"]

#: seconds for one command with all that it brings; the socket's own timeout only ends silence
COMMAND_BUDGET: Final = 900.0
#: refusals without a single success after which the server, not a message, is at fault
REFUSALS: Final = 2
#: how a connection ends that may have died of the message it carried
_FATAL: Final = frozenset(
    {
        "imap.bye",
        "imap.connection",
        "imap.eof",
        "imap.protocol",
        "imap.timeout",
        "imap.tls",
        "imap.too_large",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a session needs to know of its source. ``fetch_room`` bounds bodies in hand."""

    mailbox: str
    folder: str
    start: Start
    after: Settling
    #: the folder for ``move``
    move_to: str
    limits: FetchLimits
    fetch_room: AbstractAsyncContextManager[Any]
    now: Callable[[], datetime]
    suspects: Suspects


class Driver:
    """Drives a connection's blocking verbs from a task, one at a time, in worker threads."""

    def __init__(self, connection: Connection, run: Run, *, budget: float = COMMAND_BUDGET) -> None:
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
                f"one command took longer than {self._budget:.0f} s", code="imap.timeout"
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


class ImapSession:
    """A ``Session`` on IMAP4rev1; see ``mailbridge.sources.base``."""

    def __init__(self, watch: Watch, driver: Driver, *, expires_at: datetime) -> None:
        self.expires_at = expires_at
        self._watch = watch
        self._call = driver.call
        self._server = driver.connection
        self._fresh = True
        self._served = False
        watch.suspects.enter(self._server.uidvalidity)
        self._log = log.bind(mailbox=watch.mailbox, folder=watch.folder)

    # -- fetch --------------------------------------------------------------------------------

    async def fetch(self, known: Known, fingerprints: Fingerprints) -> AsyncIterator[Batch]:
        """Yield what is new, then the gaps that can be closed now."""
        if not self._fresh:
            await self._call(self._server.refresh)
        self._fresh = self._served = False
        checkpoint = known.checkpoint
        if checkpoint is None:
            checkpoint = await self._baseline()
            yield self._batch(checkpoint)
        elif checkpoint.uidvalidity != self._server.uidvalidity:
            async with aclosing(self._renumbered(checkpoint, fingerprints)) as found:
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

    def _ref(self, uid: int) -> MessageRef:
        watch = self._watch
        return MessageRef(
            mailbox=watch.mailbox,
            folder=watch.folder,
            uidvalidity=self._server.uidvalidity,
            uid=uid,
        )

    def _batch(self, checkpoint: Checkpoint, **parts: Any) -> Batch:
        watch = self._watch
        return Batch(mailbox=watch.mailbox, folder=watch.folder, checkpoint=checkpoint, **parts)

    async def _baseline(self) -> Checkpoint:
        """Draw the line between what lay there and what is new.

        It is UIDNEXT of the SELECT, so that mail which came after it counts as new.
        """
        watch, server = self._watch, self._server
        uidnext = server.uidnext
        last = uidnext - 1 if uidnext else await self._call(server.last_uid)
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

    async def _beyond(self, checkpoint: Checkpoint) -> AsyncGenerator[Batch, None]:
        uids = await self._call(self._server.uids, checkpoint.uid + 1)
        baseline = checkpoint.baseline_uid
        if checkpoint.since is not None and checkpoint.uid < baseline:
            first = checkpoint.uid + 1
            old = set(await self._call(self._server.uids, first, baseline, checkpoint.since))
            uids = [uid for uid in uids if uid > baseline or uid in old]
        for window in windows(uids, self._watch.limits.list_window):
            sizes = await self._sizes(window)
            portions = batches(
                window, sizes, self._watch.limits, caution=self._watch.suspects.losses
            )
            for portion in portions:
                async with aclosing(self._fetched(portion, checkpoint, advance=True)) as found:
                    async for batch in found:
                        yield batch
                        checkpoint = batch.checkpoint

    async def _sizes(self, window: Sequence[int]) -> dict[int, int]:
        """Ask for the sizes, but not of suspects: theirs may be what costs the connection."""
        suspects = self._watch.suspects
        asked = [uid for uid in window if uid not in suspects.losses]
        if not asked:
            return {}
        try:
            sizes: dict[int, int] = await self._call(self._server.sizes, asked)
        except Refused:
            return {}
        except Unavailable as exc:
            if exc.code in _FATAL:
                suspects.lost(asked)
            raise
        return sizes

    async def _fetched(
        self, portion: tuple[int, ...], checkpoint: Checkpoint, *, advance: bool
    ) -> AsyncGenerator[Batch, None]:
        """Fetch a portion, in as many batches as it takes; each one's checkpoint holds."""
        parts = [portion]
        held: list[tuple[int, Refused]] = []
        while parts:
            part = parts.pop()
            try:
                bodies = await self._bodies(part)
            except Refused as refused:
                if len(part) > 1:
                    parts.extend(reversed(halves(part)))
                    continue
                held.append((part[0], refused))
                if refused.transient and not self._served:
                    if len(held) >= REFUSALS or not parts:
                        self._strike(held)
                    else:
                        continue
                bodies, part = {}, ()
            messages, gaps, vanished = await self._sorted(part, bodies)
            gaps += [self._gap(uid, str(refused)) for uid, refused in held]
            last = max([*part, *(uid for uid, _ in held)])
            held.clear()
            if advance:
                checkpoint = replace(checkpoint, uid=last)
            yield self._batch(checkpoint, messages=messages, gaps=tuple(gaps), vanished=vanished)

    def _strike(self, held: list[tuple[int, Refused]]) -> None:
        """Count refusals against their messages; raise until they are hopeless."""
        suspects = self._watch.suspects
        for uid, _ in held:
            suspects.lost([uid])
        if not all(suspects.hopeless(uid) for uid, _ in held):
            raise Unavailable(str(held[-1][1]), code="imap.server_unavailable")

    async def _bodies(self, part: tuple[int, ...]) -> dict[int, Body]:
        watch = self._watch
        if len(part) == 1 and watch.suspects.hopeless(part[0]):
            raise Refused("the connection was lost each time it was fetched", transient=False)
        async with watch.fetch_room:
            try:
                bodies: dict[int, Body] = await self._call(self._server.bodies, part)
            except Unavailable as exc:
                if exc.code in _FATAL:
                    watch.suspects.lost(part, surely=exc.code == "imap.too_large")
                raise
        watch.suspects.cleared(part)
        self._served = self._served or bool(bodies)
        return bodies

    async def _sorted(
        self, part: tuple[int, ...], bodies: dict[int, Body]
    ) -> tuple[tuple[RawMessage, ...], list[Gap], tuple[MessageRef, ...]]:
        """Tell messages, gaps and vanished ones apart; what is missing is asked for again."""
        missing = [uid for uid in part if uid not in bodies or not bodies[uid].raw]
        there = await self._call(self._server.present, missing) if missing else set()
        messages, gaps = [], []
        for uid in part:
            if uid in missing and uid not in there:
                continue
            outcome = await self._again(uid) if uid in missing else judged(bodies[uid])
            if isinstance(outcome, str):
                gaps.append(self._gap(uid, outcome))
            else:
                messages.append(self._message(uid, outcome))
        vanished = tuple(self._ref(uid) for uid in missing if uid not in there)
        return tuple(messages), gaps, vanished

    async def _again(self, uid: int) -> Body | str:
        """Ask for one message that came without bytes; returns it, or why there is none."""
        try:
            body = (await self._bodies((uid,))).get(uid)
            if body is None:
                return "the server answers OK without the message"
            if body.raw:
                return judged(body)
            size = (await self._call(self._server.sizes, [uid])).get(uid)
        except Refused as refused:
            return str(refused)
        return body if size == 0 else "the server gives no bytes of the message"

    def _message(self, uid: int, body: Body) -> RawMessage:
        return RawMessage(ref=self._ref(uid), raw=body.raw, received_at=body.received_at)

    def _gap(self, uid: int, reason: str, before: Gap | None = None) -> Gap:
        gap = next_gap(self._ref(uid), reason, self._watch.now(), before)
        self._watch.suspects.cleared([uid])
        return gap

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
            yield self._batch(checkpoint, vanished=gone)
        for gap in ours:
            if gap.ref.uid not in there:
                continue
            failure: Unavailable | None = None
            try:
                outcome = await self._again(gap.ref.uid)
            except Throttled:
                raise
            except Unavailable as exc:
                outcome, failure = str(exc), exc
            if isinstance(outcome, str):
                next_one = self._gap(gap.ref.uid, outcome, gap)
                yield self._batch(checkpoint, gaps=(next_one,))
            else:
                yield self._batch(checkpoint, messages=(self._message(gap.ref.uid, outcome),))
            if failure is not None:
                raise failure

    # -- another UIDVALIDITY ------------------------------------------------------------------

    async def _renumbered(
        self, old: Checkpoint, fingerprints: Fingerprints
    ) -> AsyncGenerator[Batch, None]:
        """Recognise what is stored, deliver what is not, draw the line anew at the end.

        All batches but the last keep the old checkpoint: after a crash it begins again, and
        what is stored or remembered by then is found under its new place.
        """
        server, limits = self._server, self._watch.limits
        recognition = Recognition(await fingerprints(old.uidvalidity))
        done = {one.uid for one in await fingerprints(server.uidvalidity)}
        uids = await self._call(server.uids, 1)
        counts = {"listed": len(uids), "known": len(done), "delivered": 0, "baseline": 0}
        for window in windows([uid for uid in uids if uid not in done], limits.list_window):
            heads = await self._heads(window)
            matches = {uid: recognition.find(head) for uid, head in heads.items()}
            known = tuple((self._ref(uid), one.id) for uid, one in matches.items() if one)
            if known:
                yield self._batch(old, known=known)
            wanted = [
                uid for uid, one in matches.items() if not one and wanted_again(heads[uid], old)
            ]
            counts["known"] += len(known)
            counts["delivered"] += len(wanted)
            counts["baseline"] += len(window) - len(known) - len(wanted)
            sizes = {uid: heads[uid].size for uid in wanted}
            for portion in batches(wanted, sizes, limits, caution=self._watch.suspects.losses):
                async with aclosing(self._fetched(portion, old, advance=False)) as found:
                    async for batch in found:
                        yield batch
        self._log.warning(
            "folder.renumbered", old=old.uidvalidity, new=server.uidvalidity, **counts
        )
        last = max(uids, default=0)
        yield self._batch(
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

    # -- settle -------------------------------------------------------------------------------

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        """Do what ``after`` says with these messages; all of them are settled afterwards.

        What carries another UIDVALIDITY cannot be told to this server any more and counts as
        settled, too.
        """
        watch, server = self._watch, self._server
        ours = [ref for ref in refs if (ref.mailbox, ref.folder) == (watch.mailbox, watch.folder)]
        uids = sorted({ref.uid for ref in ours if ref.uidvalidity == server.uidvalidity})
        if uids and watch.after == "seen":
            await self._call(server.mark_seen, uids)
        elif uids and watch.after == "delete":
            await self._call(server.delete, uids)
        elif uids and watch.after == "move":
            await self._call(server.move, uids, watch.move_to)
        return ours


def judged(body: Body) -> Body | str:
    """Return the message, or why these bytes are not it."""
    if is_stand_in(body.raw):
        return "the server cannot convert the message and sent a notice instead"
    return body


def session_end(token_ends: datetime, now: datetime) -> datetime:
    """Return when a session has to be replaced: 5 minutes before its token ends.

    For a token of short life it is a tenth of what is left of it, so that a session can be
    used at all.
    """
    return token_ends - min(timedelta(minutes=5), max(timedelta(), (token_ends - now) / 10))
