"""When a sink may be sent to: a breaker on a clock that only the test moves."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mailbridge.breaker import FAILURES, GONE_EVERY, PROBE_EVERY, UNSENT_EVERY, Breaker, Change
from mailbridge.model import Deferred, Delivered, Outcome, Rejected
from mailbridge.retry import POLICIES

OK = Delivered(status=204)
DOWN = Deferred(reason="connection refused")
ERROR = Deferred(reason="HTTP 500", status=500)
GONE = Deferred(reason="HTTP 410", status=410)
DENIED = Deferred(reason="HTTP 401", status=401)
NO_MAIL = Deferred(reason="the template fails", sink_fault=False)


def made(limit: int = 8, every: float = 60.0) -> Breaker:
    return Breaker(limit=limit, probe_every=every)


def opened(limit: int = 8, *, at: float = 0.0) -> Breaker:
    breaker = made(limit)
    for _ in range(FAILURES):
        breaker.saw(DOWN, breaker.epoch, at)
    return breaker


def test_profiles_probe_as_often_as_documented() -> None:
    """A sink for alarms is probed every 15 s, any other every minute."""
    assert dict(PROBE_EVERY) == {"default": 60.0, "alarm": 15.0}
    assert PROBE_EVERY.keys() == POLICIES.keys()


def test_the_fifth_failure_in_a_row_opens_it() -> None:
    """Four failures change nothing, the fifth leaves no room at all, and says so once."""
    breaker = made()
    changes = [breaker.saw(error, 0, 0.0) for error in (DOWN, ERROR, DOWN, ERROR)]
    assert changes == [None] * 4
    assert breaker.room(0.0) == 8
    assert breaker.saw(DOWN, 0, 0.0) is Change.OPENED
    assert breaker.room(0.0) == 0
    assert breaker.shut(1e9)


def test_any_answer_between_failures_keeps_it_closed() -> None:
    """Whoever answers is there: a 2xx, a refusal of the mail, a 401 or a 429 end the row."""
    busy = Deferred(reason="HTTP 429", status=429)
    for answer in (OK, Rejected(reason="HTTP 422", status=422), DENIED, busy):
        breaker = made()
        for _ in range(4):
            breaker.saw(DOWN, 0, 0.0)
        breaker.saw(answer, 0, 0.0)
        for _ in range(4):
            assert breaker.saw(DOWN, 0, 0.0) is None
        assert breaker.room(0.0) == 8


def test_what_was_never_sent_says_nothing() -> None:
    """A mail that our own configuration cannot render neither opens nor closes anything."""
    breaker = made()
    for _ in range(50):
        assert breaker.saw(NO_MAIL, 0, 0.0) is None
        assert breaker.saw(None, 0, 0.0) is None
    assert breaker.room(0.0) == 8
    for _ in range(4):
        breaker.saw(DOWN, 0, 0.0)
    breaker.saw(NO_MAIL, 0, 0.0)
    assert breaker.saw(DOWN, 0, 0.0) is Change.OPENED


def test_a_probe_that_cannot_be_made_is_not_tried_again_at_once() -> None:
    """A mail that cannot be rendered leaves the sink alone for a while, and the next has a turn."""
    breaker = opened()
    breaker.probe()
    assert breaker.saw(NO_MAIL, breaker.epoch, 60.0) is None
    assert not breaker.probe_due(60.0)
    assert breaker.probe_due(60.0 + UNSENT_EVERY)


def test_a_probe_that_had_become_too_old_gives_its_turn_away_at_once() -> None:
    """Nothing was sent, and it is out of the queue: the next oldest goes."""
    breaker = opened()
    breaker.probe()
    assert breaker.saw(None, breaker.epoch, 60.0) is None
    assert breaker.probe_due(60.0)


def test_a_probe_goes_out_at_its_time_and_alone() -> None:
    """While it is open one attempt is made each minute, never two at once."""
    breaker = opened()
    assert not breaker.probe_due(59.9)
    assert breaker.wait(10.0) == 50.0
    assert breaker.probe_due(60.0)
    breaker.probe()
    assert breaker.room(60.0) == 1
    assert not breaker.probe_due(60.0)
    assert breaker.saw(DOWN, breaker.epoch, 61.0) is None
    assert breaker.shut(61.0)
    assert not breaker.probe_due(120.9)
    assert breaker.probe_due(121.0)


def test_what_began_before_the_opening_does_not_fail_the_probe() -> None:
    """A slow failure of an attempt of before says nothing about the probe that is out."""
    breaker = opened()
    breaker.probe()
    assert breaker.saw(DOWN, 0, 61.0) is None
    assert breaker.state == "probing"
    assert breaker.saw(OK, breaker.epoch, 62.0) is Change.ANSWERS


def test_the_window_grows_from_one_to_the_limit() -> None:
    """After the first answer one attempt runs at a time, then 2, 4, … up to the limit."""
    breaker = opened(limit=12)
    breaker.probe()
    breaker.saw(OK, breaker.epoch, 60.0)
    windows = []
    while breaker.state == "ramping":
        windows.append(breaker.room(61.0))
        for _ in range(windows[-1]):
            breaker.saw(OK, breaker.epoch, 61.0)
    assert windows == [1, 2, 4, 8]
    assert breaker.room(61.0) == 12


def test_a_failure_halves_the_window_while_it_grows() -> None:
    """A sink that is weak after its outage is asked for less, not for nothing."""
    breaker = opened(limit=16)
    breaker.probe()
    for _ in range(1 + 1 + 2 + 4):
        breaker.saw(OK, breaker.epoch, 60.0)
    assert breaker.room(60.0) == 8
    breaker.saw(ERROR, breaker.epoch, 60.0)
    assert breaker.room(60.0) == 4
    for _ in range(3):
        breaker.saw(ERROR, breaker.epoch, 60.0)
    assert breaker.room(60.0) == 1
    assert breaker.saw(ERROR, breaker.epoch, 60.0) is Change.OPENED


def test_gone_is_a_slow_probe_and_never_off() -> None:
    """One 410 pauses the sink; it is still tried every hour, and heals like any other."""
    breaker = made()
    assert breaker.saw(GONE, 0, 0.0) is Change.OPENED
    assert breaker.wait(0.0) == GONE_EVERY
    assert breaker.probe_due(GONE_EVERY)
    breaker.probe()
    assert breaker.saw(GONE, breaker.epoch, GONE_EVERY) is None
    assert breaker.wait(GONE_EVERY) == GONE_EVERY
    breaker.probe()
    assert breaker.saw(OK, breaker.epoch, 2 * GONE_EVERY) is Change.ANSWERS


def test_a_person_need_not_wait_for_the_next_probe() -> None:
    """Whoever retries by hand sees an attempt at once, also after a 410."""
    breaker = made()
    breaker.saw(GONE, 0, 0.0)
    breaker.hurry()
    assert breaker.probe_due(1.0)


def test_a_person_need_not_wait_for_retry_after() -> None:
    """Who retries by hand what was answered with 429 sees one attempt at once, and no flood."""
    breaker = made()
    breaker.saw(Deferred(reason="later", status=429, retry_after=3600.0), 0, 100.0)
    assert breaker.shut(101.0)
    breaker.hurry()
    assert (breaker.room(101.0), breaker.wait(101.0)) == (1, 0.0)


def test_retry_after_holds_the_whole_sink() -> None:
    """After 429 or 503 with Retry-After nothing is sent until then, and then one at a time."""
    for status in (429, 503):
        breaker = made()
        breaker.saw(Deferred(reason="later", status=status, retry_after=30.0), 0, 100.0)
        assert breaker.shut(129.9)
        assert breaker.wait(120.0) == 10.0
        assert not breaker.probe_due(129.9)
        assert breaker.room(130.0) == 1


def test_other_waits_are_of_one_mail_alone() -> None:
    """A 429 without a time, or a Retry-After with another status, holds nobody else."""
    for outcome in (
        Deferred(reason="later", status=429),
        Deferred(reason="later", status=425, retry_after=30.0),
    ):
        breaker = made()
        breaker.saw(outcome, 0, 0.0)
        assert breaker.room(0.0) == 8


def test_a_probe_that_was_not_sent_is_followed_by_the_next() -> None:
    """Where the oldest mail is set aside unsent, the next one probes at once."""
    breaker = opened()
    breaker.probe()
    breaker.saw(None, breaker.epoch, 60.0)
    assert breaker.probe_due(60.0)


def test_a_restart_of_the_loop_frees_the_probe() -> None:
    """A probe of which nobody will hear any more does not keep the sink shut."""
    breaker = opened()
    breaker.probe()
    breaker.forget_attempts()
    assert breaker.probe_due(60.0)


answers = st.sampled_from([OK, DOWN, ERROR, GONE, DENIED, NO_MAIL, Rejected(reason="422")])
held = st.builds(
    Deferred, reason=st.just("x"), status=st.sampled_from([429, 503]), retry_after=st.floats(0, 60)
)


@given(
    limit=st.integers(1, 300), outcomes=st.lists(answers | held, max_size=120), seed=st.integers()
)
def test_it_is_never_off_and_never_over_its_limit(
    limit: int, outcomes: list[Outcome], seed: int
) -> None:
    """Whatever comes: no more than the limit, and within an hour something may be sent."""
    rng, breaker, now = random.Random(seed), made(limit), 0.0
    epochs = [0]
    for outcome in outcomes:
        now += rng.choice([0.0, 1.0, 61.0])
        if breaker.probe_due(now):
            breaker.probe()
        epochs.append(breaker.epoch)
        breaker.saw(outcome, rng.choice(epochs[-3:]), now)
        assert 0 <= breaker.room(now) <= limit
        assert breaker.wait(now) <= GONE_EVERY
        later = now + breaker.wait(now)
        assert breaker.room(later) > 0 or breaker.probe_due(later)


@given(limit=st.integers(1, 300))
def test_a_sink_that_is_well_again_gets_its_full_window(limit: int) -> None:
    """After as many answers as the limit needs to double up to, nothing holds it back."""
    breaker = opened(limit)
    breaker.probe()
    for _ in range(2 * limit):
        breaker.saw(OK, breaker.epoch, 60.0)
    assert breaker.room(60.0) == limit
    assert breaker.state == "closed"
