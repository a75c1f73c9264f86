"""Measure mailbridge beside its peers, in one run on this machine, and hold it to its goals.

    python -m benchmarks.bench [--quick] [--runs 3] [--only mailbridge,mbsync]

Seeds a private Dovecot, runs every contestant several times in rotation, prints a table and the
goals with ratios (met or missed), writes all figures as JSON and draws a chart. Everything is
durable and everything is delivered, or the table says how much was lost. Exit code 1 when a
required goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import chart, contestants
from benchmarks.contestants import Bench, ContestantError, Variant, Work
from benchmarks.goals import Result, Summary, judge, summarise
from benchmarks.mails import mails
from benchmarks.measure import Run, compile_all, running_sink
from tests.campaigns.harness import Tenant
from tests.servers.dovecot import Dovecot
from tests.servers.postgres import Postgres, running_postgres

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache/bench"
PASSWORD = "not-a-secret"
NOT_DURABLE = {"MAILBRIDGE_BENCH_SYNCHRONOUS": "off"}
BACKLOG, MANY = "backlog", "20 mailboxes"

Contestant = Callable[[Bench, Work], Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much mail; ``--quick`` takes a tenth, to see that everything works."""

    backlog: int = 5000
    boxes: int = 20
    each: int = 500


def entrants(only: Sequence[str]) -> list[tuple[str, str, Contestant]]:
    """Return (work, name, function) of all that is measured, in the order of the first round."""

    def own(bench: Bench, work: Work, *, variant: Variant) -> Run:
        return contestants.mailbridge(bench, work, variant)

    variants = {
        "mailbridge": Variant(),
        "mailbridge (PostgreSQL)": Variant(name="mailbridge (PostgreSQL)", database="postgresql"),
        "mailbridge (not durable)": Variant(name="mailbridge (not durable)", env=NOT_DURABLE),
    }
    table: list[tuple[str, str, Contestant]] = [
        (BACKLOG, "raw TLS drain", contestants.drain),
        (BACKLOG, "mbsync", partial(contestants.mbsync, processes=1)),
        *((BACKLOG, name, partial(own, variant=one)) for name, one in variants.items()),
        (BACKLOG, "imapflow script", contestants.imapflow),
        (MANY, "raw TLS drain", contestants.drain),
        (MANY, "mbsync", partial(contestants.mbsync, processes=4)),
        (MANY, "mailbridge", partial(own, variant=variants["mailbridge"])),
        (MANY, "imapflow script", contestants.imapflow),
    ]
    return [row for row in table if not only or row[1] in only]


