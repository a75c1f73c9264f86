"""The programs that are measured, each as one function that runs once and returns a ``Run``.

All read the same mail from the same Dovecot over TLS. mbsync signs in with a password (it has no
XOAUTH2 without a plugin), everyone else with an application token.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Processes, Run, Seen, Sink
from tests.campaigns.harness import (
    Setting,
    Tenant,
    command,
    document,
    environment,
    write_config,
)
from tests.servers.dovecot import Dovecot

HERE = Path(__file__).parent
PEER = HERE / "peers/imapflow"
#: seconds after which a contestant that has not finished is counted with its losses
PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be read: addresses with so many messages each."""

    name: str
    addresses: tuple[str, ...]
    each: int
    first: int

    @property
    def messages(self) -> int:
        """All of them."""
        return len(self.addresses) * self.each


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where everything runs. ``folder`` is on the disk whose durability is paid for."""

    folder: Path
    cache: Path
    dovecot: Dovecot
    tenant: Tenant
    sink: Sink
    password: str
    postgres_url: Callable[[], str]

    def fresh(self, name: str) -> Path:
        """Return an empty folder for one run."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


class ContestantError(Exception):
    """A contestant did not do its work; its log is in the message."""


def mbsync(bench: Bench, work: Work, *, processes: int) -> Run:
    """Run isync with its default, an fsync for every message; ``processes`` of it at once."""
    folder = bench.fresh("mbsync")
    config = folder / "mbsyncrc"
    channels = "\n".join(_channel(bench, folder, address) for address in work.addresses)
    for address in work.addresses:
        (folder / _name(address)).mkdir()
    config.write_text(f"FSync yes\n{channels}")
    with Processes() as running, ThreadPoolExecutor(processes) as pool:

        def one(address: str) -> int:
            log = folder / f"{address}.log"
            process = running.start(["mbsync", "-q", "-c", str(config), _name(address)], log=log)
            return running.wait(process, PATIENCE)

        codes = list(pool.map(one, work.addresses))
        wall = time.monotonic() - running.started
    if any(codes):
        raise ContestantError("".join(path.read_text() for path in folder.glob("*.log"))[:1000])
    stored = sum(1 for path in folder.rglob("new/*")) + sum(1 for path in folder.rglob("cur/*"))
    return Run(
        contestant="mbsync",
        work=work.name,
        messages=work.messages,
        wall=wall,
        cpu=running.cpu,
        peak=running.peak,
        lost=work.messages - stored,
    )


def _name(address: str) -> str:
    return address.partition("@")[0]


def _channel(bench: Bench, folder: Path, address: str) -> str:
    name = _name(address)
    return f"""
IMAPStore {name}-far
Host {bench.dovecot.host}
Port {bench.dovecot.imaps_port}
User {address}
Pass {bench.password}
SSLType IMAPS
SystemCertificates no
CertificateFile {bench.dovecot.ca_file}
AuthMechs PLAIN

MaildirStore {name}-near
Path {folder}/{name}/
Inbox {folder}/{name}/INBOX
SubFolders Verbatim

Channel {name}
Far :{name}-far:
Near :{name}-near:
Patterns INBOX
Sync PullNew
Create Near
SyncState *
"""


def imapflow(bench: Bench, work: Work) -> Run:
    """Run the script in peers/imapflow: one Node process, a connection for each mailbox."""
    folder = bench.fresh("imapflow")
    installed = install_imapflow(bench.cache)
    job = folder / "job.json"
    job.write_text(
        json.dumps(
            {
                "host": bench.dovecot.host,
                "port": bench.dovecot.imaps_port,
                "ca": str(bench.dovecot.ca_file),
                "token": bench.tenant.mint(),
                "url": bench.sink.url,
                "concurrency": 10,
                "mailboxes": work.addresses,
            }
        )
    )
    bench.sink.reset()
    log = folder / "log"
    with Processes() as running:
        process = running.start(["node", str(installed / "pull.js"), str(job)], log=log)
        code = running.wait(process, PATIENCE)
    if code:
        raise ContestantError(log.read_text())
    return _delivered("imapflow script", work, running, bench.sink.seen())


