r"""Let the daemon run under steady load while its servers misbehave, and watch what it leaves.

    python -m tests.campaigns.soak --minutes 10 --seed 1        (or --minutes 480)

Mails with unique tokens go into mailboxes on a real Dovecot at a steady rate; the daemon fetches
them by IMAP with push and by POP3. Every minute the tokens end. At random moments the server is
stopped and started again, folders get another UIDVALIDITY, connections are reset, one mailbox
goes dark for a while. The whole time the daemon's memory and file descriptors are written down.
At the end everything that was sent must have arrived, unchanged and under one id; and neither
memory nor descriptors may have grown from the second quarter of the time to the last.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.campaigns.harness import (
    SIGNING_SECRET,
    Daemon,
    Pacer,
    Sent,
    Setting,
    Tenant,
    document,
    environment,
    mail,
    status,
    write_config,
)
from tests.campaigns.proxies import Proxies
from tests.campaigns.receiver import Receiver
from tests.servers.dovecot import Dovecot

#: seconds without any progress after which the drain is given up
PATIENCE: Final = 150.0
#: seconds that an access token lives
TOKEN_LIFE: Final = 60
#: by how much the last quarter's median memory may exceed the second quarter's: MB and share
GROWTH_MB: Final = 8.0
GROWTH: Final = 0.06
#: file descriptors by which the same medians may differ
DESCRIPTORS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long (seconds), with how much load, and how often something happens."""

    seconds: float = 600.0
    per_second: float = 8.0
    imap: int = 12
    pop3: int = 3
    #: seconds between two events, on average
    calm: float = 15.0
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the daemon used at one moment: seconds since the start, MB, descriptors, threads."""

    at: float
    memory: float
    descriptors: int
    threads: int


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came out; ``broken`` holds one sentence for each broken promise."""

    tried: int = 0
    lost: int = 0
    changed: int = 0
    doubled: int = 0
    two_ids: int = 0
    swept: int = 0
    events: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    logins: int = 0
    seconds: float = 0.0
    drained: float = 0.0
    broken: list[str] = field(default_factory=list)


