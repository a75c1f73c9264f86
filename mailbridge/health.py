"""What the daemon knows of its own sight: one record per folder and per sink, in memory.

Written by the loops, read by ``status``, the watchdog and the notices. Nothing here survives
a restart; what must survive is in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Sight(StrEnum):
    """How well a folder is seen."""

    #: no check has been proven yet since the start
    STARTING = "starting"
    #: the last check was proven
    OK = "ok"
    #: a check is failing or overdue; tried again soon
    DEGRADED = "degraded"
    #: a person must act; tried again every 15 minutes
    PARKED = "parked"


@dataclass(slots=True, kw_only=True)
class FolderHealth:
    """One watched folder: its sight, the cause of trouble, and when it was last proven."""

    mailbox: str
    folder: str
    sight: Sight = Sight.STARTING
    #: since when a check has been wanted and not proven; ``None`` while all is well
    wanted_since: datetime | None = None
    #: since when it has been failing or overdue, for the notice
    failing_since: datetime | None = None
    cause: str = ""
    code: str = ""
    fix: str = ""
    failures: int = 0
    last_check: datetime | None = None
    last_message: datetime | None = None
    next_try: datetime | None = None
    throttled_until: datetime | None = None
    #: the id of the ``mailbox.degraded`` notice that is out and has no ``recovered`` yet
    announced: str = ""
    accepted: int = 0

    def wanted(self, now: datetime) -> None:
        """Note that a check is due; the clock towards ``degraded`` runs from here."""
        if self.wanted_since is None:
            self.wanted_since = now

    def progress(self, now: datetime, new: int) -> None:
        """Note that a batch was stored: a long backlog is not blindness."""
        self.wanted_since = now
        if new:
            self.accepted += new
            self.last_message = now

    def proven(self, now: datetime) -> None:
        """Note a full check: connected, listed, everything beyond the checkpoint stored."""
        self.sight = Sight.OK
        self.last_check = now
        self.wanted_since = self.failing_since = self.next_try = self.throttled_until = None
        self.cause = self.code = self.fix = ""
        self.failures = 0

    def failed(self, now: datetime, *, cause: str, code: str, fix: str, parked: bool) -> None:
        """Note a failed check and why."""
        self.sight = Sight.PARKED if parked else Sight.DEGRADED
        self.failures += 1
        self.failing_since = self.failing_since or self.wanted_since or now
        self.wanted(now)
        self.cause, self.code, self.fix = cause, code, fix

    def overdue(self, now: datetime, limit: float) -> bool:
        """Tell whether a wanted check has shown no progress for ``limit`` seconds."""
        return self.wanted_since is not None and (now - self.wanted_since).total_seconds() > limit


@dataclass(slots=True, kw_only=True)
class SinkHealth:
    """One sink: whether it answers, and since when it does not."""

    name: str
    failing_since: datetime | None = None
    consecutive: int = 0
    last_reason: str = ""
    last_status: int | None = None
    last_delivered: datetime | None = None
    delivered: int = 0
    deferred: int = 0
    dead: int = 0
    trouble: str = ""


@dataclass(slots=True, kw_only=True)
class Health:
    """Everything at a glance."""

    started_at: datetime
    folders: list[FolderHealth] = field(default_factory=list)
    sinks: dict[str, SinkHealth] = field(default_factory=dict)
