"""Judges scheduled tests: passed, missed, late; writes it down, tells it, and remembers it.

The store has the last word: of several hosts, and of what a restart repeats, one judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import structlog

from mailbridge.config import Config
from mailbridge.health import Health, ProbeHealth
from mailbridge.model import Notice, derived_id
from mailbridge.probe_findings import (
    Stopped,
    missed_data,
    recovered_data,
    seconds_of,
    stopped,
)
from mailbridge.store.base import ProbeStore, SendStore
from mailbridge.store.rows import ProbeOutcome, ProbeRow, SendRow

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What probes are begun and judged with.

    ``listeners`` tells who hears of an event of a mailbox, asked as (mailbox, kind). ``wake`` says
    to the dispatchers that something is due. ``steady`` counts seconds, and nobody sets it.
    """

    config: Callable[[], Config]
    store: ProbeStore
    sends: SendStore
    health: Health
    listeners: Callable[[str, str], Sequence[str]]
    wake: Callable[[], None]
    now: Callable[[], datetime]
    steady: Callable[[], float] = time.monotonic


class Judge:
    """Knows which probes are open, and until when, and which were missed and may still come."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._store, self._health = around.store, around.health
        #: by nonce of those that are open: when their time is up, by the steady clock
        self.until: dict[str, float] = {}
        #: nonces of those that were missed last, by mailbox
        self.missed: dict[str, str] = {}

    async def judge(self, row: ProbeRow) -> bool:
        """Judge a probe if that can be done now; ``False``: it was never tried, begin another."""
        if row.delivered_at is not None:
            await self._passed(row)
        elif row.outcome is None and not self._wanted(row):
            await self._let_go(row, "the configuration wants it no more")
        elif row.outcome is None and self._over(row):
            send = await self._send_of(row)
            if send is None and row.seen_at is None:
                # A crash came between putting it down and the queue.
                await self._let_go(row, "it was never queued")
                return False
            await self.miss(row, send, stopped(row, send, self._health))
        return True

    def give(self, row: ProbeRow, seconds: float) -> None:
        """Give an open probe so much time from now on."""
        self.until[row.nonce] = self._around.steady() + seconds
        self._health_of(row).open_since = row.begun_at

    def _wanted(self, row: ProbeRow) -> bool:
        config = self._around.config()
        mailbox = config.mailboxes.get(row.mailbox)
        if mailbox is None or mailbox.probe is None:
            return False
        return set(row.webhooks) <= set(config.webhooks)

    def _over(self, row: ProbeRow) -> bool:
        if row.nonce not in self.until:  # another host has begun it
            self.give(row, (row.due_at - row.begun_at).total_seconds())
        return self._around.steady() >= self.until[row.nonce]

    async def _passed(self, row: ProbeRow) -> None:
        send = await self._send_of(row)
        late = row.outcome == "missed"
        since = self._health_of(row).missed_since or (row.begun_at if late else None)
        notice = None
        if since is not None:
            notice = self._notice("probe.recovered", row, recovered_data(row, send, since))
        if not await self._ended(row, "late" if late else "passed", notice):
            return
        facts = {"mailbox": row.mailbox, "message": row.message, **seconds_of(row, send)}
        if since is None:
            log.info("probe.passed", **facts)
        else:
            log.warning("probe.recovered", **facts, late=late)
        self.remember_passed(row, send)

    async def miss(self, row: ProbeRow, send: SendRow | None, found: Stopped) -> None:
        """Say of an open probe that it stopped there."""
        notice = self._notice("probe.missed", row, missed_data(row, send, found))
        since = self._health_of(row).missed_since or row.begun_at
        kept = {**asdict(found), "since": since.isoformat()}
        if not await self._ended(row, "missed", notice, kept):
            return
        log.error(
            "probe.missed",
            mailbox=row.mailbox,
            send=send.id if send else None,
            message=row.message,
            stage=found.stage,
            code=found.code,
            cause=found.cause,
            fix=found.fix,
        )
        self._remember_missed(row, found, since)

    async def _let_go(self, row: ProbeRow, reason: str) -> None:
        if await self._ended(row, "void", None):
            log.warning("probe.void", mailbox=row.mailbox, reason=reason)

    async def _ended(
        self,
        row: ProbeRow,
        outcome: ProbeOutcome,
        notice: Notice | None,
        found: Mapping[str, str] | None = None,
    ) -> bool:
        """Write down what came of it; ``False`` when another host has."""
        sinks = self._around.listeners(row.mailbox, notice.type) if notice is not None else ()
        done = await self._store.end(row.nonce, outcome, notice=notice, sinks=sinks, found=found)
        health = self._health_of(row)
        if row.outcome is None:
            self.until.pop(row.nonce, None)
            health.open_since = None
        if done:
            health.counts[outcome] = health.counts.get(outcome, 0) + 1
            self._around.wake()
        return done

    async def _send_of(self, row: ProbeRow) -> SendRow | None:
        return next(iter(await self._around.sends.find(row.message_id)), None)

    # --- what is shown

    async def recall(self, row: ProbeRow) -> None:
        """Take up how an earlier probe went, from before a start."""
        if row.outcome != "missed":
            self.remember_passed(row, await self._send_of(row))
            return
        found = dict(row.found)
        since = datetime.fromisoformat(found.pop("since"))
        self._remember_missed(row, Stopped(**found), since)  # type: ignore[arg-type]  # a stage

    def remember_passed(self, row: ProbeRow, send: SendRow | None) -> None:
        """Show that this one came through."""
        health = self._health_of(row)
        health.last = row.begun_at
        health.outcome = "late" if row.outcome in {"missed", "late"} else "passed"
        health.seconds = seconds_of(row, send)
        health.passed_at = row.delivered_at or row.ended_at
        health.missed_since = None
        health.stage = health.code = health.cause = health.fix = ""
        self.missed.pop(row.mailbox, None)

    def _remember_missed(self, row: ProbeRow, found: Stopped, since: datetime) -> None:
        health = self._health_of(row)
        health.last, health.outcome = row.begun_at, "missed"
        health.missed_since = since
        health.stage, health.code = found.stage, found.code
        health.cause, health.fix = found.cause, found.fix
        self.missed[row.mailbox] = row.nonce

    def _health_of(self, row: ProbeRow) -> ProbeHealth:
        """Return what is shown of its mailbox; nothing is, when that has no probe any more."""
        return self._health.probes.get(row.mailbox) or ProbeHealth()

    def _notice(self, kind: str, row: ProbeRow, data: dict[str, Any]) -> Notice:
        mailbox = self._around.config().mailboxes.get(row.mailbox)
        return Notice(
            id=derived_id("probe", [kind, row.mailbox, row.nonce]),
            type=kind,
            mailbox=row.mailbox,
            at=self._around.now(),
            data={"address": mailbox.address if mailbox else "", **data},
        )
