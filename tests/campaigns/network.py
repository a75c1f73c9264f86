r"""Break the network in every way that a proxy can, and compare what arrives with what was sent.

    python -m tests.campaigns.network --seed 1 --steps 100

Mailboxes lie on a real Dovecot, each behind a proxy of its own; one daemon process fetches them
all, by IMAP with push and by POP3. For every hundredth part of a message of 1 MB a connection is
reset after that many bytes; then come stalls, slices, a round trip of two seconds, orderly and
rude ends, refusals, and a black hole under a connection that waits for a push. After each fault
the line is healed, and the message must arrive: unchanged (SHA-256), under one webhook-id, once.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.campaigns.harness import (
    SIGNING_SECRET,
    Daemon,
    Setting,
    Tenant,
    document,
    environment,
    mail,
    status,
    write_config,
)
from tests.campaigns.proxies import Proxies
from tests.campaigns.receiver import Receipt, Receiver
from tests.servers.dovecot import Dovecot

#: seconds after which a mail that should come counts as lost
PATIENCE: Final = 240.0
#: bytes that a connection brings before the message: handshake, greeting, sign-in, lists
PROLOGUE: Final = 6_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do: cuts at so many even steps of a message of ``size`` bytes, and so on."""

    steps: int = 100
    size: int = 1_000_000
    imap: int = 4
    pop3: int = 2
    repeats: int = 2
    #: seconds that a black hole lasts
    hole: float = 75.0
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What one kind of fault came to. ``cuts`` are connections that it ended or refused."""

    tried: int = 0
    lost: int = 0
    wrong: int = 0
    doubled: int = 0
    two_ids: int = 0
    cuts: int = 0
    slowest: float = 0.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Everything that came out; ``broken`` holds one sentence for each broken promise."""

    kinds: dict[str, Verdict] = field(default_factory=dict)
    #: seconds from the beginning of a black hole to ``degraded`` in ``status``, for each
    blind: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all lanes share."""

    plan: Plan
    dovecot: Dovecot
    proxies: Proxies
    receiver: Receiver
    daemon: Daemon
    #: the rows of ``mailbridge status``, by mailbox
    status: Callable[[], dict[str, Any]]


class Lane:
    """One mailbox behind its proxy, and the faults that strike it one after the other."""

    def __init__(self, site: Site, name: str, address: str, points: list[int]) -> None:
        self.name = name
        self._site, self._address = site, address
        self._points = points
        self._rng = random.Random(f"{site.plan.seed} {name}")
        self.kinds: dict[str, Verdict] = {}
        self.blind: list[float] = []
        #: token -> the kind of fault, and the digest of what was sent
        self.sent: dict[str, tuple[str, str]] = {}

    def run(self) -> None:
        """Let every fault strike; each leaves the line healed."""
        plan, size = self._site.plan, self._site.plan.size
        for point in self._points:
            self._cut(PROLOGUE + size * point // plan.steps)
        for _ in range(plan.repeats):
            self._faulty("slices", size, slice_bytes=137)
            self._faulty("byte by byte", 3_000, slice_bytes=1)
            self._faulty("2 s round trip", 20_000, latency=1.0)
            self._faulty("jitter", 20_000, latency=0.1, jitter=0.4)
            self._midway("stall", lambda: self._hold(3.0))
            self._midway("reset", lambda: self._site.proxies.kill(self.name))
            self._midway("end", lambda: self._site.proxies.kill(self.name, reset=False))
            for how in ("reset", "close", "hang"):
                self._refused(how)
        self._dead()

    # -- the faults ---------------------------------------------------------------------------

    def _cut(self, after: int) -> None:
        """Reset the next connection after so many bytes from the server."""
        proxies, name = self._site.proxies, self.name
        proxies.set(name, cut_after=after)
        proxies.kill(name)
        before = proxies.connections(name)
        token = self._deliver("cut", self._site.plan.size)
        # The connection that was cut, and the next one: the client has noticed.
        self._until(lambda: proxies.connections(name) >= before + 2 or self._came(token))
        self._kind("cut").cuts += proxies.connections(name) - before - 1
        proxies.heal(name)
        self._await("cut", token)

    def _faulty(self, kind: str, size: int, **faults: Any) -> None:
        """Deliver over a line that is bad the whole time; nothing is cut."""
        proxies, name = self._site.proxies, self.name
        before = proxies.connections(name)
        proxies.set(name, **faults)
        token = self._deliver(kind, size)
        self._await(kind, token)
        self._kind(kind).cuts += proxies.connections(name) - before
        proxies.heal(name)

    def _midway(self, kind: str, strike: Callable[[], None]) -> None:
        """Strike when about half of a message has passed."""
        proxies, name, size = self._site.proxies, self.name, self._site.plan.size
        proxies.set(name, rate=float(size))
        before, connections = proxies.bytes_down(name), proxies.connections(name)
        token = self._deliver(kind, size)
        self._until(lambda: proxies.bytes_down(name) > before + size // 2 or self._came(token))
        strike()
        proxies.heal(name)
        self._await(kind, token)
        self._kind(kind).cuts += proxies.connections(name) - connections

    def _hold(self, seconds: float) -> None:
        self._site.proxies.set(self.name, hole="down")
        time.sleep(seconds)

    def _refused(self, how: str) -> None:
        """End the connection and refuse the next ones for a while."""
        proxies, name, kind = self._site.proxies, self.name, f"refused by {how}"
        before = proxies.connections(name)
        proxies.set(name, refuse=how)
        proxies.kill(name)
        token = self._deliver(kind, 20_000)
        self._until(lambda: proxies.connections(name) >= before + 2)
        proxies.heal(name)
        proxies.kill(name)  # those that hang would hang on
        self._kind(kind).cuts += proxies.connections(name) - before
        self._await(kind, token)

    def _dead(self) -> None:
        """Let nothing pass under a living connection: it must be noticed, and be reported."""
        proxies, name, plan = self._site.proxies, self.name, self._site.plan
        begun = time.monotonic()
        proxies.set(name, hole="both")
        token = self._deliver("black hole", 20_000)
        noticed = False
        while time.monotonic() - begun < plan.hole:
            state = self._site.status().get(name, {}).get("state")
            if not noticed and state not in {"ok", "starting", None}:
                noticed = True
                self.blind.append(time.monotonic() - begun)
            time.sleep(1.0)
        proxies.heal(name)
        proxies.kill(name)
        self._await("black hole", token)

    # -- delivering and judging ---------------------------------------------------------------

    def _kind(self, kind: str) -> Verdict:
        return self.kinds.setdefault(kind, Verdict())

    def _deliver(self, kind: str, size: int) -> str:
        token = f"{self.name}-{len(self.sent):04}-{self._rng.getrandbits(64):016x}"
        raw = mail(token, self._rng, size=size)
        self.sent[token] = (kind, hashlib.sha256(raw).hexdigest())
        self._site.dovecot.deliver(self._address, raw)
        return token

    def _came(self, token: str) -> bool:
        return bool(self._site.receiver.of_token(token))

    def _until(self, holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline or not self._site.daemon.alive:
                return False
            time.sleep(0.02)
        return True

    def _await(self, kind: str, token: str) -> None:
        begun = time.monotonic()
        self._kind(kind).tried += 1
        if not self._until(lambda: self._came(token)):
            self._kind(kind).lost += 1
        self._kind(kind).slowest = max(self._kind(kind).slowest, time.monotonic() - begun)

    def judge(self, receipts: dict[str, list[Receipt]]) -> None:
        """Hold what arrived in all against what was sent."""
        for token, (kind, digest) in self.sent.items():
            came = receipts.get(token, [])
            verdict = self._kind(kind)
            verdict.doubled += max(0, len(came) - 1)
            verdict.two_ids += len({one.webhook_id for one in came}) > 1
            verdict.wrong += any(one.raw_sha256 != digest for one in came)


def run(plan: Plan, console: Console) -> Outcome:
    """Run all lanes side by side with servers of their own; return what came out."""
    names = [f"imap{n}" for n in range(plan.imap)] + [f"pop{n}" for n in range(plan.pop3)]
    boxes = {name: f"{name}@network.test" for name in names}
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="mb-network-") as scratch,
        Tenant() as tenant,
        Dovecot(tenant.rules, probe_token=tenant.mint) as dovecot,
        Receiver(Path(scratch) / "received", SIGNING_SECRET) as receiver,
        Proxies(
            {n: dovecot.pop3s_port if n[0] == "p" else dovecot.imaps_port for n in names}
        ) as proxies,
    ):
        folder = Path(scratch)
        setting = Setting(
            mailboxes=boxes,
            webhook_url=receiver.url,
            database=f"sqlite:///{folder}/mailbridge.db",
            every="5s",
            push=True,
            pop3=frozenset(n for n in names if n[0] == "p"),
            ports=proxies.ports,
        )
        content = document(setting, tenant=tenant, ca=tenant.write_ca(folder), dovecot=dovecot)
        config = write_config(folder / "mailbridge.yaml", content)
        env = environment(folder, tenant)
        daemon = Daemon(config, env, folder / "daemon.log")
        site = Site(
            plan=plan,
            dovecot=dovecot,
            proxies=proxies,
            receiver=receiver,
            daemon=daemon,
            status=lambda: status(folder),
        )
        daemon.start()
        outcome = _strike(site, boxes, console)
        code = daemon.stop()
        if code:
            outcome.broken.append(f"the daemon ended with {code}:\n{daemon.log[-2000:]}")
    outcome.seconds = time.monotonic() - begun
    return outcome


def _strike(site: Site, boxes: dict[str, str], console: Console) -> Outcome:
    plan, outcome = site.plan, Outcome()
    lanes = []
    for names in ([n for n in boxes if n[0] == "i"], [n for n in boxes if n[0] == "p"]):
        # Every step is taken once by each protocol, shared by its lanes.
        for number, name in enumerate(names):
            points = list(range(number, plan.steps, len(names)))
            lanes.append(Lane(site, name, boxes[name], points))
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane, _ in zip(lanes, pool.map(Lane.run, lanes), strict=True):
            console.print(f"{lane.name}: {len(lane.sent)} mails")
    _judge(site, lanes, outcome)
    if plan.hole > 60 and len(outcome.blind) < len(lanes):
        outcome.broken.append("a black hole was not reported as degraded")
    return outcome


def _judge(site: Site, lanes: list[Lane], outcome: Outcome) -> None:
    """Hold what arrived in all against what was sent, late doubles included."""
    receipts = site.receiver.by_token([token for lane in lanes for token in lane.sent])
    for lane in lanes:
        lane.judge(receipts)
        outcome.blind += lane.blind
        for kind, verdict in lane.kinds.items():
            _add(outcome.kinds.setdefault(kind, Verdict()), verdict)
    for kind, verdict in outcome.kinds.items():
        for what in ("lost", "wrong", "doubled", "two_ids"):
            if count := getattr(verdict, what):
                outcome.broken.append(f"{kind}: {count} {what.replace('_', ' ')}")
    if site.receiver.forged or site.receiver.failures:
        outcome.broken.append(f"the receiver: {site.receiver.forged + site.receiver.failures}")


def _add(total: Verdict, one: Verdict) -> None:
    for name in ("tried", "lost", "wrong", "doubled", "two_ids", "cuts"):
        setattr(total, name, getattr(total, name) + getattr(one, name))
    total.slowest = max(total.slowest, one.slowest)


def table(outcome: Outcome) -> Table:
    """Return the figures as people read them."""
    shown = Table(title=f"network faults, {outcome.seconds:.0f} s")
    for name in ("fault", "tried", "lost", "wrong", "doubled", "two ids", "cuts", "slowest"):
        shown.add_column(name, justify="left" if name == "fault" else "right")
    for kind, one in outcome.kinds.items():
        figures = (one.tried, one.lost, one.wrong, one.doubled, one.two_ids, one.cuts)
        shown.add_row(kind, *map(str, figures), f"{one.slowest:.1f} s")
    return shown


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="break the network and count")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--size", type=int, default=default.size)
    parser.add_argument("--repeats", type=int, default=default.repeats)
    parser.add_argument("--seed", type=int, default=default.seed)
    given = parser.parse_args()
    plan = Plan(steps=given.steps, size=given.size, repeats=given.repeats, seed=given.seed)
    console = Console(soft_wrap=True)
    outcome = run(plan, console)
    console.print(table(outcome))
    seconds = ", ".join(f"{one:.0f}" for one in sorted(outcome.blind))
    console.print(f"black holes reported as degraded after: {seconds} s")
    for sentence in outcome.broken:
        console.print(f"BROKEN {sentence}", markup=False)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
