"""IMAP commands as bytes: lines, and the literals that they announce."""

from __future__ import annotations

import re
from typing import Final

from mailbridge.sandbox.wire import HEAD, LineTooLong, Wire

#: bytes of a command line without its literals; what Exchange takes
LINE_LIMIT: Final = 10_240
#: bytes of a literal; the largest message that a mailbox takes
LITERAL_LIMIT: Final = 150 * 1024 * 1024
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


class Answered(Exception):  # noqa: N818 - an end, not an error
    """The command has been answered already."""


def tag_of(line: bytes) -> str:
    """Return the tag of a command line, ``*`` when there is none to see."""
    tag = line[:HEAD].partition(b" ")[0].decode("latin-1")
    return tag if tag.isalnum() else "*"


async def read_line(wire: Wire, limit: int = LINE_LIMIT) -> bytes:
    """Return the next line without its end; ``ProtocolError`` when it is over ``limit`` bytes."""
    try:
        return await wire.line(limit)
    except LineTooLong as exc:
        raise ProtocolError("Command Error. 10", tag=tag_of(exc.start)) from None


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
        rest = await read_line(wire, LINE_LIMIT - min(length, LINE_LIMIT - 1))
        length += len(rest)
        parts.append(rest)
    return parts
