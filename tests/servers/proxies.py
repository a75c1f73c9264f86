"""A proxy on loopback, HTTP CONNECT or SOCKS5, that records what it is asked and misbehaves.

It looks no names up: ``routes`` says where a port that it is asked for really leads, so a test
can name targets that nothing but this proxy reaches.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["http", "socks5", "socks5h"]

GRANTED = {
    "http": b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy.test\r\n\r\n",
    "socks5": b"\x05\x00\x00\x03\x04test\x04\x38",
}


@dataclass(slots=True, kw_only=True)
class RecordingProxy:
    """One listening port. Everything may be changed at any time; new connections see it."""

    kind: Kind
    #: the port that is asked for -> where it leads
    routes: Mapping[int, int]
    user: str = ""
    password: str = ""
    #: bytes that are sent in place of a yes
    answer: bytes | None = None
    #: what follows an ``answer``, or the request where there is none: tunnel, close or hang
    then: Literal["tunnel", "close", "hang"] = "tunnel"
    #: the answer comes byte by byte
    drips: bool = False
    #: the answer waits for the first bytes of the target, and comes in one piece with them
    joins: bool = False
    port: int = 0
    connections: int = 0
    #: ``host:port`` as it was asked for, in this order
    asked: list[str] = field(default_factory=list)
    #: what clients said through tunnels, and what they heard
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    #: what went wrong in the proxy itself, such as a request that is not as it must be
    errors: list[BaseException] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def place(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its URL without user and password."""
        return f"{self.kind}://{self.place}"

    @property
    def full_url(self) -> str:
        """Its URL with user and password."""
        return f"{self.kind}://{self.user}:{self.password}@{self.place}"

    def no(self, answer: bytes, then: Literal["close", "hang"] = "close") -> None:
        """Answer this from now on."""
        self.answer, self.then = answer, then

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._take(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        self.errors += [error] if error is not None else []

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target = await (self._connect if self.kind == "http" else self._socks)(reader, writer)
            if target is not None:
                await self._serve(target, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client went away, which is what many tests are about.
            pass
        finally:
            writer.transport.abort()

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *headers = head.strip().split("\r\n")
        method, target, version = line.split(" ")
        assert (method, version, f"Host: {target}" in headers) == ("CONNECT", "HTTP/1.1", True)
        self.asked.append(target)
        if self.user:
            pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if f"Proxy-Authorization: Basic {pair}" not in headers:
                writer.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="test"\r\nContent-Length: 4\r\n\r\nno\r\n'
                )
                await writer.drain()
                return None
        return target

    async def _socks(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str | None:
        version, count = await reader.readexactly(2)
        assert version == 5
        methods = await reader.readexactly(count)
        wanted = 2 if self.user else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            await writer.drain()
            return None
        writer.write(bytes([5, wanted]))
        if self.user and not await self._known(reader, writer):
            return None
        assert await reader.readexactly(3) == b"\x05\x01\x00"
        (kind,) = await reader.readexactly(1)
        if kind == 3:
            (length,) = await reader.readexactly(1)
            host = (await reader.readexactly(length)).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(size))
        port = int.from_bytes(await reader.readexactly(2), "big")
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.asked.append(target)
        return target

    async def _known(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        fields = []
        assert await reader.readexactly(1) == b"\x01"
        for _ in range(2):
            (length,) = await reader.readexactly(1)
            fields.append((await reader.readexactly(length)).decode())
        good = fields == [self.user, self.password]
        writer.write(b"\x01\x00" if good else b"\x01\x01")
        await writer.drain()
        return good

    async def _serve(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.answer is not None:
            await self._say(self.answer, writer)
        if self.then == "hang":
            await reader.read()
        if self.then != "tunnel":
            return
        leads_to = self.routes.get(int(target.rpartition(":")[2]))
        if leads_to is None:
            no = b"HTTP/1.1 502 Bad Gateway\r\n\r\n" if self.kind == "http" else b"\x05\x04\x00"
            await self._say(no, writer)
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", leads_to)
        try:
            granted = GRANTED["http" if self.kind == "http" else "socks5"]
            if self.joins:
                granted += await up_reader.read(65536)
            if self.answer is None:
                await self._say(granted, writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(reader, up_writer, self.up))
                group.create_task(_pass(up_reader, writer, self.down))
        except* ConnectionError:
            # One side is gone, and so is the tunnel.
            pass
        finally:
            up_writer.transport.abort()

    async def _say(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        size = 1 if self.drips else len(data)
        for start in range(0, len(data), max(size, 1)):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(0.001 if self.drips else 0)

    async def stop(self) -> None:
        """End every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray
) -> None:
    while data := await reader.read(65536):
        record += data
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()


@asynccontextmanager
async def recording_proxy(
    kind: Kind, routes: Mapping[int, int] | None = None, *, user: str = "", password: str = ""
) -> AsyncIterator[RecordingProxy]:
    """Run a proxy for the length of a ``with``; with a ``user``, for that one only."""
    proxy = RecordingProxy(kind=kind, routes=routes or {}, user=user, password=password)
    server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
        await server.wait_closed()
    for error in proxy.errors:
        raise error
