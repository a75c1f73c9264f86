"""The scheduled test: a mailbox sends itself a mail, which has to reach the webhooks in time.

::

    cron ──▶ put down (nonce, Message-ID) ──▶ queued ──▶ sent ──▶ seen ──▶ delivered ──▶ passed
                                                └─ not within the time ─▶ missed ──▶ late

It goes the way of every mail: the durable queue, SMTP, the server, the mailbox's intake, the
dispatchers. Here it is only begun and waited for; all that matters is in the store, so a restart
loses no probe. Its time is counted by a clock that nobody sets, and begins anew, for a minute at
most, after a start: a daemon that was away is not a chain that is broken.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog

from mailbridge.compose.draft import Handed, Origin, Taken
from mailbridge.config import Config, Mailbox
from mailbridge.errors import MailbridgeError, PermanentError, StoreRefused
from mailbridge.expecting import author
from mailbridge.health import ProbeHealth
from mailbridge.http.control import Command
from mailbridge.probe_findings import Stopped
from mailbridge.probe_judging import Judge, Surroundings
from mailbridge.store.base import Expected
from mailbridge.test_mail import MarkedMail, compose

log = structlog.get_logger()

#: seconds between two looks while a probe is open, and while one that was missed may still come
LOOK: Final = 1.0
LOOK_LATE: Final = 15.0
#: seconds that a probe that was open at a start gets from then on, unless it had less altogether
CATCH_UP: Final = 60.0
#: seconds after a start until a probe is sent whose time came while nothing ran; sign-ins go first
MAKE_UP: Final = 30.0
#: a moment of the crontab so soon after a probe was begun is its own: jobs have a jitter
OWN: Final = timedelta(seconds=30)
#: seconds until work goes on after a failure
AGAIN: Final = 5.0

HandOver = Callable[[Handed, Origin], Awaitable[Taken]]


class Clock(Protocol):
    """A ``Protocol``: what is needed of ``schedule.Schedule``."""

    def wake_cron(self, expression: str, wake: Callable[[], None], *, name: str) -> None:
        """Call ``wake`` as the five fields of a crontab say."""

    def forget(self, name: str) -> None:
        """Call nothing more under this name."""

    def wanted_between(self, expression: str, since: Any, now: Any) -> bool:
        """Tell whether a crontab fits a moment after ``since`` and not after ``now``."""


class Probing:
    """Begins probes by the clock and has them judged.

    ``run`` it once, and ``apply`` at the beginning and after each reload. ``hand_over`` is that of
    the outbox.
    """

    def __init__(self, around: Surroundings, *, hand_over: HandOver, clock: Clock) -> None:
        self._around = around
        self._store, self._health = around.store, around.health
        self._hand_over = hand_over
        self._clock = clock
        self._judge = Judge(around)
        #: the crontabs that the clock knows, by mailbox
        self._planned: dict[str, str] = {}
        #: mailboxes whose time has come, and those whose time came while nothing ran
        self._due: set[str] = set()
        self._made_up: set[str] = set()
        self._make_up_at = around.steady() + MAKE_UP
        self._stirred = asyncio.Event()

    @property
    def _config(self) -> Config:
        return self._around.config()

    def commands(self) -> dict[str, Command]:
        """Return the commands by the names that the control socket knows."""
        return {"probe": self.asked}

    async def asked(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a probe of a ``mailbox`` now, for a person who has mended something."""
        name = asked["mailbox"]
        if name not in self._planned:
            raise PermanentError(
                f"mailbox {name} has no probe",
                code="control.no_probe",
                fix=f"write `probe: {{cron: …}}` under mailboxes.{name}",
            )
        self.wake(name)
        return {"begun": True}

    def apply(self) -> None:
        """Keep to the crontabs of the configuration in force."""
        boxes = self._config.mailboxes
        wanted = {name: box.probe.cron for name, box in boxes.items() if box.probe is not None}
        for name in [name for name, cron in self._planned.items() if wanted.get(name) != cron]:
            del self._planned[name]
            self._clock.forget(_job(name))
        for name, cron in wanted.items():
            self._health.probes.setdefault(name, ProbeHealth())
            if name not in self._planned:
                self._planned[name] = cron
                self._clock.wake_cron(cron, functools.partial(self.wake, name), name=_job(name))
        for name in self._health.probes.keys() - wanted.keys():
            del self._health.probes[name]
            self._judge.missed.pop(name, None)
        self._stirred.set()

    def wake(self, name: str) -> None:
        """Begin a probe of a mailbox as soon as may be; nothing while one is open."""
        self._due.add(name)
        self._stirred.set()

    async def run(self) -> None:
        """Work until cancelled. Raises ``StoreRefused`` alone."""
        recalled = False
        while True:
            try:
                if not recalled:
                    await self._recall()
                recalled = await self._turn()
            except StoreRefused:
                raise
            except MailbridgeError as error:
                log.warning("store.trouble", work="probe", error=str(error), code=error.code)
            except Exception:
                # A bug in what watches must not end what it watches.
                log.exception("probe.bug")
            else:
                await self._pause()
                continue
            await asyncio.sleep(AGAIN)

    async def _pause(self) -> None:
        late = LOOK_LATE if self._judge.missed or self._made_up else None
        try:
            async with asyncio.timeout(LOOK if self._judge.until else late):
                await self._stirred.wait()
        except TimeoutError:
            return
        self._stirred.clear()

    async def _turn(self) -> bool:
        """Begin what is due, and judge what can be; ``False`` when another host has judged."""
        if self._made_up and self._around.steady() >= self._make_up_at:
            self._due |= self._made_up
            self._made_up = set()
        while self._due:
            name = min(self._due)
            await self._begin(name)
            self._due.discard(name)
        open_before = set(self._judge.until)
        rows = await self._store.waiting(list(self._judge.missed.values()))
        elsewhere = open_before - {row.nonce for row in rows}
        for nonce in elsewhere:
            del self._judge.until[nonce]
        for row in rows:
            if not await self._judge.judge(row):
                self.wake(row.mailbox)
        return not elsewhere

    async def _recall(self) -> None:
        """Take up what was before: how the last ones went, and what is still open."""
        for outcomes in (("passed", "late"), ("passed", "late", "missed")):
            for row in await self._store.last(*outcomes):
                if row.mailbox in self._planned:
                    await self._judge.recall(row)
        now = self._around.now()
        for name, health in self._health.probes.items():
            cron, last = self._planned[name], health.last
            if last is not None and self._clock.wanted_between(cron, last + OWN, now):
                self._made_up.add(name)
        for row in await self._store.waiting():
            if row.nonce in self._judge.until:
                continue
            span = (row.due_at - row.begun_at).total_seconds()
            left = min((row.due_at - now).total_seconds(), span)
            self._judge.give(row, max(left, min(CATCH_UP, span)))
            self._made_up.discard(row.mailbox)

    async def _begin(self, name: str) -> None:
        mailbox = self._config.mailboxes.get(name)
        if mailbox is None or mailbox.probe is None or mailbox.send is None:
            return  # a reload has taken it away meanwhile
        self._made_up.discard(name)
        mail = compose(sender=author(mailbox), to=mailbox.address, at=self._around.now())
        begun = await self._store.expect(
            Expected(
                mailbox=name,
                nonce=mail.nonce,
                message_id=mail.message_id,
                webhooks=mailbox.probe.webhooks,
                scheduled=True,
                within=mailbox.probe.within,
            )
        )
        if not begun:
            log.info("probe.not_begun", mailbox=name, reason="another one is open")
            return
        row = await self._store.probe(name, mail.nonce)
        if row is None:
            raise LookupError(f"the store does not know the probe of {name} that it has taken")
        self._judge.give(row, mailbox.probe.within.total_seconds())
        try:
            taken = await self._queue(name, mailbox, mail)
        except StoreRefused:
            raise
        except MailbridgeError as error:
            why = Stopped(stage="queued", code=error.code, cause=str(error), fix=error.fix)
            await self._judge.miss(row, None, why)
        else:
            log.info("probe.begun", mailbox=name, send=taken.id)

    async def _queue(self, name: str, mailbox: Mailbox, mail: MarkedMail) -> Taken:
        handed = Handed(raw=mail.raw, sender=name, recipients=(mailbox.address,))
        digest = hashlib.sha256(mail.raw).hexdigest()
        origin = Origin(via="probe", client="(probe)", key=mail.nonce, digest=digest)
        return await self._hand_over(handed, origin)


def _job(name: str) -> str:
    return f"probe {name}"
