"""Kill the daemon at every step of an attempt, let sinks die, let them be away for a week.

    python -m tests.campaigns.delivery --kills 207 --mails 2000 --seed 1

* **steps**: SIGKILL before the claim is committed, after it, after the connection, in the middle of
  the request, after it and before the answer (stored there or not), after the status line, before
  the outcome is committed, after it; and sinks that store and hang up instead of answering. After
  each the receiver's truth is compared with the database: a mail may come once more than once only
  where it was stored and its outcome was not. It is exactly those that come again.
* **outages**: on a clock that is set forward, a sink is away for 6 days 23 hours, while mails go on
  to arrive, and for 7 days and an hour. All is delivered; or dead, and delivered by a replay.
* **neighbours**: see ``neighbours``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from mailbridge.model import Batch, Checkpoint, MessageRef, RawMessage
from mailbridge.store.store import Store
from mailbridge.store.tables import utc_now
from tests.campaigns import neighbours, sniper, spool, stepped
from tests.campaigns.harness import SIGNING_SECRET, Daemon, mail, write_config
from tests.campaigns.outage import Outcome, outage
from tests.campaigns.sniper import DIED, Sniper

#: everything that is done to an attempt, in the order in which an attempt goes
STEPS = ("claim", "claimed", *sniper.STEPS, "resolve", "resolved", DIED)
BOX = "box"
#: seconds until a daemon has to have died, and until all has to be delivered in the end
PATIENCE = 60.0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What the kills came to. ``broken`` holds one sentence for each broken promise."""

    rounds: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    expected: int = 0
    two_ids: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def require(self, holds: bool, sentence: str) -> None:  # noqa: FBT001 - reads like an assert
        """Note a broken promise."""
        if not holds:
            self.broken.append(sentence)


def config(folder: Path, port: int) -> Path:
    """Write a configuration whose one mailbox is filled by hand."""
    content = {
        "state": {"database": f"sqlite:///{folder}/mailbridge.db"},
        "http": {"listen": "off"},
        "apps": {
            "app": {
                "tenant": "11111111-2222-3333-4444-555555555555",
                "client_id": "66666666-7777-8888-9999-000000000000",
                "credential": {"client_secret": {"env": "CAMPAIGN_SIGNING_SECRET"}},
            }
        },
        "mailboxes": {
            BOX: {"address": "box@step.test", "app": "app", "fetch": {"protocol": "none"}}
        },
        "webhooks": {
            "sink": {
                "url": f"http://127.0.0.1:{port}/hook",
                "signing_secrets": [{"env": "CAMPAIGN_SIGNING_SECRET"}],
                "profile": "alarm",
                "allow_private": True,
                "attachments": {"mode": "inline", "max": "25MB"},
            }
        },
    }
    return write_config(folder / "mailbridge.yaml", content)


