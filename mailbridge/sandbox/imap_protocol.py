"""IMAP's grammar on the server's side (RFC 3501 section 9): lines, literals, tokens, names."""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

#: bytes of a command line without its literals; what Exchange takes
LINE_LIMIT: Final = 10_240
#: bytes of a literal; the largest message that a mailbox takes
LITERAL_LIMIT: Final = 150 * 1024 * 1024
_CHUNK: Final = 65_536
_TAG_LIMIT: Final = 64
_LITERAL: Final = re.compile(rb"\{(\d{1,10})(\+?)\}\Z")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_./-]+")
_ATOM_END: Final = frozenset(b' ()"\r\n')
_MONTHS: Final = ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()
_MAX_DEPTH: Final = 32


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A parsed command. ``name`` is in upper case and includes a leading ``UID``.

    Of the arguments an atom is ``str``, a quoted string or literal ``bytes``, a parenthesis a
    list of arguments.
    """

    tag: str
    name: str
    args: tuple[object, ...]


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


class _Tokens:
    """Builds nested arguments out of the parts of one command."""

    def __init__(self) -> None:
        self.stack: list[list[object]] = [[]]

    def add(self, value: object) -> None:
        self.stack[-1].append(value)

    def line(self, text: bytes) -> None:
        """Tokenise one stretch of text between literals."""
        position, end = 0, len(text)
        while position < end:
            byte = text[position]
            if byte == 0x20:  # noqa: PLR2004 - blank
                position += 1
            elif byte == 0x28:  # noqa: PLR2004 - opening parenthesis
                self._open()
                position += 1
            elif byte == 0x29:  # noqa: PLR2004 - closing parenthesis
                self._close()
                position += 1
            elif byte == 0x22:  # noqa: PLR2004 - double quote
                position = self._quoted(text, position + 1)
            else:
                position = self._atom(text, position)

    def _open(self) -> None:
        if len(self.stack) > _MAX_DEPTH:
            raise ProtocolError
        inner: list[object] = []
        self.add(inner)
        self.stack.append(inner)

    def _close(self) -> None:
        if len(self.stack) == 1:
            raise ProtocolError
        self.stack.pop()

    def _quoted(self, text: bytes, position: int) -> int:
        value = bytearray()
        while position < len(text):
            byte = text[position]
            if byte == 0x22:  # noqa: PLR2004 - double quote
                self.add(bytes(value))
                return position + 1
            if byte == 0x5C:  # noqa: PLR2004 - backslash
                position += 1
                if position == len(text):
                    break
                byte = text[position]
            value.append(byte)
            position += 1
        raise ProtocolError

    def _atom(self, text: bytes, start: int) -> int:
        position = start
        while position < len(text) and text[position] not in _ATOM_END:
            if text[position] == 0x5B:  # noqa: PLR2004 - bracket: BODY[HEADER.FIELDS (A B)]<0.9>
                closing = text.find(b"]", position)
                if closing < 0:
                    raise ProtocolError
                position = closing
            position += 1
        self.add(text[start:position].decode("latin-1"))
        return position


def parse(parts: list[bytes]) -> Command:
    """Parse a command; raises ``ProtocolError`` when the grammar is broken."""
    tokens = _Tokens()
    for index, part in enumerate(parts):
        if index % 2:
            tokens.add(part)
        else:
            tokens.line(part)
    if len(tokens.stack) != 1:
        raise ProtocolError
    words = tokens.stack[0]
    if len(words) < 2 or not isinstance(words[0], str) or not isinstance(words[1], str):  # noqa: PLR2004 - tag and name
        raise ProtocolError("Command Error. 10")
    name, args = words[1].upper(), words[2:]
    if name == "UID" and args and isinstance(args[0], str):
        name, args = f"UID {args[0].upper()}", args[1:]
    return Command(tag=words[0], name=name, args=tuple(args))


def text(arg: object) -> str:
    """Return an atom, quoted string or literal as text."""
    if isinstance(arg, str):
        return arg
    if isinstance(arg, bytes):
        return arg.decode("latin-1")
    raise ProtocolError


def words(arg: object) -> list[str]:
    """Return a parenthesis of plain words, or a single word as a list."""
    if isinstance(arg, list):
        return [text(item) for item in arg]
    return [text(arg)]


def decode_name(arg: object) -> str:
    """Return a folder name as text; it comes in modified UTF-7 (RFC 3501 section 5.1.3)."""
    encoded = text(arg)
    out: list[str] = []
    while encoded:
        plain, ampersand, encoded = encoded.partition("&")
        out.append(plain)
        if not ampersand:
            break
        shifted, minus, encoded = encoded.partition("-")
        if not minus:
            raise ProtocolError
        out.append(_from_base64(shifted) if shifted else "&")
    return "".join(out)


def _from_base64(shifted: str) -> str:
    padded = shifted.replace(",", "/") + "=" * (-len(shifted) % 4)
    try:
        return base64.b64decode(padded, validate=True).decode("utf-16-be")
    except ValueError as exc:
        raise ProtocolError from exc


def encode_name(name: str) -> str:
    """Return a folder name in modified UTF-7."""
    out: list[str] = []
    for run in re.findall(r"[ -~]+|[^ -~]+", name):
        if " " <= run[0] <= "~":
            out.append(run.replace("&", "&-"))
        else:
            shifted = base64.b64encode(run.encode("utf-16-be")).decode("ascii")
            out.append("&" + shifted.rstrip("=").replace("/", ",") + "-")
    return "".join(out)


def wire_name(name: str) -> str:
    """Return a folder name as Exchange writes it: bare when it is plain, else quoted."""
    encoded = encode_name(name)
    return encoded if _PLAIN_NAME.fullmatch(encoded) else quoted(encoded)


def quoted(value: str) -> str:
    """Return a quoted string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def internal_date(moment: datetime) -> str:
    """Return ``"21-Nov-2026 10:00:12 +0000"``, quotes included."""
    utc = moment.astimezone(UTC)
    return f'"{utc.day:02d}-{_MONTHS[utc.month - 1]}-{utc:%Y %H:%M:%S} +0000"'