class Soak:
    """One run: load, trouble, samples."""

    def __init__(self, plan: Plan, folder: Path, dovecot: Dovecot, proxies: Proxies) -> None:
        self.plan, self.folder = plan, folder
        self._dovecot, self._proxies = dovecot, proxies
        self._rng = random.Random(f"{plan.seed} trouble")
        self._mail_rng = random.Random(f"{plan.seed} mails")
        self.boxes = boxes(plan)
        self.sent: dict[str, Sent] = {}
        self.verdict = Verdict()
        self._epochs = Counter[str]()

    def put_mail(self) -> None:
        """Put one more mail into one of the mailboxes; mostly small, now and then a large one."""
        rng = self._mail_rng
        token = f"tok-{len(self.sent):07}-{rng.getrandbits(64):016x}"
        raw = mail(token, rng, size=200_000 if rng.random() < 0.02 else rng.randint(300, 8_000))
        box = rng.choice(sorted(self.boxes))
        # Noted first: a mail that arrives is one that was sent.
        digest = hashlib.sha256(raw).hexdigest()
        self.sent[token] = Sent(token=token, mailbox=box, sha256=digest)
        self._dovecot.deliver(self.boxes[box], raw)

    def run(self, daemon: Daemon) -> None:
        """Cause trouble and take samples until the time is over."""
        begun = time.monotonic()
        due = begun + self.plan.calm
        while (now := time.monotonic()) - begun < self.plan.seconds and daemon.alive:
            self.verdict.samples.append(sample(daemon.pid, now - begun))
            if now >= due:
                name, event = self._rng.choice(sorted(self._events().items()))
                event()
                self.verdict.events[name] += 1
                due = time.monotonic() + self._rng.uniform(0.4, 1.6) * self.plan.calm
            time.sleep(min(2.0, self.plan.seconds / 60))

    def _events(self) -> dict[str, Callable[[], None]]:
        return {
            "server restarted": self._restart,
            "UIDVALIDITY changed": self._renumber,
            "connections reset": self._reset,
            "connections ended": self._end,
            "mailbox dark for 20 s": self._dark,
        }

    def _restart(self) -> None:
        self._dovecot.pause()
        time.sleep(self._rng.uniform(0.0, 5.0))
        self._dovecot.resume()

    def _renumber(self) -> None:
        name = self._rng.choice([name for name in self.boxes if name not in pop3_names(self.plan)])
        self._epochs[name] += 1
        value = int(time.time()) + self._epochs[name]
        self._dovecot.new_uidvalidity(self.boxes[name], value)

    def _reset(self) -> None:
        for name in self.boxes:
            self._proxies.kill(name)

    def _end(self) -> None:
        for name in self._rng.sample(sorted(self.boxes), 3):
            self._proxies.kill(name, reset=False)

    def _dark(self) -> None:
        name = self._rng.choice(sorted(self.boxes))
        self._proxies.set(name, hole="both")
        time.sleep(min(20.0, self.plan.seconds / 6))
        self._proxies.heal(name)

    def drain(self, receiver: Receiver) -> None:
        """Wait until everything was delivered, or nothing has moved for too long."""
        begun = moved = time.monotonic()
        count = -1
        while time.monotonic() - moved < PATIENCE:
            found = sum(bool(receiver.of_token(token)) for token in self.sent)
            if found == len(self.sent):
                break
            if found != count:
                count, moved = found, time.monotonic()
            time.sleep(0.2)
        self.verdict.drained = time.monotonic() - begun
        rows = status(self.folder).values()
        self.verdict.swept = sum(row.get("swept") or 0 for row in rows)

    def judge(self, receiver: Receiver) -> None:
        """Hold what arrived against what was sent, and the samples against each other."""
        verdict = self.verdict
        verdict.tried = len(self.sent)
        for token, came in receiver.by_token(self.sent).items():
            verdict.lost += not came
            verdict.doubled += max(0, len(came) - 1)
            verdict.two_ids += len({one.webhook_id for one in came}) > 1
            verdict.changed += any(one.raw_sha256 != self.sent[token].sha256 for one in came)
        for what in ("lost", "changed", "doubled", "two_ids"):
            if count := getattr(verdict, what):
                verdict.broken.append(f"{count} {what.replace('_', ' ')}")
        if receiver.forged or receiver.failures:
            verdict.broken.append(f"the receiver: {receiver.forged + receiver.failures}")
        self._judge_growth()

    def _judge_growth(self) -> None:
        second, last = quarters(self.verdict.samples)
        memory = [statistics.median(one.memory for one in part) for part in (second, last)]
        files = [statistics.median(one.descriptors for one in part) for part in (second, last)]
        allowed = max(GROWTH_MB, GROWTH * memory[0])
        if memory[1] - memory[0] > allowed:
            self.verdict.broken.append(f"memory grew from {memory[0]:.0f} to {memory[1]:.0f} MB")
        if files[1] - files[0] > DESCRIPTORS:
            self.verdict.broken.append(f"descriptors grew from {files[0]:.0f} to {files[1]:.0f}")


def boxes(plan: Plan) -> dict[str, str]:
    """Return the mailboxes of a plan: name and address."""
    names = [f"imap{n}" for n in range(plan.imap)] + [f"pop{n}" for n in range(plan.pop3)]
    return {name: f"{name}@soak.test" for name in names}


def pop3_names(plan: Plan) -> frozenset[str]:
    """Return the names of those that are fetched by POP3."""
    return frozenset(f"pop{n}" for n in range(plan.pop3))


