"""A thousand mailboxes on IDLE in one process: sign-in, memory and CPU at rest, nothing missed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.push.figures import Report
from benchmarks.push.observers import Observers
from benchmarks.push.stage import Bridge, Memory, Stage, staged, standing_by
from benchmarks.push.traffic import Latency, Traffic, by_lmtp, latency, wait_until_quiet
from tests.campaigns.harness import Setting

#: seconds; a mail that comes later was not pushed, but found by the schedule
PUSHED_WITHIN = 5.0
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much; the second is to see that everything works."""

    some: int = 200
    many: int = 1000
    mails: int = 2000
    per_second: float = 40.0
    settle: float = 15.0
    rest: float = 60.0


QUICK = Size(some=20, many=100, mails=200, per_second=20.0, settle=3.0, rest=6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One daemon with so many mailboxes: seconds to sign in, memory, share of a core at rest."""

    count: int
    signed_in: float
    memory: Memory
    peak: int
    rest: float
    pushed: Latency | None


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    with staged("scale", numbers=size.mails) as stage:
        boxes = [f"box{n:04}@bench.test" for n in range(size.many)]
        bare(stage, boxes, report)
        some = stand(stage, size, boxes[: size.some], mails=0)
        tell(some, report)
        many = stand(stage, size, boxes, mails=size.mails)
        tell(many, report)
    further = (many.memory.rss - some.memory.rss) / (many.count - some.count) / 1000
    report.show("mailbridge", "memory of each further mailbox", further, "kB")
    judge(report, some, many, further)


def bare(stage: Stage, boxes: Sequence[str], report: Report) -> None:
    """Measure the limit: clients that sign in, stand in IDLE and can do nothing else."""
    with Observers(
        stage.fresh("bare"),
        boxes,
        port=stage.dovecot.imaps_port,
        ca=stage.dovecot.ca_file,
        token=stage.tenant.mint(),
    ) as observers:
        who = f"bare client, {len(boxes)} mailboxes"
        report.show(who, "signed in and standing by after", observers.seconds, "s")
        report.show(who, "memory", observers.rss / MB, "MB")


def stand(stage: Stage, size: Size, boxes: Sequence[str], *, mails: int) -> Standing:
    """Run the daemon with these mailboxes: sign in, settle, rest, then mail if any."""
    folder = stage.fresh(f"bridge{len(boxes)}")
    setting = Setting(
        mailboxes={address.partition("@")[0]: address for address in boxes},
        webhook_url=stage.sink.url,
        database=f"sqlite:///{folder}/mailbridge.db",
        push=True,
        every="60s",
    )
    with Bridge(stage, folder, stage.content(folder, setting)) as bridge:
        signed_in = bridge.wait_for(standing_by, patience=240, every=1.0)
        time.sleep(size.settle)
        rest = bridge.at_rest(size.rest)
        memory = bridge.memory()
        pushed = push(stage, size, boxes, mails) if mails else None
        return Standing(
            count=len(boxes),
            signed_in=signed_in,
            memory=memory,
            peak=bridge.memory().rss,
            rest=rest,
            pushed=pushed,
        )


def push(stage: Stage, size: Size, boxes: Sequence[str], mails: int) -> Latency:
    """Let mail arrive in all mailboxes in turn; a tenth of them is watched by bare clients."""
    stage.sink.reset()
    with (
        by_lmtp(stage.dovecot.lmtp_port) as put,
        Observers(
            stage.fresh("observers"),
            boxes[::10],
            port=stage.lookout.imaps_port,
            ca=stage.lookout.ca_file,
            token=stage.tenant.mint(),
        ) as observers,
    ):
        sent = Traffic(put).send(boxes, count=mails, per_second=size.per_second)
        # Longer than the schedule: what push has missed must come by it, and shows as late.
        came = wait_until_quiet(stage.sink, sent, patience=90)
        return latency(sent, came, observers.seen)


def tell(one: Standing, report: Report) -> None:
    """Print what was found."""
    who = f"mailbridge, {one.count} mailboxes"
    report.show(who, "signed in and standing by after", one.signed_in, "s")
    report.show(who, "memory (RSS)", one.memory.rss / MB, "MB")
    report.show(who, "CPU at rest, of one core", one.rest * 100, "%")
    if one.pushed is None:
        return
    report.show(who, "memory after the mail", one.peak / MB, "MB")
    report.show(who, "mails", one.pushed.sent, "")
    report.show(who, "missed", one.pushed.missing, "")
    report.show(who, f"later than {PUSHED_WITHIN:g} s, or missed", one.pushed.late(5.0), "")
    for percent in (50, 99):
        report.show(who, f"delivery to webhook, p{percent}", one.pushed.ms("total", percent), "ms")
        report.show(
            who, f"over the bare observer, p{percent}", one.pushed.ms("over", percent), "ms"
        )


def judge(report: Report, some: Standing, many: Standing, further: float) -> None:
    """Hold the figures to the goals."""
    mb = " MB"
    report.at_most(
        "G6",
        f"{many.count} mailboxes signed in",
        many.signed_in,
        required=60,
        aimed=30,
        unit=" s",
    )
    if many.pushed is not None:
        late = many.pushed.late(PUSHED_WITHIN)
        says = f"{many.count} mailboxes: of {many.pushed.sent} mails missed or not pushed"
        report.at_most("G6", says, late, required=0, aimed=0, unit="")
    says = f"{some.count} mailboxes: memory"
    report.at_most("G7", says, some.memory.rss / MB, required=110, aimed=80, unit=mb)
    report.at_most("G7", "each further mailbox", further, required=150, aimed=100, unit=" kB")
    says = f"{many.count} mailboxes: memory"
    report.at_most("G7", says, many.memory.rss / MB, required=230, aimed=160, unit=mb)
    says = f"{some.count} mailboxes: CPU at rest"
    report.at_most("G8", says, some.rest * 100, required=1.0, aimed=0.3, unit=" %")
