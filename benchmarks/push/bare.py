"""Bare IMAP clients on one event loop: observers of a push, and the limit of what a client can do.

    python -m benchmarks.push.bare JOB.json

JOB.json: {host, port, ca, token, addresses, at_once, noop}. Signs in to all mailboxes, ``at_once``
of them at the same time, and prints ``ready SECONDS RSS``. With ``noop`` 0 it stays in IDLE and
prints ``exists INDEX COUNT MONOTONIC`` for every message count that it is told; otherwise it
sends a NOOP to each every ``noop`` seconds, evenly spread. The end of its standard input ends
it: it prints ``cpu SECONDS WALL`` since it was ready.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any, cast

import uvloop

EXISTS = re.compile(rb"\* (\d+) EXISTS")


class Client(asyncio.Protocol):
    """One connection: greeting, AUTHENTICATE, SELECT, then IDLE or a NOOP now and then."""

    def __init__(self, index: int, answer: bytes, *, idle: bool) -> None:
        self.index = index
        self.answer = answer
        self.idle = idle
        self.rest = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the server speaks first."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Go through the lines that are complete."""
        *lines, self.rest = (self.rest + data).split(b"\r\n")
        for line in lines:
            self.line(line)

    def line(self, line: bytes) -> None:
        """Take the next step, or tell a message count."""
        if line.startswith((b"a NO", b"b NO", b"c NO", b"a BAD", b"b BAD", b"* BYE")):
            self.fail(line.decode(errors="replace"))
        elif self.ready.done():
            if found := EXISTS.match(line):
                print("exists", self.index, int(found[1]), time.monotonic(), flush=True)
        elif line.startswith(b"* OK") and self.answer:
            self.transport.write(b"a AUTHENTICATE XOAUTH2 " + self.answer + b"\r\n")
            self.answer = b""
        elif line.startswith(b"a OK"):
            self.transport.write(b"b SELECT INBOX\r\n")
        elif line.startswith(b"b OK") and self.idle:
            self.transport.write(b"c IDLE\r\n")
        elif line.startswith((b"b OK", b"+")):
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        self.fail(f"the connection is gone: {exc}")

    def fail(self, text: str) -> None:
        """Give up; a client that is not there would make the figures wrong."""
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(text))
        else:
            print("lost", self.index, text, flush=True)


async def sign_in(job: dict[str, Any]) -> list[Client]:
    """Connect all of them."""
    context = ssl.create_default_context(cafile=job["ca"])
    room = asyncio.Semaphore(job["at_once"])
    loop = asyncio.get_running_loop()

    async def one(index: int, address: str) -> Client:
        text = f"user={address}\x01auth=Bearer {job['token']}\x01\x01"
        answer = base64.b64encode(text.encode())
        async with room:
            _, client = await loop.create_connection(
                lambda: Client(index, answer, idle=not job["noop"]),
                job["host"],
                job["port"],
                ssl=context,
            )
            await client.ready
        return client

    return await asyncio.gather(*(one(n, address) for n, address in enumerate(job["addresses"])))


async def look_often(clients: list[Client], every: float) -> None:
    """Send a NOOP to each in turn, for ever."""
    gap = every / len(clients)
    due = time.monotonic()
    while True:
        for client in clients:
            client.transport.write(b"n NOOP\r\n")
            due += gap
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def memory() -> int:
    """Return the resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def run(job: dict[str, Any]) -> None:
    """Sign in, then watch until the standard input ends."""
    begun = time.monotonic()
    clients = await sign_in(job)
    ready, used = time.monotonic(), time.process_time()
    print("ready", ready - begun, memory(), flush=True)
    looking = asyncio.create_task(look_often(clients, job["noop"])) if job["noop"] else None
    await asyncio.to_thread(sys.stdin.read)
    if looking is not None:
        looking.cancel()
    print("cpu", time.process_time() - used, time.monotonic() - ready, flush=True)
    # Sockets and tasks end with the process; saying goodbye to a thousand would take its time.
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(run(json.loads(Path(sys.argv[1]).read_text())))
