"""A sink that is away for days, on a clock that is set forward: store and dispatcher are real."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from mailbridge import outage as production
from mailbridge.dispatch import Dispatcher
from mailbridge.health import SinkHealth
from mailbridge.model import (
    Batch,
    Checkpoint,
    Deferred,
    Delivered,
    Delivery,
    MessageRef,
    RawMessage,
    Rendered,
)
from mailbridge.model import Outcome as Answer
from mailbridge.retry import POLICIES, ProfileName
from mailbridge.store.store import Store

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
#: seconds of the clock that pass at a time: a probe comes with each step
STEP = 1800.0
#: real seconds in which nothing may happen until a step counts as over
QUIET = 0.01
#: and until all that will happen has happened, on a machine that has much else to do
STILL = 1.5


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the mails of one outage."""

    name: str
    mails: int
    delivered: int = 0
    dead: int = 0
    replayed: int = 0
    requests: int = 0
    broken: list[str] = field(default_factory=list)


class Sink:
    """Takes nothing until ``up``; remembers what it took, and how often it was asked."""

    name, concurrency = "hook", 8

    def __init__(self) -> None:
        self.up = False
        self.asked = 0
        self.took: list[str] = []

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        """Render nothing of interest."""
        return [Rendered(delivery=one, body=b"{}", content_type="x") for one in deliveries]

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Answer:
        """Answer."""
        self.asked += 1
        await asyncio.sleep(0)
        if not self.up:
            return Deferred(reason="connection refused")
        self.took.append(rendered.delivery.event_id)
        return Delivered(status=204)


async def _render(
    function: Callable[[Sequence[Delivery]], Sequence[Rendered]], arg: Sequence[Delivery]
) -> Sequence[Rendered]:
    return function(arg)


class Rig:
    """One store, one dispatcher, one clock."""

    def __init__(self, store: Store, sink: Sink, clock: list[datetime], profile: str) -> None:
        self.store, self.sink, self.clock = store, sink, clock
        self.health = SinkHealth(name="hook")
        name: ProfileName = "alarm" if profile == "alarm" else "default"
        self.dispatcher = Dispatcher(
            sink=sink,
            store=store,
            policy=POLICIES[name],
            health=self.health,
            listeners=lambda _mailbox, _kind: ["ops"],
            run_blocking=_render,
            now=lambda: clock[0],
            rng=random.Random(7),
            steady=self.steady,
        )

    def steady(self) -> float:
        """Return the seconds since the beginning."""
        return (self.clock[0] - START).total_seconds()

    async def advance(self, seconds: float) -> None:
        """Let time pass, and whatever is due in it happen."""
        self.clock[0] += timedelta(seconds=seconds)
        self.dispatcher.wake()
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing happens any more."""
        last = (-1, -1)
        while last != (now := (self.sink.asked, self.store.commits)):
            last = now
            await asyncio.sleep(QUIET)

    async def arrive(self, first: int, count: int) -> None:
        """Accept mails."""
        messages = tuple(
            RawMessage(
                ref=MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=1, uid=uid),
                raw=b"Subject: %d\r\n\r\nx" % uid,
            )
            for uid in range(first, first + count)
        )
        where = Checkpoint(
            mailbox="alarm", folder="INBOX", uidvalidity=1, uid=first, watching_since=START
        )
        batch = Batch(
            mailbox="alarm", folder="INBOX", checkpoint=where, sinks=("hook",), messages=messages
        )
        await self.store.accept(batch, address="a@b.example", settles=False)


async def outage(
    folder: Path, mails: int, hours: float, profile: str, *, step: float = STEP
) -> Outcome:
    """Let a sink be away for so many hours, with the state in ``folder``; replay what is dead then.

    Half of the mails lie there at the beginning. The others arrive while it is away when that
    ends within seven days; else they are there from the beginning too, so that all have waited
    longer than they may.
    """
    clock = [START]
    store = await Store.open(f"sqlite:///{folder}/mailbridge.db", now=lambda: clock[0])
    days, rest = divmod(hours, 24)
    found = Outcome(name=f"{days:.0f} d {rest:.0f} h, {profile}", mails=mails)
    survives = hours < 7 * 24
    hasty = patch.object(production, "LET_GO_EVERY", 0.02)
    hasty.start()
    try:
        rig = Rig(store, Sink(), clock, profile)
        stop = asyncio.Event()
        running = asyncio.create_task(rig.dispatcher.run(stop))
        late = mails // 2 if survives else 0
        await rig.arrive(1, mails - late)
        steps = int(hours * 3600 / step)
        for number in range(steps):
            if survives:
                begin, end = (late * done // steps for done in (number, number + 1))
                if end > begin:
                    await rig.arrive(mails - late + 1 + begin, end - begin)
            await rig.advance(step)
        await _finish(rig, found)
        stop.set()
        await running
    finally:
        hasty.stop()
        await store.close()
    _judge(found, survives=survives)
    return found


async def _finish(rig: Rig, found: Outcome) -> None:
    """Bring the sink back, count, replay what is dead, count again."""
    await _until_still(rig)
    found.requests = rig.sink.asked
    rig.sink.up = True
    await rig.advance(61)
    await _until_still(rig)
    found.delivered = len(set(rig.sink.took))
    found.dead = len(await rig.store.deliveries(state="dead", sink="hook", limit=10**6))
    if found.dead:
        await rig.store.replay(mailbox="alarm")
        await rig.advance(61)
        await _until_still(rig)
    found.replayed = len(set(rig.sink.took))
    if len(rig.sink.took) != found.replayed:
        found.broken.append(f"{found.name}: {len(rig.sink.took) - found.replayed} came twice")


async def _until_still(rig: Rig, seconds: float = STILL) -> None:
    """Wait until for a while nothing was sent and nothing became a dead letter."""
    last, since = (-1, -1), time.monotonic()
    while time.monotonic() - since < seconds:
        now = (rig.sink.asked, rig.health.dead)
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.05)


def _judge(found: Outcome, *, survives: bool) -> None:
    wanted = (found.mails, 0) if survives else (0, found.mails)
    if (found.delivered, found.dead) != wanted:
        found.broken.append(
            f"{found.name}: {found.delivered} delivered and {found.dead} dead, not {wanted}"
        )
    if found.replayed != found.mails:
        found.broken.append(f"{found.name}: {found.replayed} delivered in the end")
