"""Processes that die while they hand over a mail, at a point that the test names.

One process is kept that imports everything and forks the others; it has no threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa

from mailbridge.store.store import Store
from mailbridge.store.tables import utc_now
from tests.contract.mails import claim
from tests.contract.sendings import SINK, again, keyed, told

A, B = "a@example.org", "b@example.org"


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_commit(store: Store) -> None:
    """Let the process die in place of its next commit."""
    sa.event.listen(store._access.database.engine, "commit", die)


async def hand_over(url: str, point: str) -> None:
    """Do what a daemon does with one mail, as far as ``point``; a claim lasts half a second."""
    store = await Store.open(url)
    if point == "before it is accepted":
        die_at_commit(store)
    await store.sends.accept(keyed(1, "k"))
    if point == "before it is answered":
        die()
    (delivery,) = await claim(store, SINK, lease=0.5)
    if point == "before the doubt":
        die()
    if point == "amid the doubt":
        die_at_commit(store)
    await store.sends.in_doubt(delivery, [A, B])
    if point == "at the dot":
        die()
    if point == "after the answer":
        die_at_commit(store)
    if point == "for one of two":
        await store.sends.answered(delivery, told("taken", A, reply="250 ok"))
        await store.resolve([again(delivery, utc_now())])
        die()
    await store.sends.answered(delivery, told("taken", A, B, reply="250 ok"))
    die()


class Victims:
    """Starts processes that die."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Give them while the process that forks them lives."""
        with subprocess.Popen(
            [sys.executable, "-m", "tests.contract.sends_victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield cls(process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(60)

    def die(self, url: str, point: str) -> None:
        """Let one work until it dies there; raises if it did not die of that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([url, point]) + "\n")
        self._process.stdin.flush()
        assert int(self._process.stdout.readline()) == signal.SIGKILL


def main() -> None:
    """Fork one process for each line that is read, and say what it died of."""
    for line in sys.stdin:
        url, point = json.loads(line)
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            asyncio.run(hand_over(url, point))
            os._exit(0)
        _, how = os.waitpid(child, 0)
        sys.stdout.write(f"{os.WTERMSIG(how) if os.WIFSIGNALED(how) else 0}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