class Steps:
    """One set-up: mails are put into the store, the daemon is killed at named steps."""

    def __init__(self, folder: Path, receiver: Sniper, seed: int) -> None:
        self.verdict = Verdict()
        self._folder = folder
        self._receiver = receiver
        self._rng = random.Random(seed)
        self._config = config(folder, receiver.port)
        self._uid = 0
        #: how often each event has to come, by webhook-id
        self.wanted: Counter[str] = Counter()

    def put(self, count: int) -> str:
        """Put mails into the store, as an intake would; returns the webhook-id of the last."""
        return asyncio.run(self._put(count))

    async def _put(self, count: int) -> str:
        store = await Store.open(f"sqlite:///{self._folder}/mailbridge.db")
        try:
            messages = []
            for _ in range(count):
                self._uid += 1
                ref = MessageRef(mailbox=BOX, folder="INBOX", uidvalidity=1, uid=self._uid)
                # Now and then a large one: its request does not fit into the kernel's buffers.
                size = 4_000_000 if self._rng.random() < 0.1 else 2_000
                raw = mail(f"tok-{self._uid:06}", self._rng, size=size)
                messages.append(RawMessage(ref=ref, raw=raw))
                self.wanted[ref.message_id] = 1
            where = Checkpoint(
                mailbox=BOX, folder="INBOX", uidvalidity=1, uid=self._uid, watching_since=utc_now()
            )
            batch = Batch(
                mailbox=BOX,
                folder="INBOX",
                checkpoint=where,
                sinks=("sink",),
                messages=tuple(messages),
            )
            await store.accept(batch, address="box@step.test", settles=False)
        finally:
            await store.close()
        return messages[-1].ref.message_id

    def daemon(self, step: str = "", event: str = "") -> Daemon:
        """Return a daemon that is not yet started, and dies at a step of the store if told so."""
        env = {
            **os.environ,
            "CAMPAIGN_SIGNING_SECRET": SIGNING_SECRET,
            "STATE_DIRECTORY": str(self._folder),
            "RUNTIME_DIRECTORY": str(self._folder),
            "STEP": step,
            "EVENT": event,
        }
        wrapper = (sys.executable, "-m", "tests.campaigns.stepped")
        return Daemon(self._config, env, self._folder / "daemon.log", wrapper=wrapper)

    def kill_at(self, step: str) -> None:
        """Let one daemon die at a step of the attempt for a new mail, and hold the books."""
        event = self.put(self._rng.randint(1, 3))
        self.verdict.rounds[step] += 1
        daemon = self.daemon(step if step in stepped.STEPS else "", event)
        daemon.start()
        if step not in stepped.STEPS:
            self._receiver.arm(step, event, daemon.pid)
        if step == DIED:
            self._await_stored(daemon, event)
            self.wanted[event] += 1
            daemon.kill()
        else:
            self._await_death(daemon, step)
        self._receiver.disarm()
        self._receiver.wait_until_quiet()
        self._account()

    def _await_death(self, daemon: Daemon, step: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while daemon.alive:
            if time.monotonic() > deadline:
                daemon.kill()
                raise RuntimeError(f"no attempt came to the step {step!r}:\n{daemon.log[-3000:]}")
            time.sleep(0.002)
        code = daemon.kill()
        if code != -9:
            raise RuntimeError(f"the daemon ended by itself with {code}:\n{daemon.log[-3000:]}")

    def _await_stored(self, daemon: Daemon, event: str) -> None:
        """Wait until a mail that the sink died of has come again."""
        deadline = time.monotonic() + PATIENCE
        while self._receiver.stored[event] < 2:
            if time.monotonic() > deadline or not daemon.alive:
                raise RuntimeError(f"it did not come again:\n{daemon.log[-3000:]}")
            time.sleep(0.01)

    def _account(self) -> None:
        """Expect once more what the receiver has stored and the database does not know of."""
        database = self._folder / "mailbridge.db"
        with spool.copied(database, self._folder / "copy") as connection:
            rows = connection.execute(
                "SELECT event_id FROM deliveries WHERE state IN ('queued', 'claimed')"
            )
            undone = {name for (name,) in rows}
        for name in undone:
            self.wanted[name] = self._receiver.stored[name] + 1

    def drain(self) -> None:
        """Let it run until everything was delivered and written down."""
        daemon = self.daemon()
        starts = daemon.log.count("daemon.started")
        daemon.start()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and daemon.alive:
            came = all(self._receiver.stored[name] >= count for name, count in self.wanted.items())
            # One that is stopped while it starts has nothing to finish.
            if came and daemon.log.count("daemon.started") > starts:
                break
            time.sleep(0.05)
        code = daemon.stop()
        self.verdict.require(code == 0, f"the last stop ended with {code}")

    def judge(self) -> Verdict:
        """Compare what was put in with what the receiver has stored."""
        verdict, stored = self.verdict, self._receiver.stored
        verdict.tried = len(self.wanted)
        for name, count in self.wanted.items():
            verdict.lost += not stored[name]
            verdict.doubled += max(0, stored[name] - 1)
            verdict.expected += count - 1
            verdict.require(
                stored[name] == count, f"{name} came {stored[name]} times instead of {count}"
            )
        verdict.two_ids = sum(len(ids) > 1 for ids in self._receiver.ids.values())
        verdict.require(verdict.two_ids == 0, f"{verdict.two_ids} mails came under two ids")
        verdict.require(not self._receiver.forged, f"forged: {self._receiver.forged[:3]}")
        strange = stored.keys() - self.wanted.keys()
        verdict.require(not strange, f"{len(strange)} events came that nobody sent")
        damage = spool.check(self._folder / "mailbridge.db", self._folder / "copy")
        verdict.require(damage == "ok", f"the database is damaged: {damage}")
        return verdict


def kills(
    count: int,
    seed: int,
    folder: Path,
    console: Console | None = None,
    named: Sequence[str] = STEPS,
) -> Verdict:
    """Kill so often, at each of these steps in turn, and let the rest be delivered."""
    begun = time.monotonic()
    with Sniper(SIGNING_SECRET) as receiver:
        steps = Steps(folder, receiver, seed)
        for number in range(count):
            steps.kill_at(named[number % len(named)])
            if console is not None and number % 25 == 24:
                console.print(f"{number + 1} rounds, {receiver.requests} requests stored")
        steps.drain()
        verdict = steps.judge()
    verdict.seconds = time.monotonic() - begun
    return verdict


def show(console: Console, verdict: Verdict, outcomes: list[Outcome], beside: Any) -> None:
    """Print the figures as people read them."""
    table = Table(title="an attempt, killed at every step")
    table.add_column("")
    table.add_column("", justify="right")
    rows: dict[str, object] = {
        **{f"killed: {step}": verdict.rounds[step] for step in STEPS if step != DIED},
        "sinks that died": verdict.rounds[DIED],
        "mails tried": verdict.tried,
        "lost": verdict.lost,
        "doubled, where it cannot be helped": f"{verdict.doubled} of {verdict.expected}",
        "under two ids": verdict.two_ids,
        "seconds": f"{verdict.seconds:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    table = Table(title="a sink that is away, on a clock that is set forward")
    for name in ("away", "mails", "delivered", "dead", "after replay", "requests while away"):
        table.add_column(name, justify="right")
    for one in outcomes:
        cells = (one.mails, one.delivered, one.dead, one.replayed, one.requests)
        table.add_row(one.name, *map(str, cells))
    console.print(table)
    if beside is not None:
        console.print(beside.table())


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description="kill the daemon at every step of an attempt")
    parser.add_argument("--kills", type=int, default=230)
    parser.add_argument("--mails", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    with tempfile.TemporaryDirectory(prefix="mb-delivery-") as scratch:
        folder = Path(scratch)
        (folder / "kills").mkdir()
        verdict = kills(given.kills, given.seed, folder / "kills", console)
        outcomes = []
        for profile in ("default", "alarm"):
            for hours in (6 * 24 + 23, 7 * 24 + 1):
                place = folder / f"{profile}{hours}"
                place.mkdir()
                outcomes.append(asyncio.run(outage(place, given.mails, hours, profile)))
        (folder / "neighbours").mkdir()
        beside = asyncio.run(neighbours.measure(folder / "neighbours"))
    show(console, verdict, outcomes, beside)
    broken = [*verdict.broken, *(line for one in outcomes for line in one.broken), *beside.broken]
    for sentence in broken:
        console.print(f"BROKEN: {sentence}", style="bold red", markup=False)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
