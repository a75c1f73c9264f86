"""What a mailbox may still send: sliding windows, as Exchange counts."""

from __future__ import annotations

import random

from mailbridge.sinks.smtp_budget import Budget, Remaining
from tests.conftest import Clock


def test_a_hundred_mails_leave_at_thirty_a_minute(clock: Clock) -> None:
    """Whatever the moment, no 60 seconds hold more than thirty, and no time is wasted."""
    budget = Budget(per_minute=30, recipients_per_day=10_000, now=clock)
    start, sent = clock(), []
    for _ in range(100):
        clock.advance(budget.wait(1))
        budget.spend(1)
        sent.append((clock() - start).total_seconds())
    assert all(sum(moment <= other < moment + 60 for other in sent) <= 30 for moment in sent)
    assert sent[-1] == 180


def test_recipients_of_a_day_are_counted_over_24_hours(clock: Clock) -> None:
    """The limit is of recipients, and what is spent comes back a day later, piece by piece."""
    budget = Budget(per_minute=None, recipients_per_day=100, now=clock)
    budget.spend(60)
    clock.advance(3600)
    budget.spend(40)
    assert budget.wait(1) == 23 * 3600
    assert budget.wait(61) == 24 * 3600
    assert budget.remaining() == Remaining(messages=None, recipients=0)
    clock.advance(23 * 3600)
    assert budget.remaining() == Remaining(messages=None, recipients=60)
    assert budget.wait(60) == 0


def test_more_recipients_than_a_day_has_wait_for_an_empty_one(clock: Clock) -> None:
    """An impossible mail waits for a bounded time, and is then for the server to judge."""
    budget = Budget(per_minute=None, recipients_per_day=10, now=clock)
    assert budget.wait(50) == 0
    budget.spend(1)
    assert budget.wait(50) == 24 * 3600


def test_without_limits_nothing_waits(clock: Clock) -> None:
    """Budgets that are off hold nothing back and tell no number."""
    budget = Budget(per_minute=None, recipients_per_day=None, now=clock)
    for _ in range(1000):
        budget.spend(100)
    assert budget.wait(10**6) == 0
    assert budget.remaining() == Remaining(messages=None, recipients=None)


def test_a_restart_forgets_nothing(clock: Clock) -> None:
    """What was sent before the start counts as if it had been sent since."""
    spent = [(clock(), 1) for _ in range(29)]
    clock.advance(20)
    budget = Budget(per_minute=30, recipients_per_day=100, now=clock)
    budget.restore(spent)
    assert budget.remaining() == Remaining(messages=1, recipients=71)
    budget.spend(1)
    assert budget.wait(1) == 40


def test_random_use_never_breaks_either_limit(clock: Clock, rng: random.Random) -> None:
    """Mails of random sizes at random times stay within both windows."""
    budget = Budget(per_minute=5, recipients_per_day=40, now=clock)
    sent: list[tuple[float, int]] = []
    for _ in range(400):
        clock.advance(rng.choice([0, 1, 20, 600, 7200]))
        recipients = rng.randint(1, 12)
        clock.advance(budget.wait(recipients))
        assert budget.wait(recipients) == 0
        budget.spend(recipients)
        sent.append((clock().timestamp(), recipients))
    for moment, _ in sent:
        assert sum(moment - 60 < other <= moment for other, _ in sent) <= 5
        assert sum(count for other, count in sent if moment - 86400 < other <= moment) <= 40
