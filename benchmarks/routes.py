"""What routes cost, and whether an alarm gets through a daemon that is busy with something else.

    python -m benchmarks.routes [--quick] [--runs 3]

* The backlog of one mailbox by the plain path (every webhook gets every mail, signed), and by
  routes that match on subject, text, header and sender, extract two regexes and every
  ``Key: value`` line, and forbid duplicates; in rotation. Required: at most 15 % slower.
* Alarms at a steady rate into a pushed mailbox while another one, of another webhook, works off
  5,000 mails: seconds from the mail lying on the server to the alarm webhook's request.
  Required: p99 at most 1.5 s.

Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from typing import Any

from rich.console import Console

from benchmarks import contestants
from benchmarks.bench import BACKLOG, Scale, line, prepared
from benchmarks.contestants import Variant
from benchmarks.mails import mails
from benchmarks.measure import Run, compile_all
from benchmarks.push.figures import Report
from benchmarks.push.stage import Bridge, Stage, staged, standing_by
from benchmarks.push.traffic import Sent, Traffic, by_lmtp, latency, wait_until_quiet
from tests.campaigns.harness import Setting

ALARM, BUSY = "alarm@bench.test", "busy@bench.test"
PER_SECOND = 5.0


def with_routes(content: dict[str, Any]) -> None:
    """Give the configuration routes that do everything a route can do to a mail of text."""
    webhook = next(iter(content["webhooks"]))
    content["routes"] = {
        "never": {
            "match": {"from": ["*@other.example", "x@*.example"], "headers": {"X-None": "a+b"}},
            "webhooks": [webhook],
        },
        "other": {
            "match": {"subject": "(?i)rechnung|invoice [0-9]{4}", "text": "(?i)zahlungsziel"},
            "webhooks": [webhook],
        },
        "alarm": {
            "match": {"subject": "(?i)einsatz|alarm"},
            "require": {"not_duplicate_within": "5m"},
            "otherwise": "deliver",
            "extract": {
                "number": {"regex": r"Einsatz (?P<value>\d+)", "in": "subject"},
                "place": {"regex": r"Straße:?\s*(?P<value>.{1,80})"},
                "fields": {"key_values": ":"},
            },
            "webhooks": [webhook],
            "stop": True,
        },
    }
    for mailbox in content["mailboxes"].values():
        mailbox["routes"] = ["never", "other", "alarm"]


def throughput(report: Report, *, backlog: int, runs: int) -> None:
    """Run both ways in rotation, and compare their medians."""
    ways = [Variant(name="plain"), Variant(name="with routes", amend=with_routes)]
    done: list[Run] = []
    scale = Scale(backlog=backlog, boxes=1, each=1)
    with prepared(scale, report.console) as (bench, works):
        compile_all()
        contestants.drain(bench, works[BACKLOG])
        for number in range(runs):
            for way in ways if number % 2 == 0 else reversed(ways):
                run = contestants.mailbridge(bench, works[BACKLOG], way)
                report.console.print(line(number + 1, run, 0.0), markup=False)
                done.append(run)
    rates = {
        way.name: statistics.median(run.rate for run in done if run.contestant == way.name)
        for way in ways
    }
    for name, rate in rates.items():
        report.show(name, "backlog of one mailbox", rate, "/s")
    lost = sum(run.lost for run in done)
    report.at_most("lost", "mails lost in all runs", lost, required=0, aimed=0, unit="")
    slower = 100 * (1 - rates["with routes"] / rates["plain"])
    report.at_most("cost", "slower with routes", slower, required=15, aimed=10, unit=" %")


def alarms(report: Report, *, backlog: int) -> None:
    """Send alarms while the backlog of another mailbox is worked off."""
    numbers = backlog + 10_000
    with (
        staged("alarms", numbers=numbers) as stage,
        by_lmtp(stage.dovecot.lmtp_port) as put,
        _bridge(stage) as daemon,
    ):
        daemon.wait_for(standing_by, patience=60)
        traffic = Traffic(put, first=backlog)
        calm = traffic.send([ALARM], count=50, per_second=PER_SECOND)
        wait_until_quiet(stage.sink, calm, patience=10)
        came = threading.Event()
        watcher = threading.Thread(target=_until_all_came, args=(stage, backlog, came))
        stage.dovecot.seed(BUSY, mails(backlog))
        begun = time.monotonic()
        watcher.start()
        busy: list[Sent] = []
        while not came.is_set():
            busy += traffic.send([ALARM], count=int(PER_SECOND), per_second=PER_SECOND)
        seconds = time.monotonic() - begun
        watcher.join()
        arrived = wait_until_quiet(stage.sink, calm + busy, patience=20)
    report.show("meanwhile", f"{backlog} mails of the other mailbox", backlog / seconds, "/s")
    for who, sent in (("calm", calm), ("busy", busy)):
        one = latency(sent, arrived)
        for percent in (50, 99):
            report.show(who, f"alarm, p{percent} of {one.sent}", one.ms("total", percent), "ms")
        report.at_most("lost", f"alarms missed, {who}", one.missing, required=0, aimed=0, unit="")
    late = latency(busy, arrived).ms("total", 99) / 1000
    report.at_most(
        "alarm", "alarm through a busy daemon, p99", late, required=1.5, aimed=1, unit=" s"
    )


def _until_all_came(stage: Stage, backlog: int, came: threading.Event) -> None:
    deadline = time.monotonic() + 120
    wanted = set(range(backlog))
    while time.monotonic() < deadline:
        if wanted <= stage.sink.times().keys():
            break
        time.sleep(0.2)
    came.set()


def _bridge(stage: Stage) -> Bridge:
    """Return a daemon with two mailboxes, each with a route to a webhook of its own."""
    folder = stage.fresh("bridge")
    setting = Setting(
        mailboxes={"alarm": ALARM, "busy": BUSY},
        webhook_url=stage.sink.url,
        database=f"sqlite:///{folder}/mailbridge.db",
        push=True,
        every="15s",
        concurrency=32,
    )
    content = stage.content(folder, setting)
    [(name, webhook)] = content["webhooks"].items()
    content["webhooks"] = {name: webhook, "alarms": {**webhook, "profile": "alarm"}}
    content["routes"] = {"busy": {"webhooks": [name]}, "alarm": {"webhooks": ["alarms"]}}
    for mailbox in ("busy", "alarm"):
        content["mailboxes"][mailbox]["routes"] = [mailbox]
    return Bridge(stage, folder, content)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a tenth of the mail, one round")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    report = Report(console=console, quick=given.quick)
    backlog = 500 if given.quick else 5000
    throughput(report, backlog=backlog, runs=1 if given.quick else given.runs)
    alarms(report, backlog=backlog)
    return 0 if all(one.met for one in report.results) else 1


if __name__ == "__main__":
    sys.exit(main())
