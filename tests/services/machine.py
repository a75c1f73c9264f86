"""A Debian with systemd as its first process, booted in half a second (systemd-nspawn).

It shares this machine's network, so that what listens on loopback here is there too. What it
writes is forgotten at its end. When the test process is killed, the kernel ends it; what such a
run leaves (empty control groups) the next one removes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.services.lab import HOME, run

#: begins the name of every control group and machine of ours; the rest is the process's id
PREFIX: Final = "mailbridge-test-"
_SECONDS: Final = 60
#: systemd-nspawn leaves an empty folder here for each machine
_PROPAGATE: Final = Path("/run/systemd/nspawn/propagate")
#: SIGRTMIN+4 asks systemd to power off
_POWER_OFF: Final = signal.SIGRTMIN + 4
#: goes into control groups, up to --, and becomes the command behind it
JOIN: Final = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done
shift
exec "$@"
"""


class Machine:
    """A booted machine; see ``booted``."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def run(
        self, *command: str, given: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the machine, to its end."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "--root", "--wd", "--"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        where = [
            "env",
            "--ignore-environment",
            f"--chdir={HOME}",
            path,
            "HOME=/root",
            "LC_ALL=C.UTF-8",
        ]
        return run([*enter, *where, *command], given=given, check=check)

    def sh(self, script: str, *, given: str | None = None, check: bool = True) -> str:
        """Run lines as a shell does, and end at the first that fails; returns what they said."""
        return self.run("sh", "-e", "-c", script, given=given, check=check).stdout


@contextmanager
def booted(root: Path, checkout: Path, log: Path) -> Iterator[Machine]:
    """Boot ``root``, which stays as it is, with a copy of the checkout at ``HOME``."""
    sweep()
    name = f"{PREFIX}{os.getpid()}"
    groups = own_groups(name, {"name=systemd", ""})
    nspawn = ["systemd-nspawn", "--quiet", "--boot", f"--directory={root}", f"--machine={name}"]
    nspawn += ["--register=no", "--keep-unit", "--volatile=overlay", "--console=pipe"]
    nspawn += ["--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    nspawn += [f"--bind-ro={checkout}:{HOME}"]
    # nspawn killed would leave the machine alive: its own process namespace ends both.
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--mount-proc"]
    alone += ["--fork", "--kill-child=KILL"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["sh", "-c", JOIN, "sh", *map(str, groups), "--", *alone, *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Machine(_leader(process, log))
    finally:
        _end(process)
        for group in groups:
            remove_group(group)
        with suppress(OSError):
            (_PROPAGATE / name).rmdir()


def own_groups(name: str, controllers: set[str]) -> list[Path]:
    """Make a control group below our own in each of these hierarchies ("" is the unified one)."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        if controller in controllers and (top := _hierarchy(controller)) is not None:
            group = top / path.lstrip("/") / name
            group.mkdir(exist_ok=True)
            made.append(group)
    return made


def _hierarchy(controller: str) -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        wanted = "cgroup2" if controller == "" else "cgroup"
        if kind == wanted and (controller == "" or controller in options.split(",")):
            return Path(left.split(" ")[4])
    return None


def sweep() -> None:
    """End what runs of tests have left that were killed themselves, and only that."""
    for controller in ("name=systemd", ""):
        top = _hierarchy(controller)
        for group in top.rglob(f"{PREFIX}*") if top else ():
            owner = re.fullmatch(rf"{PREFIX}(?:box-)?(\d+)", group.name)
            if owner and not Path("/proc", owner[1]).exists():
                remove_group(group)
    for left in _PROPAGATE.glob(f"{PREFIX}*"):
        if not Path("/proc", left.name.removeprefix(PREFIX)).exists():
            left.rmdir()


def remove_group(group: Path) -> None:
    """End what runs in a control group, and remove it."""
    for folder in sorted([group, *(p for p in group.rglob("*") if p.is_dir())], reverse=True):
        with suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + _SECONDS
        while folder.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.05)


def _leader(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the machine's first process as this machine knows it, once it has booted."""
    deadline = time.monotonic() + _SECONDS
    state = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended:\n{log.read_text(errors='replace')}")
        for nspawn in _children(process.pid):
            for leader in _children(nspawn):
                asked = Machine(leader).run("systemctl", "is-system-running", check=False)
                state = asked.stdout.strip()
                if state in {"running", "degraded"}:
                    return leader
        time.sleep(0.05)
    raise AssertionError(f"not booted, but {state}:\n{log.read_text(errors='replace')}")


def _children(pid: int) -> list[int]:
    found = run(["ps", "-o", "pid=", "--ppid", str(pid)], check=False)
    return [int(word) for word in found.stdout.split()]


def _end(process: subprocess.Popen[bytes]) -> None:
    for nspawn in _children(process.pid):
        for leader in _children(nspawn):
            os.kill(leader, _POWER_OFF)
    try:
        process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
