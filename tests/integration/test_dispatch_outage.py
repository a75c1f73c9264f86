"""A sink that is away: what the dispatcher sends it, what it gives back, what it tells."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from mailbridge.dispatch import Dispatcher
from mailbridge.health import SinkHealth
from mailbridge.model import (
    Batch,
    Deferred,
    Delivered,
    Delivery,
    Outcome,
    Rejected,
    Rendered,
    Resolution,
    Retry,
)
from mailbridge.retry import POLICIES, ProfileName
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.integration.test_loops import Running, _render_here, checkpoint, mail, until

DOWN = Deferred(reason="connection refused")
OK = Delivered(status=204)


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=clock)
    yield opened
    await opened.close()


class Sink:
    """A sink that answers ``answer``; attempts wait while ``gate`` is not set."""

    def __init__(self, answer: Outcome = OK, *, concurrency: int = 8, name: str = "hook") -> None:
        self.name, self.concurrency = name, concurrency
        self.answer: Outcome = answer
        self.answers: dict[str, Outcome] = {}
        self.got: list[str] = []
        self.at_once: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._now = 0

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        return [Rendered(delivery=d, body=b"{}", content_type="x") for d in deliveries]

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        self._now += 1
        self.got.append(rendered.delivery.event_id)
        self.at_once.append(self._now)
        await self.gate.wait()
        await asyncio.sleep(0)
        self._now -= 1
        return self.answers.get(rendered.delivery.event_id, self.answer)


class Rig:
    """A dispatcher on clocks that only the test moves."""

    def __init__(self, store: Store, clock: Clock, sink: Sink) -> None:
        self.store, self.clock, self.sink = store, clock, sink
        self.began = clock()
        self.health = SinkHealth(name=sink.name)

    def dispatcher(self, profile: ProfileName = "default", *, strict: bool = False) -> Dispatcher:
        self.subject = Dispatcher(
            sink=self.sink,
            store=self.store,
            policy=POLICIES[profile],
            health=self.health,
            # Also the sink itself listens to what is told of sinks.
            listeners=lambda _, kind: ["ops", *[self.sink.name] * kind.startswith("webhook.")],
            run_blocking=_render_here,
            now=self.clock,
            rng=random.Random(7),
            strict=strict,
            steady=self.steady,
        )
        return self.subject

    def steady(self) -> float:
        return (self.clock() - self.began).total_seconds()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.subject.wake()

    async def settled(self) -> None:
        """Wait until nothing is in hand and nothing more is sent."""

        async def claimed() -> int:
            return sum(c.claimed for c in (await self.store.counts()).sinks if c.sink == "hook")

        async with asyncio.timeout(20):
            quiet, last = 0, -1
            while quiet < 3:
                await asyncio.sleep(0.03)
                same = len(self.sink.got) == last and await claimed() == 0
                quiet, last = quiet + 1 if same else 0, len(self.sink.got)


async def fill(store: Store, count: int, *, first: int = 1, mailbox: str = "alarm") -> list[str]:
    messages = tuple(mail(uid) for uid in range(first, first + count))
    batch = Batch(
        mailbox=mailbox,
        folder="INBOX",
        sinks=("hook",),
        messages=messages,
        checkpoint=checkpoint(first + count),
    )
    await store.accept(batch, address="a@b.example", settles=False)
    return [message.ref.message_id for message in messages]


async def attempts_of(store: Store) -> list[int]:
    return sorted(row.attempts for row in await store.deliveries(sink="hook", limit=1000))


async def told(store: Store, sink: str = "ops") -> list[Delivery]:
    found = await store.claim(sink, limit=100, max_bytes=1 << 20, lease=60.0)
    return [one for one in found if one.type.startswith(("webhook.", "delivery."))]


async def test_a_sink_that_is_away_costs_few_tries(store: Store, clock: Clock) -> None:
    """Five failures and what was under way; everything else goes back unattempted."""
    await fill(store, 300)
    rig = Rig(store, clock, Sink(DOWN, concurrency=8))
    async with Running(rig.dispatcher()):
        await until(lambda: rig.health.deferred >= 5)
        await rig.settled()

        assert 5 <= len(rig.sink.got) <= 5 + 8
        tried = await attempts_of(store)
        assert sum(tried) == len(rig.sink.got)
        assert tried.count(0) == 300 - len(rig.sink.got)
        assert [row.state for row in await store.deliveries(state="claimed")] == []


@pytest.mark.parametrize(("profile", "every"), [("default", 60.0), ("alarm", 15.0)])
async def test_one_probe_of_the_oldest_at_its_time(
    store: Store, clock: Clock, profile: ProfileName, every: float
) -> None:
    """While it is away only the oldest mail is tried, once each time, whenever its retry is due."""
    oldest, *_ = await fill(store, 40)
    rig = Rig(store, clock, Sink(DOWN, concurrency=1))
    async with Running(rig.dispatcher(profile)):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        before = len(rig.sink.got)
        rig.advance(every - 0.5)
        await rig.settled()
        assert len(rig.sink.got) == before
        for probe in range(1, 4):
            rig.advance(every)
            await until(lambda probe=probe: len(rig.sink.got) >= before + probe)  # type: ignore[misc]  # the default binds the loop's present value
            await rig.settled()

        assert rig.sink.got[before:] == [oldest] * 3


async def test_a_mail_that_the_sink_cannot_stand_does_not_keep_it_shut(
    store: Store, clock: Clock
) -> None:
    """When the oldest fails again and again, the next oldest probes, and the others get through."""
    poison, *others = await fill(store, 30)
    rig = Rig(store, clock, Sink(DOWN, concurrency=1))
    rig.sink.answers[poison] = Deferred(reason="HTTP 500", status=500)
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        rig.sink.answer = OK
        for _ in range(8):
            rig.advance(61)
            await rig.settled()

        assert set(others) <= set(rig.sink.got)
        assert rig.health.delivered == 29


async def test_after_the_outage_nothing_waits_for_its_retry(store: Store, clock: Clock) -> None:
    """Once the sink answers all are due, also those whose next try lay hours ahead."""
    await fill(store, 60)
    rig = Rig(store, clock, Sink(DOWN, concurrency=4))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        for _ in range(30):
            rig.advance(61)
            await rig.settled()
        rig.sink.answer = OK
        rig.advance(61)
        await until(lambda: rig.health.delivered == 60)

    assert await store.deliveries(sink="hook") == []


async def test_the_window_grows_after_the_outage(store: Store, clock: Clock) -> None:
    """One at a time at first, then more and more, up to the limit: a herd does not come."""
    await fill(store, 200)
    rig = Rig(store, clock, Sink(DOWN, concurrency=8))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        rig.sink.at_once.clear()
        rig.sink.answer = OK
        rig.advance(61)
        await until(lambda: rig.health.delivered == 200)

    # The probe and the one that has the window to itself, two at once, four at once.
    assert max(rig.sink.at_once[:2]) == 1
    assert max(rig.sink.at_once[:4]) <= 2
    assert max(rig.sink.at_once[:8]) <= 4
    assert max(rig.sink.at_once) == 8


async def test_a_restart_finds_what_waits_for_hours(store: Store, clock: Clock) -> None:
    """When the sink came back while the daemon was down, its first answer makes all due."""
    await fill(store, 3)
    rig = Rig(store, clock, Sink(Deferred(reason="HTTP 404", status=404), concurrency=1))
    async with Running(rig.dispatcher()):
        for _ in range(9):
            rig.advance(8 * 3600)
            await rig.settled()
    assert [row.due_at > clock() for row in await store.deliveries(sink="hook")] == [True] * 3
    fresh = await fill(store, 1, first=50)
    again = Rig(store, clock, Sink(OK))
    async with Running(again.dispatcher()):
        await until(lambda: again.health.delivered == 4)
    assert again.sink.got[0] == fresh[0]


async def test_a_crash_after_the_outage_leaves_nobody_waiting(store: Store, clock: Clock) -> None:
    """Where a crash came before all was made due, the next daemon's first answer does it."""
    await fill(store, 3)
    for one in await store.claim("hook", limit=9, max_bytes=1 << 20, lease=60.0):
        due = Retry(due_at=clock() + timedelta(hours=8))
        await store.resolve(
            [Resolution(delivery=one, outcome=DOWN, decision=due, started_at=clock(), seconds=0.1)]
        )
    await fill(store, 1, first=50)
    rig = Rig(store, clock, Sink(OK))
    async with Running(rig.dispatcher()):
        await until(lambda: rig.health.delivered == 4)


