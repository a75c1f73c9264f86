"""What a POP3 mailbox lists, what of it is new, and what a header tells: pure functions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from mailbridge.model import Checkpoint, Fingerprint
from mailbridge.parse.headers import date as read_date
from mailbridge.sources import imap_plan
from mailbridge.sources.imap_plan import STRIKES, bare_id, wanted_again

#: characters of a UIDL that are kept; RFC 1939 allows 70. A longer one is known by its digest
LONGEST_UIDL: Final = 500
#: bytes of a mail that are searched for its topmost Received field
HEAD: Final = 64 * 1024
#: how far the Received field may be from the INTERNALDATE of the same mail under IMAP
IMAP_APART: Final = timedelta(minutes=10)

_FIELD: Final = re.compile(
    rb"^(received|date|message-id)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*){0,63})",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in a mailbox. ``numbers`` hold for one session, ``sizes`` are estimates.

    One UIDL may stand for several identical copies (RFC 1939, section 7); the first is the
    oldest. ``complete`` says that both lists tell of the same messages.
    """

    numbers: Mapping[str, tuple[int, ...]]
    sizes: Mapping[int, int]
    complete: bool

    def first(self, uidl: str) -> int:
        """Return the message number of the oldest copy."""
        return self.numbers[uidl][0]

    def copies(self, uidl: str) -> tuple[int, ...]:
        """Return the numbers of all copies; one of another size is none, whatever its UIDL."""
        numbers = self.numbers[uidl]
        size = self.sizes.get(numbers[0])
        return tuple(number for number in numbers if self.sizes.get(number) == size)

    def names(self, numbers: Iterable[int]) -> list[str]:
        """Return the UIDLs of these message numbers."""
        wanted = set(numbers)
        return [uidl for uidl, some in self.numbers.items() if not wanted.isdisjoint(some)]


def read_listing(uidls: bytes, sizes: bytes) -> Listing:
    """Read the answers to UIDL and LIST; ``ValueError`` for what is neither.

    Of a UIDL line only the token after the number counts: the number is another one in the
    next session.
    """
    numbers: dict[str, list[int]] = {}
    told = 0
    for line in uidls.splitlines():
        number, uidl = line.split()[:2]
        numbers.setdefault(storable_uidl(uidl), []).append(int(number))
        told += 1
    pairs = [line.split()[:2] for line in sizes.splitlines()]
    return Listing(
        numbers={uidl: tuple(sorted(some)) for uidl, some in numbers.items()},
        sizes={int(number): int(size) for number, size in pairs},
        complete=told == len(pairs),
    )


def storable_uidl(token: bytes) -> str:
    """Return a UIDL as the store keeps it: bounded, without what no database takes."""
    text = token.decode("ascii", "backslashreplace").replace("\x00", "\\x00")
    if len(text) <= LONGEST_UIDL:
        return text
    return "sha256:" + hashlib.sha256(token).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the header of a mail tells: when it came (in the server's zone), its Message-ID.

    ``stamped_at`` is the same by the server's word alone, without what the sender's Date claims.
    """

    received_at: datetime | None
    message_id: str
    stamped_at: datetime | None = field(default=None, compare=False)


def read_head(raw: bytes) -> Head:
    """Read the topmost Received field (else Date) and the Message-ID, without parsing the mail."""
    found: dict[bytes, bytes] = {}
    for match in _FIELD.finditer(_header(raw)):
        found.setdefault(match[1].lower(), match[2])
    arrival = _moment(found.get(b"received", b"").rpartition(b";")[2])
    identity = found.get(b"message-id", b"").decode("utf-8", "replace")
    return Head(
        received_at=arrival or _moment(found.get(b"date", b"")),
        message_id=bare_id(identity),
        stamped_at=arrival,
    )


def received_at(raw: bytes) -> datetime | None:
    """Return when the mail came to this server: the date of its topmost Received field, in UTC."""
    head, start = raw[:HEAD], 0
    if head[:9].lower() != b"received:":
        head = _header(raw)
        start = head.lower().find(b"\nreceived:") + 1
        if not start:
            return None
    match = _FIELD.match(head, start)
    arrival = None if match is None else _moment(match[2].rpartition(b";")[2])
    return None if arrival is None else arrival.astimezone(UTC)


def _header(raw: bytes) -> bytes:
    """Return what stands before the first empty line, whatever ends its lines; ``HEAD`` at most."""
    if raw.startswith((b"\r\n", b"\n")):
        return b""
    ends = (raw.find(blank, 0, HEAD) for blank in (b"\n\n", b"\n\r\n"))
    return raw[: min((end for end in ends if end >= 0), default=HEAD)]


def _moment(text: bytes) -> datetime | None:
    return read_date(" ".join(text.decode("latin-1").split()))


def came_since(head: Head, since: date) -> bool:
    """Whether a mail came on ``since`` or later; one without a date did.

    As IMAP's SINCE, by the date as the server wrote it, whatever its zone.
    """
    return head.received_at is None or head.received_at.date() >= since


@dataclass(slots=True)
class Suspects:
    """Which messages were under way when a connection was lost; outlives the connections.

    They are asked for by themselves from then on. One that costs the connection again and
    again becomes a gap, so that it does not stop those behind it.
    """

    losses: dict[str, int] = field(default_factory=dict)

    def lost(self, uidls: Iterable[str], *, surely: bool = False) -> None:
        """Remember a loss; ``surely`` if the one message in it must be why."""
        for uidl in uidls:
            self.losses[uidl] = STRIKES if surely else self.losses.get(uidl, 0) + 1

    def cleared(self, uidl: str) -> None:
        """Forget one that was fetched, or became a gap."""
        self.losses.pop(uidl, None)

    def forget_all_but(self, listed: Container[str]) -> None:
        """Forget those that the server no longer lists."""
        self.losses = {uidl: count for uidl, count in self.losses.items() if uidl in listed}

    def hopeless(self, uidl: str) -> bool:
        """Whether it has cost the connection often enough."""
        return self.losses.get(uidl, 0) >= STRIKES


@dataclass(slots=True)
class Recognition:
    """Finds stored mail again that now has another UIDL, or had a UID while IMAP was used.

    By Message-ID, with dates no further ``apart`` than that; each stored message is found at
    most once. The date that IMAP stores is the server's own, not that of the Received field.
    """

    fingerprints: Iterable[Fingerprint]
    apart: timedelta
    _by_id: dict[str, list[Fingerprint]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Index the fingerprints; a message that was renumbered before has several."""
        for one in {one.id: one for one in self.fingerprints}.values():
            if name := bare_id(one.message_id):
                self._by_id.setdefault(name, []).append(one)

    def find(self, head: Head) -> str | None:
        """Return the id of the stored message that this one is."""
        for one in self._by_id.get(head.message_id, ()):
            if self._fits(one.received_at, head.received_at):
                self._by_id[head.message_id].remove(one)
                return one.id
        return None

    def _fits(self, stored: datetime | None, found: datetime | None) -> bool:
        return stored is None or found is None or abs(stored - found) <= self.apart


def wanted(head: Head, checkpoint: Checkpoint) -> bool:
    """Whether a message that nothing stored matches is to be delivered after a renumbering.

    A sender's Date makes no mail old: what the server has not stamped is delivered.
    """
    return wanted_again(
        imap_plan.Head(uid=0, message_id=head.message_id, received_at=head.stamped_at, size=0),
        checkpoint,
    )
