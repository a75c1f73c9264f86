"""A proxy that makes a server farther away: every byte is late, and nothing else.

    python -m benchmarks.push.delay PORT MILLISECONDS

Prints its own port; ends when its standard input ends. What is on its way is not limited except
by ``ROOM``, so that the delay costs round trips and no throughput.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import cast

import uvloop

from benchmarks.push.stage import ROOT

#: bytes of one direction that may be under way
ROOM = 64 << 20


class End(asyncio.Protocol):
    """One end of a connection; what it reads is written to the other end, later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: End | None = None
        self.queue: deque[tuple[float, bytes]] = deque()
        self.under_way = 0
        self.paused = False
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came; empty at the end of the stream."""
        if not self.queue:
            self.loop.call_later(self.delay, self.forward)
        self.queue.append((self.loop.time() + self.delay, data))
        self.under_way += len(data)
        if self.under_way > ROOM and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Let the end of the stream travel like any other byte."""
        self.data_received(b"")
        return True

    def forward(self) -> None:
        """Pass on what is due, and come again for the rest."""
        now = self.loop.time() + 0.0005  # uvloop's clock ticks in milliseconds
        while self.queue and self.queue[0][0] <= now:
            data = self.queue.popleft()[1]
            self.under_way -= len(data)
            if self.other is not None and not self.other.transport.is_closing():
                self.other.transport.write(data) if data else self.other.transport.close()
        if self.queue:
            self.loop.call_later(max(0.0, self.queue[0][0] - now), self.forward)
        if self.paused and self.under_way < ROOM // 2:
            self.paused = False
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the other end know, in its time."""
        del exc
        if self.other is not None:
            self.loop.call_later(self.delay, self.other.transport.close)


async def serve(port: int, delay: float) -> None:
    """Listen on a free port of loopback until the standard input ends."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def connect(near: End) -> None:
        _, far = await loop.create_connection(lambda: End(delay), "127.0.0.1", port)
        near.other, far.other = far, near

    class Near(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task = loop.create_task(connect(self))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await loop.create_server(lambda: Near(delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def delayed(port: int, *, round_trip: float) -> Iterator[int]:
    """Run the proxy in front of a port of loopback; yields its port. ``round_trip`` in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(port), str(round_trip * 500)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
