"""A POP3 server without PIPELINING: Dovecot behind a gate that takes the word out of CAPA.

    python -m benchmarks.push.gate PORT CERTIFICATE KEY

Speaks TLS in front and cleartext to Dovecot, on loopback; prints its own port; ends when its
standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.push.stage import ROOT

#: bytes; the answer to CAPA is a chunk of its own and smaller than this
SMALL = 2048
HIDDEN = (b"PIPELINING\r\n", b"STLS\r\n")


class Near(asyncio.Protocol):
    """The client's end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.held: list[bytes] | None = []
        self.far: Far | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        self.transport = cast("asyncio.Transport", transport)
        self.task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.far = await loop.create_connection(lambda: Far(self), "127.0.0.1", self.port)
        for data in self.held or ():
            self.far.transport.write(data)
        self.held = None

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.held is not None:
            self.held.append(data)
        elif self.far is not None:
            self.far.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end."""
        del exc
        if self.far is not None:
            self.far.transport.close()

    def pause_writing(self) -> None:
        """Let the server wait while the client is slow."""
        if self.far is not None:
            self.far.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self.far is not None:
            self.far.transport.resume_reading()


class Far(asyncio.Protocol):
    """Dovecot's end."""

    def __init__(self, near: Near) -> None:
        self.near = near

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on, without the words that are hidden."""
        if len(data) < SMALL:
            for word in HIDDEN:
                data = data.replace(word, b"")
        self.near.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end."""
        del exc
        self.near.transport.close()


async def serve(port: int, certificate: str, key: str) -> None:
    """Listen on a free port of loopback until the standard input ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Near(port), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def gated(port: int, *, certificate: Path, key: Path) -> Iterator[int]:
    """Run the gate in front of a cleartext POP3 port; yields the port with TLS."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(port), str(certificate), str(key)],
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
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
