"""A thousand mailboxes without push, looked at every minute: how late a check is, what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.push.figures import Report
from benchmarks.push.observers import Observers
from benchmarks.push.stage import Bridge, Stage, proven, staged
from benchmarks.push.traffic import Sent, Traffic, by_lmtp, wait_until_quiet
from tests.campaigns.harness import Setting

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much, in seconds and mailboxes; the second is to see that everything works."""

    boxes: int = 1000
    every: int = 60
    #: seconds in which nothing arrives, and between two looks at the status
    quiet: float = 120.0
    look: float = 20.0
    #: mails that arrive afterwards, each in another mailbox, over so many seconds
    mails: int = 200
    over: float = 30.0
    #: how late a check may be, in intervals
    allowed: float = 75 / 60
    #: seconds for the limit
    bare: float = 15.0


QUICK = Size(boxes=50, every=10, quiet=25.0, look=3.0, mails=20, over=3.0, bare=5.0, allowed=1.5)


class Checks:
    """Follows when each mailbox was checked; finds the longest gap between two checks."""

    def __init__(self) -> None:
        self._last: dict[str, datetime] = {}
        #: the longest gap so far in seconds, whose it was, and how many gaps there were
        self.longest = 0.0
        self.whose = ""
        self.count = 0

    def note(self, boxes: Sequence[dict[str, object]]) -> None:
        """Take one look; looks have to come more often than checks, or two gaps are one."""
        for box in boxes:
            name, text = str(box["name"]), str(box["last_check"])
            last = datetime.fromisoformat(text)
            before = self._last.get(name)
            if before is not None and last > before:
                self._gap(name, (last - before).total_seconds())
            self._last[name] = last

    def close(self) -> None:
        """Count what is still open: a mailbox that is no longer checked has a gap until now."""
        now = datetime.now(UTC)
        for name, last in self._last.items():
            self._gap(name, (now - last).total_seconds())

    def _gap(self, name: str, seconds: float) -> None:
        self.count += 1
        if seconds > self.longest:
            self.longest, self.whose = seconds, name


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    with staged("polled", numbers=size.mails) as stage:
        boxes = [f"box{n:04}@bench.test" for n in range(size.boxes)]
        limit = bare(stage, size, boxes, report)
        folder = stage.fresh("bridge")
        setting = Setting(
            mailboxes={address.partition("@")[0]: address for address in boxes},
            webhook_url=stage.sink.url,
            database=f"sqlite:///{folder}/mailbridge.db",
            push=False,
            every=f"{size.every}s",
        )
        with Bridge(stage, folder, stage.content(folder, setting)) as bridge:
            first = bridge.wait_for(proven, patience=240, every=1.0)
            report.show("mailbridge", "first check of all mailboxes after", first, "s")
            watch(bridge, stage, size, boxes, report, limit)


def bare(stage: Stage, size: Size, boxes: Sequence[str], report: Report) -> float:
    """Measure the limit: one NOOP for each mailbox in each interval, and nothing else."""
    with Observers(
        stage.fresh("bare"),
        boxes,
        port=stage.dovecot.imaps_port,
        ca=stage.dovecot.ca_file,
        token=stage.tenant.mint(),
        noop=float(size.every),
    ) as observers:
        time.sleep(size.bare)
    who = f"bare client, {len(boxes)} mailboxes"
    report.show(who, f"CPU of a NOOP each per {size.every} s", observers.cpu * 100, "% of a core")
    return observers.cpu


def watch(  # noqa: PLR0913, PLR0917 - what the parts of the run have in common
    bridge: Bridge,
    stage: Stage,
    size: Size,
    boxes: Sequence[str],
    report: Report,
    limit: float,
) -> None:
    """Follow the checks while nothing arrives, then while a few mails do."""
    checks = Checks()
    begun, used = time.monotonic(), bridge.cpu()
    follow(bridge, checks, size, until=begun + size.quiet)
    share = (bridge.cpu() - used) / (time.monotonic() - begun)
    with by_lmtp(stage.dovecot.lmtp_port) as put:
        rate = size.mails / size.over
        sent = Traffic(put).send(boxes[-size.mails :], count=size.mails, per_second=rate)
    follow(bridge, checks, size, until=time.monotonic() + size.every * 0.5)
    came = wait_until_quiet(stage.sink, sent, patience=size.every)
    checks.note(bridge.boxes())
    checks.close()
    tell(report, size, checks, share, limit)
    late = [came[one.number] - one.at for one in sent if one.number in came]
    report.show("mailbridge", "latest mail, from delivery to webhook", max(late, default=0), "s")
    report.show("mailbridge", "watched for", time.monotonic() - begun, "s")
    report.show("mailbridge", "memory (RSS)", bridge.memory().rss / MB, "MB")
    judge(report, size, checks, share, sent, len(late))


def follow(bridge: Bridge, checks: Checks, size: Size, *, until: float) -> None:
    """Look at the status now and then until that moment."""
    while True:
        checks.note(bridge.boxes())
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(size.look, left))


def tell(report: Report, size: Size, checks: Checks, share: float, limit: float) -> None:
    """Print what was found."""
    who = f"mailbridge, {size.boxes} mailboxes"
    report.show(who, "longest time between two checks", checks.longest, "s")
    report.show(who, "gaps looked at", checks.count, "")
    report.show(who, "CPU while nothing arrives", share * 100, "% of a core")
    report.show("mailbridge / bare client", "CPU", share / max(limit, 0.0001), "times")


def judge(  # noqa: PLR0913, PLR0917 - one line for each goal
    report: Report,
    size: Size,
    checks: Checks,
    share: float,
    sent: Sequence[Sent],
    came: int,
) -> None:
    """Hold the figures to the goals."""
    allowed = size.allowed * size.every
    says = f"{size.boxes} polled mailboxes: latest check"
    report.at_most("poll", says, checks.longest, required=allowed, aimed=allowed, unit=" s")
    says = f"{size.boxes} polled mailboxes: CPU while nothing arrives"
    report.at_most("poll", says, share * 100, required=10, aimed=5, unit=" %")
    says = f"{size.boxes} polled mailboxes: of {len(sent)} mails missed"
    report.at_most("poll", says, len(sent) - came, required=0, aimed=0, unit="")
