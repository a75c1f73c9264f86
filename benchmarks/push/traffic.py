"""Steady mail: who got which number when, and how late the webhook was."""

from __future__ import annotations

import contextlib
import itertools
import random
import smtplib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Sink
from benchmarks.push.figures import percentile
from benchmarks.push.stage import MAIL_SIZE, Put
from tests.campaigns.harness import mail


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One mail: its number, its mailbox, the how-manyth there it is, and when it lay there."""

    number: int
    address: str
    nth: int
    at: float


class Traffic:
    """Puts numbered mails into mailboxes; numbers and counts go on from call to call."""

    def __init__(self, put: Put, *, first: int = 0) -> None:
        self._put = put
        self._numbers = itertools.count(first)
        self._counts: Counter[str] = Counter()

    def send(self, addresses: Sequence[str], *, count: int, per_second: float) -> list[Sent]:
        """Send ``count`` mails to the mailboxes in turn at a steady rate."""
        due = time.monotonic()
        sent: list[Sent] = []
        for address in itertools.islice(itertools.cycle(addresses), count):
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1.0 / per_second
            number = next(self._numbers)
            at = self._put(address, number)
            self._counts[address] += 1
            sent.append(Sent(number=number, address=address, nth=self._counts[address], at=at))
        return sent


@contextlib.contextmanager
def by_lmtp(port: int) -> Iterator[Put]:
    """Deliver over one LMTP connection; a mail lies there when the server says so."""
    rng = random.Random(1)
    with smtplib.LMTP("127.0.0.1", port) as client:

        def put(address: str, number: int) -> float:
            raw = mail(f"TKN-{number:012}", rng, size=MAIL_SIZE)
            client.sendmail("sender@mail.test", [address], raw)
            return time.monotonic()

        yield put


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from delivery to the webhook, and over what a bare observer saw; how many came."""

    sent: int
    total: Sequence[float]
    over: Sequence[float]
    #: between delivery and the bare observer
    floor: Sequence[float]

    @property
    def missing(self) -> int:
        """How many did not come."""
        return self.sent - len(self.total)

    def late(self, seconds: float) -> int:
        """How many took longer than so many seconds, or did not come."""
        return self.missing + sum(1 for one in self.total if one > seconds)

    def ms(self, name: str, percent: int) -> float:
        """Return a percentile of ``total``, ``over`` or ``floor`` in milliseconds."""
        values: Sequence[float] = getattr(self, name)
        return percentile(values, percent) * 1000 if values else float("inf")


def wait_until_quiet(sink: Sink, sent: Sequence[Sent], *, patience: float) -> dict[int, float]:
    """Wait until all have come or time is up; returns when each came."""
    deadline = time.monotonic() + patience
    numbers = {one.number for one in sent}
    while True:
        came = sink.times()
        if numbers <= came.keys() or time.monotonic() > deadline:
            return came
        time.sleep(0.1)


def latency(
    sent: Sequence[Sent],
    came: Mapping[int, float],
    seen: Callable[[str, int], float | None] | None = None,
) -> Latency:
    """Put together what was sent, what the webhook got and what the observers saw."""
    total, over, floor = [], [], []
    for one in sent:
        noticed = seen(one.address, one.nth) if seen is not None else None
        if noticed is not None:
            floor.append(noticed - one.at)
        if one.number in came:
            total.append(came[one.number] - one.at)
            if noticed is not None:
                over.append(came[one.number] - noticed)
    return Latency(sent=len(sent), total=total, over=over, floor=floor)
