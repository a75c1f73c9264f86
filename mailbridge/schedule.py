"""The clock: APScheduler's triggers wake intakes and run the chores. It owns no mail.

Jobs live in memory and may coalesce: a missed wake-up is no loss, since a look always fetches
everything beyond the checkpoint. When the machine's time is set, everything keeps its pace:
APScheduler alone would call a thousand mailboxes at once after a leap ahead, and none until the
old time is reached again after one back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

log = structlog.get_logger()

#: seconds by which the time of day may drift from the steady clock before it counts as set
DRIFT: Final = 5.0


class Schedule:
    """Wakes and chores on a clock. ``start`` needs a running event loop."""

    def __init__(self, *, now: Callable[[], datetime], rng: random.Random) -> None:
        self._now = now
        self._rng = rng
        self._scheduler = _SteadyScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def wake_every(self, seconds: float, wake: Callable[[], None], *, name: str) -> None:
        """Call ``wake`` every ``seconds``, beginning somewhere within the first interval.

        The beginning is drawn by lot and each later call gets a jitter of up to a tenth of the
        interval, so that a thousand mailboxes with one interval don't sign in together.
        """
        first = self._now() + timedelta(seconds=self._rng.uniform(0.0, seconds))
        trigger = IntervalTrigger(
            seconds=seconds, start_date=first, jitter=seconds / 10, timezone="UTC"
        )
        self._scheduler.add_job(_async(wake), trigger, name=name)

    def forget(self, name: str) -> None:
        """Wake and work no more under this name; nothing when there is no such job."""
        for job in self._scheduler.get_jobs():
            if job.name == name:
                job.remove()

    def wake_cron(self, expression: str, wake: Callable[[], None], *, name: str) -> None:
        """Call ``wake`` as the five fields of a crontab say, in the machine's local time."""
        trigger = CronTrigger.from_crontab(expression)
        trigger.jitter = 5
        self._scheduler.add_job(_async(wake), trigger, name=name)

    def wanted_between(self, expression: str, since: datetime, now: datetime) -> bool:
        """Tell whether a crontab's five fields fit a moment after ``since`` and not after ``now``.

        Never when the clock was set back behind ``since``.
        """
        fits = CronTrigger.from_crontab(expression).get_next_fire_time(None, since)
        return fits is not None and since < fits <= now

    def chore(
        self,
        seconds: float,
        work: Callable[[], Awaitable[None]],
        *,
        name: str,
        soon: float | None = None,
    ) -> None:
        """Await ``work`` every ``seconds``; a chore that takes longer is not started twice.

        The first time is after so many seconds, too, or after ``soon``.
        """
        first = self._now() + timedelta(seconds=seconds if soon is None else soon)
        trigger = IntervalTrigger(seconds=seconds, start_date=first, timezone="UTC")
        self._scheduler.add_job(work, trigger, name=name)

    def start(self) -> None:
        """Start the clock."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop the clock; a chore under way is cancelled, which every chore survives."""
        self._scheduler.shutdown(wait=False)


class _SteadyScheduler(AsyncIOScheduler):  # type: ignore[misc]  # apscheduler has no types
    """Looks whether the time of day was set before it looks at what is due."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._offset = _offset()

    def wakeup(self) -> None:
        """See ``BaseScheduler``; called by its timer, which counts steadily."""
        jump = _offset() - self._offset
        if abs(jump) > DRIFT:
            self._offset += jump
            log.warning("clock.jumped", seconds=round(jump, 1))
            self._move(timedelta(seconds=jump))
        super().wakeup()

    def _move(self, jump: timedelta) -> None:
        """Give every job the time that it would have had: intervals go on, cron goes by the day."""
        now = datetime.now(UTC)
        for job in self.get_jobs():
            due = job.next_run_time + jump
            if isinstance(job.trigger, CronTrigger):
                due = job.trigger.get_next_fire_time(None, now)
            job.modify(next_run_time=due)


def _offset() -> float:
    """Return how far the time of day is from the steady clock, in seconds."""
    return time.time() - time.monotonic()


def _async(wake: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Keep the call on the event loop: APScheduler runs plain functions in a thread."""

    async def call() -> None:
        wake()

    return call
