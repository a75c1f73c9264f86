r"""Fill the disk under the daemon, and count what is lost: it must be nothing.

    python -m tests.campaigns.disk_full --size 32 --seed 1

The daemon's state lies on a small tmpfs, most of which a ballast file takes. The receiver is down
while mails arrive, so the database grows until the disk is full. Then the daemon must still run
and say so in its log, and nothing that it could not store may be ``\Seen`` on the server. The
ballast is removed and the receiver answers: everything is delivered, without a restart.

As root the tmpfs is mounted here; otherwise the daemon gets one in namespaces of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.campaigns import spool
from tests.campaigns.harness import (
    SIGNING_SECRET,
    Daemon,
    Setting,
    Tenant,
    document,
    environment,
    mail,
    write_config,
)
from tests.campaigns.receiver import Receiver
from tests.servers.dovecot import Dovecot

MEGABYTE = 1 << 20
ADDRESS = "alarm@disk.test"
MAILBOX = "alarm"
FULL = re.compile(r"store\.full|disk is full|no space left", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes in megabytes. ``room`` is what the daemon has until the ballast is removed."""

    size: int = 32
    room: int = 10
    mails: int = 280
    #: so many of them come while there is room, and are acknowledged
    before: int = 20
    mail_bytes: int = 48_000
    seed: int = 1
    patience: float = 120.0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came out. ``broken`` holds one sentence for each broken promise."""

    tried: int = 0
    stored_when_full: int = 0
    seen_when_full: int = 0
    unstored: int = 0
    delivered_when_full: int = 0
    lost: int = 0
    doubled: int = 0
    two_ids: int = 0
    full_after: float = 0.0
    recovered_after: float = 0.0
    said: str = ""
    broken: list[str] = field(default_factory=list)

    def require(self, holds: bool, sentence: str) -> None:  # noqa: FBT001 - reads like an assert
        """Note a broken promise."""
        if not holds:
            self.broken.append(sentence)


class SmallDisk:
    """A tmpfs for the daemon. ``path`` is how the daemon names it, ``seen`` how we reach it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._ours = os.geteuid() == 0
        self._daemon: Daemon | None = None

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What starts the daemon in a namespace of its own; empty when the mount is ours."""
        if self._ours:
            return ()
        script = f'mount -t tmpfs -o size={self._size}m small "{self.path}" && exec "$@"'
        return ("unshare", "-Urm", "sh", "-c", script, "sh")

    def attach(self, daemon: Daemon) -> None:
        """Remember the process whose namespace holds the mount."""
        self._daemon = daemon

    @property
    def seen(self) -> Path:
        """The folder, from here."""
        if self._ours or self._daemon is None:
            return self.path
        return Path(f"/proc/{self._daemon.pid}/root{self.path}")

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it, if that is ours to do."""
        if not self._ours:
            yield
            return
        options = ["-o", f"size={self._size}m,mode=0755"]
        subprocess.run(["mount", "-t", "tmpfs", *options, "small", str(self.path)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def free(self) -> int:
        """Bytes that are left."""
        return shutil.disk_usage(self.seen).free


def run(plan: Plan) -> Verdict:
    """Fill, look, free, drain, compare."""
    with (
        tempfile.TemporaryDirectory(prefix="mb-small-") as scratch,
        Tenant() as tenant,
        Dovecot(tenant.rules, probe_token=tenant.mint) as dovecot,
        Receiver(Path(scratch) / "received", SIGNING_SECRET) as receiver,
    ):
        folder = Path(scratch)
        (folder / "state").mkdir()
        disk = SmallDisk(folder / "state", plan.size)
        receiver.down()
        with disk.mounted():
            daemon = _build(folder, disk, tenant, dovecot, receiver)
            try:
                course = _Course(
                    plan=plan,
                    folder=folder,
                    disk=disk,
                    daemon=daemon,
                    dovecot=dovecot,
                    receiver=receiver,
                )
                return course.run()
            finally:
                if daemon.alive:
                    daemon.kill()


def _build(
    folder: Path, disk: SmallDisk, tenant: Tenant, dovecot: Dovecot, receiver: Receiver
) -> Daemon:
    setting = Setting(
        mailboxes={MAILBOX: ADDRESS},
        webhook_url=receiver.url,
        database=f"sqlite:///{disk.path}/mailbridge.db",
        after="seen",
        every="5s",
    )
    content = document(setting, tenant=tenant, ca=tenant.write_ca(folder), dovecot=dovecot)
    config = write_config(folder / "mailbridge.yaml", content)
    daemon = Daemon(
        config, environment(disk.path, tenant), folder / "daemon.log", wrapper=disk.wrapper
    )
    disk.attach(daemon)
    return daemon


class _Course:
    """The steps of one run, in the order in which ``run`` calls them."""

    def __init__(  # noqa: PLR0913 - the parts of the set-up, each used by several steps
        self,
        *,
        plan: Plan,
        folder: Path,
        disk: SmallDisk,
        daemon: Daemon,
        dovecot: Dovecot,
        receiver: Receiver,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.disk = disk
        self.daemon = daemon
        self.dovecot = dovecot
        self.receiver = receiver
        self.verdict = Verdict()
        self.digests: dict[str, str] = {}

    def run(self) -> Verdict:
        """All steps."""
        self.daemon.start()
        self.wait(self.has_database, 30.0)
        self.put_mails(self.plan.before)
        self.wait(lambda: len(self.seen()) == self.plan.before, 30.0)
        self.put_ballast()
        self.put_mails(self.plan.mails)
        self.fill()
        self.look()
        self.receiver.up()
        self.wait(lambda: not self.daemon.alive, 3.0)
        self.verdict.delivered_when_full = len(self.receiver.receipts())
        (self.disk.seen / "ballast").unlink()
        self.drain()
        self.judge()
        if self.verdict.broken:
            self.verdict.broken.append(f"log of the daemon: {self.daemon.log[-2000:]}")
        return self.verdict

    def wait(self, condition: Callable[[], bool], seconds: float) -> float:
        """Wait until it holds or time is up; returns how long that was."""
        begun = time.monotonic()
        while not condition() and time.monotonic() < begun + seconds:
            time.sleep(0.05)
        return time.monotonic() - begun

    def has_database(self) -> bool:
        """Whether the daemon has come so far; asked anew, since the path holds its process id."""
        return (self.disk.seen / "mailbridge.db").exists()

    def put_ballast(self) -> None:
        """Leave the daemon only its room."""
        size = max(0, self.disk.free() - self.plan.room * MEGABYTE)
        (self.disk.seen / "ballast").write_bytes(bytes(size))

    def put_mails(self, until: int) -> None:
        """Send mails until there are so many; in the end they are more than fits."""
        rng = random.Random(f"{self.plan.seed} {until}")
        for number in range(len(self.digests), until):
            token = f"tok-{number:06}-{rng.getrandbits(64):016x}"
            raw = mail(token, rng, size=rng.randint(1, 2 * self.plan.mail_bytes))
            self.digests[token] = hashlib.sha256(raw).hexdigest()
            self.dovecot.deliver(ADDRESS, raw)

    def stored(self) -> frozenset[tuple[str, int]]:
        """Return the places of the messages in the database."""
        return spool.read(self.disk.seen / "mailbridge.db", self.folder / "copy").places

    def seen(self) -> set[tuple[str, int]]:
        """Return the places of what the server has been told about."""
        messages = self.dovecot.read(ADDRESS)
        return {(MAILBOX, one.uid) for one in messages if "\\Seen" in one.flags}

    def fill(self) -> None:
        """Wait until the daemon says that the disk is full and nothing more is stored."""
        verdict = self.verdict
        verdict.full_after = self.wait(self.complains, self.plan.patience)
        verdict.said = self.complaint()
        verdict.require(bool(verdict.said), "the daemon never said that the disk is full")
        count, since = -1, time.monotonic()
        while time.monotonic() - since < 6.0:
            if (now := len(self.stored())) != count:
                count, since = now, time.monotonic()
            time.sleep(0.5)

    def complains(self) -> bool:
        """Whether the log speaks of a full disk."""
        return bool(self.complaint())

    def complaint(self) -> str:
        """Return the first line of the log that speaks of a full disk."""
        lines = self.daemon.log.splitlines()
        return next((line for line in lines if FULL.search(line)), "")

    def look(self) -> None:
        """Compare the server's flags with the database, while the disk is full."""
        verdict = self.verdict
        held = self.stored()
        seen = self.seen()
        verdict.stored_when_full = len(held)
        verdict.seen_when_full = len(seen)
        verdict.unstored = len(seen - held)
        verdict.require(self.daemon.alive, "the daemon ended when the disk was full")
        verdict.require(len(held) < self.plan.mails, "the disk was not too small: nothing proven")
        verdict.require(
            len(seen) >= self.plan.before, "nothing was acknowledged while there was room"
        )
        verdict.require(
            verdict.unstored == 0,
            f"{verdict.unstored} mails are seen on the server and not in the database",
        )

    def drain(self) -> None:
        """Wait for everything, with room again."""
        verdict = self.verdict
        verdict.recovered_after = self.wait(
            lambda: self.complete() or not self.daemon.alive, self.plan.patience
        )
        verdict.require(self.daemon.alive, "the daemon ended after the disk had been full")
        if self.daemon.alive:
            damage = spool.check(self.disk.seen / "mailbridge.db", self.folder / "copy")
            verdict.require(damage == "ok", f"the database is damaged: {damage}")
            code = self.daemon.stop()
            verdict.require(code == 0, f"the stop ended with {code}")

    def complete(self) -> bool:
        """Whether every mail has come."""
        return all(self.receiver.by_token(self.digests).values())

    def judge(self) -> None:
        """Compare what was sent with what the receiver has."""
        verdict = self.verdict
        verdict.tried = len(self.digests)
        for token, receipts in self.receiver.by_token(self.digests).items():
            verdict.lost += not receipts
            verdict.doubled += max(0, len(receipts) - 1)
            verdict.two_ids += len({one.webhook_id for one in receipts}) > 1
            changed = [one for one in receipts if one.raw_sha256 != self.digests[token]]
            verdict.require(not changed, f"{token} arrived changed")
        verdict.require(verdict.lost == 0, f"{verdict.lost} mails are lost")
        verdict.require(verdict.two_ids == 0, f"{verdict.two_ids} mails came under two ids")
        verdict.require(not self.receiver.forged, f"bad signatures: {self.receiver.forged[:3]}")
        verdict.require(not self.receiver.failures, f"receiver: {self.receiver.failures[:3]}")


def table(verdict: Verdict) -> Table:
    """Return the figures as people read them."""
    shown = Table(title="disk full")
    shown.add_column("")
    shown.add_column("", justify="right")
    figures = {
        "mails tried": verdict.tried,
        "lost": verdict.lost,
        "doubled, under one id": verdict.doubled,
        "under two ids": verdict.two_ids,
        "stored when full": verdict.stored_when_full,
        "seen on the server when full": verdict.seen_when_full,
        "seen but not stored": verdict.unstored,
        "delivered while still full": verdict.delivered_when_full,
        "seconds until full": f"{verdict.full_after:.1f}",
        "seconds until all was delivered": f"{verdict.recovered_after:.1f}",
    }
    for name, value in figures.items():
        shown.add_row(name, str(value))
    return shown


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="fill the disk under the daemon and count")
    parser.add_argument("--size", type=int, default=default.size, help="of the disk, in MB")
    parser.add_argument("--room", type=int, default=default.room, help="beside the ballast, in MB")
    parser.add_argument("--mails", type=int, default=default.mails)
    parser.add_argument("--seed", type=int, default=default.seed)
    given = parser.parse_args()
    plan = Plan(size=given.size, room=given.room, mails=given.mails, seed=given.seed)
    console = Console(soft_wrap=True)
    verdict = run(plan)
    console.print(table(verdict))
    console.print(f"the daemon said: {verdict.said[:300]}", markup=False)
    for sentence in verdict.broken:
        console.print(f"BROKEN {sentence}", markup=False)
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