def parse_internal_date(value: str) -> datetime:
    """Parse APPEND's date-time."""
    match = re.fullmatch(
        r" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d:\d\d:\d\d) ([+-]\d{4})", value.strip()
    )
    if match is None or match[2].title() not in _MONTHS:
        raise ProtocolError
    month = _MONTHS.index(match[2].title()) + 1
    stamp = f"{match[3]}-{month:02d}-{int(match[1]):02d}T{match[4]}{match[5]}"
    try:
        return datetime.fromisoformat(stamp)
    except ValueError as exc:
        raise ProtocolError from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberSet:
    """A sequence set: ranges of numbers, ``None`` standing for ``*``."""

    ranges: tuple[tuple[int | None, int | None], ...]

    @classmethod
    def parse(cls, value: str) -> NumberSet:
        """Parse ``1,3:5,9:*``."""
        ranges: list[tuple[int | None, int | None]] = []
        for piece in value.split(","):
            low, colon, high = piece.partition(":")
            first = _number(low)
            ranges.append((first, _number(high) if colon else first))
        return cls(ranges=tuple(ranges))

    def spans(self, last: int) -> list[tuple[int, int]]:
        """Return ascending pairs with ``*`` replaced by ``last``, the largest number in use."""
        pairs: list[tuple[int, int]] = []
        for low, high in self.ranges:
            first = last if low is None else low
            second = last if high is None else high
            pairs.append((min(first, second), max(first, second)))
        return pairs


def _number(value: str) -> int | None:
    if value == "*":
        return None
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 1 << 32:
        raise ProtocolError("Command Argument Error. 11")
    return int(value)
