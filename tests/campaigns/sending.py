"""Kill a submission at each of its steps, and count what is lost and what goes out twice.

    python -m tests.campaigns.sending --kills 220 --seed 1

Mails lie accepted in the store. The daemon sends them to the sandbox's SMTP server, which records
what it takes, and is ended by SIGKILL at a named step: after the claim, at MAIL, RCPT, DATA, amid
the body, between the commit of "in doubt" and the dot, when the dot has come and the mail is taken
or is not, when the 250 has come and is not noted, when it is, at any moment; connections are cut
before and after the dot as well. In the end it may run until everything is settled. Every mail has
to be there, and once: a second time only without a look into the sent items, and only where the
store said "in doubt".
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table

from mailbridge.model import Outgoing
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.tenant import Tenant
from mailbridge.store.engine import Mode
from mailbridge.store.rows import SendRow
from mailbridge.store.store import Store
from tests.campaigns import sender
from tests.campaigns.sender import MUTANTS, Mutant

#: what a server sees: it shoots at a command; amid the body; at the dot, the mail taken or not.
#: ``cut`` steps cut the connection there, and the daemon lives on for a moment
Seen = Literal["MAIL", "RCPT", "DATA", "body", "untaken", "taken", "cut body", "cut dot", "cut 250"]
Step = Literal[sender.Step, Seen, "random"]
STEPS: tuple[Step, ...] = (*sender.STEPS, *get_args(Seen), "random")
#: at these nobody can know from the store alone whether the server has the mail
UNKNOWN: frozenset[Step] = frozenset(
    {"doubt", "untaken", "taken", "answered", "cut dot", "cut 250", "random"}
)
ADDRESS, OTHER = "alarm@feuerwehr.example", "wache@feuerwehr.example"
#: seconds until a life that does not end, or a drain that does not move, is given up
PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. ``look``: into the sent items; ``mutant``: what is broken on purpose."""

    kills: int = 220
    seed: int = 1
    mails: int = 3
    steps: tuple[Step, ...] = STEPS
    look: bool = True
    mutant: Mutant = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of one step: kills, and the mails that were then in doubt."""

    tried: int = 0
    in_doubt: int = 0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came out. ``broken`` holds one sentence for each broken promise."""

    steps: dict[Step, Tally] = field(default_factory=dict)
    mails: int = 0
    lost: int = 0
    doubled: int = 0
    doubled_unexplained: int = 0
    in_doubt: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def require(self, holds: object, sentence: str) -> None:
        """Note a broken promise."""
        if not holds:
            self.broken.append(sentence)


