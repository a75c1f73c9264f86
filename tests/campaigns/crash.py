r"""Kill the daemon again and again under load, and count what is lost: it must be nothing.

    python -m tests.campaigns.crash --kills 200 --stops 20 --seed 1

A generator puts mails with unique tokens into real Dovecot mailboxes the whole time. The daemon
is ended by SIGKILL at random moments, also while it starts, and started again on the same state.
After each kill its database is read: whatever the server shows as ``\Seen`` must be in it. At
the end it may run until all is delivered, and the receiver's journal is compared with what was
sent: every mail there, unchanged, under one webhook-id; a mail that came twice must have been in
flight at a kill. Then the same with clean stops (SIGTERM), where nothing may come twice.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.campaigns import spool
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
    write_config,
)
from tests.campaigns.receiver import Receipt, Receiver
from tests.servers.dovecot import Dovecot

#: seconds without any progress after which a drain is given up
PATIENCE = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do: how many kills and clean stops, at what load; durations are in seconds."""

    kills: int = 200
    stops: int = 20
    seed: int = 1
    per_second: float = 12.0
    mailboxes: int = 3
    shortest: float = 0.05
    longest: float = 3.0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came out. ``broken`` holds one sentence for each broken promise."""

    name: str
    rounds: int = 0
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    in_flight: int = 0
    two_ids: int = 0
    changed: int = 0
    unstored: int = 0
    seen: int = 0
    seconds: float = 0.0
    drained: float = 0.0
    broken: list[str] = field(default_factory=list)

    def require(self, holds: bool, sentence: str) -> None:  # noqa: FBT001 - reads like an assert
        """Note a broken promise."""
        if not holds:
            self.broken.append(sentence)


class Campaign:
    """One set-up with its generator: mails go in, the daemon is ended again and again."""

    def __init__(self, plan: Plan, folder: Path, *, name: str) -> None:
        self.plan = plan
        self.verdict = Verdict(name=name)
        self.rng = random.Random(f"{plan.seed} {name}")
        self._mail_rng = random.Random(f"{plan.seed} {name} mails")
        self._folder = folder
        self.sent: dict[str, Sent] = {}
        self.boxes = {f"box{n}": f"box{n}@{name}.test" for n in range(plan.mailboxes)}
        self.database = folder / "mailbridge.db"
        #: every claim that a kill has caught: (event id, fence)
        self.caught: set[tuple[str, int]] = set()

    def build(self, tenant: Tenant, dovecot: Dovecot, receiver: Receiver) -> Daemon:
        """Write the configuration and return a daemon that is not yet started."""
        setting = Setting(
            mailboxes=self.boxes,
            webhook_url=receiver.url,
            database=f"sqlite:///{self.database}",
            after="seen",
            every="5s",
            push=True,
        )
        content = document(
            setting, tenant=tenant, ca=tenant.write_ca(self._folder), dovecot=dovecot
        )
        config = write_config(self._folder / "mailbridge.yaml", content)
        return Daemon(config, environment(self._folder, tenant), self._folder / "daemon.log")

    def put_mail(self, dovecot: Dovecot) -> None:
        """Put one more mail into one of the mailboxes; mostly small, now and then a large one."""
        rng = self._mail_rng
        token = f"tok-{len(self.sent):06}-{rng.getrandbits(64):016x}"
        raw = mail(token, rng, size=100_000 if rng.random() < 0.02 else rng.randint(300, 3_000))
        box = rng.choice(sorted(self.boxes))
        digest = hashlib.sha256(raw).hexdigest()
        # Noted first: a mail that arrives is one that was sent.
        self.sent[token] = Sent(token=token, mailbox=box, sha256=digest)
        dovecot.deliver(self.boxes[box], raw)

    def kill_once(self, daemon: Daemon, receiver: Receiver) -> None:
        """Start it, kill it at a random moment.

        Every other time that moment lies in the first seconds of its life, start-up included;
        the other times it follows its first delivery, when most is in flight.
        """
        rng, plan = self.rng, self.plan
        daemon.start()
        if self.verdict.rounds % 2:
            time.sleep(rng.uniform(plan.shortest, plan.longest))
        else:
            self.await_delivery(daemon, receiver)
            time.sleep(rng.uniform(0.0, plan.longest / 6))
        code = daemon.kill()
        if code != -9:
            raise RuntimeError(f"the daemon had ended by itself with {code}:\n{daemon.log[-3000:]}")

    def await_delivery(self, daemon: Daemon, receiver: Receiver) -> None:
        """Wait until this daemon has delivered something."""
        accepted = len(receiver.receipts())
        deadline = time.monotonic() + 30.0
        while len(receiver.receipts()) == accepted and time.monotonic() < deadline:
            if not daemon.alive:
                raise RuntimeError(f"the daemon ended by itself:\n{daemon.log[-3000:]}")
            time.sleep(0.01)

    def inspect(self, dovecot: Dovecot) -> frozenset[tuple[str, int]]:
        """Compare the server's flags with the database that the last daemon has left.

        Returns the claims that stand in it.
        """
        verdict = self.verdict
        if not self.database.exists():
            return frozenset()
        held = spool.read(self.database, self._folder / "copy")
        self.caught |= held.claims
        verdict.in_flight = len(self.caught)
        seen = 0
        for box, address in self.boxes.items():
            stored = dovecot.read(address)
            told = {(box, message.uid) for message in stored if "\\Seen" in message.flags}
            seen += len(told)
            verdict.unstored += len(told - held.places)
        verdict.seen = seen
        return held.claims

    def drain(self, daemon: Daemon, receiver: Receiver) -> None:
        """Let it run until everything was delivered, or nothing has moved for too long."""
        begun = moved = time.monotonic()
        count = -1
        daemon.start()
        while time.monotonic() - moved < PATIENCE and daemon.alive:
            found = receiver.by_token(self.sent)
            if all(found.values()):
                break
            if (now := sum(map(bool, found.values()))) != count:
                count, moved = now, time.monotonic()
            time.sleep(0.1)
        self.verdict.drained = time.monotonic() - begun
        self.verdict.require(daemon.alive, "the daemon ended during the drain")
        code = daemon.stop()
        self.verdict.require(code == 0, f"the last stop ended with {code}")

    def judge(self, receiver: Receiver, *, doubles_allowed: bool) -> Verdict:
        """Compare what was sent with what the receiver has."""
        verdict = self.verdict
        verdict.tried = len(self.sent)
        found = receiver.by_token(self.sent)
        for token, receipts in found.items():
            verdict.lost += not receipts
            verdict.doubled += max(0, len(receipts) - 1)
            verdict.two_ids += len({receipt.webhook_id for receipt in receipts}) > 1
            verdict.changed += any(r.raw_sha256 != self.sent[token].sha256 for r in receipts)
            self._explain(token, receipts)
        verdict.require(verdict.lost == 0, f"{verdict.lost} mails are lost")
        verdict.require(verdict.two_ids == 0, f"{verdict.two_ids} mails came under two ids")
        verdict.require(verdict.changed == 0, f"{verdict.changed} mails arrived changed")
        verdict.require(
            verdict.unstored == 0,
            f"{verdict.unstored} times a mail was seen on the server and not in the database",
        )
        verdict.require(
            doubles_allowed or not verdict.doubled, f"{verdict.doubled} doubles without a crash"
        )
        verdict.require(not receiver.forged, f"signatures did not verify: {receiver.forged[:3]}")
        verdict.require(not receiver.failures, f"the receiver failed: {receiver.failures[:3]}")
        damage = spool.check(self.database, self._folder / "copy")
        verdict.require(damage == "ok", f"the database is damaged: {damage}")
        return verdict

    def _explain(self, token: str, receipts: list[Receipt]) -> None:
        """Hold a mail that came twice against the kills: once more for each claim they caught."""
        if len(receipts) < 2:
            return
        caught = sum(event == receipts[0].webhook_id for event, _ in self.caught)
        self.verdict.require(
            len(receipts) - 1 <= caught,
            f"{token} came {len(receipts)} times and was in flight at {caught} kills",
        )


def crash(plan: Plan, tenant: Tenant, dovecot: Dovecot, folder: Path, console: Console) -> Verdict:
    """Run the kills and the drain."""
    campaign = Campaign(plan, folder, name="kills")
    begun = time.monotonic()
    with Receiver(folder / "received", SIGNING_SECRET) as receiver:
        daemon = campaign.build(tenant, dovecot, receiver)
        pacer = Pacer(plan.per_second, lambda: campaign.put_mail(dovecot))
        pacer.start()
        for round_number in range(1, plan.kills + 1):
            campaign.verdict.rounds = round_number
            campaign.kill_once(daemon, receiver)
            campaign.inspect(dovecot)
            if round_number % 25 == 0:
                console.print(
                    f"{round_number} kills, {len(campaign.sent)} mails sent, "
                    f"{len(receiver.receipts())} requests accepted"
                )
        pacer.stop()
        campaign.drain(daemon, receiver)
        verdict = campaign.judge(receiver, doubles_allowed=True)
    verdict.require(
        plan.kills < 20 or verdict.in_flight > 0,
        "no kill ever caught a delivery in flight: the campaign proves nothing",
    )
    verdict.seconds = time.monotonic() - begun
    return verdict


def clean_stops(plan: Plan, tenant: Tenant, dovecot: Dovecot, folder: Path) -> Verdict:
    """Run the same with SIGTERM: attempts in flight end, so that nothing comes twice."""
    campaign = Campaign(plan, folder, name="stops")
    begun = time.monotonic()
    with Receiver(folder / "received", SIGNING_SECRET) as receiver:
        daemon = campaign.build(tenant, dovecot, receiver)
        pacer = Pacer(plan.per_second, lambda: campaign.put_mail(dovecot))
        pacer.start()
        for round_number in range(1, plan.stops + 1):
            campaign.verdict.rounds = round_number
            daemon.start()
            # A stop is worth something only while it works: wait for its first delivery.
            campaign.await_delivery(daemon, receiver)
            time.sleep(campaign.rng.uniform(0.0, plan.longest / 3))
            code = daemon.stop()
            campaign.verdict.require(code == 0, f"stop {round_number} ended with {code}")
            left = len(campaign.inspect(dovecot))
            campaign.verdict.require(
                left == 0, f"stop {round_number} left {left} deliveries claimed"
            )
        pacer.stop()
        campaign.drain(daemon, receiver)
        verdict = campaign.judge(receiver, doubles_allowed=False)
    verdict.seconds = time.monotonic() - begun
    return verdict


def run(plan: Plan, console: Console, keep: Path | None = None) -> list[Verdict]:
    """Run both parts with servers of their own, and return what came out.

    With ``keep`` the logs, journals and databases are left in that folder.
    """
    verdicts = []
    with (
        tempfile.TemporaryDirectory(prefix="mb-crash-") as scratch,
        Tenant() as tenant,
        Dovecot(tenant.rules, probe_token=tenant.mint) as dovecot,
    ):
        folder = Path(scratch)
        for name in ("kills", "stops"):
            (folder / name).mkdir()
        if plan.kills:
            verdicts.append(crash(plan, tenant, dovecot, folder / "kills", console))
        if plan.stops:
            verdicts.append(clean_stops(plan, tenant, dovecot, folder / "stops"))
        for verdict in verdicts:
            if verdict.broken:
                log = (folder / verdict.name / "daemon.log").read_text(errors="replace")
                console.print(f"last lines of the daemon's log:\n{log[-3000:]}", markup=False)
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=_is_socket)
    return verdicts


def _is_socket(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(folder) / name).is_socket()}


def table(verdicts: list[Verdict]) -> Table:
    """Return the figures as people read them."""
    shown = Table(title="crash test")
    shown.add_column("")
    for one in verdicts:
        shown.add_column("SIGKILL" if one.name == "kills" else "SIGTERM", justify="right")
    rows: dict[str, list[object]] = {
        "times ended": [one.rounds for one in verdicts],
        "mails tried": [one.tried for one in verdicts],
        "lost": [one.lost for one in verdicts],
        "doubled, under one id": [one.doubled for one in verdicts],
        "in flight when ended": [one.in_flight for one in verdicts],
        "under two ids": [one.two_ids for one in verdicts],
        "changed": [one.changed for one in verdicts],
        "seen on the server": [one.seen for one in verdicts],
        "seen but not stored": [one.unstored for one in verdicts],
        "seconds to drain": [f"{one.drained:.1f}" for one in verdicts],
        "seconds in all": [f"{one.seconds:.0f}" for one in verdicts],
    }
    for name, values in rows.items():
        shown.add_row(name, *map(str, values))
    return shown


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="kill the daemon under load and count")
    parser.add_argument("--kills", type=int, default=default.kills)
    parser.add_argument("--stops", type=int, default=default.stops)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--mails-per-second", type=float, default=default.per_second)
    parser.add_argument("--mailboxes", type=int, default=default.mailboxes)
    parser.add_argument("--keep", type=Path, help="leave logs and databases in this folder")
    given = parser.parse_args()
    plan = Plan(
        kills=given.kills,
        stops=given.stops,
        seed=given.seed,
        per_second=given.mails_per_second,
        mailboxes=given.mailboxes,
    )
    console = Console(soft_wrap=True)
    verdicts = run(plan, console, given.keep)
    console.print(table(verdicts))
    broken = [f"{one.name}: {sentence}" for one in verdicts for sentence in one.broken]
    for sentence in broken:
        console.print(f"BROKEN {sentence}", markup=False)
    if broken:
        console.print(f"run it again with --seed {plan.seed}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
