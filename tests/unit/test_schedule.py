"""The clock keeps its pace when somebody sets the time of the machine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace

import pytest
import structlog
from apscheduler.schedulers import base

from mailbridge import schedule as schedule_module
from mailbridge.schedule import Schedule


class Wall:
    """The time of day, which a test can set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp(self.time(), zone)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()

    class Shifted(datetime):
        """What ``apscheduler`` and the schedule take for the time of day."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # gives a plain one
            return wall.now(tz)

    times = SimpleNamespace(time=wall.time, monotonic=time.monotonic)
    monkeypatch.setattr(base, "datetime", Shifted)
    monkeypatch.setattr(schedule_module, "datetime", Shifted)
    monkeypatch.setattr(schedule_module, "time", times)
    return wall


def plan(wall: Wall) -> Schedule:
    return Schedule(now=lambda: wall.now(UTC), rng=random.Random(7))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "leap",
    [timedelta(days=-1), timedelta(days=3650), timedelta(minutes=-1)],
    ids=["a-day-back", "ten-years-ahead", "a-minute-back"],
)
async def test_wakes_go_on_when_the_time_is_set(wall: Wall, leap: timedelta) -> None:
    """Neither does a leap back stop the wakes, nor does one ahead wake all at the same moment."""
    often: list[float] = []
    seldom: list[float] = []
    subject = plan(wall)
    subject.wake_every(0.05, lambda: often.append(0.0), name="often")
    for number in range(50):
        subject.wake_every(3600.0, lambda: seldom.append(0.0), name=f"seldom {number}")
    with structlog.testing.capture_logs() as logged:
        subject.start()
        await until(lambda: len(often) >= 3)
        wall.ahead = leap.total_seconds()
        before = len(often)
        await until(lambda: len(often) >= before + 10)
        subject.stop()
        await asyncio.sleep(0)

    assert seldom == []
    jumps = [entry["seconds"] for entry in logged if entry["event"] == "clock.jumped"]
    assert jumps == [pytest.approx(leap.total_seconds(), abs=1)]


async def test_a_cron_line_goes_by_the_new_time_of_day(wall: Wall) -> None:
    """After a leap a cron job is due when the new time says so, not when the old one did."""
    subject = plan(wall)
    subject.wake_cron("0 12 * * *", lambda: None, name="noon")
    often: list[None] = []
    subject.wake_every(0.05, lambda: often.append(None), name="often")
    subject.start()
    await until(lambda: bool(often))
    wall.ahead = timedelta(days=3, hours=5).total_seconds()

    def due() -> datetime:
        [moment] = [
            job.next_run_time for job in subject._scheduler.get_jobs() if job.name == "noon"
        ]
        assert isinstance(moment, datetime)
        return moment

    await until(lambda: due() > wall.now(UTC))
    moment, left = due(), due() - wall.now(UTC)
    subject.stop()
    await asyncio.sleep(0)

    assert left <= timedelta(days=1, seconds=5)
    noon = moment.replace(hour=12, minute=0, second=0, microsecond=0)
    assert abs(moment - noon) <= timedelta(seconds=5)