class Campaign:
    """One mailbox that sends, whose daemon is killed again and again."""

    def __init__(self, plan: Plan, folder: Path, tenant: Tenant) -> None:
        self.plan = plan
        self.verdict = Verdict(steps={step: Tally() for step in plan.steps})
        self._tenant = tenant
        self._folder = folder
        self._rng = random.Random(plan.seed)
        self._names: list[str] = []
        self._open: set[str] = set()
        self._doubted: set[str] = set()
        self._pid = 0
        self._wanted = ""
        self._config = self._configured()
        self._watch()

    def _configured(self) -> Path:
        text = config_for(
            self._tenant,
            webhook_url="http://127.0.0.1:9/",
            state_dir=self._folder / "state",
            send=[ADDRESS],
            every="10m",
            push=False,
        )
        if not self.plan.look:
            text = text.replace("protocol: imap", "protocol: none").replace(
                f"port: {self._tenant.imap.port}", "port: 1"
            )
        limits = "    send:\n      limits: {per_minute: off, recipients_per_day: off}\n"
        path = self._folder / "mailbridge.yaml"
        path.write_text("http: {listen: off}\n" + text.replace("    send:\n", limits))
        return path

    def _watch(self) -> None:
        """Let the server shoot where it sees the step."""
        server, faults = self._tenant.smtp, self._tenant.faults
        record, take, strike = server.record, server.take, faults.take

        def recorded(session: int, address: str, name: str, line: str) -> None:
            record(session, address, name, line)
            self._shoot_at(name)

        def taken(mail: Any) -> None:
            take(mail)
            self._shoot_at("taken")

        def struck(name: str, **where: Any) -> Any:
            fault = strike(name, **where)
            if fault is not None:
                self._shoot_at({"smtp.drop_in_data": "body"}.get(name, "untaken"))
            return fault

        server.record, server.take = recorded, taken  # type: ignore[method-assign]
        faults.take = struck  # type: ignore[method-assign]

    def _shoot_at(self, step: str) -> None:
        if self._pid and step == self._wanted:
            self._wanted = ""
            os.kill(self._pid, signal.SIGKILL)

    # -- the rounds ---------------------------------------------------------------------------

    async def run(self) -> Verdict:
        """Kill as often as planned, then let it finish."""
        begun = time.monotonic()
        self._children = await self._nursery()
        try:
            for step in self._steps():
                await self._accept(self.plan.mails)
                await self._live(step)
                await self._inspect(step)
            await self._drain()
        finally:
            if self._children.stdin is not None:
                self._children.stdin.close()
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
            await self._children.wait()
        self._judge()
        self.verdict.seconds = time.monotonic() - begun
        return self.verdict

    def _steps(self) -> Iterator[Step]:
        every = list(itertools.islice(itertools.cycle(self.plan.steps), self.plan.kills))
        self._rng.shuffle(every)
        return iter(every)

    @asynccontextmanager
    async def _store(self, mode: Mode = "write") -> AsyncIterator[Store]:
        store = await Store.open(f"sqlite:///{self._folder}/state/mailbridge.db", mode=mode)
        try:
            yield store
        finally:
            await store.close()

    async def _accept(self, count: int) -> None:
        async with self._store() as store:
            for _ in range(count):
                name = "out_" + secrets.token_hex(13)
                size = 2_000_000 if self._rng.random() < 0.2 else self._rng.randint(100, 5000)
                await store.sends.accept(_mail(name, size))
                self._names.append(name)
                self._open.add(name)

    async def _nursery(self) -> asyncio.subprocess.Process:
        """Start what becomes one daemon after another."""
        script = Path(sys.executable).with_name("mailbridge")
        with (self._folder / "daemon.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.campaigns.sender", self.plan.mutant, str(script)),
                *("--log-format", "json", "--config", str(self._config), "run"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "RUNTIME_DIRECTORY": str(self._folder)},
            )

    async def _start(self, step: str) -> None:
        assert self._children.stdin is not None
        assert self._children.stdout is not None
        self._children.stdin.write(f"{step}\n".encode())
        # Read before the child has run far: the server has to know whom to shoot.
        self._pid = int(await self._children.stdout.readline())

    async def _end(self, number: int = 0) -> int:
        """Wait for the daemon's end, after a signal if one is given; returns its exit code."""
        assert self._children.stdout is not None
        if number:
            os.kill(self._pid, number)
        line = await self._children.stdout.readline()
        self._pid = 0
        return int(line)

    async def _live(self, step: Step) -> None:
        faults = self._tenant.faults
        armed = {
            "body": "smtp.drop_in_data",
            "untaken": "smtp.drop_after_dot",
            "cut body": "smtp.drop_in_data",
            "cut dot": "smtp.drop_after_dot",
            "cut 250": "smtp.answer_lost",
        }.get(step, "")
        if armed:
            faults.add(armed, times=1)
        fired = faults.fired[armed]
        connections = self._tenant.smtp.connections
        self._wanted = step
        await self._start(step)
        ending = asyncio.create_task(self._end())
        try:
            async with asyncio.timeout(PATIENCE):
                if step == "random":
                    await self._until(lambda: self._tenant.smtp.connections > connections)
                    await asyncio.sleep(self._rng.uniform(0.0, 0.2))
                elif step.startswith("cut"):
                    await self._until(lambda: faults.fired[armed] > fired)
                    await asyncio.sleep(self._rng.uniform(0.0, 0.3))
                else:
                    await asyncio.shield(ending)
        except TimeoutError:
            self.verdict.broken.append(f"the step {step} was never reached")
        self._wanted = ""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        code = await ending
        faults.clear()
        if code != -signal.SIGKILL:
            log = (self._folder / "daemon.log").read_text(errors="replace")
            raise RuntimeError(f"the daemon ended by itself with {code}:\n{log[-3000:]}")

    async def _until(self, fact: Callable[[], bool]) -> None:
        """Wait until something holds, or the daemon has ended."""
        while self._pid and not fact():
            await asyncio.sleep(0.005)

    async def _inspect(self, step: Step) -> None:
        """Note which mails the dead daemon has left in doubt."""
        tally = self.verdict.steps[step]
        tally.tried += 1
        async with self._store() as store:
            for row in await self._rows(store):
                if row.in_doubt_at is not None:
                    tally.in_doubt += row.id not in self._doubted
                    self._doubted.add(row.id)

    async def _rows(self, store: Store) -> list[SendRow]:
        rows = [await store.sends.status(name) for name in sorted(self._open)]
        found = [row for row in rows if row is not None]
        self._open = {row.id for row in found if row.state != "sent"}
        if len(found) < len(rows):
            self.verdict.broken.append("the store has forgotten an accepted mail")
        return found

    async def _drain(self) -> None:
        """Let it run until every mail is sent, or nothing has moved for too long."""
        left, moved = -1, time.monotonic()
        await self._start("")
        while self._open and time.monotonic() - moved < PATIENCE:
            await asyncio.sleep(0.3)
            async with self._store(mode="read") as store:
                await self._rows(store)
            if len(self._open) != left:
                left, moved = len(self._open), time.monotonic()
        code = await self._end(signal.SIGTERM)
        self.verdict.require(code == 0, f"the last stop ended with {code}")

    def _judge(self) -> None:
        verdict = self.verdict
        verdict.mails, verdict.in_doubt = len(self._names), len(self._doubted)
        taken = Counter(_name(mail.raw) for mail in self._tenant.smtp.mails)
        verdict.lost = sum(not taken[name] for name in self._names)
        for name in self._names:
            verdict.doubled += max(0, taken[name] - 1)
            if taken[name] > 1 and name not in self._doubted:
                verdict.doubled_unexplained += 1
        verdict.require(not verdict.lost, f"{verdict.lost} mails are lost")
        verdict.require(not self._open, f"{len(self._open)} mails never ended")
        verdict.require(
            not verdict.doubled_unexplained,
            f"{verdict.doubled_unexplained} doubles that were not in doubt",
        )
        verdict.require(
            not (self.plan.look and verdict.doubled),
            f"{verdict.doubled} doubles although the sent items were looked into",
        )
        changed = [mail for mail in self._tenant.smtp.mails if mail.raw not in _RAWS]
        verdict.require(not changed, f"{len(changed)} mails arrived changed")


