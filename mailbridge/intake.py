"""The intake of one folder: woken, it fetches, accepts and settles, in this order.

::

    wake ──▶ unchanged? ──yes──────────────────────────────────────────────▶ proven ──▶ sweep
                 └─ no ──▶ fetch a batch ──▶ accept (one commit) … ──▶ settle ──┘      when due

Nothing is told to the server before ``accept`` has returned. What a crash interrupts is done
again: a batch that was not committed is listed again, a settle that was not noted is repeated.
The schedule, the server's push and a timer of its own all lead to the same check.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from mailbridge.acceptance import Acceptance
from mailbridge.errors import Throttled
from mailbridge.health import FolderHealth
from mailbridge.model import Accepted, Batch, Checkpoint, Gap
from mailbridge.room import MailboxSlots
from mailbridge.routing import Routing
from mailbridge.sources.base import Known, Session, Source
from mailbridge.store.base import IntakeStore
from mailbridge.sweep import BACK, LookBack, Sweeps

#: seconds within which a session that is pushed to proves a check: with the 15 s that the
#: server has to answer, a half-open connection is noticed within 45 s
PROVE_EVERY: Final = 30.0
#: of the schedule's interval: after so much of it a check is made without being woken
NET: Final = 1.25
#: seconds, the same for a session without a known interval
NET_SECONDS: Final = 750.0
#: seconds: a wait that ends sooner, and with nothing new, was ended by chatter
CHATTER: Final = 1.0
_EVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """What the last full look of this session left: enough to see that nothing is to be done.

    Kept in memory, since the intake is the only writer of its folder's checkpoint and gaps, and
    dropped with the session; the next look begins with it instead of asking the store. ``gaps``
    are all, due or not; ``settled`` tells that nothing accepted is still to be told to the
    server.
    """

    checkpoint: Checkpoint
    gaps: Sequence[Gap]
    settled: bool

    def still(self, now: datetime) -> bool:
        """Return whether nothing is to be done if the server has nothing new."""
        return self.settled and all(now < gap.due_at for gap in self.gaps)


class Intake:
    """One folder. ``live`` runs one session and returns when it has to be replaced.

    Raises the errors of ``mailbridge.errors``; whoever runs it backs off and calls it again.
    ``keeps_session`` says that the schedule comes often enough to keep the session open between
    two looks; one that is pushed to is kept in any case. ``every`` is the schedule's interval
    in seconds: the intake makes a check by itself when the schedule has not asked for it.
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
        every: float | None = None,
        slots: MailboxSlots | None = None,
        sweeps: Sweeps | None = None,
        routing: Routing | None = None,
    ) -> None:
        self.mailbox = source.mailbox
        self.folder = source.folder
        self.health = health
        self._source = source
        self._store = store
        self._taken = Acceptance(
            mailbox=source.mailbox,
            folder=source.folder,
            store=store,
            address=address,
            sinks=sinks,
            listeners=listeners,
            settles=settles,
            health=health,
            on_accepted=on_accepted,
            now=now,
            routing=routing,
        )
        self._keeps_session = keeps_session
        #: places for batches that are fetched while another is committed, over all folders
        self._ahead = ahead
        self._now = now
        self._net = None if every is None else every * NET
        self._slots = slots or MailboxSlots()
        self._own_place = self._slots.claim()
        self._look_back = LookBack(sweeps or Sweeps())
        self._quiet: Quiet | None = None
        self._chatter = 0
        self._woken = asyncio.Event()
        self._woken.set()

    def reroute(
        self, *, sinks: Sequence[str], listeners: Sequence[str], routing: Routing | None
    ) -> None:
        """Let the mails go elsewhere, from the next batch on; the session stays."""
        self._taken.reroute(sinks=sinks, listeners=listeners, routing=routing)

    def wake(self) -> None:
        """Ask for a look now; many wakes before the look are one."""
        self.health.wanted()
        self._woken.set()

    def scheduled(self) -> None:
        """Ask for a look, as the schedule does when its time has come.

        A session that is pushed to has mostly proven a check of its own since the last time; a
        further one would cost packets, a thousand times over, and tell nothing.
        """
        enough = min(PROVE_EVERY, PROVE_EVERY if self._net is None else self._net / NET / 2)
        proven = self.health.proven_at
        if self.health.pushing and proven is not None and self.health.clock() - proven < enough:
            return
        self.wake()

    async def live(self) -> None:
        """Wait to be woken, then check; again and again while the session is good."""
        await self._asked()
        self._woken.set()  # until the check begins: what comes between must not lose it
        self.health.wanted()
        async with self._slots.place(own=self._own_place):
            await self._turn()
            self.health.logins += 1
            try:
                async with self._source.session() as session:
                    await self._watch(session)
            except BaseException as error:
                # The look that was asked for has not happened; the next session owes it.
                self._woken.set()
                if isinstance(error, Throttled):
                    self._slots.hold(error.retry_after)
                raise
            finally:
                self._quiet = None
                self.health.pushing = self.health.asking = False

    async def _asked(self) -> None:
        """Wait for the schedule, but not for one that has died."""
        if self._net is not None and not self._woken.is_set():
            self.health.wanted(self.health.clock() + self._net)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._net):
                await self._woken.wait()

    async def _turn(self) -> None:
        """Wait until this mailbox may sign in again."""
        if seconds := self._slots.book():
            self.health.next_try = self._now() + timedelta(seconds=seconds)
            await asyncio.sleep(seconds)
            self.health.next_try = None
            self._slots.check()

    # --- one session

    async def _watch(self, session: Session) -> None:
        """Check, and check again when something asks for it, until the session is to be replaced.

        The seconds are counted by a clock that nobody sets: when the time of day jumps, the
        sessions of all mailboxes would otherwise end together.
        """
        began = time.monotonic()
        ends = began + (session.expires_at - self._now()).total_seconds()
        keeps = session.lasts and self._own_place and (session.pushes or self._keeps_session)
        self.health.pushing = keeps and session.pushes
        if keeps:
            self._look_back.session_opened()
        try:
            await self._check(session)
            await self._sweep(session)
            while keeps and time.monotonic() < ends:
                await self._wait(session, ends)
                if time.monotonic() >= ends:
                    break
                await self._check(session)
                await self._sweep(session)
        finally:
            if keeps:
                self._slots.ended()
        if session.pushes and keeps:
            self._woken.set()  # nothing else would bring the next session

    async def _wait(self, session: Session, ends: float) -> None:
        """Stand by until something asks for a check, at the latest when one has to be proven."""
        now = time.monotonic()
        net = PROVE_EVERY if session.pushes else (self._net or NET_SECONDS)
        seconds = min(net, ends - now)
        self.health.wanted(self.health.clock() + seconds)
        self.health.asking = True
        await session.stand_by(self._woken, self._now() + timedelta(seconds=seconds))
        self.health.pushing = session.pushes  # a server may refuse to tell at any time
        self.health.wanted()
        waited = time.monotonic() - now
        if self._woken.is_set() or waited >= min(CHATTER, seconds):
            self._chatter = 0
            return
        # The server said something. A server that keeps on saying what changes nothing is
        # listened to ever more seldom, at most a second late; mail ends that (``_check``).
        self._chatter += 1
        if self._chatter > 2:  # noqa: PLR2004 - EXISTS and RECENT may come apart
            with suppress(TimeoutError):
                async with asyncio.timeout(min(CHATTER, 0.01 * 2.0 ** min(self._chatter, 10))):
                    await self._woken.wait()

    async def _check(self, session: Session) -> None:
        """Prove that the folder is seen: by one question, or by a full look.

        The question comes first even when a full look is due anyway: a line that is dead shows
        within the seconds that it has for an answer.
        """
        self._woken.clear()
        quiet = self._quiet
        if quiet is not None:
            self.health.asking = True
            same = await session.unchanged(quiet.checkpoint)
            if same and quiet.still(self._now()):
                self.health.proven(self._now())
                return
        self._quiet = None
        self.health.asking = False
        self._quiet = await self._look(session, quiet)
        self.health.proven(self._now())

    async def _look(self, session: Session, before: Quiet | None) -> Quiet | None:
        """Fetch, accept and settle whatever there is; returns what this leaves.

        ``before`` is what the last look of this session left, if nothing has happened since.
        """
        checkpoint: Checkpoint | None
        if before is None:
            checkpoint = await self._store.checkpoint(self.mailbox, self.folder)
            gaps = await self._store.gaps_due(self.mailbox, self.folder, _EVER)
        else:
            checkpoint, gaps = before.checkpoint, before.gaps
        due = [gap for gap in gaps if gap.due_at <= self._now()]
        found = session.fetch(Known(checkpoint=checkpoint, gaps=due), self._taken)
        changed = bool(due)
        async with aclosing(_one_ahead(found, self._ahead)) as batches:
            async for batch in batches:
                await self._accept(batch)
                checkpoint = batch.checkpoint
                # Any batch may bring what is in the gap list, due or not.
                changed = changed or bool(batch.gaps or gaps)
        settled = await self._taken.settle(session)
        if changed:
            gaps = await self._store.gaps_due(self.mailbox, self.folder, _EVER)
        if checkpoint is None:
            return None
        return Quiet(checkpoint=checkpoint, gaps=tuple(gaps), settled=settled)

    async def _accept(self, batch: Batch) -> Accepted:
        self._chatter = 0
        self._quiet = None
        return await self._taken.accept(batch)

    # --- the look-back sweep

    async def _sweep(self, session: Session) -> None:
        """Look back when it is time; between two batches of what it finds, new mail goes first."""
        while session.lasts and self._look_back.due:
            self.health.asking = False
            self.health.wanted()
            async with self._look_back.begin():
                more = await self._swept(session)
            self._look_back.end(more=more)
            self.health.proven(self._now())
            if more:
                await self._check(session)

    async def _swept(self, session: Session) -> bool:
        """Accept one batch of holes; ``False`` when there are none.

        Nothing is fetched ahead here: what is being committed would look like a hole.
        """
        checkpoint = await self._store.checkpoint(self.mailbox, self.folder)
        known = Known(checkpoint=checkpoint, sweep_since=self._now() - BACK)
        found = cast("AsyncGenerator[Batch, None]", session.fetch(known, self._taken))
        async with aclosing(found) as batches:
            async for batch in batches:
                accepted = await self._accept(batch)
                if batch.swept and (accepted.new or batch.gaps):
                    return True
        return False


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
