"""Cuts what an IMAP server says without being asked into responses, and reads those that matter.

Pure. For conversations in the event loop, where short answers come in pieces; what brings mail
is read by imaplib in a worker thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mailbridge.sources.imap_wire import LONGEST_LINE

_LITERAL = re.compile(rb"\{(\d{1,9})\+?\}\r?\n\Z")
#: where a line ends in ``{n}``, n and the braces take no more than this
_LITERAL_LENGTH: Final = 16
#: free text may end in anything; it has no literals (RFC 3501, 9: resp-text)
_TEXT = re.compile(rb"(?:\* (?:OK|NO|BAD|BYE|PREAUTH)\b|\+|[^*\s]+ (?:OK|NO|BAD)\b)", re.IGNORECASE)
_RESPONSE = re.compile(rb"\* (?:(\d+) )?([A-Za-z][A-Za-z0-9.\-]*)(?: (.*))?\Z", re.DOTALL)
_UIDVALIDITY = re.compile(rb"\A\[UIDVALIDITY (\d+)\]", re.IGNORECASE)
_NUMBERS = re.compile(rb"[\d ]*\Z")


class TooLong(ValueError):  # noqa: N818 - named for what it is
    """A response is larger than any honest one."""


class Responses:
    """Bytes in, whole responses out: lines without their ends, literals where they stand."""

    def __init__(self) -> None:
        self._held = bytearray()
        #: where the search for the next line end goes on, and where that line began
        self._scan = 0
        self._line = 0

    @property
    def rest(self) -> bytes:
        """The beginning of a response whose end has not come."""
        return bytes(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the responses that are complete now. Raises ``TooLong``."""
        held = self._held
        held += data
        found = []
        while (end := held.find(b"\n", self._scan)) >= 0:
            literal = _LITERAL.search(held, max(self._line, end - _LITERAL_LENGTH), end + 1)
            if literal and not _TEXT.match(held):
                self._scan = self._line = end + 1 + int(literal[1])
                if self._scan > LONGEST_LINE:
                    raise TooLong
                continue
            found.append(bytes(held[:end]).removesuffix(b"\r"))
            del held[: end + 1]
            self._scan = self._line = 0
        self._scan = max(self._scan, len(held))
        if len(held) > LONGEST_LINE:
            raise TooLong
        return found


@dataclass(frozen=True, slots=True)
class Untagged:
    """``* [number] NAME [text]``; the name in capitals, ``number`` -1 where there is none."""

    name: str
    number: int
    text: bytes

    @property
    def is_change(self) -> bool:
        """Whether the folder changed: mail came or went, or flags were set.

        Any number at the beginning counts, so that no server's own way is overheard.
        """
        return self.number >= 0 or self.name == "VANISHED"

    @property
    def uidvalidity(self) -> int | None:
        """The folder's number, where the response tells one."""
        match = _UIDVALIDITY.match(self.text)
        return int(match[1]) if match else None


def untagged(response: bytes) -> Untagged | None:
    """Return an untagged response; ``None`` for what is none."""
    match = _RESPONSE.match(response)
    if match is None:
        return None
    number = int(match[1]) if match[1] is not None else -1
    return Untagged(match[2].decode("ascii").upper(), number, match[3] or b"")


def numbers(text: bytes) -> list[int] | None:
    """Return the numbers of a SEARCH response; ``None`` for anything else.

    What a server with CONDSTORE adds, ``(MODSEQ n)``, is left aside (RFC 7162, 3.1.5).
    """
    listed = text.partition(b"(")[0]
    return [int(one) for one in listed.split()] if _NUMBERS.match(listed) else None
