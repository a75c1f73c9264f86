"""The servers of one part, and the real daemon with its memory and CPU looked at from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.measure import Sink, running_sink
from tests.campaigns.harness import (
    Daemon,
    Setting,
    Tenant,
    document,
    environment,
    write_config,
)
from tests.servers.dovecot import Dovecot

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/bench"
PASSWORD = "not-a-secret"
TICKS = os.sysconf("SC_CLK_TCK")
#: what is told of a mailbox that does not come
_TELLING = ("name", "state", "mode", "code", "cause")
#: bytes of a mail that is pushed: an alarm with some text
MAIL_SIZE = 3000


#: puts one mail into a mailbox and returns when it lay there, by ``time.monotonic``
Put = Callable[[str, int], float]


class StageError(Exception):
    """Something did not happen in time; the text says what, with the daemon's last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every part needs. ``folder`` is on the disk whose durability is paid for.

    ``lookout`` is a second Dovecot on the same mail, for observers: a process of Dovecot 2.3 tells
    only one of its sessions that a folder has changed, so observers would deafen the observed.
    """

    folder: Path
    tenant: Tenant
    dovecot: Dovecot
    lookout: Dovecot
    sink: Sink

    def fresh(self, name: str) -> Path:
        """Return an empty folder."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def content(self, folder: Path, setting: Setting) -> dict[str, Any]:
        """Return a configuration for the Dovecot of this stage, to be amended."""
        ca = self.tenant.write_ca(folder)
        return document(setting, tenant=self.tenant, ca=ca, dovecot=self.dovecot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server with mailboxes of its own for each contestant, and how mail gets there.

    Observers see the same mailboxes by ``observed_port``, with an authority of its own.
    """

    name: str
    port: int
    ca: Path
    observed_port: int
    observed_ca: Path
    token: str
    put: Put
    #: changes the configuration for it, and adds to the daemon's environment
    amend: Callable[[dict[str, Any]], dict[str, str]]


@dataclass(slots=True, kw_only=True)
class Contestant:
    """A running program: how it is called, and the processes that it consists of."""

    who: str
    pids: Callable[[], list[int]]
    cpu: Callable[[], float]


@contextlib.contextmanager
def staged(part: str, *, numbers: int) -> Iterator[Stage]:
    """Start tenant, Dovecot and receiver; ``numbers`` is above every number of a mail."""
    folder = CACHE / "push" / part
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        tenant = stack.enter_context(Tenant())
        dovecot = stack.enter_context(Dovecot(tenant.rules, password=PASSWORD))
        same = f"mail_location = maildir:{dovecot.base}/mail/%u/Maildir\n"
        lookout = stack.enter_context(Dovecot(tenant.rules, password=PASSWORD, extra=same))
        sink = stack.enter_context(running_sink(CACHE, numbers=numbers))
        yield Stage(folder=folder, tenant=tenant, dovecot=dovecot, lookout=lookout, sink=sink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes: all pages that are mapped, and those counted in part where they are shared."""

    rss: int
    pss: int


def memory(*pids: int) -> Memory:
    """Return the memory of some processes together; those that are gone count nothing."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                rss += int(rest.split()[0]) * 1024 if name == "Rss" else 0
                pss += int(rest.split()[0]) * 1024 if name == "Pss" else 0
    return Memory(rss=rss, pss=pss)


def cpu(*pids: int) -> float:
    """Return the seconds of CPU, user and system, that processes have used; 10 ms exact.

    Of children only those are counted that have been waited for.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / TICKS


class _Line(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("daemon", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Bridge:
    """The daemon, a process of its own; the block ends it as systemd would."""

    def __init__(
        self, stage: Stage, folder: Path, content: Mapping[str, Any], **extra: str
    ) -> None:
        config = write_config(folder / "mailbridge.yaml", content)
        env = environment(folder, stage.tenant, extra)
        self._daemon = Daemon(config, env, folder / "log")
        self._socket = folder / "mailbridge.sock"
        self.started = 0.0

    def __enter__(self) -> Self:
        """Start it."""
        self.started = time.monotonic()
        self._daemon.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop it; what it says when it does not end well is raised, unless worse has happened."""
        code = self._daemon.stop() if self._daemon.alive else -1
        if code and kind is None:
            raise StageError(f"the daemon ended with {code}:\n{self.words}")

    @property
    def words(self) -> str:
        """The last that it has said."""
        return self._daemon.log[-3000:]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._daemon.pid

    def memory(self) -> Memory:
        """Return what it takes now."""
        return memory(self.pid)

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used since its start."""
        return cpu(self.pid)

    def at_rest(self, seconds: float) -> float:
        """Leave it alone for so many seconds; returns its CPU as a share of one core."""
        begun, used = time.monotonic(), self.cpu()
        time.sleep(seconds)
        return (self.cpu() - used) / (time.monotonic() - begun)

    def status(self) -> dict[str, Any]:
        """Return what ``mailbridge status --json`` shows, at less cost."""
        with contextlib.closing(_Line(self._socket)) as line:
            line.request("POST", "/status")
            answer: dict[str, Any] = json.loads(line.getresponse().read())
        return answer

    def boxes(self) -> list[dict[str, Any]]:
        """Return the mailboxes of the status; none while it does not answer yet."""
        try:
            found: list[dict[str, Any]] = self.status()["mailboxes"]
        except (FileNotFoundError, ConnectionRefusedError):
            return []
        return found

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], *, patience: float, every: float = 0.5
    ) -> float:
        """Wait until every mailbox is as wanted; returns the seconds since the start."""
        deadline = time.monotonic() + patience
        while True:
            boxes = self.boxes()
            moment = time.monotonic()
            lacking = [box for box in boxes if not wanted(box)]
            if boxes and not lacking:
                return moment - self.started
            if moment > deadline or not self._daemon.alive:
                one = {key: lacking[0][key] for key in _TELLING} if lacking else {}
                raise StageError(
                    f"{len(lacking)} of {len(boxes)} mailboxes are not there after "
                    f"{moment - self.started:.0f} s, such as {one}\n{self.words}"
                )
            time.sleep(every)


def proven(box: Mapping[str, Any]) -> bool:
    """Whether a mailbox has proven a check."""
    return bool(box["state"] == "ok")


def standing_by(box: Mapping[str, Any]) -> bool:
    """Whether a mailbox has proven a check and the server pushes what is new."""
    return proven(box) and bool(box["mode"] == "push")