def sample(pid: int, at: float) -> Sample:
    """Read what a process uses from /proc (proc(5))."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Sample(
        at=at,
        memory=int(fields["VmRSS"].split()[0]) / 1024,
        descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(fields["Threads"]),
    )


def quarters(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the second quarter of the samples and the last: the first is warming up."""
    size = max(1, len(samples) // 4)
    return samples[size : 2 * size] or samples, samples[-size:]


def run(plan: Plan) -> Verdict:
    """Run everything with servers of its own; return what came out."""
    begun = time.monotonic()
    pop3 = pop3_names(plan)
    with (
        tempfile.TemporaryDirectory(prefix="mb-soak-") as scratch,
        Tenant(token_life=TOKEN_LIFE) as tenant,
        Dovecot(tenant.rules, probe_token=tenant.mint) as dovecot,
        Receiver(Path(scratch) / "received", SIGNING_SECRET) as receiver,
        Proxies(
            {n: dovecot.pop3s_port if n in pop3 else dovecot.imaps_port for n in boxes(plan)}
        ) as proxies,
    ):
        folder = Path(scratch)
        soak = Soak(plan, folder, dovecot, proxies)
        setting = Setting(
            mailboxes=soak.boxes,
            webhook_url=receiver.url,
            database=f"sqlite:///{folder}/mailbridge.db",
            every="30s",
            push=True,
            pop3=pop3,
            ports=proxies.ports,
        )
        content = document(setting, tenant=tenant, ca=tenant.write_ca(folder), dovecot=dovecot)
        config = write_config(folder / "mailbridge.yaml", content)
        daemon = Daemon(config, environment(folder, tenant), folder / "daemon.log")
        pacer = Pacer(plan.per_second, soak.put_mail)
        daemon.start()
        pacer.start()
        soak.run(daemon)
        pacer.stop()
        soak.drain(receiver)
        if not daemon.alive or daemon.stop():
            soak.verdict.broken.append(f"the daemon ended badly:\n{daemon.log[-3000:]}")
        soak.judge(receiver)
        soak.verdict.logins = sum(proxies.connections(name) for name in soak.boxes)
        if soak.verdict.broken:
            soak.verdict.broken.append(f"last lines of the log:\n{daemon.log[-3000:]}")
    soak.verdict.seconds = time.monotonic() - begun
    return soak.verdict


def table(verdict: Verdict) -> Table:
    """Return the figures as people read them."""
    shown = Table(title=f"soak, {verdict.seconds:.0f} s")
    shown.add_column("")
    shown.add_column("", justify="right")
    second, last = quarters(verdict.samples)
    rows: dict[str, object] = {
        "mails tried": verdict.tried,
        "lost": verdict.lost,
        "changed": verdict.changed,
        "doubled": verdict.doubled,
        "under two ids": verdict.two_ids,
        "found only by the sweep": verdict.swept,
        **verdict.events,
        "connections made": verdict.logins,
        "memory, second and last quarter": _medians("memory", second, last, " MB"),
        "descriptors": _medians("descriptors", second, last, ""),
        "threads": _medians("threads", second, last, ""),
        "seconds to drain": f"{verdict.drained:.1f}",
    }
    for name, value in rows.items():
        shown.add_row(name, str(value))
    return shown


def _medians(what: str, second: list[Sample], last: list[Sample], unit: str) -> str:
    parts = [statistics.median(getattr(one, what) for one in part) for part in (second, last)]
    return f"{parts[0]:.0f}{unit}, {parts[1]:.0f}{unit}"


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="run under load and trouble, and count")
    parser.add_argument("--minutes", type=float, default=default.seconds / 60)
    parser.add_argument("--mails-per-second", type=float, default=default.per_second)
    parser.add_argument("--seed", type=int, default=default.seed)
    given = parser.parse_args()
    plan = Plan(seconds=given.minutes * 60, per_second=given.mails_per_second, seed=given.seed)
    verdict = run(plan)
    console = Console(soft_wrap=True)
    console.print(table(verdict))
    for sentence in verdict.broken:
        console.print(f"BROKEN {sentence}", markup=False)
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
