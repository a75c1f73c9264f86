"""The fallback at work: two sinks, the loop between them, and a store that fails now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest

from mailbridge.dispatch import Dispatcher
from mailbridge.errors import StoreRefused, Unavailable
from mailbridge.fallback import Fallbacks
from mailbridge.health import SinkHealth
from mailbridge.model import Batch, Rejected
from mailbridge.retry import POLICIES
from mailbridge.store.base import Fallback, FellBack
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.integration.test_dispatch_outage import DOWN, OK, Sink
from tests.integration.test_loops import Running, _render_here, checkpoint, mail, until

TO = {"hook": Fallback(to="sms", after=60.0)}


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=clock)
    yield opened
    await opened.close()


async def alarm(store: Store, count: int = 1) -> list[str]:
    messages = tuple(mail(uid) for uid in range(1, count + 1))
    batch = Batch(
        mailbox="alarm",
        folder="INBOX",
        sinks=("hook",),
        messages=messages,
        checkpoint=checkpoint(count),
        fallbacks={"hook": 60.0},
    )
    await store.accept(batch, address="a@b.example", settles=False)
    return [message.ref.message_id for message in messages]


def dispatcher(sink: Sink, store: Store, clock: Clock) -> Dispatcher:
    return Dispatcher(
        sink=sink,
        store=store,
        policy=POLICIES["alarm"],
        health=SinkHealth(name=sink.name),
        listeners=lambda _mailbox, _kind: [],
        run_blocking=_render_here,
        now=clock,
        rng=random.Random(7),
    )


class Loop:
    """The fallback loop beside a test; ``told`` counts the wakes."""

    def __init__(
        self, store: Any, clock: Clock, to: Mapping[str, Fallback] = TO, wake: Any = None
    ) -> None:
        self.told = 0
        self._wake = wake
        self.subject = Fallbacks(store=store, to=lambda: to, on_fall_back=self._fell, now=clock)

    def _fell(self) -> None:
        self.told += 1
        if self._wake is not None:
            self._wake()

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.subject.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop look more often than once a second."""
    monkeypatch.setattr("mailbridge.fallback.EVERY", 0.02)


async def test_an_alarm_that_is_not_taken_reaches_the_other_webhook(
    store: Store, clock: Clock
) -> None:
    """When the alarm server is silent for its minute, the second gets it under the same id."""
    first, second = Sink(DOWN), Sink(OK, name="sms")
    sms = dispatcher(second, store, clock)
    async with (
        Running(dispatcher(first, store, clock)),
        Running(sms),
        Loop(store.outages, clock, wake=sms.wake) as loop,
    ):
        (name,) = await alarm(store)
        clock.advance(59)
        await asyncio.sleep(0.2)
        assert second.got == []
        clock.advance(1)
        await until(lambda: second.got == [name])
        clock.advance(600)
        await asyncio.sleep(0.2)

    assert second.got == [name]
    assert loop.told == 1
    (row,) = await store.deliveries(sink="hook")
    assert row.state in {"queued", "deferred"}


async def test_a_refused_alarm_falls_back_without_a_wait(store: Store, clock: Clock) -> None:
    """Once the first has refused it for good, the other gets it though the minute is not over."""
    first = Sink(Rejected(reason="HTTP 422", status=422))
    second = Sink(OK, name="sms")
    sms = dispatcher(second, store, clock)
    hook = dispatcher(first, store, clock)
    (name,) = await alarm(store)
    async with Running(hook), Running(sms), Loop(store.outages, clock, wake=sms.wake):
        for wanted in range(1, 4):
            await until(lambda wanted=wanted: len(first.got) == wanted)  # type: ignore[misc]  # the default binds the loop's present value
            clock.advance(5)
            hook.wake()
        await until(lambda: second.got == [name])


async def test_more_than_one_step_of_alarms_all_fall_back(store: Store, clock: Clock) -> None:
    """However many there are, all of them reach the other webhook, each once."""
    names = await alarm(store, 250)
    second = Sink(OK, name="sms")
    sms = dispatcher(second, store, clock)
    clock.advance(60)
    async with Running(sms), Loop(store.outages, clock, wake=sms.wake):
        await until(lambda: len(second.got) >= 250)
        await asyncio.sleep(0.1)

    assert sorted(second.got) == sorted(names)


class Failing:
    """The store's fallbacks; the first looks fail with this."""

    def __init__(self, store: Store, error: Exception, times: int) -> None:
        self._store, self._error, self._times = store, error, times
        self.looks = 0

    async def next_fall_back(self) -> datetime | None:
        self.looks += 1
        if self.looks <= self._times:
            raise self._error
        return await self._store.outages.next_fall_back()

    async def fall_back(self, to: Mapping[str, Fallback]) -> Sequence[FellBack]:
        return await self._store.outages.fall_back(to)


async def test_a_store_that_fails_for_a_while_delays_it_only(store: Store, clock: Clock) -> None:
    """A database that is away does not end the loop: what is due falls back when it answers."""
    await alarm(store)
    clock.advance(60)
    failing = Failing(store, Unavailable("no connection"), 3)
    async with Loop(failing, clock) as loop:
        await until(lambda: loop.told == 1)
    assert failing.looks >= 4


async def test_a_store_that_may_not_be_used_ends_the_daemon(store: Store, clock: Clock) -> None:
    """What the database cannot be trusted with any more is not tried on for ever."""
    failing = Failing(store, StoreRefused("damaged", code="store.io"), 1)
    loop = Fallbacks(store=failing, to=lambda: TO, on_fall_back=lambda: None, now=clock)
    with pytest.raises(StoreRefused):
        await loop.run()


async def test_a_bug_of_ours_does_not_end_the_loop(store: Store, clock: Clock) -> None:
    """Nor does it end the daemon: the next look is made all the same."""
    await alarm(store)
    clock.advance(60)
    async with Loop(Failing(store, ZeroDivisionError(), 2), clock) as loop:
        await until(lambda: loop.told == 1)


async def test_without_fallbacks_the_store_is_left_alone(store: Store, clock: Clock) -> None:
    """Where no webhook has a fallback, nobody looks for what may be due."""
    failing = Failing(store, Unavailable("not to be asked"), 10**6)
    async with Loop(failing, clock, to={}):
        await asyncio.sleep(0.2)
    assert failing.looks == 0
