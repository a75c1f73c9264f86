"""When a probe is begun, and when its time is up: by the clock, and by one that is wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailbridge.compose.draft import Handed, Origin, Taken
from mailbridge.config import Config, load
from mailbridge.errors import MailbridgeError, PermanentError, StoreFull, TemporaryError
from mailbridge.health import Health, ProbeHealth
from mailbridge.probe_judging import Surroundings
from mailbridge.probing import Probing
from mailbridge.schedule import Schedule
from mailbridge.store.store import Store
from mailbridge.test_mail import mark_of
from tests.conftest import Clock

PATIENCE = 20
TEXT = """
apps:
  one: {tenant: contoso.example, client_id: 66666666-7777-8888-9999-000000000000,
        credential: {client_secret: {env: SECRET}}}
mailboxes:
  a: {address: a@x.example, app: one, send: {send_as: [b@x.example, A@x.example]},
      probe: {cron: "0 6 * * *", within: 2m}}
webhooks: {erp: {url: "https://x.example/"}}
"""


class Crontab:
    """The clock, in the hands of a test."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[str, Callable[[], None]]] = {}
        self.wanted_between = Schedule(now=datetime.now, rng=random.Random(7)).wanted_between

    def wake_cron(self, expression: str, wake: Callable[[], None], *, name: str) -> None:
        assert name not in self.jobs
        self.jobs[name] = (expression, wake)

    def forget(self, name: str) -> None:
        del self.jobs[name]


class Rig:
    """A ``Probing`` with a store of its own, and everything else in the hands of the test."""

    def __init__(self, home: Path, store: Store, clock: Clock) -> None:
        self.home, self.store, self.clock = home, store, clock
        self.config = self.loaded()
        self.crontab = Crontab()
        self.seconds = 1000.0
        self.queued: list[Handed] = []
        self.refusal: MailbridgeError | None = None
        #: whoever hands over never hears again, as when the process ends there
        self.stuck = False
        self.told: list[tuple[str, str]] = []
        self.health = Health(started_at=clock())

    def loaded(self, *changed: tuple[str, str]) -> Config:
        text = TEXT
        for old, new in changed:
            assert old in text
            text = text.replace(old, new)
        file = self.home / "mailbridge.yaml"
        file.write_text(text)
        return load(file, environ={"SECRET": "abc8Q~made-up-client-secret"})

    async def hand_over(self, handed: Handed, origin: Origin) -> Taken:
        """Be the outbox."""
        if self.stuck:
            await asyncio.Event().wait()
        if self.refusal is not None:
            raise self.refusal
        assert (origin.via, mark_of(handed.raw)) == ("probe", origin.key)
        self.queued.append(handed)
        return Taken(id="out_1", message_id="", mailbox=handed.sender)

    def listeners(self, mailbox: str, kind: str) -> Sequence[str]:
        self.told.append((mailbox, kind))
        return ["erp"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Probing]:
        sends: Any = SimpleNamespace(find=self._find)
        around = Surroundings(
            config=lambda: self.config,
            store=self.store.probes,
            sends=sends,
            health=self.health,
            listeners=self.listeners,
            wake=lambda: None,
            now=self.clock,
            steady=lambda: self.seconds,
        )
        probing = Probing(around, hand_over=self.hand_over, clock=self.crontab)
        probing.apply()
        task = asyncio.create_task(probing.run())
        try:
            yield probing
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.crontab.jobs.clear()
            self.health = Health(started_at=self.clock())

    async def _find(self, message_id: str) -> list[Any]:
        """Every mail that was queued is sent, and lost on its way."""
        if not any(message_id.encode() in one.raw for one in self.queued):
            return []
        row = SimpleNamespace(
            id="out_1", state="sent", ended_at=self.clock(), bounces=(), reason="", reply=""
        )
        return [row]

    @property
    def probe(self) -> ProbeHealth:
        return self.health.probes["a"]

    def fire(self) -> None:
        self.crontab.jobs["probe a"][1]()

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(seconds)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)

    async def turns(self, count: int = 3) -> None:
        """Wait until the loop has looked so often."""
        looks = 0
        waiting = self.store.probes.waiting

        async def counted(missed: Sequence[str] = ()) -> Any:
            nonlocal looks
            looks += 1
            return await waiting(missed)

        self.store.probes.waiting = counted  # type: ignore[method-assign]  # to count
        try:
            await self.until(lambda: looks >= count)
        finally:
            self.store.probes.waiting = waiting  # type: ignore[method-assign]  # as it was


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "LOOK_LATE", "AGAIN"):
        monkeypatch.setattr(f"mailbridge.probing.{name}", 0.01)


@pytest.fixture
async def rig(tmp_path: Path, clock: Clock) -> AsyncIterator[Rig]:
    store = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=clock)
    yield Rig(tmp_path, store, clock)
    await store.close()


async def test_the_clock_begins_it_and_its_time_runs_out(rig: Rig) -> None:
    """At the moment of the crontab it is queued, and judged when its time is up, not before."""
    async with rig.running():
        assert rig.crontab.jobs["probe a"][0] == "0 6 * * *"
        rig.fire()
        await rig.until(lambda: rig.probe.open_since)
        [mail] = rig.queued
        rig.advance(119)
        await rig.turns()
        assert (rig.probe.outcome, rig.told) == ("", [])
        rig.advance(1)
        await rig.until(lambda: rig.probe.outcome)
    assert (mail.sender, mail.recipients) == ("a", ("a@x.example",))
    assert b"From: <A@x.example>" in mail.raw
    assert rig.told == [("a", "probe.missed")]


