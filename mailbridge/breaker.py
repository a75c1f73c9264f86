"""When a sink may be sent to, and how much at once: one pure object per sink, the time handed in.

::

    closed ──5 failures in a row, or 410──▶ open ──its time has come──▶ probing
      ▲                                      ▲                            │  │
      │                                      └──────────── failure ───────┘  │
      └── window grown to the limit ── ramping ◀────────── any answer ───────┘

A failure is what says that nobody is there to judge: no connection, no answer in time, 5xx. While
it is open only a probe goes out, one at a time; everything else waits without burning tries. After
an answer the window doubles with each round of answers. ``Retry-After`` of 429 and 503 holds the
whole sink; then the window begins at one again. So does what a sink says itself (``pauses``), but
it goes on with the window that it had. A sink is never switched off: a probe always
comes, after 410 (gone) just seldom.

Nothing here survives a restart: the first five attempts find out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal

from mailbridge.model import Deferred, Outcome
from mailbridge.retry import ProfileName

#: failures in a row that open it
FAILURES: Final = 5
#: seconds between two probes, by profile, and for a sink that says it is gone for good
PROBE_EVERY: Final[Mapping[ProfileName, float]] = MappingProxyType({"default": 60.0, "alarm": 15.0})
GONE_EVERY: Final = 3600.0
#: seconds until the next probe when this one could not be sent: for the mail's own sake, say, which
#: no template of the configuration can render. Without a pause it would be tried in a circle
UNSENT_EVERY: Final = 5.0

_GONE: Final = 410
_SERVER_ERROR: Final = 500
#: statuses whose ``Retry-After`` speaks for the whole sink
_HOLDS: Final = frozenset({429, 503})

State = Literal["closed", "open", "probing", "ramping"]


class Change(Enum):
    """What an outcome did to the breaker, where others have to act on it."""

    OPENED = "opened"
    #: it had been open, and there was an answer
    ANSWERS = "answers"


class _Sign(Enum):
    """What an outcome says about the sink."""

    ANSWER = "answer"
    FAILURE = "failure"
    GONE = "gone"
    #: nothing was sent
    NOTHING = "nothing"


def _sign(outcome: Outcome | None) -> _Sign:
    if outcome is None:
        return _Sign.NOTHING
    if not isinstance(outcome, Deferred):
        return _Sign.ANSWER
    if outcome.unasked:
        return _Sign.NOTHING
    if outcome.status == _GONE:
        return _Sign.GONE
    if outcome.status is not None:
        return _Sign.FAILURE if outcome.status >= _SERVER_ERROR else _Sign.ANSWER
    return _Sign.FAILURE if outcome.sink_fault else _Sign.NOTHING


class Breaker:
    """The breaker of one sink. ``now`` is in seconds of a steady clock, ``limit`` attempts at once.

    Attempts carry the ``epoch`` they began in: a failure that was under way when the breaker
    opened says nothing about the probe that came after.
    """

    def __init__(self, *, limit: int, probe_every: float, gone_every: float = GONE_EVERY) -> None:
        self.state: State = "closed"
        self.epoch = 0
        self._limit = limit
        self._probe_every = probe_every
        self._gone_every = gone_every
        self._window = limit
        self._answers = 0
        self._failures = 0
        #: nothing may begin before
        self._until = 0.0

    def room(self, now: float) -> int:
        """Return how many attempts may be under way."""
        if self.state == "open" or now < self._until:
            return 0
        return 1 if self.state == "probing" else self._window

    def shut(self, now: float) -> bool:
        """Whether nothing may begin, apart from a probe."""
        return self.room(now) == 0

    def wait(self, now: float) -> float:
        """Return the seconds until something may begin; 0 when it may now."""
        return max(0.0, self._until - now)

    def probe_due(self, now: float) -> bool:
        """Whether a probe may be made."""
        return self.state == "open" and now >= self._until

    def probe(self) -> None:
        """Note that a probe is on its way."""
        self.state = "probing"

    def hurry(self) -> None:
        """Let the next attempt be due at once: a person says that it is worth one.

        Whatever is waited for: a probe, the sink's own pause, or the server's ``Retry-After``.
        """
        self._until = 0.0

    def forget_attempts(self) -> None:
        """Note that whatever was under way will not be heard of, a probe too."""
        self.epoch += 1
        if self.state == "probing":
            self.state = "open"

    def saw(self, outcome: Outcome | None, epoch: int, now: float) -> Change | None:
        """Take what came of an attempt that began in ``epoch``; ``None``: nothing was sent."""
        sign = _sign(outcome)
        if sign is _Sign.NOTHING:
            self._pause(outcome, now)
            if self.state == "probing" and epoch == self.epoch:
                self.state = "open"
                if outcome is not None:
                    self._until = max(self._until, now + UNSENT_EVERY)
            return None
        change = None
        if sign is _Sign.ANSWER:
            change = self._answered()
        elif epoch == self.epoch:
            change = self._failed(self._gone_every if sign is _Sign.GONE else None, now)
        self._hold(outcome, now)
        return change

    def _answered(self) -> Change | None:
        self._failures = 0
        if self.state in {"open", "probing"}:
            self._ramp()
            self._until = 0.0
            return Change.ANSWERS
        if self.state == "ramping":
            self._answers += 1
            if self._answers >= self._window:
                self._answers = 0
                self._window = min(self._limit, 2 * self._window)
            if self._window >= self._limit:
                self.state = "closed"
        return None

    def _failed(self, gone_every: float | None, now: float) -> Change | None:
        self._failures += 1
        probed = self.state == "probing"
        if self.state == "ramping":
            self._answers = 0
            self._window = max(1, self._window // 2)
        if not probed and gone_every is None and self._failures < FAILURES:
            return None
        self.state = "open"
        self.epoch += 1
        self._until = now + (gone_every or self._probe_every)
        return None if probed else Change.OPENED

    def _pause(self, outcome: Outcome | None, now: float) -> None:
        if isinstance(outcome, Deferred) and outcome.pauses and outcome.retry_after:
            self._until = max(self._until, now + outcome.retry_after)

    def _ramp(self) -> None:
        self.state = "ramping"
        self._window, self._answers = 1, 0

    def _hold(self, outcome: Outcome | None, now: float) -> None:
        if not isinstance(outcome, Deferred) or outcome.status not in _HOLDS:
            return
        if outcome.retry_after:
            self._until = max(self._until, now + outcome.retry_after)
            if self.state != "open":
                self._ramp()
