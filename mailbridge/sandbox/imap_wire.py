"""An IMAP connection as bytes: lines and literals in, answers out, all of it bounded."""

from __future__ import annotations

import asyncio
import re
from typing import Final

#: bytes of a command line without its literals; what Exchange takes
LINE_LIMIT: Final = 10_240
#: bytes of a literal; the largest message that a mailbox takes
LITERAL_LIMIT: Final = 150 * 1024 * 1024
_CHUNK: Final = 65_536
_TAG_LIMIT: Final = 64
_LITERAL: Final = re.compile(rb"\{(\d{1,10})(\+?)\}\Z")


class ProtocolError(Exception):
    """The client broke the grammar; ``text`` is what follows BAD.

    ``tag`` is set when no command came of it to ask. ``fatal`` when the stream cannot be
    understood any more and the server must hang up.
    """

    def __init__(
        self, text: str = "Command Argument Error. 12", *, tag: str = "*", fatal: bool = False
    ) -> None:
        super().__init__(text)
        self.text = text
        self.tag = tag
        self.fatal = fatal


class Refused(Exception):  # noqa: N818 - an answer of the server, not a fault of it
    """The command is understood and refused; ``text`` is what follows NO."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Disconnected(Exception):  # noqa: N818 - an end, not an error
    """The other side is gone."""


def tag_of(line: bytes) -> str:
    """Return the tag of a command line, ``*`` when there is none to see."""
    tag = line[:_TAG_LIMIT].partition(b" ")[0].decode("latin-1")
    return tag if tag.isalnum() else "*"


class Wire:
    """One connection: reads lines and literals, writes answers, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        #: bytes per second; ``None`` is as fast as it goes
        self.pace: float | None = None

    async def _fill(self) -> None:
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as exc:
            raise Disconnected from exc
        if not data:
            raise Disconnected
        self._buffer += data

    async def line(self, limit: int = LINE_LIMIT) -> bytes:
        """Return the next line without its end. One over ``limit`` is read and thrown away."""
        searched, dropped = 0, b""
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) > limit:
                # A stranger must not fill the memory with a line that never ends.
                dropped = dropped or bytes(self._buffer[:_TAG_LIMIT])
                self._buffer.clear()
            searched = len(self._buffer)
            await self._fill()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        if dropped or len(line) > limit:
            raise ProtocolError("Command Error. 10", tag=tag_of(dropped or line))
        return line

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

    def close(self) -> None:
        """End the connection after everything written has gone out."""
        self._writer.close()

    def abort(self) -> None:
        """End the connection at once; what was written may be lost."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the connection is closed, however it ended."""
        try:
            await self._writer.wait_closed()
        except OSError:
            # It was reset: closed all the same.
            return


async def read_parts(wire: Wire, first: bytes, *, limit: int) -> list[bytes]:
    """Read the literals (of up to ``limit`` bytes) of a command whose first line is given.

    Returns line, literal, line, literal, …, line. A literal without ``+`` is asked for.
    """
    parts = [first]
    length = len(first)
    while match := _LITERAL.search(parts[-1]):
        size = int(match[1])
        if size > limit:
            # A client that does not wait sends it all the same, and it would be read as commands.
            raise ProtocolError("Command Argument Error. 11", fatal=bool(match[2]))
        if not match[2]:
            await wire.send(b"+ Ready for additional command text.\r\n")
        parts[-1] = parts[-1][: match.start()]
        parts.append(await wire.exactly(size))
        rest = await wire.line(LINE_LIMIT - min(length, LINE_LIMIT - 1))
        length += len(rest)
        parts.append(rest)
    return parts
