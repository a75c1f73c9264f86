"""The backlog of one mailbox from 40 ms away, beside mbsync through the same proxy."""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import contestants
from benchmarks.bench import seed
from benchmarks.contestants import Bench, ContestantError, Variant, Work
from benchmarks.measure import Run
from benchmarks.push.delay import delayed
from benchmarks.push.figures import Report
from benchmarks.push.stage import CACHE, PASSWORD, Stage, staged
from tests.servers.dovecot import Dovecot

#: seconds there and back
ROUND_TRIP = 0.04
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much; the second is to see that everything works."""

    messages: int = 5000
    rounds: int = 3


QUICK = Size(messages=500, rounds=1)


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    work = Work(name="40 ms away", addresses=("backlog@bench.test",), each=size.messages, first=0)
    with (
        staged("distance", numbers=work.messages) as stage,
        delayed(stage.dovecot.imaps_port, round_trip=ROUND_TRIP) as port,
    ):
        begun = time.monotonic()
        total = seed(stage.dovecot, work)
        report.remark(
            f"{work.messages} messages, mean {total / work.messages / 1000:.1f} kB, "
            f"seeded in {time.monotonic() - begun:.1f} s"
        )
        near = bench(stage, stage.dovecot)
        contestants.drain(near, work)  # everybody reads from a warm page cache
        far = bench(stage, elsewhere(stage.dovecot, port))
        table: dict[str, Callable[[], Run]] = {
            "raw TLS drain, without proxy": partial(contestants.drain, near, work),
            "raw TLS drain (the limit)": partial(contestants.drain, far, work),
            "mbsync": partial(contestants.mbsync, far, work, processes=1),
            "mailbridge": partial(contestants.mailbridge, far, work, Variant()),
            "mailbridge, without proxy": partial(contestants.mailbridge, near, work, Variant()),
            "imapflow script": partial(contestants.imapflow, far, work),
        }
        judge(report, measure(report, table, size.rounds))


def bench(stage: Stage, dovecot: Dovecot) -> Bench:
    """Return what the contestants of the other benchmark run on."""
    return Bench(
        folder=stage.folder / "runs",
        cache=CACHE,
        dovecot=dovecot,
        tenant=stage.tenant,
        sink=stage.sink,
        password=PASSWORD,
        postgres_url=str,
    )


def elsewhere(dovecot: Dovecot, port: int) -> Dovecot:
    """Return the same server as it looks through a proxy."""
    far = copy.copy(dovecot)
    far.imaps_port = port
    return far


def measure(
    report: Report, table: dict[str, Callable[[], Run]], rounds: int
) -> dict[str, list[Run]]:
    """Run everybody in rotation, each round beginning with another one."""
    found: dict[str, list[Run]] = {name: [] for name in table}
    names = list(table)
    for number in range(rounds):
        turn = number * len(names) // rounds
        for name in names[turn:] + names[:turn]:
            load = os.getloadavg()[0]
            try:
                one = table[name]()
            except ContestantError as error:
                if name.startswith("mailbridge"):
                    raise
                report.remark(f"{name} was not measured: {error}")
                continue
            found[name].append(one)
            report.console.print(
                f"  round {number + 1}: {name:30} {one.rate:8,.0f}/s  load {load:.1f}",
                markup=False,
            )
    return found


def judge(report: Report, found: dict[str, list[Run]]) -> None:
    """Print medians and ratios, and hold the daemon to its goal."""
    rates: dict[str, float] = {}
    for name, runs in found.items():
        if runs:
            rates[name] = tell(report, name, runs)
    own = found["mailbridge"]
    lost = sum(one.lost + one.duplicates for one in own)
    report.at_most("G3", "lost or twice", lost, required=0, aimed=0, unit="")
    for name in ("mailbridge, without proxy", "imapflow script", "raw TLS drain (the limit)"):
        if name in rates:
            ratio = rates["mailbridge"] / rates[name]
            report.show(f"mailbridge / {name}", "messages a second", ratio, "times")
    if "mbsync" in rates:
        ratio = rates["mailbridge"] / rates["mbsync"]
        says = "40 ms round trip: mailbridge / mbsync"
        report.at_least("G3", says, ratio, required=0.7, aimed=1.0, unit=" times")


def tell(report: Report, name: str, runs: Sequence[Run]) -> float:
    """Print the runs of a contestant; returns the median of its rates."""
    rate = statistics.median(one.rate for one in runs)
    report.show(name, f"messages a second, median of {len(runs)}", rate, "/s")
    spent = statistics.median(1000 * one.cpu / one.messages for one in runs)
    report.show(name, "CPU for 1,000 messages", spent, "s")
    report.show(name, "peak memory", max(one.peak for one in runs) / MB, "MB")
    return rate
