"""What the push benchmark counts: a figure that flatters would be worse than none."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from benchmarks.push.polled import Checks
from benchmarks.push.traffic import Sent, latency


def sent(number: int, *, address: str = "a@bench.test", nth: int = 1, at: float = 0.0) -> Sent:
    return Sent(number=number, address=address, nth=nth, at=at)


def box(name: str, seconds_ago: float) -> dict[str, object]:
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return {"name": name, "last_check": moment.isoformat()}


def test_a_mail_that_never_came_is_missing_and_late() -> None:
    """What the webhook did not get counts as missing, and as late as well."""
    found = latency([sent(1), sent(2), sent(3)], {1: 0.5, 2: 9.0})
    assert (found.missing, found.late(5.0)) == (1, 2)


def test_what_is_over_the_observer_is_counted_from_its_own_exists() -> None:
    """The time over the observer begins when that observer saw that very mail."""
    told = {("a@bench.test", 1): 0.5, ("a@bench.test", 2): 10.6}
    mails = [sent(1), sent(2, nth=2, at=10.0)]
    found = latency(mails, {1: 0.75, 2: 10.75}, lambda address, nth: told.get((address, nth)))
    assert [round(one, 3) for one in found.over] == [0.25, 0.15]
    assert [round(one, 3) for one in found.floor] == [0.5, 0.6]


def test_no_figure_is_made_up_when_nothing_came() -> None:
    """Without a single mail a percentile is infinite, and so no goal is met."""
    assert math.isinf(latency([sent(1)], {}).ms("total", 99))


def test_the_longest_gap_is_that_of_the_latest_mailbox() -> None:
    """Of all mailboxes the one that waited longest between two checks decides."""
    checks = Checks()
    checks.note([box("quick", 100), box("slow", 100)])
    checks.note([box("quick", 60), box("slow", 100)])
    checks.note([box("quick", 20), box("slow", 10)])
    assert (checks.whose, round(checks.longest)) == ("slow", 90)


def test_a_mailbox_that_is_no_longer_checked_is_not_forgotten() -> None:
    """A gap that is still open at the end counts with its length so far."""
    checks = Checks()
    checks.note([box("stuck", 200), box("well", 30)])
    checks.note([box("stuck", 200), box("well", 1)])
    assert checks.whose == "well"
    checks.close()
    assert checks.whose == "stuck"
    assert checks.longest >= 200
