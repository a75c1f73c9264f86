"""A webhook receiver on a real socket that records every request and misbehaves by script.

A script is a coroutine function that is handed an ``Exchange`` (the request that was read, and
the raw connection) and writes whatever bytes it likes. When it returns, the connection is read
on for the next request, unless the script closed it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it lay on the wire; ``connection`` counts accepted connections from 1."""

    connection: int
    target: str
    header_list: list[tuple[str, str]]
    body: bytes
    client_certificate: bool

    @property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name."""
        return {name.lower(): value for name, value in self.header_list}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What a script works with. ``number`` counts requests to this receiver from 1."""

    request: Received
    number: int
    writer: asyncio.StreamWriter
    over: asyncio.Event

    async def send(self, data: bytes) -> None:
        """Write and wait until the client takes it."""
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Close politely."""
        self.writer.close()

    def reset(self) -> None:
        """Close with RST, throwing away what was not sent."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def answer(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, close: bool = False
) -> Script:
    """Answer properly."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Connection: close"] if close else []
    data = "\r\n".join([*lines, "", ""]).encode() + body

    async def run(exchange: Exchange) -> None:
        await exchange.send(data)
        if close:
            exchange.close()

    return run


def raw(*pieces: bytes, pause: float = 0.0, then: str = "close") -> Script:
    """Write these bytes, ``pause`` seconds apart, then ``close``, ``reset`` or ``hang``."""

    async def run(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(pause)
        if then == "hang":
            await exchange.over.wait()
        elif then == "reset":
            exchange.reset()
        else:
            exchange.close()

    return run


def endless(head: bytes, piece: bytes, *, pause: float = 0.0) -> Script:
    """Write ``head`` once and ``piece`` until the client goes away."""

    async def run(exchange: Exchange) -> None:
        await exchange.send(head)
        while True:
            await exchange.send(piece)
            await asyncio.sleep(pause)

    return run


def in_turn(*scripts: Script) -> Script:
    """Run one script for each request, the last one for all that follow."""

    async def run(exchange: Exchange) -> None:
        await scripts[min(exchange.number, len(scripts)) - 1](exchange)

    return run


@dataclass(slots=True, kw_only=True)
class Receiver:
    """Counts and records; ``script`` may be changed at any time."""

    script: Script
    port: int = 0
    scheme: str = "http"
    requests: list[Received] = field(default_factory=list)
    #: accepted by TCP; with TLS, those whose handshake was completed
    connections: int = 0
    at_work: int = 0
    most_at_work: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Give a URL of this receiver."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        try:
            while not writer.is_closing():
                request = await _read(reader, writer, connection)
                self.requests.append(request)
                exchange = Exchange(
                    request=request, number=len(self.requests), writer=writer, over=self.over
                )
                self.at_work += 1
                self.most_at_work = max(self.most_at_work, self.at_work)
                try:
                    await self.script(exchange)
                finally:
                    self.at_work -= 1
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            # The client went away, which is what many tests are about.
            return
        finally:
            writer.transport.abort()

    async def stop(self) -> None:
        """End every connection."""
        self.over.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    length = next(int(value) for name, value in headers if name.lower() == "content-length")
    peer = writer.get_extra_info("ssl_object")
    return Received(
        connection=connection,
        target=request_line.split(" ")[1],
        header_list=headers,
        body=await reader.readexactly(length),
        client_certificate=bool(peer is not None and peer.getpeercert()),
    )


@asynccontextmanager
async def receiving(
    script: Script | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver on an ephemeral port of loopback; it answers 200 unless told otherwise."""
    receiver = Receiver(script=script or answer(200, b"ok"))
    receiver.scheme = "https" if tls else "http"
    server = await asyncio.start_server(receiver._accept, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.stop()
        with suppress(ConnectionError, ssl.SSLError):
            await server.wait_closed()
