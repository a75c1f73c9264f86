"""What one POP3 session sees of the inbox: a snapshot, and what it has marked to be deleted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from mailbridge.sandbox.mailstore import Mailbox, Message
from mailbridge.sandbox.rendering import header_of

_LINE_END: Final = re.compile(rb"\r?\n")


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A message of the snapshot; ``number`` counts from 1, the oldest."""

    number: int
    message: Message
    uidl: str
    deleted: bool = False


@dataclass(slots=True, eq=False)
class Maildrop:
    """The inbox as it was at sign-in, in ascending order. Nothing is deleted before ``commit``."""

    box: Mailbox
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def open(cls, box: Mailbox) -> Maildrop:
        """Take the snapshot."""
        entries = [
            Entry(number=number, message=message, uidl=box.uidl(message))
            for number, message in enumerate(box.folder(), start=1)
        ]
        return cls(box, entries)

    @property
    def live(self) -> list[Entry]:
        """What is not marked to be deleted."""
        return [entry for entry in self.entries if not entry.deleted]

    def find(self, number: str) -> Entry | None:
        """Return the entry of that number, unless it does not exist or is marked."""
        if not number.isascii() or not number.isdigit() or not 0 < int(number) <= len(self.entries):
            return None
        entry = self.entries[int(number) - 1]
        return None if entry.deleted else entry

    def here(self, entry: Entry) -> bool:
        """Tell whether the message still exists; other clients may have deleted it."""
        return self.box.folder().messages.get(entry.message.uid) is entry.message

    def reset(self) -> None:
        """Take all marks away."""
        for entry in self.entries:
            entry.deleted = False

    def commit(self) -> int:
        """Delete what is marked, and return how many messages that were."""
        doomed = [entry for entry in self.entries if entry.deleted and self.here(entry)]
        for entry in doomed:
            self.box.folder().remove(entry.message.uid)
        return len(doomed)


def with_crlf(raw: bytes) -> bytes:
    """Return a message with CRLF at the end of every line, the last one included."""
    text = raw if raw.count(b"\n") == raw.count(b"\r\n") else _LINE_END.sub(b"\r\n", raw)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def stuffed(raw: bytes) -> bytes:
    """Return a message as a multi-line answer: dots doubled, a lone dot to end it (RFC 1939, 3)."""
    text = with_crlf(raw)
    first = b"." if text.startswith(b".") else b""
    return first + text.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def octets(raw: bytes) -> int:
    """Return the size of a message with CRLF line ends, without the dots added on the wire."""
    bare = raw.count(b"\n") - raw.count(b"\r\n")
    return len(raw) + bare + (0 if raw.endswith(b"\n") else 2)


def top(raw: bytes, lines: int) -> bytes:
    """Return the header, the empty line and the first ``lines`` lines of the body."""
    end = len(header_of(raw))
    for _ in range(lines):
        newline = raw.find(b"\n", end)
        if newline < 0:
            return raw
        end = newline + 1
    return raw[:end]
