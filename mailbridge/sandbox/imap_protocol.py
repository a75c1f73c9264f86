"""IMAP's grammar on the server's side (RFC 3501 section 9): tokens, names, dates, sets."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mailbridge.sandbox.imap_wire import ProtocolError

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_./-]+")
_ATOM_END: Final = frozenset(b' ()"\r\n')
MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A parsed command. ``name`` is in upper case and includes a leading ``UID``.

    Of the arguments an atom is ``str``, a quoted string or literal ``bytes``, a parenthesis a
    list of arguments.
    """

    tag: str
    name: str
    args: tuple[object, ...]


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
    return f'"{utc.day:02d}-{MONTHS[utc.month - 1]}-{utc:%Y %H:%M:%S} +0000"'


def parse_internal_date(value: str) -> datetime:
    """Parse APPEND's date-time."""
    match = re.fullmatch(
        r" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d:\d\d:\d\d) ([+-]\d{4})", value.strip()
    )
    if match is None or match[2].title() not in MONTHS:
        raise ProtocolError
    month = MONTHS.index(match[2].title()) + 1
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
