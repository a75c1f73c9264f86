"""A TCP proxy between a client and a server that breaks the network on demand.

It works on bytes, below TLS. ``FaultProxy.faults`` is replaced at any time and counts at once
for connections that are already open; what it cannot do are lost packets and half-closed
kernel states.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

CHUNK = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with the network just now; the default is nothing."""

    #: seconds that every byte is late, in each direction; does not limit the throughput
    latency: float = 0.0
    #: up to so many more seconds, drawn for each chunk
    jitter: float = 0.0
    #: bytes a second in each direction; 0 is without limit
    rate: float = 0.0
    #: forward in pieces of so many bytes; 0 forwards what came
    slice_bytes: int = 0
    #: seconds between two pieces
    slice_gap: float = 0.0
    #: black hole: connections stay open and nothing passes, in this direction
    hole: Literal["", "both", "down", "up"] = ""
    #: what a new connection meets: reset, an orderly close, or silence
    refuse: Literal["", "reset", "close", "hang"] = ""
    #: a connection is reset after so many bytes from the server; 0 never
    cut_after: int = 0
    #: further connections are reset; 0 is without limit
    max_connections: int = 0


class FaultProxy:
    """One listening port in front of one server."""

    def __init__(self, host: str, port: int, *, rng: random.Random | None = None) -> None:
        self._faults = Faults()
        self._changed = asyncio.Event()
        self.host = "127.0.0.1"
        self.port = 0
        #: connections taken since the start, bytes passed on from the server
        self.connections = 0
        self.bytes_down = 0
        self._upstream = (host, port)
        self._rng = rng or random.Random(0)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def faults(self) -> Faults:
        """What is wrong just now."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Listen; after ``down`` on the same port as before."""
        self._server = await asyncio.start_server(self._take, self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections as a dead host does, and reset those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.kill_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, **changes: Any) -> None:
        """Change some faults, keep the others."""
        self.faults = replace(self.faults, **changes)

    def heal(self) -> None:
        """Take all faults away; connections that are already cut stay so."""
        self.faults = Faults()

    @property
    def active(self) -> int:
        """How many client connections are open."""
        return len(self._tasks)

    def kill_all(self, *, reset: bool = True) -> None:
        """End every open connection, by RST or by an orderly FIN."""
        for writer in list(self._open):
            _end(writer, reset=reset)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = self.faults
        if faults.refuse == "hang":
            await _swallow(reader)
            return
        crowded = faults.max_connections and len(self._tasks) > faults.max_connections
        if faults.refuse or crowded:
            _end(writer, reset=faults.refuse != "close")
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            _end(writer, reset=True)
            return
        self._open.add(up_writer)
        try:
            await self._join(reader, writer, up_reader, up_writer)
        finally:
            self._open.discard(up_writer)
            up_writer.close()

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass bytes both ways until both directions are at their end or one of them breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, up_writer, down=False))
                group.create_task(self._pass(up_reader, writer, down=True))
        except* OSError:
            # The end of one side is all that the other can be told, and it is told by a reset.
            _end(writer, reset=True)
            _end(up_writer, reset=True)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool
    ) -> None:
        """Carry one direction. Reading runs ahead of writing, so that latency is not a limit."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(reader, queue))
            sent = 0
            while data := await self._next(queue, down=down):
                for piece in self._pieces(data):
                    allowed = self._allowed(sent, len(piece)) if down else len(piece)
                    writer.write(piece[:allowed])
                    await writer.drain()
                    sent += allowed
                    self.bytes_down += allowed if down else 0
                    if allowed < len(piece):
                        raise ConnectionResetError("cut")
                    await self._pause(len(piece))
            if writer.can_write_eof():
                writer.write_eof()

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"-"
        while data:
            data = await reader.read(CHUNK)
            late = self.faults.latency + self._rng.uniform(0, self.faults.jitter)
            await queue.put((asyncio.get_running_loop().time() + late, data))

    async def _next(self, queue: asyncio.Queue[tuple[float, bytes]], *, down: bool) -> bytes:
        due, data = await queue.get()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        while self.faults.hole in {"both", "down" if down else "up"}:
            await self._changed.wait()
        return data

    def _pieces(self, data: bytes) -> list[bytes]:
        faults = self.faults
        size = faults.slice_bytes or (max(1, int(faults.rate * 0.02)) if faults.rate else len(data))
        return [data[start : start + size] for start in range(0, len(data), size)]

    def _allowed(self, sent: int, wanted: int) -> int:
        limit = self.faults.cut_after
        return min(wanted, max(0, limit - sent)) if limit else wanted

    async def _pause(self, size: int) -> None:
        faults = self.faults
        pause = faults.slice_gap or (size / faults.rate if faults.rate else 0.0)
        if pause:
            await asyncio.sleep(pause)


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Read and forget until the client gives up; a reset is as good an end as any."""
    try:
        while await reader.read(CHUNK):
            pass
    except ConnectionError:
        return


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if not reset:
        writer.close()
        return
    # SO_LINGER with zero seconds turns the close into a RST. uvloop hands out a view of the
    # socket which has setsockopt as well; a socket that is gone already needs no reset.
    own = writer.get_extra_info("socket")
    if own is not None and not writer.transport.is_closing():
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(host: str, port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of ``host:port`` for the length of a ``with``."""
    proxy = FaultProxy(host, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.down()