async def test_a_failing_sink_is_told_to_the_others_once(store: Store, clock: Clock) -> None:
    """One event when it begins, one when it is over, and none of them to the sink itself."""
    await fill(store, 20)
    rig = Rig(store, clock, Sink(DOWN, concurrency=2))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        for _ in range(3):
            rig.advance(61)
            await rig.settled()
        (failing,) = await told(store)
        rig.sink.answer = OK
        rig.advance(61)
        await until(lambda: rig.health.delivered == 20)
        await rig.settled()

    (recovered,) = await told(store)
    assert (failing.type, recovered.type) == ("webhook.failing", "webhook.recovered")
    assert failing.body is not None
    assert recovered.body is not None
    assert failing.body["webhook"] == recovered.body["webhook"] == "hook"
    assert failing.body["reason"] == "connection refused"
    assert failing.body["since"] == recovered.body["since"]
    assert recovered.body["attempts"] >= failing.body["attempts"] >= 5


@pytest.mark.parametrize("back", [True, False], ids=["back before", "still away"])
async def test_the_end_is_told_also_after_a_restart(
    store: Store,
    clock: Clock,
    back: bool,  # noqa: FBT001 - parametrised
) -> None:
    """A daemon that was restarted within the outage tells its end, and not its beginning again."""
    await fill(store, 12)
    rig = Rig(store, clock, Sink(DOWN, concurrency=1))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
    again = Rig(store, clock, Sink(OK if back else DOWN, concurrency=1))
    async with Running(again.dispatcher()):
        if not back:
            await until(lambda: len(again.sink.got) >= 5)
            await again.settled()
            assert again.health.failing_since is not None
            again.sink.answer = OK
            again.advance(61)
        await until(lambda: again.health.delivered == 12)
        await again.settled()

    assert [one.type for one in await told(store)] == ["webhook.failing", "webhook.recovered"]