_RAWS: set[bytes] = set()


def _mail(name: str, size: int) -> Outgoing:
    raw = (
        f"From: {ADDRESS}\r\nTo: {OTHER}\r\nSubject: {name}\r\nMessage-ID: <{name}@x.example>\r\n"
        f"X-Mailbridge-Id: {name}\r\n\r\n" + "0123456789abcdef.\r\n" * (size // 19) + "\r\n"
    ).encode()
    _RAWS.add(raw)
    return Outgoing(
        id=name,
        mailbox="alarm",
        sender=ADDRESS,
        recipients=(OTHER,),
        message_id=f"<{name}@x.example>",
        raw=raw,
        via="api",
    )


def _name(raw: bytes) -> str:
    return raw.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()


async def _run(plan: Plan, folder: Path) -> Verdict:
    async with Tenant.start(files=folder) as tenant:
        tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS))
        limits = tenant.smtp.limits
        limits.per_minute = limits.recipients_per_day = limits.sessions = 10**6
        return await Campaign(plan, folder, tenant).run()


def run(plan: Plan, console: Console | None = None) -> Verdict:
    """Run with servers of its own, and return what came out."""
    with tempfile.TemporaryDirectory(prefix="mb-sending-") as scratch:
        verdict = asyncio.run(_run(plan, Path(scratch)))
        if verdict.broken and console is not None:
            log = (Path(scratch) / "daemon.log").read_text(errors="replace")
            console.print(f"last lines of the daemon's log:\n{log[-3000:]}", markup=False)
    return verdict


def table(verdicts: dict[str, Verdict]) -> Table:
    """Return the figures as people read them."""
    shown = Table(title="sending test")
    shown.add_column("killed")
    for name in verdicts:
        shown.add_column(f"{name}: tried", justify="right")
        shown.add_column("in doubt", justify="right")
    for step in STEPS:
        cells = []
        for verdict in verdicts.values():
            tally = verdict.steps.get(step, Tally())
            cells += [str(tally.tried), str(tally.in_doubt)]
        shown.add_row(step, *cells)
    shown.add_section()
    for label in ("mails", "lost", "doubled", "doubled_unexplained"):
        cells = []
        for verdict in verdicts.values():
            cells += [str(getattr(verdict, label)), ""]
        shown.add_row(label.replace("_", ", "), *cells)
    return shown


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="kill submissions at every step and count")
    parser.add_argument("--kills", type=int, default=default.kills)
    parser.add_argument("--blind-kills", type=int, default=60, help="without a look")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--mutant", choices=MUTANTS, default="")
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    verdicts = {}
    if given.kills:
        plan = Plan(kills=given.kills, seed=given.seed, mutant=given.mutant)
        verdicts["with a look"] = run(plan, console)
    if given.blind_kills:
        plan = Plan(kills=given.blind_kills, seed=given.seed, look=False, mutant=given.mutant)
        verdicts["without"] = run(plan, console)
    console.print(table(verdicts))
    seconds = sum(verdict.seconds for verdict in verdicts.values())
    console.print(f"{seconds:.0f} s")
    broken = [f"{name}: {one}" for name, verdict in verdicts.items() for one in verdict.broken]
    for sentence in broken:
        console.print(f"BROKEN {sentence}", markup=False)
    if broken:
        console.print(f"run it again with --seed {given.seed}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
