"""The receiver of the benchmarks for machines without a C compiler; does what sink.c does.

python sink.py MAX [FILE]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from pathlib import Path
from typing import BinaryIO, cast

import uvloop

TOKEN = re.compile(rb"TKN-(\d{12})")
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


class Counts:
    """What came so far."""

    def __init__(self, limit: int, out: BinaryIO | None) -> None:
        self.limit = limit
        self.out = out
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.seen: dict[int, float] = {}
        self.requests = self.unique = self.other = self.bytes = 0
        self.first = self.last = 0.0

    def count(self, body: bytes) -> None:
        """Count one request."""
        self.requests += 1
        self.bytes += len(body)
        self.first = self.first or time.monotonic()
        if self.out:
            self.out.write(body + b"\n")
        found = TOKEN.search(body)
        if found is None:
            self.other += 1
        elif (number := int(found[1])) < self.limit and number not in self.seen:
            self.seen[number] = self.last = time.monotonic()
            self.unique += 1

    def as_json(self) -> bytes:
        """Answer ``GET /stats``."""
        if self.out:
            self.out.flush()
        names = ("requests", "unique", "other", "bytes", "first", "last")
        return json.dumps({name: getattr(self, name) for name in names}).encode()

    def as_lines(self) -> bytes:
        """Answer ``GET /times``: each number that came, and when it came first."""
        return "".join(f"{number} {at:.6f}\n" for number, at in self.seen.items()).encode()


class Peer(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive and Content-Length, nothing else."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.data = bytearray()
        self.wanted = self.head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        # uvloop's transports are of a family of their own; an ``isinstance`` would refuse them.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Serve every request that is complete."""
        self.data += data
        while self.wanted or self.begin():
            if len(self.data) < self.wanted:
                return
            self.serve(bytes(self.data[: self.head]), bytes(self.data[self.head : self.wanted]))
            del self.data[: self.wanted]
            self.wanted = 0

    def begin(self) -> bool:
        """Read the head, if it is there."""
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = LENGTH.search(self.data, 0, end + 2)
        self.head = end + 4
        self.wanted = self.head + (int(length[1]) if length else 0)
        return True

    def serve(self, head: bytes, body: bytes) -> None:
        """Count, or answer the questions of the benchmark."""
        answer = b"{}"
        if head.startswith(b"GET /stats"):
            answer = self.counts.as_json()
        elif head.startswith(b"GET /times"):
            answer = self.counts.as_lines()
        elif head.startswith(b"POST /reset"):
            self.counts.clear()
        else:
            self.counts.count(body)
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(answer)}\r\n\r\n".encode()
            + answer
        )


async def serve(counts: Counts) -> None:
    """Listen on a free port of loopback, print it, and go on for ever."""
    server = await asyncio.get_running_loop().create_server(lambda: Peer(counts), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Run until a signal ends it."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(Path(sys.argv[2]).open("ab")) if len(sys.argv) > 2 else None
        uvloop.run(serve(Counts(int(sys.argv[1]), out)))


if __name__ == "__main__":
    main()
