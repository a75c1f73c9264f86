"""A connection of a mail server as bytes: lines in, answers out, all of it bounded."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from typing import Final

_CHUNK: Final = 65_536
#: bytes of an overlong line that are kept, to see what it began with
HEAD: Final = 64
#: seconds that a TLS goodbye may take
GOODBYE: Final = 1.0
#: SO_LINGER that makes close() send RST at once
_RESET: Final = struct.pack("ii", 1, 0)


class Disconnected(Exception):  # noqa: N818 - an end, not an error
    """The other side is gone."""


class LineTooLong(Exception):  # noqa: N818 - what it is, told to the protocol that asked
    """A line was longer than its limit. ``start`` is how it began."""

    def __init__(self, start: bytes) -> None:
        super().__init__("line too long")
        self.start = start


class Wire:
    """One connection: reads lines and counted bytes, writes answers, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        #: bytes per second; ``None`` is as fast as it goes
        self.pace: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether bytes have been received that nobody has asked for yet."""
        return bool(self._buffer)

    async def _fill(self) -> None:
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as exc:
            raise Disconnected from exc
        if not data:
            raise Disconnected
        self._buffer += data

    async def line(self, limit: int) -> bytes:
        """Return the next line without its end; one over ``limit`` bytes is read and dropped."""
        searched, dropped = 0, b""
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) > limit:
                # A stranger must not fill the memory with a line that never ends.
                dropped = dropped or bytes(self._buffer[:HEAD])
                self._buffer.clear()
            searched = len(self._buffer)
            await self._fill()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        if dropped or len(line) > limit:
            raise LineTooLong(dropped or line[:HEAD])
        return line

    async def through(self, end: bytes | re.Pattern[bytes], limit: int) -> bytes:
        """Return the next bytes up to ``end`` and with it, as they came; ``end`` has few bytes.

        What has more than ``limit`` bytes is read up to its end and dropped: ``LineTooLong``.
        """
        pattern = re.compile(re.escape(end)) if isinstance(end, bytes) else end
        searched, dropped = 0, b""
        while (match := pattern.search(self._buffer, searched)) is None:
            if len(self._buffer) > limit:
                dropped = dropped or bytes(self._buffer[:HEAD])
                del self._buffer[:-HEAD]
            searched = max(0, len(self._buffer) - HEAD)
            await self._fill()
        stop = match.end()
        del match  # while it lives, the buffer cannot be cut
        found = bytes(self._buffer[:stop])
        del self._buffer[:stop]
        if dropped or len(found) > limit:
            raise LineTooLong(dropped or found[:HEAD])
        return found

    async def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        while len(self._buffer) < count:
            await self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client reads slower than we write."""
        async with self._lock:
            try:
                if self.pace is None:
                    self._writer.write(data)
                    await self._writer.drain()
                else:
                    await self._trickle(data, self.pace)
            except OSError as exc:
                raise Disconnected from exc

    async def _trickle(self, data: bytes, pace: float) -> None:
        # Twenty pieces a second look like a slow line and cost few wake-ups.
        piece = max(1, int(pace / 20))
        for start in range(0, len(data), piece):
            self._writer.write(data[start : start + piece])
            await self._writer.drain()
            await asyncio.sleep(piece / pace)

    async def send_in_pieces(self, data: bytes, *, size: int, pause: float) -> None:
        """Write ``size`` bytes at a time, each in a TLS record of its own, ``pause`` s apart."""
        async with self._lock:
            try:
                for start in range(0, len(data), size):
                    self._writer.write(data[start : start + size])
                    await self._writer.drain()
                    await asyncio.sleep(pause)
            except OSError as exc:
                raise Disconnected from exc

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on in TLS; ``Disconnected`` when the client cannot or spoke too early."""
        if self._buffer:
            # What came in the clear must never count as if it had come in TLS.
            raise Disconnected
        try:
            await self._writer.start_tls(context)
        except OSError as exc:
            raise Disconnected from exc

    def close(self) -> None:
        """End the connection after everything written has gone out."""
        self._writer.close()

    def abort(self) -> None:
        """End the connection at once, without a TLS goodbye; what was written may be lost."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection with RST."""
        raw = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it may be gone already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

    async def hold(self, seconds: float | None) -> None:
        """Do nothing for so long (``None``: for ever); ``Disconnected`` when the client leaves."""
        # Only a task of its own may be cancelled here: the end itself is waited for again later.
        gone = asyncio.create_task(self._writer.wait_closed())
        gone.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(gone)
        except TimeoutError:
            return
        except OSError as exc:
            raise Disconnected from exc
        raise Disconnected

    async def closed(self) -> None:
        """Wait until the connection is closed, however it ended; help it after a second."""
        try:
            async with asyncio.timeout(GOODBYE):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except OSError:
            # It was reset: closed all the same.
            return