class LazyPostgres:
    """A PostgreSQL that is started when a contestant asks for a database, once."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._server: Postgres | None = None

    def url(self) -> str:
        """Return the URL of a fresh, empty database on a durable server."""
        if self._server is None:
            self._server = self._stack.enter_context(running_postgres())
        return self._server.create_database().url


@contextlib.contextmanager
def prepared(scale: Scale, console: Console) -> Iterator[tuple[Bench, dict[str, Work]]]:
    """Start the servers and seed the mail."""
    works = {
        BACKLOG: Work(name=BACKLOG, addresses=("backlog@bench.test",), each=scale.backlog, first=0),
        MANY: Work(
            name=MANY,
            addresses=tuple(f"box{n:02}@bench.test" for n in range(scale.boxes)),
            each=scale.each,
            first=scale.backlog,
        ),
    }
    CACHE.mkdir(parents=True, exist_ok=True)
    numbers = sum(work.messages for work in works.values())
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, CACHE / "runs", ignore_errors=True)
        tenant = stack.enter_context(Tenant())
        dovecot = stack.enter_context(Dovecot(tenant.rules, password=PASSWORD))
        sink = stack.enter_context(running_sink(CACHE, numbers=numbers))
        bench = Bench(
            folder=CACHE / "runs",
            cache=CACHE,
            dovecot=dovecot,
            tenant=tenant,
            sink=sink,
            password=PASSWORD,
            postgres_url=LazyPostgres(stack).url,
        )
        for work in works.values():
            begun = time.monotonic()
            size = seed(dovecot, work)
            console.print(
                f"seeded {work.name}: {work.messages} messages, {size / 1e6:.0f} MB, "
                f"mean {size / work.messages / 1000:.1f} kB, {time.monotonic() - begun:.1f} s"
            )
        yield bench, works


def seed(dovecot: Dovecot, work: Work) -> int:
    """Write the mail of one work and let Dovecot index it; returns the bytes."""
    total = 0

    def counted(first: int) -> Iterator[bytes]:
        nonlocal total
        for raw in mails(work.each, first=first):
            total += len(raw)
            yield raw

    for number, address in enumerate(work.addresses):
        dovecot.seed(address, counted(work.first + number * work.each))
    return total


def measure(
    bench: Bench,
    works: dict[str, Work],
    rows: list[tuple[str, str, Contestant]],
    *,
    runs: int,
    console: Console,
) -> list[Run]:
    """Run everything ``runs`` times, each round beginning with another contestant."""
    compile_all()
    # Everybody reads from a warm page cache; without this the first one would pay for it.
    for work in works.values():
        contestants.drain(bench, work)
    results: list[Run] = []
    for round_number in range(runs):
        turn = round_number * len(rows) // max(1, runs)
        for work_name, name, contestant in rows[turn:] + rows[:turn]:
            load = os.getloadavg()[0]
            try:
                run = contestant(bench, works[work_name])
            except ContestantError as failure:
                console.print(f"FAILED {work_name}, {name}: {failure}", markup=False)
                continue
            results.append(run)
            console.print(line(round_number + 1, run, load), markup=False)
    return results


def line(round_number: int, run: Run, load: float) -> str:
    """Return one run on one line."""
    return (
        f"round {round_number}  {run.work:13} {run.contestant:26} {run.rate:8,.0f}/s  "
        f"{run.wall:6.2f} s  CPU {run.cpu:5.2f} s  {run.peak / 1e6:5.0f} MB  "
        f"twice {run.duplicates}  lost {run.lost}  load {load:.1f}"
    )


def figures(found: dict[tuple[str, str], Summary]) -> Table:
    """Return the table of all contestants."""
    shown = Table(title="messages a second, everything included")
    for heading in (
        *("work", "contestant", "runs", "msgs/s", "lowest", "highest"),
        *("CPU s/1,000", "peak MB", "twice", "lost"),
    ):
        shown.add_column(heading, justify="left" if heading in {"work", "contestant"} else "right")
    for one in sorted(found.values(), key=lambda row: (row.work == MANY, -row.rate)):
        shown.add_row(
            one.work,
            one.contestant,
            str(one.runs),
            f"{one.rate:,.0f}",
            f"{one.lowest:,.0f}",
            f"{one.highest:,.0f}",
            f"{one.cpu_per_1000:.2f}",
            f"{one.peak_mb:,.0f}",
            str(one.duplicates),
            str(one.lost),
        )
    return shown


def verdicts(results: list[Result]) -> Table:
    """Return the table of the goals."""
    shown = Table(title="goals")
    for heading in ("goal", "what", "measured", "required", "aimed at", "verdict"):
        shown.add_column(heading, justify="left" if heading in {"goal", "what"} else "right")
    for one in results:
        sign = "≤" if one.at_most else "≥"
        verdict = "met, aim reached" if one.reached and one.met else "met" if one.met else "MISSED"
        shown.add_row(
            one.goal,
            one.says,
            f"{one.value:.2f}{one.unit}",
            f"{sign} {one.required:g}{one.unit}",
            f"{sign} {one.aimed:g}{one.unit}",
            verdict,
        )
    return shown


def write(
    runs: list[Run], found: dict[tuple[str, str], Summary], results: list[Result], *, out: Path
) -> None:
    """Write the JSON and the chart beside each other."""
    machine = f"{contestants.cores()} cores, {platform.system()} {platform.release()}"
    content = {
        "machine": machine,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "goals": [{**asdict(one), "met": one.met, "aim_reached": one.reached} for one in results],
        "summaries": [asdict(one) for one in found.values()],
        "runs": [one.as_json() for one in runs],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")
    titles = {
        BACKLOG: "Backlog of one mailbox, messages per second",
        MANY: "20 mailboxes at once, messages per second",
    }
    groups = [
        (title, [one for key, one in found.items() if key[0] == work])
        for work, title in titles.items()
    ]
    counts = sorted({one.runs for one in found.values()})
    footer = (
        (
            f"Medians of {'/'.join(map(str, counts))} runs on one machine ({machine}), "
            f"{content['date']}; the dark line is the range."
        ),
        "mbsync: no parsing, no webhook. imapflow script: nothing durable. Peers in the same run.",
    )
    out.with_suffix(".svg").write_text(chart.draw(groups, footer=footer))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a tenth of the mail, one round")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="names of contestants, with commas")
    parser.add_argument("--out", type=Path, default=None, help="the JSON; the SVG lies beside it")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if lacking := contestants.missing():
        console.print(f"not installed: {', '.join(lacking)}; `make test` installs what it needs")
        return 2
    scale = Scale(backlog=500, boxes=20, each=50) if given.quick else Scale()
    partial_run = given.quick or given.only
    out = given.out or (CACHE / "quick.json" if partial_run else ROOT / "docs/benchmark.json")
    rows = entrants([name for name in given.only.split(",") if name])
    with prepared(scale, console) as (bench, works):
        runs = measure(bench, works, rows, runs=1 if given.quick else given.runs, console=console)
    found = summarise(runs)
    results = judge(found)
    console.print(figures(found))
    console.print(verdicts(results))
    write(runs, found, results, out=out)
    console.print(f"figures: {out}, chart: {out.with_suffix('.svg')}")
    whole = len(runs) == len(rows) * (1 if given.quick else given.runs)
    clean = all(one.lost == 0 and one.duplicates == 0 for one in runs)
    return 0 if whole and clean and all(one.met for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
