"""What a dispatcher does about an outage of its sink, beside waiting: probes, news, giving up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from mailbridge.breaker import Breaker
from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.health import SinkHealth
from mailbridge.model import (
    Dead,
    Decision,
    Deferred,
    Delivered,
    Delivery,
    Failing,
    Held,
    Notice,
    Rejected,
    Resolution,
)
from mailbridge.sink_watch import FAILING, PARKED
from mailbridge.store.base import OutageStore

log = structlog.get_logger()

#: probes that fail with the same delivery before the next one is tried: it may be the mail that
#: the sink cannot stand
SAME_PROBES: Final = 5
#: seconds between two rounds over what waits, for what has waited as long as it may
LET_GO_EVERY: Final = 60.0
#: and between two steps of a round, which others need the store in
_BREATH: Final = 0.02


@dataclass(slots=True, kw_only=True)
class Outage:
    """The outages of one sink. ``budget`` is how long a delivery may wait.

    ``busy`` says that there is work for the feeder (``work_off``). It begins with it: a restart
    may have cut the work short, and the first answer shows that the sink is there.
    """

    sink: str
    store: OutageStore
    listeners: Callable[[str, str], Sequence[str]]
    budget: timedelta
    health: SinkHealth
    now: Callable[[], datetime]
    busy: bool = False
    _answered: bool = False
    _probe: int = 0
    _failed: int = 0
    _after: int = 0

    # --- probes

    def probes(self) -> Sequence[int]:
        """Return numbers after which to look for the delivery that is sent as a probe."""
        return (self._after, 0) if self._after else (0,)

    def probing(self, delivery: int) -> None:
        """Note which one is sent."""
        if delivery != self._probe:
            self._probe, self._failed = delivery, 0

    def noted(self, resolution: Resolution, *, well: bool) -> None:
        """Take what came of an attempt; ``well``: the sink is back after it was away."""
        outcome = resolution.outcome
        if well or (isinstance(outcome, Delivered) and not self._answered):
            self.busy = self._answered = True
        if resolution.delivery.id != self._probe:
            return
        if isinstance(outcome, Delivered | Rejected):
            self._probe = self._after = 0
            return
        sent = isinstance(outcome, Deferred) and outcome.sink_fault
        self._failed = self._failed + 1 if sent else SAME_PROBES
        if self._failed >= SAME_PROBES:
            self._after, self._failed = self._probe, 0

    # --- what waits

    async def work_off(self, *, shut: bool) -> None:
        """Make the next of what waits for a retry due, when the sink is back; one step."""
        if shut:
            self.busy = False
        elif self.busy:
            self.busy = await self.store.hasten(self.sink)

    async def let_go(self, breaker: Breaker, on_notice: Callable[[], None]) -> None:
        """While the breaker is open, give up what has waited as long as it may; endless."""
        while True:
            await asyncio.sleep(LET_GO_EVERY)
            if breaker.state not in {"open", "probing"}:
                continue
            try:
                if await self._round():
                    on_notice()
            except StoreRefused:
                raise
            except MailbridgeError as error:
                log.warning("store.trouble", work="give up", error=str(error), code=error.code)

    async def _round(self) -> int:
        days = self.budget / timedelta(days=1)
        reason = f"not delivered within {days:g} days, in which nothing was taken: "
        count, place, more = 0, None, True
        while more:
            place, letters = await self.store.give_up(
                self.sink,
                place,
                before=self.now() - self.budget,
                reason=reason + (self.health.last_reason or "no answer"),
                listeners=self.listeners,
            )
            for letter in letters:
                log.error("delivery.dead", sink=self.sink, event_id=letter.event_id)
            count += len(letters)
            self.health.dead += len(letters)
            more = place is not None
            await asyncio.sleep(_BREATH)
        return count

    # --- news

    def listeners_of(self, delivery: Delivery, decision: Decision) -> Mapping[str, tuple[str, ...]]:
        """Return, by event type, who is told of what becomes of a delivery.

        Of an event that was none, nobody. What ends an outgoing mail, only the store knows.
        """
        kinds: tuple[str, ...] = ()
        if delivery.send is not None:
            kinds = ("send.sent", "send.failed", "send.held")
        elif delivery.mail is not None and isinstance(decision, Dead):
            kinds = ("delivery.dead",)
        elif delivery.mail is not None and isinstance(decision, Held):
            kinds = ("delivery.held",)
        told = {kind: tuple(self.listeners(delivery.mailbox, kind)) for kind in kinds}
        return {kind: sinks for kind, sinks in told.items() if sinks}

    async def tell(self, news: list[tuple[Notice, Failing]]) -> bool:
        """Write what is to be told of the sink, and take it from ``news``; tells if any was.

        The sink itself is not told that it fails: it would learn so when that is over.
        """
        told = False
        while news:
            notice, failing = news[0]
            sinks = [
                name for name in self.listeners(notice.mailbox, notice.type) if name != self.sink
            ]
            if notice.type in {FAILING, PARKED}:
                await self.store.begin(self.sink, failing, notice, sinks)
            else:
                await self.store.end(self.sink, notice, sinks)
            news.pop(0)
            told = True
        return told
