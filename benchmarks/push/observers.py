"""Starts ``bare`` clients in a process of their own and listens to them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from benchmarks.push.stage import ROOT, StageError

#: sign-ins at the same time; more are not faster
AT_ONCE = 24


class Observers:
    """Bare clients on some mailboxes, which note when they are told how many messages there are."""

    def __init__(  # noqa: PLR0913 - each one is named by the caller
        self,
        folder: Path,
        addresses: Sequence[str],
        *,
        port: int,
        ca: Path,
        token: str,
        noop: float = 0.0,
    ) -> None:
        self._addresses = list(addresses)
        self._job = folder / "bare.json"
        content = {
            "host": "localhost",
            "port": port,
            "ca": str(ca),
            "token": token,
            "addresses": self._addresses,
            "at_once": AT_ONCE,
            "noop": noop,
        }
        self._job.write_text(json.dumps(content))
        self._told: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.lost: list[str] = []
        #: seconds until all were signed in, and bytes of memory then
        self.seconds = 0.0
        self.rss = 0
        #: share of one core since then, known at the end
        self.cpu = 0.0

    def __enter__(self) -> Self:
        """Start, and return when all are signed in."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.push.bare", str(self._job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if not words or words[0] != "ready":
            self._process.kill()
            self._process.communicate()
            raise StageError("the bare clients could not sign in")
        self.seconds, self.rss = float(words[1]), int(words[2])
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._thread.join(30)
        self._process.stdout.close()
        self._process.wait(30)

    def seen(self, address: str, nth: int) -> float | None:
        """Return when the nth message of a mailbox was told, be it together with later ones."""
        return next((moment for count, moment in self._told[address] if count >= nth), None)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, first, rest = line.split(maxsplit=2)
            if kind == "exists":
                count, moment = rest.split()
                self._told[self._addresses[int(first)]].append((int(count), float(moment)))
            elif kind == "lost":
                self.lost.append(rest)
            elif kind == "cpu":
                self.cpu = float(first) / float(rest)
