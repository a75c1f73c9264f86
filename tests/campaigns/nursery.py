"""Processes of the refresh campaign: one after the other is started, talked with and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from tests.campaigns.refresher import Settings

#: seconds that a process gets for a step; generous, since machines are shared
PATIENCE = 60.0


class Nursery:
    """Starts processes, and talks with the one that lives."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.log = folder / "log"
        self._trace = folder / "trace"
        self._strace: subprocess.Popen[str] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(settings.socket)
        self._listener.listen()
        self._listener.settimeout(PATIENCE)
        with self.log.open("ab") as errors:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "tests.campaigns.refresher", json.dumps(asdict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._timer: threading.Timer | None = None
        self._connection: socket.socket | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the next process."""
        assert self._parent.stdin is not None
        self._parent.stdin.write("start\n")
        self._parent.stdin.flush()
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(PATIENCE)
        self._heard = self._connection.makefile("r")
        born = self.hear()
        if born is None:
            raise RuntimeError("the process ended before it began")
        self.pid = int(born["pid"])

    def hear(self) -> dict[str, str] | None:
        """Return what the process is about to do; ``None`` when it is dead."""
        try:
            line = self._heard.readline()
        except ConnectionResetError:
            line = ""
        told: dict[str, str] | None = json.loads(line) if line.endswith("\n") else None
        return told

    def answer(self, word: str = "go") -> None:
        """Let it go on."""
        assert self._connection is not None
        with suppress(BrokenPipeError):  # it has died meanwhile, which ``hear`` tells
            self._connection.sendall(f"{word}\n".encode())

    def kill(self) -> None:
        """Kill it here and now."""
        os.kill(self.pid, signal.SIGKILL)

    def kill_after(self, seconds: float) -> None:
        """Kill it soon, whatever it does then."""
        self._timer = threading.Timer(seconds, self.kill)
        self._timer.start()

    def trap(self, call: str, path: str) -> None:
        """Have strace kill it at one of its next calls on a file, such as ``write:when=2``."""
        command = ["strace", "-f", "-p", str(self.pid), "-o", str(self._trace), "-P", path]
        command += ["-e", f"trace={call.partition(':')[0]}"]
        command += ["-e", f"inject={call}:signal=SIGKILL"]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        line = self._strace.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(f"strace could not attach: {line}{self._strace.stderr.read()}")

    def sprung(self) -> bool:
        """Tell whether the dead one fell into a trap."""
        strace, self._strace = self._strace, None
        if strace is None:
            return False
        strace.communicate(timeout=PATIENCE)
        return "= ?" in self._trace.read_text()  # a call that never returned

    def ended(self) -> int:
        """Wait until it is gone; returns its exit code, negative for a signal."""
        assert self._connection is not None
        if self._timer is not None:
            self._timer.join()
            self._timer = None
        self._heard.close()
        self._connection.close()
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left; with their connection gone, the processes end by themselves."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        if self._connection is not None:
            self._heard.close()
            self._connection.close()
        self._parent.stdin.close()
        self._parent.wait(PATIENCE)
        self._parent.stdout.close()
        self._listener.close()
