"""The dispatcher of one sink: claim, render, deliver, decide, resolve.

::

    feeder ──claim, render (a batch)──▶ ready ──gate──▶ workers ──one attempt each──▶ done
      ▲                                  │                                              │
      │                                  └── unattempted, when the sink is found down ─▶│
      │                                                                                 ▼
      └──────── room in hand ◀── one commit for all that is done or given back ◀── resolver

What is in hand is bounded in number and bytes, from the claim to the commit of its outcome, so
a store that cannot write stops the claims. A crash anywhere leaves claims whose lease ends; the
message is then delivered again under the same id. A clean stop finishes the attempts under way,
writes their outcomes and gives back the rest.

While the breaker is open nothing is claimed but one probe at a time. Once the sink answers, all
that waits for a retry is due.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from mailbridge.breaker import PROBE_EVERY, Breaker, Change
from mailbridge.errors import MailbridgeError, StoreRefused, TemporaryError
from mailbridge.feeder import LEASE, Feeder
from mailbridge.gate import Gate
from mailbridge.hand import Hand, Room
from mailbridge.health import SinkHealth
from mailbridge.model import Deferred, Delivery, Done, Outcome, Rendered, Resolution
from mailbridge.outage import Outage
from mailbridge.retry import Policy, decide, too_old
from mailbridge.sink_watch import SinkWatch
from mailbridge.sinks.base import Sink
from mailbridge.store.base import DispatchStore

log = structlog.get_logger()

#: seconds between two heartbeats
HEARTBEAT: Final = 10.0
#: seconds that outcomes wait for company, so that one commit serves many; a single delivery
#: does not wait. It widens the window in which a crash repeats a delivery by as much.
COMPANY: Final = 0.02
#: outcomes that are company enough
ENOUGH: Final = 64


class Runner(Protocol):
    """A ``Protocol``: runs a blocking function in the shared thread pool."""

    def __call__(
        self, function: Callable[[Sequence[Delivery]], Sequence[Rendered]], arg: Sequence[Delivery]
    ) -> Awaitable[Sequence[Rendered]]:
        """Return what ``function(arg)`` returns."""


class Dispatcher:
    """One sink. ``run`` returns only when ``stop`` is set and everything in hand is resolved.

    ``listeners`` are the sinks that hear of a kind of event of a mailbox, ``on_notice`` is called
    when there is something for them. With ``strict`` the order of each mailbox is kept. ``now`` is
    the time of day, ``steady`` a clock that nobody sets, in seconds. ``lease`` are the seconds
    that a claim lasts without a heartbeat.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        sink: Sink,
        store: DispatchStore,
        policy: Policy,
        health: SinkHealth,
        listeners: Callable[[str, str], Sequence[str]],
        run_blocking: Runner,
        now: Callable[[], datetime],
        rng: random.Random,
        on_notice: Callable[[], None] = lambda: None,
        strict: bool = False,
        steady: Callable[[], float] = time.monotonic,
        lease: float = LEASE,
    ) -> None:
        self.name = sink.name
        self.health = health
        self._sink = sink
        self._store = store
        self._policy = policy
        self._run_blocking = run_blocking
        self._now = now
        self._rng = rng
        self._on_notice = on_notice
        self._strict = strict
        self._lease = lease
        breaker = Breaker(limit=sink.concurrency, probe_every=PROBE_EVERY[policy.name])
        self._gate = gate = Gate(breaker, steady)
        health.pause = lambda: gate.wait
        self._watch = SinkWatch(health, now)
        self._outage = Outage(
            sink=self.name,
            store=store.outages,
            listeners=listeners,
            budget=timedelta(seconds=policy.budget),
            health=health,
            now=now,
        )
        self._ready: asyncio.Queue[Rendered | None] = asyncio.Queue()
        self._hand = Hand(Room.for_concurrency(sink.concurrency))
        self._done: list[Resolution] = []
        self._back: list[Delivery] = []
        self._done_event = asyncio.Event()
        self._feeding = True
        self._feeder = Feeder(
            sink=self.name,
            store=store,
            gate=self._gate,
            hand=self._hand,
            outage=self._outage,
            strict=strict,
            now=now,
            health=health,
            lease=lease,
        )
        #: when the heartbeat last went round, for the watchdog
        self.moved_at = now()

    def wake(self) -> None:
        """Say that something new may be due."""
        self._feeder.wake()

    def hurry(self) -> None:
        """Say that a person wants to see an attempt now, also when the sink was found down."""
        self._gate.breaker.hurry()
        self._feeder.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``; then finish what is under way and give back the rest."""
        self._ready = asyncio.Queue()
        self._hand.clear()
        self._done.clear()
        self._back.clear()
        self._feeding = True
        self._gate.open()
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(self._beat())
            resolver = group.create_task(self._resolve_all())
            letting_go = group.create_task(self._outage.let_go(self._gate.breaker, self._on_notice))
            workers = [group.create_task(self._work()) for _ in range(self._sink.concurrency)]
            if await self._prepare(stop):
                await self._feeder.feed(stop, self._render)
            letting_go.cancel()
            self._gate.close()
            self._give_back()
            for _ in workers:
                self._ready.put_nowait(None)
            await asyncio.gather(*workers)
            self._feeding = False
            self._done_event.set()
            await resolver
            heart.cancel()

    async def _prepare(self, stop: asyncio.Event) -> bool:
        """Put the store in order for this sink; false when the stop came before."""
        while not stop.is_set():
            try:
                await self._store.outages.keep_order(self.name, strict=self._strict)
                self._watch.remember(await self._store.outages.failing(self.name))
            except StoreRefused:
                raise
            except MailbridgeError as error:
                self.health.in_trouble(error)
                await asyncio.sleep(1.0)
            else:
                return True
        return False

    # --- feeder

    async def _render(self, claimed: Sequence[Delivery]) -> None:
        for rendered in await self._run_blocking(self._sink.render, claimed):
            self._ready.put_nowait(rendered)

    def _give_back(self) -> None:
        """Release what was claimed and not begun, so that the next start need not wait."""
        while not self._ready.empty():
            rendered = self._ready.get_nowait()
            if rendered is not None:
                self._back.append(rendered.delivery)
        self._done_event.set()

    # --- workers

    async def _work(self) -> None:
        while (rendered := await self._ready.get()) is not None:
            epoch = await self._gate.enter()
            if epoch is None:
                self._back.append(rendered.delivery)
            else:
                resolution = await self._attempt(rendered, epoch)
                # Not in one expression: that would hold on to the list of before the attempt,
                # which may have been handed to the store by now.
                self._done.append(resolution)
            self._done_event.set()

    async def _attempt(self, rendered: Rendered, epoch: int) -> Resolution:
        delivery = rendered.delivery
        started_at, clock = self._now(), time.monotonic()
        decision = too_old(delivery, started_at)
        outcome = None
        if decision is None:
            outcome = await self._send(rendered)
            decision = decide(
                outcome,
                attempts=delivery.attempts + 1,
                first_due_at=delivery.first_due_at,
                now=self._now(),
                policy=self._policy,
                rng=self._rng,
            )
        change = self._gate.leave(epoch, outcome)
        resolution = Resolution(
            delivery=delivery,
            outcome=outcome,
            decision=decision,
            started_at=started_at,
            seconds=time.monotonic() - clock,
            listeners=self._outage.listeners_of(delivery, decision),
        )
        self._outage.noted(resolution, well=self._watch.note(resolution, change))
        if change is Change.OPENED:
            log.warning("breaker.open", sink=self.name, probe_in=round(self._gate.wait, 1))
        if change is not None or self._outage.busy:
            self._feeder.wake()
        return resolution

    async def _send(self, rendered: Rendered) -> Outcome:
        delivery = rendered.delivery
        try:
            return await self._sink.deliver(rendered, attempt=delivery.attempts + 1)
        except Exception as error:
            # An answer of any kind is an outcome, so this is a bug of ours: the mail is kept.
            log.exception("delivery.bug", sink=self.name, event_id=delivery.event_id)
            return Deferred(reason=f"internal error ({type(error).__name__})", sink_fault=False)

    # --- resolver and heartbeat

    async def _resolve_all(self) -> None:
        while self._feeding or self._done or self._back or len(self._hand):
            await self._done_event.wait()
            if self._feeding and len(self._done) < min(ENOUGH, len(self._hand)):
                await asyncio.sleep(COMPANY)
            self._done_event.clear()
            done, self._done = self._done, []
            back, self._back = self._back, []
            if back:
                with suppress(TemporaryError):  # their leases end by themselves
                    await self._store.release(back)
                self._hand.forget(back)
            settled = not done or await self._resolve(done)
            self._hand.forget([resolution.delivery for resolution in done])
            if self._feeder.wants_room or self._strict or not settled:
                self._feeder.wake()

    async def _resolve(self, done: Sequence[Resolution]) -> bool:
        """Write outcomes, however long the store takes to accept them: they have happened.

        Returns whether they leave nothing to come: no retry, no event, no lost lease.
        """
        delay = 0.1
        while True:
            try:
                told = await self._outage.tell(self._watch.news)
                held = await self._store.resolve(done)
            except StoreRefused:
                raise
            except MailbridgeError as error:
                self.health.in_trouble(error)
                await asyncio.sleep(delay)
                delay = min(5.0, delay * 2)
            else:
                self.health.trouble = ""
                if told or any(resolution.listeners for resolution in held):
                    self._on_notice()
                if len(held) < len(done):
                    log.warning("delivery.lease_lost", sink=self.name, count=len(done) - len(held))
                return len(held) == len(done) and all(isinstance(r.decision, Done) for r in done)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            self.moved_at = self._now()
            held = self._hand.deliveries
            if held:
                try:
                    await self._store.renew(held, lease=self._lease)
                except StoreRefused:
                    raise
                except MailbridgeError as error:
                    self.health.in_trouble(error)
