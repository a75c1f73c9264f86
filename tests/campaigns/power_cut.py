r"""Cut the power at every moment of a real run of the store: no acknowledged row may be lost.

    python -m tests.campaigns.power_cut --states 1200 --seeds 3

A child process uses the real ``Store``: it accepts mail, claims and resolves deliveries, settles,
queues notices, is closed and opened again, and prints a line after each of these that returned.
That line is the acknowledgement. strace records what reached the kernel. From the record the
files are rebuilt as a power cut could have left them: without what was not synced, with any part
of it, with torn pages. Each state is opened by the real store, as after a restart, and compared
row by row and digest by digest with what had been acknowledged.

The same with ``synchronous=NORMAL`` has to be caught losing rows, to prove that the test bites.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from mailbridge.errors import MailbridgeError
from mailbridge.model import (
    Batch,
    Checkpoint,
    Delivered,
    Delivery,
    Done,
    MessageRef,
    Notice,
    RawMessage,
    Resolution,
)
from mailbridge.store import engine
from mailbridge.store.store import Store
from tests.campaigns.disk_model import VARIANTS, Disk
from tests.campaigns.disk_trace import CALLS, LONGEST_WRITE, Operation, read_trace

NAME = "mailbridge.db"
#: so small that the short run moves its log into the database file several times
CHECKPOINT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One campaign: how durable, how many states at least, and how long the recorded run is."""

    synchronous: str = "FULL"
    states: int = 1200
    seed: int = 7
    rounds: int = 40


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What the states of one campaign showed."""

    synchronous: str
    seed: int
    operations: int = 0
    syncs: int = 0
    acknowledged: int = 0
    states: int = 0
    corrupt: int = 0
    lossy: int = 0
    worst: int = 0
    first: str = ""


# -- the recorded run --------------------------------------------------------------------------


def _say(kind: str, **facts: Any) -> None:
    # One call of write(2) for one acknowledgement: a line that is there is there as a whole.
    os.write(1, (json.dumps({"kind": kind, **facts}) + "\n").encode("ascii"))


async def drive(folder: Path, plan: Plan) -> None:
    """Use a store for a while and say after each call that returned what it promised."""
    rng = random.Random(plan.seed)
    engine.AUTOCHECKPOINT_BYTES = CHECKPOINT_BYTES  # type: ignore[misc]
    store = await _open(folder, plan)
    uid = 0
    for number in range(plan.rounds):
        uid = await _accept_some(store, rng, uid)
        if rng.random() < 0.7:
            await _deliver_some(store, rng)
        if rng.random() < 0.3:
            refs = await store.unsettled("alarm", "INBOX", 5)
            await store.settled(refs)
            _say("settled", ids=[ref.message_id for ref in refs])
        if number % 10 == 9:
            notice = Notice(
                id=f"msg_notice{number}",
                type="mailbox.degraded",
                mailbox="alarm",
                at=datetime.now(UTC),
                data={"round": number},
            )
            await store.notify([notice], ["erp"])
            _say("notified", id=notice.id)
        if number == plan.rounds // 2:
            await store.close()
            store = await _open(folder, plan)
    # Not closed: the power goes while the daemon runs.


async def _open(folder: Path, plan: Plan) -> Store:
    return await Store.open(f"sqlite:///{folder}/{NAME}", synchronous=plan.synchronous)


async def _accept_some(store: Store, rng: random.Random, uid: int) -> int:
    messages = []
    for _ in range(rng.randint(1, 3)):
        uid += 1
        ref = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=7, uid=uid)
        messages.append(RawMessage(ref=ref, raw=rng.randbytes(rng.randint(200, 20_000))))
    checkpoint = Checkpoint(
        mailbox="alarm", folder="INBOX", uidvalidity=7, uid=uid, watching_since=datetime.now(UTC)
    )
    batch = Batch(
        mailbox="alarm",
        folder="INBOX",
        checkpoint=checkpoint,
        sinks=("erp",),
        messages=tuple(messages),
    )
    await store.accept(batch, address="alarm@feuerwehr.example", settles=True)
    digests = {one.ref.message_id: hashlib.sha256(one.raw).hexdigest() for one in messages}
    _say("accepted", digests=digests, uid=uid)
    return uid


async def _deliver_some(store: Store, rng: random.Random) -> None:
    claimed = await store.claim("erp", limit=rng.randint(1, 4), max_bytes=10**6, lease=30.0)
    done = [_done(one) for one in claimed]
    await store.resolve(done)
    _say("delivered", ids=[one.event_id for one in claimed])


def _done(delivery: Delivery) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=Delivered(status=200),
        decision=Done(),
        started_at=datetime.now(UTC),
        seconds=0.01,
    )


def record(folder: Path, trace: Path, plan: Plan) -> list[Operation]:
    """Run ``drive`` in a child under strace; returns what it asked of the kernel."""
    command = ["strace", "-f", "-y", "-qq", "-xx", "-s", str(LONGEST_WRITE)]
    command += ["-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(trace)]
    command += [sys.executable, "-m", "tests.campaigns.power_cut", "--drive", str(folder)]
    command += ["--seed", str(plan.seed), "--rounds", str(plan.rounds)]
    command += ["--synchronous", plan.synchronous]
    # Only standard output is acknowledgements; a log line there would be taken for one.
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        msg = f"the recorded run failed ({ended.returncode}):\n{ended.stderr}"
        raise RuntimeError(msg)
    return read_trace(trace, folder)


# -- judging -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Promises:
    """What had been acknowledged when the power went."""

    digests: dict[str, str]
    delivered: set[str]
    settled: set[str]
    notices: set[str]
    uid: int = 0

    def hear(self, line: bytes) -> None:
        """Take note of one acknowledgement."""
        said = json.loads(line)
        match said["kind"]:
            case "accepted":
                self.digests |= said["digests"]
                self.uid = said["uid"]
            case "delivered":
                self.delivered |= set(said["ids"])
            case "settled":
                self.settled |= set(said["ids"])
            case "notified":
                self.notices.add(said["id"])

    def count(self) -> int:
        """Return how many rows were promised."""
        return (
            len(self.digests)
            + len(self.delivered)
            + len(self.settled)
            + len(self.notices)
            + (self.uid > 0)
        )


async def _restart(folder: Path) -> list[str]:
    """Open the state as a new daemon would, and search it for damage."""
    store = await Store.open(f"sqlite:///{folder}/{NAME}")
    try:
        return list(await store.check())
    finally:
        await store.close()


def judge(folder: Path, promises: Promises) -> tuple[list[str], list[str]]:
    """Return the damage in a state, and the promises that it does not keep."""
    (folder / f"{NAME}.reserve").unlink(missing_ok=True)
    try:
        damage = asyncio.run(_restart(folder))
        return damage, list(_broken(folder / NAME, promises))
    except (MailbridgeError, sqlite3.Error) as error:
        return [str(error)], [f"all {promises.count()}"] * promises.count()


def _broken(file: Path, promises: Promises) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT m.id, m.sha256, m.settle, r.bytes, count(d.pk) FROM messages m "
            "LEFT JOIN raw r ON r.message = m.pk LEFT JOIN deliveries d ON d.message = m.pk "
            "GROUP BY m.pk"
        )
        kept = {row[0]: row[1:] for row in rows}
        over = connection.execute(
            "SELECT d.event_id FROM deliveries d JOIN attempts a ON a.delivery = d.pk "
            "WHERE d.state = 'delivered'"
        )
        delivered = {row[0] for row in over}
        events = {row[0] for row in connection.execute("SELECT event_id FROM deliveries")}
        read = connection.execute("SELECT max(uid) FROM checkpoints").fetchone()[0] or 0
    for name, digest in promises.digests.items():
        row = kept.get(name)
        if row is None or row[0] != digest or row[3] < 1:
            yield f"message {name}"
        elif hashlib.sha256(row[2] or b"").hexdigest() != digest:
            yield f"bytes of {name}"
    yield from (f"outcome of {name}" for name in promises.delivered - delivered)
    yield from (f"notice {name}" for name in promises.notices - events)
    for name in promises.settled:
        if name not in kept or kept[name][1] != 2:
            yield f"settling of {name}"
    if read < promises.uid:
        yield f"checkpoint {promises.uid}"


def run(plan: Plan) -> Verdict:
    """Record one run, rebuild at least ``plan.states`` states, judge each."""
    verdict = Verdict(synchronous=plan.synchronous, seed=plan.seed)
    with tempfile.TemporaryDirectory(prefix="mailbridge-power-") as name:
        root = Path(name).resolve()
        folder, state = root / "run", root / "state"
        folder.mkdir()
        operations = record(folder, root / "trace", plan)
        disk = Disk(folder)
        promises = Promises({}, set(), set(), set())
        rng = random.Random(plan.seed)
        # Spread evenly; at every operation when more are asked for than there are.
        wanted = -(-plan.states // len(VARIANTS))
        every = max(1.0, len(operations) / wanted)
        due = 0.0
        for number, operation in enumerate(operations):
            disk.follow(operation)
            if operation.kind == "ack":
                promises.hear(operation.data)
            if number < due:
                continue
            due += every
            for variant in VARIANTS:
                disk.build(state, variant, rng)
                _count(verdict, f"operation {number}, {variant}", *judge(state, promises))
        verdict.operations, verdict.syncs = len(operations), disk.syncs
        verdict.acknowledged = promises.count()
    return verdict


def _count(verdict: Verdict, where: str, damage: list[str], broken: list[str]) -> None:
    verdict.states += 1
    verdict.corrupt += bool(damage)
    verdict.lossy += bool(broken)
    verdict.worst = max(verdict.worst, len(broken))
    if (damage or broken) and not verdict.first:
        verdict.first = f"{where}: {(damage + broken)[0]}"


def violations(verdict: Verdict) -> list[str]:
    """Return what a verdict breaks: losses with FULL, or none where there have to be some."""
    if verdict.synchronous == "FULL":
        found = []
        if verdict.corrupt:
            found.append(f"{verdict.corrupt} corrupt states")
        if verdict.lossy:
            found.append(f"{verdict.lossy} states lost acknowledged rows ({verdict.first})")
        return found
    return [] if verdict.lossy else [f"{verdict.synchronous} lost nothing: the test is blind"]


def main() -> int:
    """Run the campaign from the command line; exit code 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--states", type=int, default=1200, help="at least so many for each seed")
    parser.add_argument("--seeds", type=int, default=1, help="so many runs with FULL")
    parser.add_argument("--seed", type=int, default=7, help="the first seed")
    parser.add_argument("--rounds", type=int, default=40, help="length of the recorded run")
    parser.add_argument("--synchronous", default="FULL", help=argparse.SUPPRESS)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if asked.drive:
        plan = Plan(synchronous=asked.synchronous, seed=asked.seed, rounds=asked.rounds)
        asyncio.run(drive(asked.drive, plan))
        return 0
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    plans = [
        Plan(states=asked.states, seed=asked.seed + number, rounds=asked.rounds)
        for number in range(asked.seeds)
    ]
    plans.append(
        Plan(synchronous="NORMAL", states=asked.states // 2, seed=asked.seed, rounds=asked.rounds)
    )
    return report([run(plan) for plan in plans], Console())


def report(verdicts: list[Verdict], console: Console) -> int:
    """Print what was found, one row a run; returns the exit code."""
    table = Table(title="Power cuts: states rebuilt / corrupt / with an acknowledged row lost")
    names = ("synchronous", "seed", "operations", "syncs", "promised rows")
    for name in (*names, "states", "corrupt", "states with loss", "worst: rows lost"):
        table.add_column(name, justify="left" if name == "synchronous" else "right")
    for one in verdicts:
        figures = (one.seed, one.operations, one.syncs, one.acknowledged, one.states, one.corrupt)
        table.add_row(one.synchronous, *(str(n) for n in (*figures, one.lossy, one.worst)))
    console.print(table)
    faults = [f"{one.synchronous}: {fault}" for one in verdicts for fault in violations(one)]
    for fault in faults:
        console.print(f"FAILED: {fault}", style="red", markup=False)
    if not faults:
        console.print("FULL lost nothing and nothing was corrupt; NORMAL was caught losing rows")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
