"""What the daemon knows of its own sight: one record per folder and per sink, in memory.

Written by the loops, read by ``status``, the watchdog and the notices. Nothing here survives
a restart; what must survive is in the store.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog

from mailbridge.errors import MailbridgeError

log = structlog.get_logger()

#: upper bounds in seconds: from a blink to the seven days that a delivery may take
DELIVERY_BOUNDS: Final = (
    *(0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 21600.0, 86400.0, 604800.0),
)
#: upper bounds in seconds: from a disk with a battery to one that is failing
COMMIT_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How often something took how long: plain counts, for the metrics.

    ``observe`` may be called from any thread; two at the very same moment may count as one.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: one for each bound, and one for what is beyond the last
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Sight(StrEnum):
    """How well a folder is seen."""

    #: no check has been proven yet since the start
    STARTING = "starting"
    #: the last check was proven
    OK = "ok"
    #: a check is failing or overdue; tried again soon
    DEGRADED = "degraded"
    #: signed in, but the server does not open the mailbox; tried after 1, 5, 15 minutes
    NOT_CONNECTED = "not_connected"
    #: a person must act; tried again every 15 minutes
    PARKED = "parked"


@dataclass(slots=True, kw_only=True)
class FolderHealth:
    """One watched folder: its sight, the cause of trouble, and when it was last proven.

    What is shown is a time of day; what is waited for is counted in seconds of ``clock``,
    which nobody can set: a machine whose time jumps is not blind.
    """

    mailbox: str
    folder: str
    clock: Callable[[], float] = time.monotonic
    sight: Sight = Sight.STARTING
    #: since when a check has been wanted and shows no progress; lies ahead while one is
    #: expected; ``None`` while nothing is
    wanted_at: float | None = None
    #: since when it has been failing or overdue, for the notice
    failing_at: float | None = None
    failing_since: datetime | None = None
    #: when a check was last proven
    proven_at: float | None = None
    #: since when it has been well, for the notice that it is
    well_at: float | None = None
    #: nothing is being read: the next answer is a few bytes, and has to come soon
    asking: bool = False
    #: the session in use is told of new mail by the server
    pushing: bool = False
    cause: str = ""
    code: str = ""
    fix: str = ""
    failures: int = 0
    #: how often in a row the server signed in and would not open the mailbox
    not_connected: int = 0
    last_check: datetime | None = None
    last_message: datetime | None = None
    next_try: datetime | None = None
    throttled_until: datetime | None = None
    throttled_seconds: float = 0.0
    #: the id of the ``mailbox.degraded`` notice that is out and has no ``recovered`` yet
    announced: str = ""
    accepted: int = 0
    #: messages that a look-back sweep found behind the checkpoint; 0 in a healthy run
    swept: int = 0
    #: connections that were made to sign in, since the start
    logins: int = 0

    def wanted(self, at: float | None = None) -> None:
        """Note that a check is due now or ``at``; the clock towards ``degraded`` runs from there.

        The earlier of two wishes holds.
        """
        at = self.clock() if at is None else at
        self.wanted_at = at if self.wanted_at is None else min(self.wanted_at, at)

    def progress(self, now: datetime, new: int) -> None:
        """Note that a batch was stored: a long backlog is not blindness."""
        self.wanted_at = self.clock()
        if new:
            self.accepted += new
            self.last_message = now

    def proven(self, now: datetime) -> None:
        """Note a full check: connected, listed, everything beyond the checkpoint stored."""
        self.proven_at = self.clock()
        if self.sight is not Sight.OK:
            self.well_at = self.proven_at
        self.sight = Sight.OK
        self.last_check = now
        self.wanted_at = self.failing_at = self.failing_since = None
        self.next_try = self.throttled_until = None
        self.cause = self.code = self.fix = ""
        self.failures = self.not_connected = 0

    def failed(self, now: datetime, *, cause: str, code: str, fix: str, sight: Sight) -> None:
        """Note a failed check and why."""
        self.failures += 1
        self.not_connected += sight is Sight.NOT_CONNECTED
        self.blind(now, cause=cause, code=code, fix=fix, sight=sight)

    def blind(self, now: datetime, *, cause: str, code: str, fix: str, sight: Sight) -> None:
        """Note that the folder is not seen, since the check was wanted that has not come."""
        self.wanted()
        if self.failing_at is None:
            wanted = self.clock() if self.wanted_at is None else self.wanted_at
            self.failing_at = min(self.clock(), wanted)
            self.failing_since = now - timedelta(seconds=self.clock() - self.failing_at)
        self.sight, self.well_at = sight, None
        self.cause, self.code, self.fix = cause, code, fix

    def overdue(self, limit: float) -> bool:
        """Tell whether a wanted check has shown no progress for ``limit`` seconds."""
        return self.wanted_at is not None and self.clock() - self.wanted_at > limit

    def failing(self, limit: float) -> bool:
        """Tell whether it has not been seen for ``limit`` seconds."""
        return self.failing_at is not None and self.clock() - self.failing_at >= limit

    def well(self, limit: float) -> bool:
        """Tell whether it has been seen again for ``limit`` seconds."""
        return self.well_at is not None and self.clock() - self.well_at >= limit


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
    held: int = 0
    trouble: str = ""
    #: tells the seconds until something may be sent again; 0 when it may now
    pause: Callable[[], float] = field(default=lambda: 0.0, repr=False)
    #: seconds from when a mail was visible on its server until this sink had it
    took: Histogram = field(default_factory=lambda: Histogram(DELIVERY_BOUNDS))

    def in_trouble(self, error: MailbridgeError) -> None:
        """Note that the store does not answer, and say so once, not every second."""
        if self.trouble != error.code:
            self.trouble = error.code
            log.error("store.trouble", sink=self.name, error=str(error), code=error.code)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStanding:
    """Whether a mailbox may send at this moment, and how much; ``None``: without a limit.

    While nothing goes out there is a ``cause``, until ``until`` at least; ``parked``: until a
    person has acted.
    """

    messages: int | None
    recipients: int | None
    parked: bool = False
    cause: str = ""
    code: str = ""
    fix: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHealth:
    """One mailbox that sends: how its attempts went, and where it stands now."""

    sink: SinkHealth
    standing: Callable[[], SendStanding]


@dataclass(slots=True, kw_only=True)
class ProbeHealth:
    """The test mails that one mailbox sends to itself: how the last one went, and all by outcome.

    ``seconds`` are those of the last that came through, from the queue to each station.
    """

    #: when the one was begun that is under way
    open_since: datetime | None = None
    #: when the last one that was judged was begun, and what came of it
    last: datetime | None = None
    outcome: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    #: when the last one that came through had reached the last webhook
    passed_at: datetime | None = None
    #: since the first of those that were missed and have not been followed by one that came through
    missed_since: datetime | None = None
    #: of the last that was missed: where it stopped, and why
    stage: str = ""
    code: str = ""
    cause: str = ""
    fix: str = ""
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class RelayHealth:
    """What the relay has answered since the start: mails taken, and what it did not take, by why.

    ``refused`` counts connections, recipients and mails; ``put_off`` mails that are to come again.
    """

    listening: str = ""
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    put_off: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, kw_only=True)
class Health:
    """Everything at a glance."""

    started_at: datetime
    folders: list[FolderHealth] = field(default_factory=list)
    #: seconds that the store took to commit; those of reads fall under the first bound
    commits: Histogram = field(default_factory=lambda: Histogram(COMMIT_BOUNDS))
    #: webhooks, by name
    sinks: dict[str, SinkHealth] = field(default_factory=dict)
    #: mailboxes that send, by name
    sending: dict[str, SendHealth] = field(default_factory=dict)
    #: the relay, where there is one
    relay: RelayHealth | None = None
    #: mailboxes that send test mails to themselves, by name
    probes: dict[str, ProbeHealth] = field(default_factory=dict)
