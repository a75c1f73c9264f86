"""The feeder of a dispatcher: claims what is due as there is room for it, and sleeps meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.gate import Gate
from mailbridge.hand import Hand
from mailbridge.health import SinkHealth
from mailbridge.model import Delivery
from mailbridge.outage import Outage
from mailbridge.store.base import DispatchStore

#: seconds that a claim lasts without a heartbeat
LEASE: Final = 30.0
#: seconds after which an idle feeder looks again although nobody woke it
IDLE: Final = 30.0
#: the shortest sleep, for what is due and may not be claimed yet
SHORTEST: Final = 0.1
#: seconds until suspects get a turn although the queue is never empty, and until their next
SUSPECTS_EVERY: Final = 60.0
SUSPECTS_AGAIN: Final = 1.0


class Feeder:
    """Claims for one sink what its gate and what is in hand have room for.

    Nothing is polled: it sleeps until it is woken, or until the next delivery is due. While the
    gate is shut it claims a probe at a time.
    """

    def __init__(  # noqa: PLR0913 - the dispatcher's parts, each once
        self,
        *,
        sink: str,
        store: DispatchStore,
        gate: Gate,
        hand: Hand,
        outage: Outage,
        strict: bool,
        now: Callable[[], datetime],
        health: SinkHealth,
        lease: float = LEASE,
    ) -> None:
        self._sink = sink
        self._store = store
        self._gate = gate
        self._hand = hand
        self._outage = outage
        self._strict = strict
        self._now = now
        self._health = health
        self._lease = lease
        self._woken = asyncio.Event()
        self._suspects_turn = time.monotonic() + SUSPECTS_EVERY
        #: it waits for what is in hand, so an outcome is worth a claim
        self.wants_room = False
        #: something was due after the last claim, which had not returned it
        self._overdue = False

    def wake(self) -> None:
        """Say that something new may be due."""
        self._woken.set()

    async def feed(
        self, stop: asyncio.Event, on_claimed: Callable[[Sequence[Delivery]], Awaitable[None]]
    ) -> None:
        """Claim until ``stop`` and hand over what is claimed."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                # Before the claim: a wake that comes while it runs brings the next one.
                self._woken.clear()
                self.wants_room = False
                claimed = await self._claim()
                if claimed:
                    await on_claimed(claimed)
                await self._pause(stopping)
        finally:
            stopping.cancel()

    @property
    def _most(self) -> int:
        most = self._gate.claims
        return self._hand.room.deliveries if most is None else most

    def _closed(self) -> bool:
        """Whether nothing may be claimed before an outcome: no room, or suspects have a turn."""
        if self._gate.shut:
            return len(self._hand) > 0 or not self._gate.probe_due
        turn = len(self._hand) > 0 and time.monotonic() >= self._suspects_turn
        return turn or self._hand.full(self._most)

    async def _claim(self) -> Sequence[Delivery]:
        try:
            await self._outage.work_off(shut=self._gate.shut)
            claimed = () if self._closed() else await self._choose()
        except StoreRefused:
            raise
        except MailbridgeError as error:
            self._health.in_trouble(error)
            await asyncio.sleep(1.0)
            return ()
        self._health.trouble = ""
        if claimed:
            self._overdue = False
        self._hand.take(claimed)
        return claimed

    async def _choose(self) -> Sequence[Delivery]:
        if self._gate.shut:
            return await self._claim_probe()
        turn = time.monotonic() >= self._suspects_turn and not len(self._hand)
        claimed: Sequence[Delivery] = ()
        if not turn:
            claimed = await self._claim_some(alone=False)
        if not claimed and not len(self._hand) and (turn or self._overdue):
            # What was in hand at three deaths of the daemon is tried apart from the rest.
            claimed = await self._claim_some(alone=True)
            wait = SUSPECTS_AGAIN if claimed else SUSPECTS_EVERY
            self._suspects_turn = time.monotonic() + wait
            if turn and not claimed:
                claimed = await self._claim_some(alone=False)
        return claimed

    async def _claim_probe(self) -> Sequence[Delivery]:
        for after in self._outage.probes():
            claimed = await self._claim_some(alone=False, probe=after)
            if claimed:
                self._outage.probing(claimed[0].id)
                self._gate.breaker.probe()
                return claimed
        return ()

    async def _claim_some(self, *, alone: bool, probe: int | None = None) -> Sequence[Delivery]:
        return await self._store.claim(
            self._sink,
            limit=min(self._most, self._hand.room.deliveries) - len(self._hand),
            max_bytes=self._hand.bytes_left,
            lease=self._lease,
            alone=alone,
            ordered=self._strict,
            probe=probe,
        )

    async def _pause(self, stopping: asyncio.Task[bool]) -> None:
        """Sleep until woken, until room is free, until something is due, or until the stop.

        What is due tells whether the claim left anything: its length alone cannot, because
        bytes bound it too and suspects are passed over.
        """
        if self._woken.is_set() or self._outage.busy:
            return
        seconds = IDLE
        if self._gate.shut:
            self.wants_room = True
            seconds = min(IDLE, self._gate.wait or IDLE)
        elif self._closed():
            self.wants_room = True
        else:
            try:
                seconds = await self._seconds_left()
            except StoreRefused:
                raise
            except MailbridgeError as error:
                self._health.in_trouble(error)
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
        due = await self._store.next_due(self._sink, ordered=self._strict)
        left = IDLE if due is None else (due - self._now()).total_seconds()
        known, self._overdue = self._overdue, left <= 0
        if self._overdue and not known:
            return 0.0
        # Suspects, it seems: they are claimed when the hand is empty.
        self.wants_room = self._overdue
        return min(IDLE, max(SHORTEST, left))
