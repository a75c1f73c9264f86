"""What the outcomes of one sink say about it: its record, the log, and whether people are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from mailbridge.breaker import Change
from mailbridge.health import SinkHealth
from mailbridge.model import (
    Dead,
    Deferred,
    Delivered,
    Delivery,
    Dropped,
    Failing,
    Held,
    Notice,
    Outcome,
    Rejected,
    Resolution,
    Retry,
    derived_id,
)

log = structlog.get_logger()

FAILING: Final = "webhook.failing"
RECOVERED: Final = "webhook.recovered"
#: the same of a mailbox that sends
PARKED: Final = "send.parked"
RESUMED: Final = "send.resumed"
#: what the sink of such a mailbox is called, before its name
_SENDS: Final = "send:"
#: answers like 401 or 404 in a row before people are told
ALERT_AFTER: Final = 3
#: statuses that ask for patience; they are no sign that somebody has to act
_PATIENCE: Final = frozenset({408, 425, 429})
_SERVER_ERROR: Final = 500


class SinkWatch:
    """Notes the attempts of one sink. ``news`` is what is still to be told, oldest first."""

    def __init__(self, health: SinkHealth, now: Callable[[], datetime]) -> None:
        self.health = health
        self._now = now
        #: of which mailbox nothing goes out, if it is one that sends
        self._mailbox = health.name.removeprefix(_SENDS) if health.name.startswith(_SENDS) else ""
        self._failing: Failing | None = None
        self._refused = 0
        #: each with the outage that it is about
        self.news: list[tuple[Notice, Failing]] = []

    def remember(self, failing: Failing | None) -> None:
        """Go on with an outage that people were told of before the restart."""
        if failing is not None and self._failing is None:
            self._failing = failing
            self.health.failing_since = failing.since
            self.health.consecutive = failing.attempts
            self.health.last_reason = failing.reason

    def note(self, resolution: Resolution, change: Change | None) -> bool:
        """Note an attempt; tells whether the sink is well again after a time when it was not."""
        outcome = resolution.outcome
        self._log(resolution)
        if outcome is None:
            return False
        if isinstance(outcome, Deferred):
            if outcome.sink_fault:
                self._fault(outcome, resolution.started_at, change)
            return change is Change.ANSWERS
        return self._well() or change is Change.ANSWERS

    def _well(self) -> bool:
        health, over = self.health, self._failing
        attempts = health.consecutive
        health.consecutive, health.failing_since, self._refused = 0, None, 0
        if over is None:
            return False
        self._failing = None
        if self._mailbox:
            log.info(RESUMED, mailbox=self._mailbox, since=_text(over.since), attempts=attempts)
        else:
            log.info(RECOVERED, sink=health.name, since=_text(over.since), attempts=attempts)
        self.news.append((self._recovered(over, attempts), over))
        return True

    def _fault(self, outcome: Deferred, at: datetime, change: Change | None) -> None:
        health = self.health
        health.consecutive += 1
        health.failing_since = health.failing_since or at
        status = outcome.status
        refuses = status is not None and status < _SERVER_ERROR and status not in _PATIENCE
        self._refused = self._refused + 1 if refuses else 0
        told = change is Change.OPENED or self._refused >= ALERT_AFTER or outcome.alert
        if not told:
            return
        if self._failing is None:
            self._failing = Failing(
                since=health.failing_since, attempts=health.consecutive, reason=outcome.reason
            )
            about: dict[str, object] = {"reason": outcome.reason, "attempts": health.consecutive}
            if self._mailbox:
                log.error(PARKED, mailbox=self._mailbox, code=outcome.code, **about)
            else:
                log.error(FAILING, sink=health.name, **about)
            self.news.append((self._fails(self._failing, outcome), self._failing))

    def _fails(self, failing: Failing, outcome: Deferred) -> Notice:
        if not self._mailbox:
            return self._notice(FAILING, failing, reason=failing.reason, attempts=failing.attempts)
        return self._notice(
            PARKED,
            failing,
            cause=failing.reason,
            code=outcome.code,
            fix=outcome.fix,
            person=outcome.alert,
            attempts=failing.attempts,
        )

    def _recovered(self, failing: Failing, attempts: int) -> Notice:
        kind = RESUMED if self._mailbox else RECOVERED
        return self._notice(kind, failing, attempts=max(attempts, failing.attempts))

    def _notice(self, kind: str, failing: Failing, **data: object) -> Notice:
        name, since = self.health.name, _text(failing.since)
        # What a webhook does concerns no one mailbox.
        about = {} if self._mailbox else {"webhook": name}
        return Notice(
            id=derived_id(kind, [name, since]),
            type=kind,
            mailbox=self._mailbox,
            at=self._now(),
            data={**about, "since": since, **data},
        )

    # --- record and log

    def _log(self, resolution: Resolution) -> None:
        """One line per attempt, or for what was set aside instead of one."""
        delivery, outcome, decision = resolution.delivery, resolution.outcome, resolution.decision
        health = self.health
        facts = _facts(delivery, resolution, health.name)
        if isinstance(outcome, Delivered):
            health.delivered += 1
            health.last_delivered = self._now()
            if delivery.mail is not None and not delivery.replay:
                seen = delivery.mail.received_at or delivery.mail.accepted_at
                health.took.observe(max(0.0, (health.last_delivered - seen).total_seconds()))
            log.info("delivery.delivered", **facts)
            return
        if outcome is not None:
            health.last_reason, health.last_status = outcome.reason, outcome.status
        match decision:
            case Retry(due_at=due_at):
                health.deferred += 1
                due = due_at.isoformat(timespec="seconds")
                log.warning("delivery.deferred", **facts, reason=_why(outcome), due_at=due)
            case Dead(reason=reason):
                health.dead += 1
                log.error("delivery.dead", **facts, reason=reason)
            case Held(reason=reason):
                health.held += 1
                log.warning("delivery.held", **facts, reason=reason)
            case Dropped(reason=reason):
                log.warning("delivery.dropped", **facts, reason=reason)


def _why(outcome: Outcome | None) -> str:
    return outcome.reason if isinstance(outcome, Deferred | Rejected) else ""


def _facts(delivery: Delivery, resolution: Resolution, sink: str) -> dict[str, object]:
    outcome = resolution.outcome
    facts: dict[str, object] = {
        "mailbox": delivery.mailbox,
        "event_id": delivery.event_id,
        "type": delivery.type,
        "delivery_id": delivery.id,
        "sink": sink,
    }
    if delivery.route:
        facts["route"] = delivery.route
    if delivery.fallback_of:
        facts["fallback_for"] = delivery.fallback_of
    if outcome is not None:
        facts["attempt"] = delivery.attempts + 1
        facts["status"] = outcome.status
        facts["took_ms"] = round(resolution.seconds * 1000, 1)
    return facts


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
