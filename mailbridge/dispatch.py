"""The dispatcher of one sink: claim, render, deliver, decide, resolve.

::

    feeder ──claim, render (a batch)──▶ ready ──▶ workers ──one attempt each──▶ done ──▶ resolver
      ▲                                                                                     │
      └──────────────── room in hand ◀── one commit for all that is done ◀──────────────────┘

What is in hand is bounded in number and bytes, from the claim to the commit of its outcome, so
a store that cannot write stops the claims. A crash anywhere leaves claims whose lease ends; the
message is then delivered again under the same id. A clean stop finishes the attempts under way,
writes their outcomes and gives back the rest.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from mailbridge.errors import MailbridgeError, StoreRefused, TemporaryError
from mailbridge.health import SinkHealth
from mailbridge.model import (
    Dead,
    Deferred,
    Delivered,
    Delivery,
    Done,
    Notice,
    Outcome,
    Rendered,
    Resolution,
    Retry,
    derived_id,
)
from mailbridge.retry import Policy, decide
from mailbridge.sinks.base import Sink
from mailbridge.store.base import DispatchStore

log = structlog.get_logger()

#: seconds that a claim lasts without a heartbeat
LEASE: Final = 30.0
#: seconds between two heartbeats
HEARTBEAT: Final = 10.0
#: seconds after which an idle dispatcher looks again although nobody woke it
IDLE: Final = 30.0
#: the shortest sleep, for what is due and may not be claimed yet
SHORTEST: Final = 0.1
#: seconds that outcomes wait for company, so that one commit serves many; a single delivery
#: does not wait. It widens the window in which a crash repeats a delivery by as much.
COMPANY: Final = 0.02
#: outcomes that are company enough
ENOUGH: Final = 64
#: seconds until suspects get a turn although the queue is never empty, and until their next
SUSPECTS_EVERY: Final = 60.0
SUSPECTS_AGAIN: Final = 1.0
#: answers like 401 or 404 in a row before the sink is reported in the log
ALERT_AFTER: Final = 3


class Runner(Protocol):
    """A ``Protocol``: runs a blocking function in the shared thread pool."""

    def __call__(
        self, function: Callable[[Sequence[Delivery]], Sequence[Rendered]], arg: Sequence[Delivery]
    ) -> Awaitable[Sequence[Rendered]]:
        """Return what ``function(arg)`` returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much a dispatcher may hold between claim and commit."""

    deliveries: int
    size: int = 4 * 1024 * 1024

    @classmethod
    def for_concurrency(cls, concurrency: int) -> Room:
        """Enough that workers never wait for a claim, little enough to stay small."""
        return cls(deliveries=min(1024, max(256, 16 * concurrency)))


class Dispatcher:
    """One sink. ``run`` returns only when ``stop`` is set and everything in hand is resolved."""

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        sink: Sink,
        store: DispatchStore,
        policy: Policy,
        health: SinkHealth,
        listeners: Callable[[str], Sequence[str]],
        run_blocking: Runner,
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self.name = sink.name
        self.health = health
        self._sink = sink
        self._store = store
        self._policy = policy
        self._listeners = listeners
        self._run_blocking = run_blocking
        self._now = now
        self._rng = rng
        self._room = Room.for_concurrency(sink.concurrency)
        self._woken = asyncio.Event()
        self._ready: asyncio.Queue[Rendered | None] = asyncio.Queue()
        self._hand: dict[int, Delivery] = {}
        self._hand_size = 0
        self._done: list[Resolution] = []
        self._done_event = asyncio.Event()
        self._feeding = True
        self._suspects_turn = time.monotonic() + SUSPECTS_EVERY
        #: the feeder waits for what is in hand, so an outcome is worth a claim
        self._wants_room = False
        #: something was due after the last claim, which had not returned it
        self._overdue = False
        #: when the heartbeat last went round, for the watchdog
        self.moved_at = now()

    def wake(self) -> None:
        """Say that something new may be due."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until ``stop``; then finish what is under way and give back the rest."""
        self._ready = asyncio.Queue()
        self._hand.clear()
        self._hand_size = 0
        self._done.clear()
        self._feeding = True
        async with asyncio.TaskGroup() as group:
            resolver = group.create_task(self._resolve_all())
            heart = group.create_task(self._beat())
            workers = [group.create_task(self._work()) for _ in range(self._sink.concurrency)]
            await self._feed(stop)
            await self._give_back()
            for _ in workers:
                self._ready.put_nowait(None)
            await asyncio.gather(*workers)
            self._feeding = False
            self._done_event.set()
            await resolver
            heart.cancel()

    # --- feeder

    async def _feed(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                # Before the claim: a wake that comes while it runs brings the next one.
                self._woken.clear()
                self._wants_room = False
                claimed = await self._claim()
                if claimed:
                    await self._render(claimed)
                await self._pause(stopping)
        finally:
            stopping.cancel()

    def _full(self) -> bool:
        # A single large mail is not fullness: while it hangs, those behind it go one by one.
        large = len(self._hand) > 1 and 2 * self._hand_size >= self._room.size
        return large or 2 * len(self._hand) >= self._room.deliveries

    def _closed(self) -> bool:
        """Whether nothing may be claimed before an outcome: no room, or suspects have a turn."""
        return self._full() or (bool(self._hand) and time.monotonic() >= self._suspects_turn)

    async def _claim(self) -> Sequence[Delivery]:
        if self._closed():
            return ()
        turn = time.monotonic() >= self._suspects_turn and not self._hand
        try:
            claimed: Sequence[Delivery] = ()
            if not turn:
                claimed = await self._claim_some(alone=False)
            if not claimed and not self._hand and (turn or self._overdue):
                # What was in hand at three deaths of the daemon is tried apart from the rest.
                claimed = await self._claim_some(alone=True)
                wait = SUSPECTS_AGAIN if claimed else SUSPECTS_EVERY
                self._suspects_turn = time.monotonic() + wait
                if turn and not claimed:
                    claimed = await self._claim_some(alone=False)
        except StoreRefused:
            raise
        except MailbridgeError as error:
            self._trouble(error)
            await asyncio.sleep(1.0)
            return ()
        self.health.trouble = ""
        if claimed:
            self._overdue = False
        for delivery in claimed:
            self._hand[delivery.id] = delivery
            self._hand_size += _size(delivery)
        return claimed

    async def _claim_some(self, *, alone: bool) -> Sequence[Delivery]:
        return await self._store.claim(
            self.name,
            limit=self._room.deliveries - len(self._hand),
            max_bytes=self._room.size - self._hand_size,
            lease=LEASE,
            alone=alone,
        )

    async def _render(self, claimed: Sequence[Delivery]) -> None:
        for rendered in await self._run_blocking(self._sink.render, claimed):
            self._ready.put_nowait(rendered)

    async def _pause(self, stopping: asyncio.Task[bool]) -> None:
        """Sleep until woken, until room is free, until something is due, or until the stop.

        What is due tells whether the claim left anything: its length alone cannot, because
        bytes bound it too and suspects are passed over.
        """
        if self._woken.is_set():
            return
        seconds = IDLE
        if self._closed():
            self._wants_room = True
        else:
            try:
                seconds = await self._seconds_left()
            except StoreRefused:
                raise
            except MailbridgeError as error:
                self._trouble(error)
                seconds = 1.0
        if seconds <= 0:
            return
        waiting = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait(
                {waiting, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()

    async def _seconds_left(self) -> float:
        """Return how long the feeder may sleep: not at all before it has asked for what is due."""
        due = await self._store.next_due(self.name)
        left = IDLE if due is None else (due - self._now()).total_seconds()
        known, self._overdue = self._overdue, left <= 0
        if self._overdue and not known:
            return 0.0
        # Suspects, it seems: they are claimed when the hand is empty.
        self._wants_room = self._overdue
        return min(IDLE, max(SHORTEST, left))

    async def _give_back(self) -> None:
        """Release what was claimed and not begun, so that the next start need not wait."""
        unbegun: list[Delivery] = []
        while not self._ready.empty():
            rendered = self._ready.get_nowait()
            if rendered is not None:
                unbegun.append(rendered.delivery)
        if unbegun:
            with suppress(TemporaryError):  # their leases end by themselves
                await self._store.release(unbegun)
            self._forget(unbegun)

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if self._hand.pop(delivery.id, None) is not None:
                self._hand_size -= _size(delivery)

    # --- workers

    async def _work(self) -> None:
        while (rendered := await self._ready.get()) is not None:
            resolution = await self._attempt(rendered)
            # Not in one expression: that would hold on to the list of before the attempt,
            # which may have been handed to the store by now.
            self._done.append(resolution)
            self._done_event.set()

    async def _attempt(self, rendered: Rendered) -> Resolution:
        delivery = rendered.delivery
        attempt = delivery.attempts + 1
        started_at, clock = self._now(), time.monotonic()
        outcome: Outcome
        try:
            outcome = await self._sink.deliver(rendered, attempt=attempt)
        except Exception as error:
            # An answer of any kind is an outcome, so this is a bug of ours: the mail is kept.
            log.exception("delivery.bug", sink=self.name, event_id=delivery.event_id)
            outcome = Deferred(reason=f"internal error ({type(error).__name__})")
        seconds = time.monotonic() - clock
        decision = decide(
            outcome,
            attempts=attempt,
            first_due_at=delivery.first_due_at,
            now=self._now(),
            policy=self._policy,
            rng=self._rng,
        )
        resolution = Resolution(
            delivery=delivery,
            outcome=outcome,
            decision=decision,
            started_at=started_at,
            seconds=seconds,
        )
        self._note(resolution, attempt)
        return resolution

    def _note(self, resolution: Resolution, attempt: int) -> None:
        """One line per attempt, and what it says about the sink."""
        delivery, outcome, decision = resolution.delivery, resolution.outcome, resolution.decision
        health = self.health
        facts: dict[str, object] = {
            "mailbox": delivery.mailbox,
            "event_id": delivery.event_id,
            "type": delivery.type,
            "delivery_id": delivery.id,
            "sink": self.name,
            "attempt": attempt,
            "status": outcome.status,
            "took_ms": round(resolution.seconds * 1000, 1),
        }
        if isinstance(outcome, Delivered):
            health.delivered += 1
            health.consecutive, health.failing_since = 0, None
            health.last_delivered = self._now()
            if delivery.mail is not None and not delivery.replay:
                seen = delivery.mail.received_at or delivery.mail.accepted_at
                health.took.observe(max(0.0, (health.last_delivered - seen).total_seconds()))
            log.info("delivery.delivered", **facts)
            return
        health.last_reason, health.last_status = outcome.reason, outcome.status
        if isinstance(outcome, Deferred) and outcome.sink_fault:
            health.consecutive += 1
            health.failing_since = health.failing_since or resolution.started_at
            if health.consecutive == ALERT_AFTER:
                log.error("webhook.failing", sink=self.name, reason=outcome.reason)
        if isinstance(decision, Retry):
            health.deferred += 1
            log.warning(
                "delivery.deferred",
                **facts,
                reason=outcome.reason,
                due_at=decision.due_at.isoformat(timespec="seconds"),
            )
        elif isinstance(decision, Dead):
            health.dead += 1
            log.error("delivery.dead", **facts, reason=decision.reason)

    # --- resolver and heartbeat

    async def _resolve_all(self) -> None:
        while self._feeding or self._done or self._hand:
            await self._done_event.wait()
            if self._feeding and len(self._done) < min(ENOUGH, len(self._hand)):
                await asyncio.sleep(COMPANY)
            self._done_event.clear()
            done, self._done = self._done, []
            if done:
                settled = await self._resolve(done)
                self._forget([resolution.delivery for resolution in done])
                if self._wants_room or not settled:
                    self._woken.set()

    async def _resolve(self, done: Sequence[Resolution]) -> bool:
        """Write outcomes, however long the store takes to accept them: they have happened.

        Returns whether they leave nothing to come: no retry, no event, no lost lease.
        """
        delay = 0.1
        while True:
            try:
                await self._announce_dead(done)
                held = await self._store.resolve(done)
            except StoreRefused:
                raise
            except MailbridgeError as error:
                self._trouble(error)
                await asyncio.sleep(delay)
                delay = min(5.0, delay * 2)
            else:
                self.health.trouble = ""
                if len(held) < len(done):
                    log.warning("delivery.lease_lost", sink=self.name, count=len(done) - len(held))
                return len(held) == len(done) and all(isinstance(r.decision, Done) for r in done)

    async def _announce_dead(self, done: Sequence[Resolution]) -> None:
        for resolution in done:
            delivery, decision = resolution.delivery, resolution.decision
            # Events about events would feed themselves.
            if isinstance(decision, Dead) and delivery.mail is not None:
                notice = _dead_letter(resolution, decision.reason, self._now())
                await self._store.notify([notice], self._listeners(delivery.mailbox))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            self.moved_at = self._now()
            held = list(self._hand.values())
            if held:
                try:
                    await self._store.renew(held, lease=LEASE)
                except StoreRefused:
                    raise
                except MailbridgeError as error:
                    self._trouble(error)

    def _trouble(self, error: MailbridgeError) -> None:
        """Say once, not every second, that the store does not answer."""
        if self.health.trouble != error.code:
            self.health.trouble = error.code
            log.error("store.trouble", sink=self.name, error=str(error), code=error.code)


def _size(delivery: Delivery) -> int:
    return len(delivery.mail.raw) if delivery.mail is not None else 1024


def _dead_letter(resolution: Resolution, reason: str, now: datetime) -> Notice:
    delivery = resolution.delivery
    return Notice(
        id=derived_id("dead", [delivery.event_id, delivery.sink, delivery.replay]),
        type="delivery.dead",
        mailbox=delivery.mailbox,
        at=now,
        data={
            "message": delivery.event_id,
            "webhook": delivery.sink,
            "reason": reason,
            "attempts": delivery.attempts + 1,
            "first_due_at": _text(delivery.first_due_at),
            "last_attempt_at": _text(resolution.started_at + timedelta(seconds=resolution.seconds)),
        },
    )


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