async def test_a_clock_that_is_set_judges_nothing(rig: Rig) -> None:
    """The time of day leaps an hour ahead and a day back: the probe still has its two minutes."""
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.probe.open_since)
        rig.clock.advance(3600)
        await rig.turns()
        rig.clock.advance(-86400)
        await rig.turns()
        assert rig.told == []
        rig.seconds += 120
        await rig.until(lambda: rig.told)


async def test_an_open_one_gets_a_minute_after_a_start(rig: Rig) -> None:
    """A daemon that was away for an hour catches up before it calls the way broken."""
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.queued and rig.probe.open_since)
    rig.advance(3600)
    async with rig.running():
        await rig.until(lambda: rig.probe.open_since)
        rig.advance(59)
        await rig.turns()
        assert rig.told == []
        rig.advance(1)
        await rig.until(lambda: rig.told)


async def test_a_clock_that_went_back_gives_no_endless_time(rig: Rig) -> None:
    """After a start with a wrong time of day an open probe has its span, and not days."""
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.queued and rig.probe.open_since)
    rig.clock.advance(-40 * 86400)
    async with rig.running():
        await rig.until(lambda: rig.probe.open_since)
        rig.seconds += 120
        await rig.until(lambda: rig.told)


async def test_what_was_due_while_nothing_ran_is_made_up_for(rig: Rig) -> None:
    """One probe, half a minute after the start; none at the first start ever, none for nothing."""
    rig.clock.set(_six_o_clock(rig.clock()))
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.queued and rig.probe.open_since)
        rig.advance(120)
        await rig.until(lambda: rig.probe.outcome == "missed")
    rig.advance(3600)
    async with rig.running():
        rig.seconds += 60
        await rig.turns()
        assert len(rig.queued) == 1
    rig.advance(3 * 86400)
    async with rig.running():
        await rig.until(lambda: rig.probe.outcome == "missed")
        await rig.turns()
        assert len(rig.queued) == 1
        rig.advance(30)
        await rig.until(lambda: len(rig.queued) == 2)
        rig.advance(60)
        await rig.turns()
        assert len(rig.queued) == 2


def _six_o_clock(moment: datetime) -> datetime:
    """Return six in the morning of a day, as the machine's crontab means it."""
    local = moment.astimezone()
    return local.replace(hour=6, minute=0, second=2, microsecond=0).astimezone(UTC)


async def test_a_crash_before_the_queue_is_no_alarm(rig: Rig) -> None:
    """Put down and never queued: nothing was tried, so nothing is told, and another one goes."""
    rig.stuck = True
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.probe.open_since)
    rig.stuck = False
    async with rig.running():
        await rig.until(lambda: rig.probe.open_since)
        rig.advance(120)
        await rig.until(lambda: rig.queued)
        assert rig.probe.counts == {"void": 1}
    assert rig.told == []


@pytest.mark.parametrize(
    "error",
    [
        StoreFull("the disk is full"),
        PermanentError("the mailbox may not send", code="send.not_allowed", fix="let it"),
    ],
)
async def test_what_cannot_be_queued_is_told_at_once(rig: Rig, error: MailbridgeError) -> None:
    """The first station can be the broken one; nobody waits for the end of the time then."""
    rig.refusal = error
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.probe.outcome)
        assert (rig.probe.stage, rig.probe.cause) == ("queued", str(error))
        assert rig.probe.open_since is None
    assert rig.told == [("a", "probe.missed")]


async def test_a_store_that_is_away_delays_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database does not answer nothing is begun; then it is, and once."""
    expect, failures = rig.store.probes.expect, 0

    async def away(test: Any) -> bool:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise TemporaryError("the database does not answer")
        return await expect(test)

    monkeypatch.setattr(rig.store.probes, "expect", away)
    async with rig.running():
        rig.fire()
        await rig.until(lambda: rig.queued)
        await rig.turns()
    assert (failures, len(rig.queued)) == (4, 1)


async def test_a_reload_counts_from_then_on(rig: Rig) -> None:
    """Another crontab replaces the job, the same one leaves it, none takes it away."""
    async with rig.running() as probing:
        before = rig.crontab.jobs["probe a"]
        probing.apply()
        assert rig.crontab.jobs["probe a"] is before
        rig.config = rig.loaded(("0 6 * * *", "*/5 * * * *"))
        probing.apply()
        assert rig.crontab.jobs["probe a"][0] == "*/5 * * * *"
        rig.config = rig.loaded((',\n      probe: {cron: "0 6 * * *", within: 2m}', ""))
        probing.apply()
        assert (rig.crontab.jobs, rig.health.probes) == ({}, {})
        with pytest.raises(PermanentError, match="no probe"):
            await probing.asked({"mailbox": "a"})


def test_a_moment_of_the_crontab_lies_between() -> None:
    """What was missed while nothing ran is seen; after a clock was set back nothing was missed."""
    schedule = Schedule(now=lambda: datetime.now(UTC), rng=random.Random(7))
    six = _six_o_clock(datetime(2026, 11, 20, 12, 0, tzinfo=UTC))
    day = timedelta(days=1)
    assert not schedule.wanted_between("0 6 * * *", six, six + day / 2)
    assert schedule.wanted_between("0 6 * * *", six, six + day)
    assert not schedule.wanted_between("0 6 * * *", six, six - 30 * day)
