"""When to try again: one pure function from an outcome to a decision.

The budget of a delivery is time, not tries: seven days from the moment it was due, whatever
the number of attempts, so an outage of a sink costs nothing but patience. After the last try,
which happens exactly at the end of the budget, a delivery is a dead letter and never deleted.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal

from mailbridge.model import (
    Dead,
    Decision,
    Delivered,
    Delivery,
    Done,
    Dropped,
    Held,
    Outcome,
    Rejected,
    Retry,
)

ProfileName = Literal["default", "alarm"]

#: how far a delay is stretched or shortened by chance, so that a herd spreads out
JITTER: Final = 0.2
#: a message that a sink does not want is offered this often before it is set aside
REJECTED_TRIES: Final = 3

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A retry schedule. All figures are seconds.

    ``first`` are the delays after the first, second, … attempt. Afterwards ``then`` decides by
    age: pairs of (until this age, delay), ascending; the last one's age is the budget.
    """

    name: ProfileName
    first: tuple[float, ...]
    then: tuple[tuple[float, float], ...]
    #: the longest ``Retry-After`` that is honoured; a longer one is cut to this
    retry_after_cap: float
    #: a message that the sink does not want is offered this often before it is set aside
    rejected_tries: int = REJECTED_TRIES

    @property
    def budget(self) -> float:
        """The age of the last try."""
        return self.then[-1][0]

    def delay(self, *, attempts: int, age: float) -> float:
        """Return the unjittered seconds between attempt number ``attempts`` and the next."""
        if attempts <= len(self.first):
            return self.first[max(attempts, 1) - 1]
        for until, delay in self.then:
            if age < until:
                return delay
        return self.then[-1][1]


#: now, 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 2 h, 4 h, 8 h, then every 12 h: 23 tries in 7 days
DEFAULT: Final = Policy(
    name="default",
    first=(5.0, 30.0, 120.0, 600.0, 1800.0, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR),
    then=((7 * _DAY, 12 * _HOUR),),
    retry_after_cap=_HOUR,
)
#: now, 1, 2, 5, 10, 15, 27 s, then every 30 s to 1 h, every 5 min to 24 h, hourly to 7 days
ALARM: Final = Policy(
    name="alarm",
    first=(1.0, 2.0, 5.0, 10.0, 15.0, 27.0),
    then=((_HOUR, 30.0), (_DAY, 5 * _MINUTE), (7 * _DAY, _HOUR)),
    retry_after_cap=_MINUTE,
)
#: of mail that is sent: now, 1 min, 5, 5, 10, 15, 30, then every hour: 50 tries in 2 days, which
#: is as long as mail servers try. A refusal for good is final: that is what SMTP means by it.
SENDING: Final = Policy(
    name="default",
    first=(_MINUTE, 5 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    then=((2 * _DAY, _HOUR),),
    retry_after_cap=6 * _HOUR,
    rejected_tries=1,
)
POLICIES: Final[Mapping[ProfileName, Policy]] = MappingProxyType(
    {"default": DEFAULT, "alarm": ALARM}
)


def decide(  # noqa: PLR0913 - everything that a pure decision depends on has to be handed in
    outcome: Outcome,
    *,
    attempts: int,
    first_due_at: datetime,
    now: datetime,
    policy: Policy,
    rng: random.Random,
) -> Decision:
    """Decide what becomes of a delivery after its attempt number ``attempts`` (from 1).

    ``first_due_at`` is when the budget began. A next try never lies before ``now`` or before a
    ``Retry-After``, and never after the end of the budget, unless a ``Retry-After`` (capped)
    reaches beyond it: that one is kept, for the sink has told us when it will be back.
    """
    decision = _plain(outcome, attempts, now, policy)
    if decision is not None or isinstance(outcome, Delivered):
        return decision or Done()
    retry_after = None if isinstance(outcome, Rejected) else outcome.retry_after
    deadline = first_due_at + timedelta(seconds=policy.budget)
    if now >= deadline:
        days = policy.budget / _DAY
        return Dead(reason=f"not delivered within {days:g} days; last answer: {outcome.reason}")
    age = (now - first_due_at).total_seconds()
    wait = policy.delay(attempts=attempts, age=age) * rng.uniform(1 - JITTER, 1 + JITTER)
    due_at = min(now + timedelta(seconds=wait), deadline)
    if retry_after is not None and retry_after > 0:
        # Spread upwards only: those who were all told the same second must not all keep it.
        asked = min(retry_after, policy.retry_after_cap) * rng.uniform(1.0, 1 + JITTER)
        due_at = max(due_at, now + timedelta(seconds=asked))
    return Retry(due_at=due_at)


def _plain(outcome: Outcome, attempts: int, now: datetime, policy: Policy) -> Decision | None:
    """Decide where neither schedule nor budget has a say."""
    if isinstance(outcome, Rejected):
        if outcome.hold:
            return Held(reason=outcome.reason)
        if attempts >= policy.rejected_tries:
            return Dead(reason=f"rejected at attempt {attempts}: {outcome.reason}")
    # Deferred, and whatever else an adapter may come to return: unknown is temporary.
    elif not isinstance(outcome, Delivered):
        if outcome.pauses:
            # It is the sink that waits: the message keeps its place, for the moment that is over.
            return Retry(due_at=now)
        if (outcome.unasked or outcome.exactly) and outcome.retry_after is not None:
            return Retry(due_at=now + timedelta(seconds=outcome.retry_after))
    return None


def too_old(delivery: Delivery, now: datetime) -> Decision | None:
    """Decide what becomes of a delivery that its route wants no older than it is by now.

    ``None``: it is to be attempted.
    """
    expires_at = delivery.expires_at
    if expires_at is None or now < expires_at or delivery.otherwise == "deliver":
        return None
    late = (now - expires_at).total_seconds()
    reason = f"older than max_age, by {_in_words(late)}"
    return Held(reason=reason) if delivery.otherwise == "hold" else Dropped(reason=reason)


def _in_words(seconds: float) -> str:
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
