"""POP3: a backlog of one mailbox, the daemon beside fetchmail, with PIPELINING and without."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import seed
from benchmarks.contestants import Work
from benchmarks.measure import Processes, Run
from benchmarks.push import peers
from benchmarks.push.figures import Report
from benchmarks.push.gate import gated
from benchmarks.push.stage import ROOT, Stage, staged
from tests.campaigns.harness import Setting, command, environment, write_config

ADDRESS = "backlog@bench.test"
#: seconds after which a contestant that has not finished is counted with its losses
PATIENCE = 150.0
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much; the second is to see that everything works."""

    messages: int = 5000
    rounds: int = 2


QUICK = Size(messages=500, rounds=1)

#: runs one contestant once, through a port with TLS
Contestant = Callable[[Stage, Work, int], Run]


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    work = Work(name="POP3 backlog", addresses=(ADDRESS,), each=size.messages, first=0)
    with staged("pop3", numbers=work.messages) as stage:
        begun = time.monotonic()
        total = seed(stage.dovecot, work)
        report.remark(
            f"{work.messages} messages, mean {total / work.messages / 1000:.1f} kB, "
            f"seeded in {time.monotonic() - begun:.1f} s"
        )
        loop(stage, work, stage.dovecot.pop3s_port)  # everybody reads from a warm page cache
        compare(stage, work, stage.dovecot.pop3s_port, size, report, "PIPELINING")
        base = stage.dovecot.base
        with gated(
            stage.dovecot.pop3_port, certificate=base / "server.pem", key=base / "server.key"
        ) as port:
            compare(stage, work, port, size, report, "one at a time")


def compare(  # noqa: PLR0913, PLR0917 - what the two comparisons differ in
    stage: Stage, work: Work, port: int, size: Size, report: Report, way: str
) -> None:
    """Measure everybody over one port, in rotation, and hold the daemon to its goal."""
    table: dict[str, Contestant] = {"poplib loop": loop, "mailbridge": bridge}
    found: dict[str, list[Run]] = {name: [] for name in table}
    for _ in range(size.rounds):
        for name, contestant in table.items():
            found[name].append(contestant(stage, work, port))
    try:
        # Once: it takes longer than all others together, and its figure moves little.
        found["fetchmail"] = [fetchmail(stage, work, port)]
    except peers.PeerError as error:
        report.remark(f"fetchmail was not measured, {way}: {error}")
    rates = {name: tell(report, f"{name}, {way}", runs) for name, runs in found.items()}
    for name in ("poplib loop", "fetchmail"):
        if name in rates:
            ratio = rates["mailbridge"] / rates[name]
            report.show(f"mailbridge / {name}", f"messages a second, {way}", ratio, "times")
    lost = sum(one.lost + one.duplicates for one in found["mailbridge"])
    report.at_most("G9", f"{way}: lost or twice", lost, required=0, aimed=0, unit="")
    if "fetchmail" in rates:
        says = f"POP3 backlog, {way}: mailbridge / fetchmail"
        ratio = rates["mailbridge"] / rates["fetchmail"]
        report.at_least("G9", says, ratio, required=4, aimed=6, unit=" times")


def tell(report: Report, who: str, runs: list[Run]) -> float:
    """Print the runs of a contestant; returns the median of its rates."""
    rate = statistics.median(one.rate for one in runs)
    report.show(who, f"messages a second, median of {len(runs)}", rate, "/s")
    spent = statistics.median(1000 * one.cpu / one.messages for one in runs)
    report.show(who, "CPU for 1,000 messages", spent, "s")
    report.show(who, "peak memory", max(one.peak for one in runs) / MB, "MB")
    return rate


def bridge(stage: Stage, work: Work, port: int) -> Run:
    """Run the daemon on fresh state until the receiver has seen everything, then stop it."""
    folder = stage.fresh("mailbridge")
    setting = Setting(
        mailboxes={"backlog": ADDRESS},
        pop3=frozenset({"backlog"}),
        ports={"backlog": port},
        webhook_url=stage.sink.url,
        database=f"sqlite:///{folder}/mailbridge.db",
        concurrency=32,
    )
    config = write_config(folder / "mailbridge.yaml", stage.content(folder, setting))
    env = environment(folder, stage.tenant)
    log = folder / "log"
    stage.sink.reset()
    with Processes() as running:
        process = running.start(command(config), log=log, env=env)
        stage.sink.wait_for(work.messages, PATIENCE, given_up=lambda: running.ended(process))
        running.end(process)
        code = running.wait(process)
    seen = stage.sink.seen()
    if code or not seen.unique:
        words = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the daemon ended with {code}, {seen.unique} came:\n{words}")
    return Run(
        contestant="mailbridge",
        work=work.name,
        messages=work.messages,
        wall=max(seen.last - running.started, 0.001),
        cpu=running.cpu,
        peak=running.peak,
        duplicates=seen.requests - seen.other - seen.unique,
        lost=work.messages - seen.unique,
    )


def loop(stage: Stage, work: Work, port: int) -> Run:
    """Run what the standard library offers, one RETR after the other, bytes thrown away."""
    folder = stage.fresh("poplib")
    token = folder / "token"
    token.write_text(stage.tenant.mint())
    program = str(ROOT / "benchmarks/peers/poplib_loop.py")
    ca = str(stage.dovecot.ca_file)
    return _program(
        "poplib loop",
        work,
        [sys.executable, program, "localhost", str(port), ca, str(token), ADDRESS],
        folder / "log",
    )


def fetchmail(stage: Stage, work: Work, port: int) -> Run:
    """Run fetchmail, each message handed to a program that writes it into a file."""
    peers.need("fetchmail")
    folder = stage.fresh("fetchmail")
    (folder / "mail").mkdir()
    spool = f"/bin/sh -c 'cat > {folder}/mail/$$'"
    options = "fetchall keep"
    words = peers.fetchmail_command(folder, port, ADDRESS, "pop3", options, spool)
    quiet = [word for word in words if word != "-v"]
    one = _program("fetchmail", work, quiet, folder / "log", peers.fetchmail_home(folder))
    stored = sum(1 for _ in (folder / "mail").iterdir())
    if stored < work.messages:
        raise peers.PeerError(f"it wrote {stored} of {work.messages} messages")
    return one


def _program(
    name: str, work: Work, words: list[str], log: Path, env: dict[str, str] | None = None
) -> Run:
    with Processes() as running:
        process = running.start(words, log=log, env=env)
        code = running.wait(process, PATIENCE)
        wall = time.monotonic() - running.started
    if code:
        raise peers.PeerError(f"{name} ended with {code}: {log.read_text(errors='replace')[-500:]}")
    return Run(
        contestant=name,
        work=work.name,
        messages=work.messages,
        wall=wall,
        cpu=running.cpu,
        peak=running.peak,
    )