def install_imapflow(cache: Path) -> Path:
    """Install the scripts' packages below the cache, once for each change of its versions."""
    target = cache / "imapflow"
    target.mkdir(parents=True, exist_ok=True)
    wanted = (PEER / "package.json").read_text()
    manifest = target / "package.json"
    stale = not manifest.exists() or manifest.read_text() != wanted
    manifest.write_text(wanted)
    for script in PEER.glob("*.js"):
        shutil.copyfile(script, target / script.name)
    if stale or not (target / "node_modules").exists():
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--silent"],
            cwd=target,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return target


def drain(bench: Bench, work: Work) -> Run:
    """Measure the limit: bytes over TLS into nothing, in two processes for several mailboxes."""
    folder = bench.fresh("drain")
    token = folder / "token"
    token.write_text(bench.tenant.mint())
    host, port, ca = bench.dovecot.host, str(bench.dovecot.imaps_port), str(bench.dovecot.ca_file)
    program = [sys.executable, str(HERE / "peers/drain.py"), host, port, ca]
    log = folder / "log"
    with Processes() as running:
        halves = [half for half in (work.addresses[::2], work.addresses[1::2]) if half]
        started = [running.start([*program, str(token), *half], log=log) for half in halves]
        codes = [running.wait(process) for process in started]
        wall = time.monotonic() - running.started
    if any(codes):
        raise ContestantError(log.read_text())
    return Run(
        contestant="raw TLS drain",
        work=work.name,
        messages=work.messages,
        wall=wall,
        cpu=running.cpu,
        peak=running.peak,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run mailbridge; ``env`` goes to the daemon, ``amend`` changes its file."""

    name: str = "mailbridge"
    database: str = "sqlite"
    concurrency: int = 32
    env: Mapping[str, str] | None = None
    amend: Callable[[dict[str, Any]], None] | None = None


def mailbridge(bench: Bench, work: Work, variant: Variant) -> Run:
    """Run the real daemon on fresh state until the receiver has seen everything, then stop it."""
    folder = bench.fresh("mailbridge")
    url = f"sqlite:///{folder}/mailbridge.db"
    if variant.database == "postgresql":
        url = bench.postgres_url()
    setting = Setting(
        mailboxes={_name(address): address for address in work.addresses},
        webhook_url=bench.sink.url,
        database=url,
        concurrency=variant.concurrency,
    )
    content = document(
        setting, tenant=bench.tenant, ca=bench.tenant.write_ca(folder), dovecot=bench.dovecot
    )
    if variant.amend is not None:
        variant.amend(content)
    config = write_config(folder / "mailbridge.yaml", content)
    env = environment(folder, bench.tenant, variant.env)
    log = folder / "log"
    bench.sink.reset()
    with Processes() as running:
        process = running.start(command(config), log=log, env=env)
        bench.sink.wait_for(work.messages, PATIENCE, given_up=lambda: running.ended(process))
        running.end(process)
        code = running.wait(process)
    if code:
        raise ContestantError(f"ended with {code}:\n{log.read_text(errors='replace')[-4000:]}")
    return _delivered(variant.name, work, running, bench.sink.seen())


def _delivered(name: str, work: Work, running: Processes, seen: Seen) -> Run:
    return Run(
        contestant=name,
        work=work.name,
        messages=work.messages,
        # Until the receiver had the last one; what a program does afterwards is its own affair.
        wall=max(seen.last - running.started, 0.001) if seen.unique else PATIENCE,
        cpu=running.cpu,
        peak=running.peak,
        duplicates=seen.requests - seen.other - seen.unique,
        lost=work.messages - seen.unique,
    )


def missing() -> Sequence[str]:
    """Name the programs of the peers that are not installed."""
    packages = {"mbsync": "isync", "node": "nodejs", "npm": "npm", "dovecot": "dovecot-imapd"}
    return [package for program, package in packages.items() if not shutil.which(program)]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
