"""Show that a long queue slows nothing: 100,000 waiting deliveries against an empty store.

    python -m benchmarks.queue_growth [--waiting 100000]

Times single accepts (batches of ten small mails) and claims (of ten with their resolve) on the
store itself, SQLite with full durability: once with an empty queue, once behind the waiting
deliveries of another sink, once with so many waiting for the very sink that claims. Required is
that the 99th percentile stays within twice that of the empty store. Exit code 1 when missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mailbridge.model import (
    Batch,
    Checkpoint,
    Delivered,
    Delivery,
    Done,
    MessageRef,
    RawMessage,
    Resolution,
)
from mailbridge.store.store import Store

CACHE = Path(__file__).parent.parent / ".cache/bench"
EPOCH = 4242
PER_ACCEPT = 10
#: a claim takes as many as an accept brings, so that it is the same work behind any queue
CLAIM, CLAIM_BYTES, LEASE = PER_ACCEPT, 8 << 20, 60.0
FACTOR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each call, for one state of the queue."""

    state: str
    accepts: Sequence[float]
    claims: Sequence[float]

    def p99(self, values: Sequence[float]) -> float:
        """Return the 99th percentile in milliseconds."""
        return statistics.quantiles(values, n=100, method="inclusive")[98] * 1000


class Feeder:
    """Accepts batches with ascending UIDs, each mail of about two kilobytes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uid = 0
        self._body = b"x" * 1900

    async def accept(self, count: int, sinks: tuple[str, ...]) -> None:
        """Accept ``count`` mails in one transaction, each with a delivery for every sink."""
        now = datetime.now(UTC)
        messages = tuple(self._message(now) for _ in range(count))
        batch = Batch(
            mailbox="box",
            folder="INBOX",
            sinks=sinks,
            messages=messages,
            checkpoint=Checkpoint(
                mailbox="box",
                folder="INBOX",
                uidvalidity=EPOCH,
                uid=self._uid,
                watching_since=now,
            ),
        )
        await self._store.accept(batch, address="box@bench.test", settles=False)

    def _message(self, now: datetime) -> RawMessage:
        self._uid += 1
        head = f"Message-ID: <{self._uid}@bench.test>\r\nSubject: {self._uid}\r\n\r\n".encode()
        ref = MessageRef(mailbox="box", folder="INBOX", uidvalidity=EPOCH, uid=self._uid)
        return RawMessage(ref=ref, raw=head + self._body, received_at=now)


def resolved(deliveries: Sequence[Delivery]) -> list[Resolution]:
    """Return what says that all of them were delivered."""
    now = datetime.now(UTC)
    return [
        Resolution(
            delivery=one,
            outcome=Delivered(status=204),
            decision=Done(),
            started_at=now,
            seconds=0.001,
        )
        for one in deliveries
    ]


async def sample(store: Store, feeder: Feeder, *, state: str, rounds: int) -> Times:
    """Time ``rounds`` accepts, each followed by a claim and its resolve for the sink ``live``."""
    accepts, claims = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        await feeder.accept(PER_ACCEPT, ("live",))
        accepts.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        taken = await store.claim("live", limit=CLAIM, max_bytes=CLAIM_BYTES, lease=LEASE)
        await store.resolve(resolved(taken))
        claims.append(time.perf_counter() - begun)
        if not taken:
            raise RuntimeError("nothing could be claimed although mail was accepted")
    return Times(state=state, accepts=accepts, claims=claims)


async def fill(feeder: Feeder, count: int, sink: str) -> None:
    """Let ``count`` deliveries wait."""
    for start in range(0, count, 500):
        await feeder.accept(min(500, count - start), (sink,))


async def run(folder: Path, *, waiting: int, rounds: int, console: Console) -> list[Times]:
    """Measure the empty store, then behind others, then behind its own."""
    store = await Store.open(f"sqlite:///{folder}/growth.db")
    try:
        feeder = Feeder(store)
        await sample(store, feeder, state="warm up", rounds=rounds // 4)
        found = [await sample(store, feeder, state="empty queue", rounds=rounds)]
        for sink, state in (("down", "for another webhook"), ("live", "for the same webhook")):
            begun = time.monotonic()
            await fill(feeder, waiting, sink)
            console.print(
                f"{waiting} deliveries wait for {sink!r}: {time.monotonic() - begun:.0f} s"
            )
            found.append(await sample(store, feeder, state=f"{waiting:,} {state}", rounds=rounds))
        return found
    finally:
        await store.close()


def table(found: list[Times]) -> Table:
    """Return the figures."""
    shown = Table(title="a growing queue, milliseconds")
    for heading in ("queue", "accept p50", "p99", "against empty", "claim p50", "p99", "against"):
        shown.add_column(heading, justify="left" if heading == "queue" else "right")
    empty = found[0]
    for one in found:
        cells = [one.state]
        for mine, base in ((one.accepts, empty.accepts), (one.claims, empty.claims)):
            p99 = one.p99(mine)
            cells += [f"{statistics.median(mine) * 1000:.2f}", f"{p99:.2f}"]
            cells.append(f"{p99 / empty.p99(base):.2f} times")
        shown.add_row(*cells)
    return shown


def ratios(found: list[Times]) -> list[float]:
    """Return p99 of accept and claim against the empty store, for each longer queue."""
    empty = found[0]
    return [
        value
        for one in found[1:]
        for value in (
            one.p99(one.accepts) / empty.p99(empty.accepts),
            one.p99(one.claims) / empty.p99(empty.claims),
        )
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="time accepts and claims behind a long queue")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=600)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="growth-") as scratch:
        work = run(Path(scratch), waiting=given.waiting, rounds=given.rounds, console=console)
        found = asyncio.run(work)
    console.print(table(found))
    worst = max(ratios(found))
    verdict = "met" if worst <= FACTOR else "MISSED"
    console.print(f"worst ratio {worst:.2f}, at most {FACTOR:g} allowed: {verdict}")
    return 0 if worst <= FACTOR else 1


if __name__ == "__main__":
    sys.exit(main())
