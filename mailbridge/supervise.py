"""Keeps the loops alive by proven progress: backs off, parks, reports.

The state of one folder::

    starting ──proven check──▶ ok ◀──proven check── degraded | not_connected | parked
       │                        │
       └── failing, overdue ────┼──▶ degraded       (temporary: back off and try again)
                                ├──▶ not_connected  (signed in, mailbox not opened: 1, 5, 15 min)
                                └──▶ parked         (a person must act: again every 15 minutes)

This is the only place that catches what the intakes raise. Temporary and unknown errors back
off with jitter, permanent ones park that folder alone; the others never wait for it. A check
that is wanted and shows no progress is blindness, whatever the cause: the folder is reported
as degraded and its session is torn down and built anew.

How soon (seconds; ``intake.PROVE_EVERY`` 30, 15 for an answer; the watch goes round every 5):

* A line that is pushed to goes silent at 0: at 30 at the latest a check is wanted, at 45 the
  question has had no answer, which is a failure: ``degraded``. Should the question itself hang,
  the watch sees it after 24, by 30 + 24 + 5 = 59. The event follows 20 after the check was
  wanted, if no new session has proven one by then: by 30 + 20 + 5 = 55. A loop that is stuck
  where it only waits or asks is torn down by 30 + 50 + 5 = 85.
* A folder that is polled goes blind when its next check cannot be made. Reading may be slow,
  so that it has 45 without progress: ``degraded`` and the event by 45 + 5 = 50.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import structlog

from mailbridge.errors import (
    MailbridgeError,
    PermanentError,
    SessionOver,
    StoreRefused,
    TemporaryError,
    Throttled,
)
from mailbridge.health import Sight
from mailbridge.intake import Intake
from mailbridge.model import Notice, derived_id
from mailbridge.store.base import IntakeStore
from mailbridge.waits import NOT_CONNECTED_TIMES, backoff, is_not_connected

log = structlog.get_logger()

#: seconds without progress of a wanted check after which the folder counts as unseen: while
#: mail is being read, and while all that is outstanding is a few bytes
OVERDUE: Final = 45.0
OVERDUE_ASKING: Final = 24.0
#: seconds without progress after which the session is torn down. While mail is read it is the
#: last resort, so longer than the 900 s that a source allows for one command: a huge mail over
#: a thin line is slow, not stuck, and would never arrive if it were cut each time.
TORN_DOWN: Final = 1000.0
TORN_DOWN_ASKING: Final = 50.0
#: seconds that a failure may last before the ``mailbox.degraded`` event is sent
ANNOUNCE_AFTER: Final = 20.0
#: seconds that a folder has to be seen again before ``mailbox.recovered``: one that comes and
#: goes is no news every time
RECOVERED_AFTER: Final = 15.0
#: seconds between two looks of the watch
TICK: Final = 5.0


class Supervisor:
    """Runs intakes side by side; one folder's trouble delays no other."""

    def __init__(
        self,
        *,
        store: IntakeStore,
        listeners: Callable[[str, str], Sequence[str]],
        on_notice: Callable[[], None],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._listeners = listeners
        self._on_notice = on_notice
        self._now = now
        self._rng = rng
        self._intakes: list[Intake] = []
        self._lives: dict[Intake, asyncio.Task[None]] = {}
        #: parked intakes, and what ends their wait early
        self._mended: dict[Intake, asyncio.Event] = {}
        #: what had been done when the server last ended a session of its own accord
        self._done: dict[Intake, tuple[datetime | None, int]] = {}
        self._keeping: dict[Intake, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        #: when the watch last went round, for the watchdog
        self.moved_at = now()

    async def run(self, intakes: Sequence[Intake] = ()) -> None:
        """Keep every intake going until cancelled. Raises only what the store cannot survive.

        Those that ``watch`` was told of before are among them.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for intake in intakes:
                    self._intakes.append(intake)
                for intake in self._intakes:
                    self._keeping[intake] = group.create_task(self._keep(intake))
                group.create_task(self._watch())
        finally:
            self._group = None
            self._keeping.clear()

    def watch(self, intake: Intake) -> None:
        """Keep another intake going, from now on or from when this runs."""
        self._intakes.append(intake)
        if self._group is not None:
            self._keeping[intake] = self._group.create_task(self._keep(intake))

    async def forget(self, intake: Intake) -> None:
        """End an intake and its session for good; returns when it has let go."""
        self._intakes.remove(intake)
        keeping = self._keeping.pop(intake, None)
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait({keeping})
        self._lives.pop(intake, None)
        self._done.pop(intake, None)

    async def _keep(self, intake: Intake) -> None:
        while True:
            life = asyncio.create_task(intake.live())
            self._lives[intake] = life
            try:
                await asyncio.wait({life})
            finally:
                if not life.done():
                    life.cancel()
                    await asyncio.wait({life})
            error = _outcome(life)
            if error is None:
                continue
            if isinstance(error, StoreRefused):
                raise error
            if isinstance(error, SessionOver) and self._got_on(intake):
                log.info(
                    "session.over", mailbox=intake.mailbox, folder=intake.folder, code=error.code
                )
                continue
            await self._pause(intake, error)

    def _got_on(self, intake: Intake) -> bool:
        """Whether work was done since the last session that the server ended in its own time.

        If not, it is a failure like any other: a server that ends every session at once must
        not be signed in to without a pause.
        """
        done = (intake.health.last_check, intake.health.accepted)
        before = self._done.get(intake, (None, 0))
        self._done[intake] = done
        return done != before

    async def _pause(self, intake: Intake, error: BaseException) -> None:
        """Note the failure, say it, and wait as long as this kind of failure asks for."""
        known = error if isinstance(error, MailbridgeError) else None
        health, now = intake.health, self._now()
        health.failed(
            now,
            cause=str(error) if known else f"internal error: {type(error).__name__}",
            code=known.code if known else "internal",
            fix=known.fix if known else "",
            sight=_sight(error),
        )
        times = health.not_connected if is_not_connected(error) else health.failures
        seconds = backoff(times, known, self._rng)
        health.next_try = now + timedelta(seconds=seconds)
        if isinstance(error, Throttled):
            health.throttled_until = health.next_try
            health.throttled_seconds += seconds
        self._say(intake, error, seconds)
        if isinstance(error, PermanentError):
            await self._announce(intake)
        elif is_not_connected(error) and times == NOT_CONNECTED_TIMES:
            await self._announce_fault(intake)
        if isinstance(error, PermanentError):
            await self._until_mended(intake, seconds)
        else:
            await asyncio.sleep(seconds)
        # The next try has its own time to show progress; the failure itself began earlier.
        health.next_try = health.throttled_until = health.wanted_at = None
        health.wanted()

    async def _until_mended(self, intake: Intake, seconds: float) -> None:
        event = self._mended[intake] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        finally:
            del self._mended[intake]

    def mended(self, mailbox: str) -> None:
        """Try a parked mailbox again now: somebody has done what it waited for."""
        for intake, event in self._mended.items():
            if intake.mailbox == mailbox:
                event.set()

    def _say(self, intake: Intake, error: BaseException, seconds: float) -> None:
        health = intake.health
        facts = {
            "mailbox": intake.mailbox,
            "folder": intake.folder,
            "code": health.code,
            "error": health.cause,
            "failures": health.failures,
            "retry_in": round(seconds, 1),
        }
        if isinstance(error, PermanentError):
            log.error("mailbox.parked", **facts, fix=health.fix)
        elif health.not_connected >= NOT_CONNECTED_TIMES and is_not_connected(error):
            log.error("mailbox.not_connected", **facts, fix=health.fix)
        elif isinstance(error, TemporaryError):
            log.warning("session.lost", **facts)
        else:
            log.error("intake.bug", **facts, exc_info=error)

    # --- the watch

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for intake in list(self._intakes):
                await self._look_at(intake)
            self.moved_at = self._now()

    async def _look_at(self, intake: Intake) -> None:
        health = intake.health
        patience = OVERDUE_ASKING if health.asking else OVERDUE
        if health.overdue(patience) and health.sight in {Sight.OK, Sight.STARTING}:
            cause = f"a check is due and shows no progress for over {patience:.0f} s"
            health.blind(self._now(), cause=cause, code="overdue", fix="", sight=Sight.DEGRADED)
            log.warning("mailbox.overdue", mailbox=intake.mailbox, folder=intake.folder)
        if health.overdue(TORN_DOWN_ASKING if health.asking else TORN_DOWN):
            self._tear_down(intake)
        if health.failing(ANNOUNCE_AFTER):
            await self._announce(intake)
        elif health.sight is Sight.OK and health.announced and health.well(RECOVERED_AFTER):
            await self._announce_recovery(intake)

    def _tear_down(self, intake: Intake) -> None:
        """Cut a session that neither fails nor waits nor moves: whatever holds it, a new is better.

        Again at every round until it has let go; what it does on its way out may hang, too.
        """
        life = self._lives.get(intake)
        if life is None or life.done() or intake.health.next_try is not None:
            return
        log.error("session.torn_down", mailbox=intake.mailbox, folder=intake.folder)
        life.cancel()

    async def _announce(self, intake: Intake) -> None:
        health = intake.health
        if not health.announced:
            await self._tell(intake, at=health.failing_since or self._now())

    async def _announce_fault(self, intake: Intake) -> None:
        """Tell what is wrong once it is known, though blindness was told before."""
        await self._tell(intake, at=self._now())

    async def _tell(self, intake: Intake, *, at: datetime) -> None:
        health = intake.health
        since = health.failing_since or at
        data = {
            "folder": intake.folder,
            "state": str(health.sight),
            "code": health.code,
            "cause": health.cause,
            "fix": health.fix,
            "since": _text(since),
            "last_check": _text(health.last_check) if health.last_check else None,
        }
        if await self._notify(intake, "mailbox.degraded", at, data):
            health.announced = _text(since)
            log.error(
                "mailbox.degraded",
                mailbox=intake.mailbox,
                folder=intake.folder,
                code=health.code,
                cause=health.cause,
            )

    async def _announce_recovery(self, intake: Intake) -> None:
        health = intake.health
        data = {"folder": intake.folder, "since": health.announced}
        if await self._notify(intake, "mailbox.recovered", self._now(), data):
            health.announced = ""
            log.info("mailbox.recovered", mailbox=intake.mailbox, folder=intake.folder)

    async def _notify(
        self, intake: Intake, kind: str, at: datetime, data: Mapping[str, object]
    ) -> bool:
        """Queue the event; while the store cannot take it, the next look tries again."""
        parts: list[object] = [kind, intake.mailbox, intake.folder, _text(at)]
        name = derived_id("notice", parts)
        notice = Notice(id=name, type=kind, mailbox=intake.mailbox, at=at, data=dict(data))
        with suppress(TemporaryError):
            await self._store.notify([notice], self._listeners(intake.mailbox, kind))
            self._on_notice()
            return True
        return False


def _sight(error: BaseException) -> Sight:
    if isinstance(error, PermanentError):
        return Sight.PARKED
    return Sight.NOT_CONNECTED if is_not_connected(error) else Sight.DEGRADED


def _outcome(life: asyncio.Task[None]) -> BaseException | None:
    """Return what ended a session: nothing, an error, or our own tearing down."""
    if life.cancelled():
        return TemporaryError("the session showed no progress and was torn down", code="overdue")
    return life.exception()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
