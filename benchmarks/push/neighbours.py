"""Fifty mailboxes; one is black-holed, one throttled, one flapping. Nobody else may wait for them.

The black-holed and the flapping mailbox reach Dovecot through a fault proxy each; the throttled
one lies on the sandbox's Exchange, which knows the words. First all are well, then not; the mail
goes on all the time, to the troubled ones as well. What counts is by how much the 99th
percentile of the others rises.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.push.exchange import Exchange
from benchmarks.push.figures import Report
from benchmarks.push.stage import Bridge, Put, Stage, staged, standing_by
from benchmarks.push.traffic import Latency, Sent, Traffic, by_lmtp, latency, wait_until_quiet
from tests.campaigns.harness import Setting
from tests.servers.faultproxy import FaultProxy

HOLED, FLAPPING, THROTTLED = "holed@bench.test", "flapping@bench.test", "throttled@bench.test"
TROUBLED = (HOLED, FLAPPING, THROTTLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much, in mailboxes and seconds; the second is to see that everything works."""

    boxes: int = 50
    per_second: float = 20.0
    well: float = 30.0
    #: longer than the daemon waits for an answer, so that it notices the black hole meanwhile
    ill: float = 65.0
    #: until the troubled ones have caught up once all is well again
    patience: float = 150.0


QUICK = Size(boxes=10, well=5.0, ill=12.0, patience=60.0)


class Network:
    """Fault proxies on an event loop of their own, and what goes wrong with them."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.holed = FaultProxy("127.0.0.1", port)
        self.flapping = FaultProxy("127.0.0.1", port)
        self._flaps: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, with nothing wrong yet."""
        self._thread.start()
        self._call(self.holed.start())
        self._call(self.flapping.start())

    def stop(self) -> None:
        """End."""
        self._call(self._heal())
        self._call(self.holed.down())
        self._call(self.flapping.down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def spoil(self) -> None:
        """Let one swallow everything and the other come and go."""
        self._call(self._spoil())

    def heal(self) -> None:
        """Let all be well again."""
        self._call(self._heal())

    async def _spoil(self) -> None:
        self.holed.set(hole="both")
        self._flaps = asyncio.create_task(self._flap(random.Random(3)))

    async def _heal(self) -> None:
        if self._flaps is not None:
            self._flaps.cancel()
            with suppress(asyncio.CancelledError):
                await self._flaps
            self._flaps = None
        self.holed.heal()
        self.flapping.heal()

    async def _flap(self, rng: random.Random) -> None:
        while True:
            self.flapping.set(refuse=rng.choice(["reset", "close", "hang"]))
            self.flapping.kill_all()
            await asyncio.sleep(rng.uniform(0.5, 1.5))
            self.flapping.set(refuse="")
            await asyncio.sleep(rng.uniform(0.5, 2.0))

    def _call(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@contextmanager
def network(port: int) -> Iterator[Network]:
    """Run the proxies for the length of a ``with``."""
    one = Network(port)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def run(report: Report) -> None:
    """Measure."""
    size = QUICK if report.quick else Size()
    numbers = int((size.well + size.ill) * size.per_second) + 10
    healthy = [f"box{n:02}@bench.test" for n in range(size.boxes - len(TROUBLED))]
    with (
        staged("neighbours", numbers=numbers) as stage,
        network(stage.dovecot.imaps_port) as proxies,
        Exchange(stage.fresh("exchange"), [THROTTLED]) as exchange,
        by_lmtp(stage.dovecot.lmtp_port) as put,
        bridge(stage, healthy, proxies, exchange) as daemon,
    ):
        daemon.wait_for(standing_by, patience=120)
        time.sleep(2)
        everybody = healthy + list(TROUBLED)
        traffic = Traffic(either(put, exchange.put))
        well = phase(traffic, everybody, size, size.well)
        wait_until_quiet(stage.sink, well, patience=10)
        proxies.spoil()
        exchange.fault("imap.throttled", mailbox=THROTTLED, times=None, milliseconds=15_000)
        ill = phase(traffic, everybody, size, size.ill)
        wait_until_quiet(stage.sink, of(ill, healthy), patience=10)
        states = {box["address"]: box["state"] for box in daemon.boxes()}
        proxies.heal()
        struck = exchange.clear("imap.throttled")
        begun = time.monotonic()
        came = wait_until_quiet(stage.sink, well + ill, patience=size.patience)
        report.show(
            "mailbridge", "caught up after all was well again", time.monotonic() - begun, "s"
        )
    report.show("mailbridge", "times that the throttled one was refused", struck, "")
    report.remark("states amid the trouble: " + ", ".join(f"{n} {states[n]}" for n in TROUBLED))
    judge(
        report,
        latency(of(well, healthy), came),
        latency(of(ill, healthy), came),
        latency(of(well + ill, TROUBLED), came),
    )


def either(dovecot: Put, exchange: Put) -> Put:
    """Return what delivers to the server where the mailbox is."""

    def put(address: str, number: int) -> float:
        return (exchange if address == THROTTLED else dovecot)(address, number)

    return put


def phase(traffic: Traffic, boxes: Sequence[str], size: Size, seconds: float) -> list[Sent]:
    """Send for so many seconds."""
    return traffic.send(boxes, count=int(seconds * size.per_second), per_second=size.per_second)


def of(sent: Sequence[Sent], boxes: Sequence[str]) -> list[Sent]:
    """Return what was sent to these mailboxes."""
    return [one for one in sent if one.address in boxes]


def bridge(stage: Stage, healthy: Sequence[str], proxies: Network, exchange: Exchange) -> Bridge:
    """Return the daemon for all of them."""
    folder = stage.fresh("bridge")
    names = {address.partition("@")[0]: address for address in [*healthy, *TROUBLED]}
    setting = Setting(
        mailboxes=names,
        webhook_url=stage.sink.url,
        database=f"sqlite:///{folder}/mailbridge.db",
        push=True,
        every="15s",
        ports={"holed": proxies.holed.port, "flapping": proxies.flapping.port},
    )
    content = stage.content(folder, setting)
    content["apps"]["exchange-app"] = exchange.app("EXCHANGE_SECRET")
    content["mailboxes"]["throttled"]["app"] = "exchange-app"
    content["mailboxes"]["throttled"]["fetch"]["server"] = exchange.server()
    return Bridge(stage, folder, content, EXCHANGE_SECRET=exchange.about["secret"])


def judge(report: Report, well: Latency, ill: Latency, troubled: Latency) -> None:
    """Print the figures and hold them to the goal."""
    for who, one in (("all are well", well), ("three in trouble", ill)):
        for percent in (50, 99):
            says = f"the others: delivery to webhook, p{percent}"
            report.show(who, says, one.ms("total", percent), "ms")
        report.show(who, "the others: mails", one.sent, "")
    rise = ill.ms("total", 99) - well.ms("total", 99)
    says = "three of the mailboxes in trouble: rise of the others' p99"
    report.at_most("calm", says, rise, required=250, aimed=100, unit=" ms")
    lost = well.missing + ill.missing
    report.at_most("calm", "the others: mails missed", lost, required=0, aimed=0, unit="")
    says = f"the three in trouble: of {troubled.sent} mails missed in the end"
    report.at_most("calm", says, troubled.missing, required=0, aimed=0, unit="")