async def test_it_can_be_seen_when_the_next_try_comes(store: Store, clock: Clock) -> None:
    """Who looks at a failing sink sees how long everything waits for its next probe."""
    await fill(store, 12)
    rig = Rig(store, clock, Sink(DOWN, concurrency=1))
    async with Running(rig.dispatcher()):
        assert rig.health.pause() == 0
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        assert rig.health.pause() == 60
        rig.sink.answer = OK
        rig.advance(61)
        await until(lambda: rig.health.delivered == 12)
        assert rig.health.pause() == 0


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_slip_in_the_set_up_is_told_after_three(
    store: Store, clock: Clock, status: int
) -> None:
    """Where the sink refuses us, mails are kept and tried on; the third refusal is an event."""
    await fill(store, 1)
    rig = Rig(store, clock, Sink(Deferred(reason=f"HTTP {status}", status=status)))
    async with Running(rig.dispatcher()):
        for wanted in range(1, 4):
            await until(lambda wanted=wanted: rig.health.deferred == wanted)  # type: ignore[misc]  # the default binds the loop's present value
            await rig.settled()
            assert [one.type for one in await told(store)] == (
                ["webhook.failing"] if wanted == 3 else []
            )
            rig.advance(3600)
        await until(lambda: rig.health.deferred == 4)
        await rig.settled()
        assert await told(store) == []


