"""Deliveries are tried for seven days, then shown to a person."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.model import (
    Dead,
    Decision,
    Deferred,
    Delivered,
    Delivery,
    Done,
    Dropped,
    Held,
    Outcome,
    Rejected,
    Retry,
)
from mailbridge.retry import ALARM, DEFAULT, JITTER, POLICIES, Policy, decide, too_old

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DOWN = Deferred(reason="connection refused")


class NoJitter(random.Random):
    """Chance that always falls in the middle, so that a schedule can be read."""

    def uniform(self, a: float, b: float) -> float:
        """Give the middle of -20 % and +20 %, and the lower end of a one-sided range."""
        return 1.0


def made(
    outcome: Outcome,
    *,
    attempts: int,
    age: float = 0.0,
    policy: Policy = DEFAULT,
    rng: random.Random | None = None,
) -> Decision:
    return decide(
        outcome,
        attempts=attempts,
        first_due_at=START,
        now=START + timedelta(seconds=age),
        policy=policy,
        rng=rng or NoJitter(),
    )


def simulate(
    policy: Policy, *, down_for: float, rng: random.Random
) -> tuple[list[float], Decision]:
    """Try from age 0 on, against a sink that answers from age ``down_for`` on."""
    ages: list[float] = []
    age = 0.0
    while True:
        ages.append(age)
        outcome: Outcome = DOWN if age < down_for else Delivered(status=200)
        decision = made(outcome, attempts=len(ages), age=age, policy=policy, rng=rng)
        if not isinstance(decision, Retry):
            return ages, decision
        age = (decision.due_at - START).total_seconds()


def test_default_schedule_is_the_published_table() -> None:
    """The default profile makes exactly the 23 tries that the documentation lists."""
    ages, decision = simulate(DEFAULT, down_for=1e9, rng=NoJitter())
    delays = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, *[43200] * 12]
    expected = [0.0]
    for delay in delays:
        expected.append(expected[-1] + delay)
    assert ages == [*expected, 604800.0]
    assert len(ages) == 23
    assert isinstance(decision, Dead)


def test_alarm_schedule_is_the_published_table() -> None:
    """The alarm profile tries every 30 s for an hour, every 5 min for a day, then hourly."""
    ages, _ = simulate(ALARM, down_for=1e9, rng=NoJitter())
    minute = [0.0, 1.0, 3.0, 8.0, 18.0, 33.0, 60.0]
    hour = [float(age) for age in range(90, 3601, 30)]
    day = [float(age) for age in range(3900, 86401, 300)]
    week = [float(age) for age in range(90000, 604801, 3600)]
    assert ages == [*minute, *hour, *day, *week]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_outage_of_almost_seven_days_ends_in_delivery(policy: Policy) -> None:
    """A sink that comes back after 6 days and 23 hours gets its mail, whatever the dice say."""
    for seed in range(50):
        rng = random.Random(seed)
        ages, decision = simulate(policy, down_for=6 * 86400 + 23 * 3600, rng=rng)
        assert decision == Done(), seed
        assert ages[-1] <= policy.budget, seed


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_outage_beyond_seven_days_ends_in_a_dead_letter(policy: Policy) -> None:
    """The last try is at exactly 7 days; with a sink still down at 7 d 1 h the mail is dead."""
    for seed in range(50):
        ages, decision = simulate(policy, down_for=7 * 86400 + 3600, rng=random.Random(seed))
        assert isinstance(decision, Dead), seed
        assert ages[-1] == 7 * 86400, seed
        assert "connection refused" in decision.reason


def test_first_attempt_delivered_is_done() -> None:
    """A 2xx ends a delivery at any age, also after the budget."""
    assert made(Delivered(status=204), attempts=1) == Done()
    assert made(Delivered(status=204), attempts=99, age=9e6) == Done()


def test_rejected_is_offered_three_times() -> None:
    """A message that a sink refuses is offered three times, then set aside with the reason."""
    refused = Rejected(reason="HTTP 422 Unprocessable Content", status=422)
    assert isinstance(made(refused, attempts=1), Retry)
    assert isinstance(made(refused, attempts=2), Retry)
    third = made(refused, attempts=3)
    assert third == Dead(reason="rejected at attempt 3: HTTP 422 Unprocessable Content")


def test_dead_reason_tells_the_last_answer() -> None:
    """A dead letter says how long was tried and what the last answer was."""
    dead = made(DOWN, attempts=23, age=604800.0)
    assert dead == Dead(reason="not delivered within 7 days; last answer: connection refused")


def test_retry_after_delays_the_next_try() -> None:
    """A sink that asks for ten minutes is not asked again after five seconds."""
    decision = made(Deferred(reason="429", retry_after=600.0), attempts=1)
    assert decision == Retry(due_at=START + timedelta(seconds=600))


def test_retry_after_never_shortens_a_delay() -> None:
    """A sink that asks for one second in the second hour still waits its turn."""
    decision = made(Deferred(reason="429", retry_after=1.0), attempts=7, age=6155.0)
    assert decision == Retry(due_at=START + timedelta(seconds=6155 + 7200))


@pytest.mark.parametrize(("policy", "cap"), [(DEFAULT, 3600), (ALARM, 60)])
def test_retry_after_is_capped(policy: Policy, cap: int) -> None:
    """A sink cannot put mail off for longer than the profile allows."""
    decision = made(Deferred(reason="429", retry_after=1e6), attempts=1, policy=policy)
    assert decision == Retry(due_at=START + timedelta(seconds=cap))


def test_retry_after_at_the_end_of_the_budget_is_kept() -> None:
    """A sink that promises to be back just after seven days gets that one last try."""
    busy = Deferred(reason="503", retry_after=600.0)
    decision = made(busy, attempts=22, age=604790.0)
    assert decision == Retry(due_at=START + timedelta(seconds=604790 + 600))
    assert isinstance(made(busy, attempts=23, age=605390.0), Dead)


outcomes = st.one_of(
    st.builds(Deferred, reason=st.just("x"), retry_after=st.none() | st.floats(0, 1e9)),
    st.just(Rejected(reason="x")),
)


@given(
    outcome=outcomes,
    attempts=st.integers(1, 2000),
    age=st.floats(-1e6, 1e7),
    policy=st.sampled_from(sorted(POLICIES.values(), key=lambda policy: policy.name)),
    seed=st.integers(),
)
def test_a_retry_lies_between_now_and_the_end_of_the_budget(
    outcome: Deferred | Rejected, attempts: int, age: float, policy: Policy, seed: int
) -> None:
    """Whatever comes, a next try is after now, kept to Retry-After, and not beyond the budget."""
    now = START + timedelta(seconds=age)
    decision = made(outcome, attempts=attempts, age=age, policy=policy, rng=random.Random(seed))
    if now >= START + timedelta(days=7):
        assert isinstance(decision, Dead)
        return
    if isinstance(outcome, Rejected) and attempts >= 3:
        assert isinstance(decision, Dead)
        return
    assert isinstance(decision, Retry)
    assert decision.due_at > now
    asked = getattr(outcome, "retry_after", None) or 0.0
    kept = timedelta(seconds=min(asked, policy.retry_after_cap))
    assert decision.due_at >= now + kept
    latest = max(START + timedelta(days=7), now + kept * (1 + JITTER))
    assert decision.due_at <= latest + timedelta(microseconds=1)


@given(seed=st.integers(), attempts=st.integers(1, 9))
def test_jitter_is_a_fifth_either_way(seed: int, attempts: int) -> None:
    """Delays are spread by a fifth up and down, so that a herd does not come back as one."""
    decision = made(DOWN, attempts=attempts, rng=random.Random(seed))
    assert isinstance(decision, Retry)
    plain = DEFAULT.first[attempts - 1]
    wait = (decision.due_at - START).total_seconds()
    assert 0.8 * plain - 1e-5 <= wait <= 1.2 * plain + 1e-5


@given(seed=st.integers(0, 2**32), down_for=st.floats(0, 8 * 86400))
def test_every_delivery_ends(seed: int, down_for: float) -> None:
    """Ages only grow, and after finitely many tries there is a 2xx or a dead letter."""
    ages, decision = simulate(DEFAULT, down_for=down_for, rng=random.Random(seed))
    assert ages == sorted(set(ages))
    assert len(ages) <= 28
    assert isinstance(decision, Dead if down_for > 7 * 86400 else Done)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_delays_never_shrink(policy: Policy) -> None:
    """The schedule only slows down."""
    assert list(policy.first) == sorted(policy.first)
    steps = [delay for _, delay in policy.then]
    assert [policy.first[-1], *steps] == sorted([policy.first[-1], *steps])


def routed(otherwise: str | None, *, age: float = 900.0) -> Delivery:
    return Delivery(
        id=1,
        sink="erp",
        event_id="msg_x",
        type="mail.received",
        mailbox="alarm",
        created_at=START,
        attempts=0,
        first_due_at=START,
        sequence=1,
        fence=1,
        expires_at=None if otherwise is None else START + timedelta(seconds=age),
        otherwise=otherwise or "hold",  # type: ignore[arg-type]  # a word by parameter
    )


@pytest.mark.parametrize(
    ("otherwise", "kind"),
    [("hold", Held), ("drop", Dropped), ("deliver", type(None)), (None, type(None))],
)
def test_what_is_too_old_gets_what_its_route_says(otherwise: str | None, kind: type) -> None:
    """Up to its max_age a delivery is attempted; from then on its route's word holds."""
    delivery = routed(otherwise)
    assert too_old(delivery, START + timedelta(seconds=899.9)) is None
    decision = too_old(delivery, START + timedelta(seconds=900 + 3 * 3600))
    assert isinstance(decision, kind)
    assert decision is None or decision == kind(reason="older than max_age, by 3 h")
