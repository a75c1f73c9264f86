"""Measuring processes: wall time, CPU, peak memory, and what the receiver has seen."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
#: seconds between two looks at a process or at the receiver
LOOK = 0.02


def compile_all() -> None:
    """Compile the program and its packages, as every start but the first finds them.

    Where ``PYTHONDONTWRITEBYTECODE`` is set, every start would compile all of it again: seconds
    of CPU and megabytes that no installation pays for.
    """
    folders = [sysconfig.get_paths()["platlib"], str(HERE.parent / "mailbridge")]
    words = [sys.executable, "-m", "compileall", "-qq", "-j", "0", *folders]
    # Some packages bring files that are no Python; nobody imports those.
    subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one contestant.

    ``wall`` is in seconds from the start of the first process until the last message was there;
    ``cpu`` in seconds, user and system, of all its processes with their start; ``peak`` in
    bytes, the largest sum of the peak memories of the processes that lived at the same time.
    """

    contestant: str
    work: str
    messages: int
    wall: float
    cpu: float
    peak: int
    duplicates: int = 0
    lost: int = 0

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.wall

    def as_json(self) -> dict[str, Any]:
        """All figures, with the rate."""
        names = ("contestant", "work", "messages", "wall", "cpu", "peak", "duplicates", "lost")
        return {**{name: getattr(self, name) for name in names}, "rate": self.rate}


class Processes:
    """The processes of one contestant: started here, watched, and waited for by their ids."""

    def __init__(self) -> None:
        self._living: dict[int, subprocess.Popen[bytes]] = {}
        self._highest: dict[int, int] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.cpu = 0.0
        self.peak = 0
        self.started = 0.0

    def __enter__(self) -> Self:
        """Start to watch."""
        self.started = time.monotonic()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs, and stop watching."""
        with self._lock:
            left = list(self._living.values())
        for process in left:
            self.end(process)
        for process in left:
            self.wait(process)
        self._over.set()
        self._watcher.join()

    def start(
        self, command: list[str], *, log: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process; its output goes to ``log``."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
        with self._lock:
            self._living[process.pid] = process
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has ended; it stays there for ``wait``, which reads what it has used."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is not None

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask it to end. Popen's own way would reap it, and its figures would be gone."""
        os.kill(process.pid, signal.SIGTERM)

    def wait(self, process: subprocess.Popen[bytes], timeout: float = 120.0) -> int:
        """Wait for its end, count its CPU with that of its children; returns the exit code."""
        deadline = time.monotonic() + timeout
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(LOOK / 4)
        code = os.waitstatus_to_exitcode(status)
        process.returncode = code  # wait4 has reaped it; Popen must not look for it again
        with self._lock:
            self._living.pop(process.pid, None)
            self.cpu += usage.ru_utime + usage.ru_stime
        return code

    def _watch(self) -> None:
        """Add up the high-water marks of all that lives; exact except for the last moments."""
        while not self._over.wait(LOOK):
            with self._lock:
                pids = list(self._living)
            self.peak = max(self.peak, sum(_high_water(pid) for pid in pids))


def _high_water(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the receiver has counted; times are those of ``time.monotonic``."""

    requests: int
    unique: int
    other: int
    bytes: int
    first: float
    last: float


class Sink:
    """The receiver, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/hook"

    def reset(self) -> None:
        """Forget everything."""
        self._ask("POST", "/reset")

    def seen(self) -> Seen:
        """Ask what has come so far."""
        return Seen(**json.loads(self._ask("GET", "/stats")))

    def times(self) -> dict[int, float]:
        """Return when each number came first, by ``time.monotonic``."""
        rows = (line.split() for line in self._ask("GET", "/times").decode().splitlines())
        return {int(number): float(at) for number, at in rows}

    def wait_for(self, unique: int, timeout: float, *, given_up: Callable[[], bool]) -> None:
        """Wait until so many different messages were there, time is up, or nobody sends more."""
        deadline = time.monotonic() + timeout
        while self.seen().unique < unique and time.monotonic() < deadline and not given_up():
            time.sleep(LOOK)

    def _ask(self, method: str, path: str) -> bytes:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(line):
            line.request(method, path)
            return line.getresponse().read()


@contextlib.contextmanager
def running_sink(cache: Path, *, numbers: int, out: Path | None = None) -> Iterator[Sink]:
    """Compile and start the receiver; without a compiler the one in Python takes its place."""
    command = [*_sink_command(cache), str(numbers), *([str(out)] if out else [])]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with process.stdout:
            yield Sink(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()


def _sink_command(cache: Path) -> list[str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("no C compiler: the receiver in Python is used, which is slower", file=sys.stderr)
        return [sys.executable, str(HERE / "sink.py")]
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / "sink"
    source = HERE / "sink.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return [str(program)]