async def test_gone_pauses_and_is_told_and_heals(store: Store, clock: Clock) -> None:
    """A 410 stops the sending at once, an event says so, and after an hour it is tried again."""
    await fill(store, 10)
    rig = Rig(store, clock, Sink(Deferred(reason="HTTP 410", status=410), concurrency=1))
    async with Running(rig.dispatcher()):
        await until(lambda: rig.health.deferred == 1)
        await rig.settled()
        rig.advance(3599)
        await rig.settled()
        assert len(rig.sink.got) == 1
        assert [one.type for one in await told(store)] == ["webhook.failing"]
        rig.sink.answer = OK
        rig.advance(2)
        await until(lambda: rig.health.delivered == 10)


async def test_a_person_need_not_wait_for_the_probe(store: Store, clock: Clock) -> None:
    """A retry by hand brings an attempt at once, also while a sink that was gone is paused."""
    await fill(store, 5)
    rig = Rig(store, clock, Sink(Deferred(reason="HTTP 410", status=410), concurrency=1))
    async with Running(rig.dispatcher()) as subject:
        await until(lambda: rig.health.deferred == 1)
        await rig.settled()
        rig.sink.answer = OK
        subject.hurry()
        await until(lambda: rig.health.delivered == 5)


async def test_retry_after_holds_every_mail(store: Store, clock: Clock) -> None:
    """A sink that asks for half a minute gets nothing at all until then."""
    await fill(store, 50)
    busy = Deferred(reason="HTTP 429", status=429, retry_after=30.0)
    rig = Rig(store, clock, Sink(busy, concurrency=4))
    async with Running(rig.dispatcher()):
        await until(lambda: rig.health.deferred >= 1)
        await rig.settled()
        sent = len(rig.sink.got)
        assert sent <= 4
        rig.sink.answer = OK
        rig.advance(29)
        await rig.settled()
        assert len(rig.sink.got) == sent
        rig.advance(10)
        await until(lambda: rig.health.delivered == 50)


async def test_a_refused_mail_costs_the_others_nothing(store: Store, clock: Clock) -> None:
    """A 400, however often, neither opens the breaker nor stops what comes after."""
    refused = await fill(store, 20)
    rig = Rig(store, clock, Sink(OK, concurrency=2))
    rig.sink.answers |= dict.fromkeys(refused, Rejected(reason="HTTP 400", status=400))
    fine = await fill(store, 20, first=100)
    async with Running(rig.dispatcher()):
        await until(lambda: rig.health.delivered == 20)
        for _ in range(2):
            rig.advance(60)
            await rig.settled()

    assert [rig.sink.got.count(name) for name in fine] == [1] * 20
    assert [rig.sink.got.count(name) for name in refused] == [3] * 20
    dead = await store.deliveries(state="dead")
    assert {row.event_id for row in dead} == set(refused)


