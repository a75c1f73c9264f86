"""Push latency: 20 mails a second over 50 of 200 mailboxes, against Dovecot and the sandbox.

Dovecot tells an IDLE client half a second late. A bare observer stands on the same mailboxes in
the same run, and what counts is the time over it. Peers get mailboxes of their own, so that
nobody finds another one's mail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.push import peers
from benchmarks.push.exchange import Exchange
from benchmarks.push.figures import Report
from benchmarks.push.observers import Observers
from benchmarks.push.stage import (
    Bridge,
    Contestant,
    Memory,
    Place,
    Stage,
    StageError,
    memory,
    staged,
    standing_by,
)
from benchmarks.push.traffic import Latency, Traffic, by_lmtp, latency, wait_until_quiet
from tests.campaigns.harness import Setting

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much; the second is to see that everything works."""

    boxes: int = 200
    active: int = 50
    mails: int = 600
    per_second: float = 20.0
    settle: float = 4.0


QUICK = Size(boxes=20, active=5, mails=30, per_second=3.0, settle=2.0)


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    with staged("latency", numbers=6 * size.mails) as stage:
        rounds = _Rounds(stage, size, report)
        with by_lmtp(stage.dovecot.lmtp_port) as put:
            place = Place(
                name="Dovecot",
                port=stage.dovecot.imaps_port,
                ca=stage.dovecot.ca_file,
                observed_port=stage.lookout.imaps_port,
                observed_ca=stage.lookout.ca_file,
                token=stage.tenant.mint(),
                put=put,
                amend=lambda _content: {},
            )
            own = rounds.one(place, "own", _bridge)
            rounds.peer(place, "imapflow", peers.imapflow, own)
            rounds.peer(place, "fetchmail", peers.fetchmail, own)
        judge(report, "Dovecot", own)
        boxes = _addresses("own", size) + _addresses("imapflow", size)
        with Exchange(stage.fresh("exchange"), boxes) as exchange:
            place = _sandbox(exchange)
            own = rounds.one(place, "own", _bridge)
            rounds.peer(place, "imapflow", peers.imapflow, own)
        judge(report, "sandbox", own)


def _addresses(group: str, size: Size) -> list[str]:
    return [f"{group}{n:03}@bench.test" for n in range(size.boxes)]


def _sandbox(exchange: Exchange) -> Place:
    def amend(content: dict[str, Any]) -> dict[str, str]:
        content["apps"] = {"tenant-app": exchange.app("EXCHANGE_SECRET")}
        for box in content["mailboxes"].values():
            box["fetch"]["server"] = exchange.server()
        return {"EXCHANGE_SECRET": exchange.about["secret"]}

    return Place(
        name="sandbox",
        port=exchange.about["port"],
        ca=Path(exchange.about["ca"]),
        observed_port=exchange.about["port"],
        observed_ca=Path(exchange.about["ca"]),
        token=exchange.about["token"],
        put=exchange.put,
        amend=amend,
    )


#: starts a contestant on the mailboxes of a place and yields it once it stands by
Starter = Callable[[Stage, Place, list[str]], AbstractContextManager[Contestant]]


@contextmanager
def _bridge(stage: Stage, place: Place, boxes: list[str]) -> Iterator[Contestant]:
    folder = stage.fresh("bridge")
    setting = Setting(
        mailboxes={address.partition("@")[0]: address for address in boxes},
        webhook_url=stage.sink.url,
        database=f"sqlite:///{folder}/mailbridge.db",
        push=True,
        every="60s",
    )
    content = stage.content(folder, setting)
    extra = place.amend(content)
    with Bridge(stage, folder, content, **extra) as bridge:
        bridge.wait_for(standing_by, patience=120)
        yield Contestant(who="mailbridge", pids=lambda: [bridge.pid], cpu=bridge.cpu)


class _Rounds:
    """Lets contestants run one after the other under the same traffic."""

    def __init__(self, stage: Stage, size: Size, report: Report) -> None:
        self._stage = stage
        self._size = size
        self._report = report
        self._first = 0

    def one(self, place: Place, group: str, start: Starter) -> Latency:
        """Measure one contestant and print it."""
        size, stage = self._size, self._stage
        boxes = _addresses(group, size)
        active = boxes[:: size.boxes // size.active][: size.active]
        stage.sink.reset()
        with (
            start(stage, place, boxes) as contestant,
            Observers(
                stage.fresh("observers"),
                active,
                port=place.observed_port,
                ca=place.observed_ca,
                token=place.token,
            ) as observers,
        ):
            time.sleep(size.settle)
            standing = memory(*contestant.pids())
            used = contestant.cpu()
            traffic = Traffic(place.put, first=self._first)
            self._first += size.mails
            sent = traffic.send(active, count=size.mails, per_second=size.per_second)
            came = wait_until_quiet(stage.sink, sent, patience=70)
            found = latency(sent, came, observers.seen)
            self._tell(f"{contestant.who}, {place.name}", found, standing, contestant.cpu() - used)
        return found

    def peer(self, place: Place, group: str, start: Starter, own: Latency) -> None:
        """Measure a peer and compare; one that is not there or fails is only noted."""
        try:
            found = self.one(place, group, start)
        except (peers.PeerError, StageError) as error:
            self._report.remark(f"{group} was not measured against {place.name}: {error}")
            return
        for percent in (50, 99):
            ratio = own.ms("over", percent) / max(found.ms("over", percent), 0.1)
            says = f"p{percent} over the observer, {place.name}"
            self._report.show(f"mailbridge / {group}", says, ratio, "times")

    def _tell(self, who: str, found: Latency, standing: Memory, used: float) -> None:
        show = self._report.show
        show(who, f"of {found.sent} mails missing", found.missing, "")
        for name, says in (
            ("total", "delivery to webhook"),
            ("over", "over the bare observer"),
            ("floor", "the bare observer itself"),
        ):
            for percent in (50, 99):
                show(who, f"{says}, p{percent}", found.ms(name, percent), "ms")
        show(who, f"memory with {self._size.boxes} mailboxes (PSS)", standing.pss / MB, "MB")
        show(who, f"CPU for {found.sent} mails", used, "s")


def judge(report: Report, place: str, own: Latency) -> None:
    """Hold the figures to the goals."""
    report.at_most("G6", f"{place}: mails missed", own.missing, required=0, aimed=0, unit="")
    for percent, required, aimed in ((50, 15.0, 6.0), (99, 80.0, 30.0)):
        says = f"{place}: over the observer, p{percent}"
        value = own.ms("over", percent)
        report.at_most("G6", says, value, required=required, aimed=aimed, unit=" ms")