async def test_what_waited_seven_days_dies_without_an_attempt(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After seven days away all are dead letters, told one by one; and hardly any was tried."""
    monkeypatch.setattr("mailbridge.outage.LET_GO_EVERY", 0.05)
    names = await fill(store, 150)
    rig = Rig(store, clock, Sink(DOWN, concurrency=4))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        rig.advance(timedelta(days=7, seconds=1).total_seconds())
        await until(lambda: rig.health.dead >= 149)
        await rig.settled()

    dead = await store.deliveries(state="dead", limit=500)
    assert {row.event_id for row in dead} == set(names)
    assert len(rig.sink.got) <= 12
    assert len(await told(store)) == 100
    assert "connection refused" in (dead[-1].last_reason or "")


# --- strict order


async def test_a_strict_sink_gets_one_of_each_mailbox_at_a_time(store: Store, clock: Clock) -> None:
    """A head that fails holds its mailbox, the order is kept, and another mailbox goes on."""
    first = await fill(store, 6)
    rig = Rig(store, clock, Sink(OK, concurrency=8))
    rig.sink.answers[first[0]] = Deferred(reason="HTTP 503", status=503)
    async with Running(rig.dispatcher(strict=True)):
        await until(lambda: rig.health.deferred == 1)
        await rig.settled()
        assert rig.sink.got == first[:1]
        del rig.sink.answers[first[0]]
        rig.sink.answers[first[2]] = Rejected(reason="HTTP 422", status=422)
        for _ in range(4):
            rig.advance(60)
            await rig.settled()

    order = [name for at, name in enumerate(rig.sink.got) if name not in rig.sink.got[:at]]
    assert order == first
    assert max(rig.sink.at_once) == 1
    assert rig.health.delivered == 5


# --- too old at delivery


async def old(store: Store, clock: Clock, otherwise: str) -> str:
    """Accept a mail that is too old one minute later."""
    (name,) = await fill(store, 1)
    async with asyncio.timeout(10):
        await store._run(
            lambda connection, _: connection.exec_driver_sql(
                "UPDATE deliveries SET expires_at = ?, otherwise = ?, route = 'alarm'",
                (int((clock() + timedelta(minutes=1)).timestamp() * 1_000_000), otherwise),
            )
        )
    return name


async def test_what_is_too_old_when_its_turn_comes_is_held(store: Store, clock: Clock) -> None:
    """After an outage a late alarm wakes nobody: it is held, told, and a person can release it."""
    name = await old(store, clock, "hold")
    clock.advance(60)
    rig = Rig(store, clock, Sink(OK))
    async with Running(rig.dispatcher()) as subject:
        await until_state(store, "held")
        assert rig.sink.got == []
        (event,) = await told(store)
        assert event.type == "delivery.held"
        assert event.body is not None
        assert event.body["message"] == name
        assert event.body["route"] == "alarm"
        assert event.body["reason"].startswith("older than max_age")
        assert await store.requeue([name]) == 1
        subject.wake()
        await until(lambda: rig.sink.got == [name])


async def test_a_young_one_is_delivered(store: Store, clock: Clock) -> None:
    """Up to the limit itself nothing is held."""
    name = await old(store, clock, "hold")
    clock.advance(59)
    rig = Rig(store, clock, Sink(OK))
    async with Running(rig.dispatcher()):
        await until(lambda: rig.sink.got == [name])


@pytest.mark.parametrize(("otherwise", "sent"), [("drop", 0), ("deliver", 1)])
async def test_a_route_may_drop_or_deliver_the_late(
    store: Store, clock: Clock, otherwise: str, sent: int
) -> None:
    """What becomes of a late mail is the route's word: dropped, with the reason, or sent."""
    name = await old(store, clock, otherwise)
    clock.advance(61)
    rig = Rig(store, clock, Sink(OK))
    async with Running(rig.dispatcher()):
        await until_state(store, "delivered" if sent else "dropped")
    (row,) = (await store.trace(name)).deliveries
    assert len(rig.sink.got) == sent
    assert sent or (row.last_reason or "").startswith("older than max_age")


async def test_late_mails_do_not_end_the_probing(store: Store, clock: Clock) -> None:
    """While the sink is away, a probe that turns out to be too old makes way for the next."""
    await fill(store, 30)
    rig = Rig(store, clock, Sink(DOWN, concurrency=1))
    async with Running(rig.dispatcher()):
        await until(lambda: len(rig.sink.got) >= 5)
        await rig.settled()
        await store._run(
            lambda connection, now: connection.exec_driver_sql(
                "UPDATE deliveries SET expires_at = ?, otherwise = 'hold' WHERE pk <= 10", (now,)
            )
        )
        before = len(rig.sink.got)
        rig.advance(61)
        await until(lambda: len(rig.sink.got) == before + 1)
        await rig.settled()
        assert len(await store.deliveries(state="held")) == 10


async def until_state(store: Store, state: str) -> None:
    async with asyncio.timeout(20):
        while True:
            rows = [row.state for row in await store.deliveries(state=state)]  # type: ignore[arg-type]  # a state by name
            if rows:
                return
            await asyncio.sleep(0.01)
