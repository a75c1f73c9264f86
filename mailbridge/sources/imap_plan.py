"""What to fetch and in which portions: pure functions, no server, no clock of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Final

from mailbridge.model import Checkpoint, Fingerprint, Gap, MessageRef

#: bytes of a command line; Exchange Online refuses those of more than 10 kB
COMMAND_LINE: Final = 8000
#: bytes that a message is taken for when the server would not tell its size
UNKNOWN_SIZE: Final = 256 * 1024
#: how far back before the watch began mail may be dated and still be delivered
GRACE: Final = timedelta(minutes=10)
#: messages, the newest ones, that are looked at for when they came before the first look
RECENT: Final = 200
#: two INTERNALDATEs of one message differ by no more than this
SAME_TIME: Final = timedelta(seconds=2)
FIRST_GAP_WAIT: Final = timedelta(minutes=1)
LONGEST_GAP_WAIT: Final = timedelta(hours=1)

_STAND_IN = re.compile(
    rb"retrieval using the (?:imap4|pop3) protocol failed for the following message"
    rb"|the server (?:could not|couldn.{1,9}t) retrieve the following message"
)
_SENDER = re.compile(
    rb"^from:(?:[^\r\n]|\r?\n[ \t])*microsoft exchange", re.IGNORECASE | re.MULTILINE
)
_RECEIVED = re.compile(rb"^received:", re.IGNORECASE | re.MULTILINE)
_NAMED = re.compile(rb"^message-id:", re.IGNORECASE | re.MULTILINE)
_OF_A_NUMBER = re.compile(r"\b(?:IMAP4|POP3)\b.*\d\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How much is in hand at once. ``bytes`` are sizes as the server estimates them.

    ``list_window`` is how many messages are looked at (sizes, headers) with one command.
    ``in_flight`` is how many batches are asked for at once on one connection; what is ahead
    waits in the kernel's buffers, or at most that many batches in memory.
    """

    messages: int = 100
    bytes: int = 4 * 1024 * 1024
    list_window: int = 500
    in_flight: int = 3


def windows(uids: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Cut ``uids`` into portions of at most ``count`` whose command line stays short enough."""
    window: list[int] = []
    length = 0
    for uid in uids:
        width = len(str(uid)) + 1
        if window and (len(window) >= count or length + width > COMMAND_LINE):
            yield tuple(window)
            window, length = [], 0
        window.append(uid)
        length += width
    if window:
        yield tuple(window)


def batches(
    uids: Sequence[int],
    sizes: Mapping[int, int],
    limits: FetchLimits,
    *,
    caution: Mapping[int, int] | None = None,
) -> Iterator[tuple[int, ...]]:
    """Cut ``uids`` into batches bounded in messages and bytes; an oversized message is alone.

    ``caution`` counts for some UIDs how often a connection was lost while they were fetched:
    they come in batches an eighth as large each time, so that the guilty one is soon alone.
    """
    caution = caution or {}
    batch: list[int] = []
    filled = room = 0
    for uid in uids:
        size = sizes.get(uid, UNKNOWN_SIZE)
        allowed = max(1, limits.messages >> (3 * min(caution.get(uid, 0), 10)))
        if batch and (len(batch) >= min(room, allowed) or filled + size > limits.bytes):
            yield tuple(batch)
            batch, filled = [], 0
        room = min(room, allowed) if batch else allowed
        batch.append(uid)
        filled += size
    if batch:
        yield tuple(batch)


def total(batch: Sequence[int], sizes: Mapping[int, int]) -> int:
    """Return the bytes that a batch is taken for."""
    return sum(sizes.get(uid, UNKNOWN_SIZE) for uid in batch)


def halves(batch: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut a batch that the server refused in two, in order."""
    middle = len(batch) // 2
    return tuple(batch[:middle]), tuple(batch[middle:])


def next_gap(ref: MessageRef, reason: str, now: datetime, before: Gap | None = None) -> Gap:
    """Return the gap for one more failed try: due after 1 minute, doubled each time to 1 hour."""
    tries = before.tries + 1 if before else 1
    wait = min(LONGEST_GAP_WAIT, FIRST_GAP_WAIT * 2 ** min(tries - 1, 10))
    first = before.first_at if before else now
    return Gap(ref=ref, reason=reason, tries=tries, first_at=first, due_at=now + wait)


def is_stand_in(raw: bytes) -> bool:
    """Whether Exchange sent its notice that it cannot convert the message, instead of it.

    A notice is made up on the spot: it comes from "Microsoft Exchange" and, unlike anything
    that came in by mail and quotes those words, has no Received header. All that are on record
    are in English, from German mailboxes, too; one in another language is known by its subject,
    which names the protocol and the number of the message, and by its lack of a Message-ID.
    """
    if b"microsoft exchange" not in raw[:4096].lower():
        return False  # nearly all mail, at a small part of the price of the whole look
    start = raw[:16384]
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    if not _SENDER.search(header) or _RECEIVED.search(header):
        return False
    if _STAND_IN.search(b" ".join(start.lower().split())):
        return True
    return not _NAMED.search(header) and bool(_OF_A_NUMBER.search(_subject(header)))


def _subject(header: bytes) -> str:
    """Return the subject with its encoded words (RFC 2047) decoded, as far as they can be."""
    text = BytesHeaderParser(policy=compat32).parsebytes(header + b"\r\n\r\n").get("Subject", "")
    try:
        return str(make_header(decode_header(str(text))))
    except (HeaderParseError, LookupError, ValueError):
        return str(text)


#: how often a message may be asked for alone, in vain, before it becomes a gap
STRIKES: Final = 3


@dataclass(slots=True)
class Suspects:
    """Which messages were being fetched when a connection was lost; outlives the connections.

    Without it, one message that kills every session would stop all those behind it.
    """

    epoch: int = 0
    #: how often each was part of a fetch that failed
    losses: dict[int, int] = field(default_factory=dict)
    #: a connection was lost, and the messages around that place are not through yet
    _alarmed: bool = False
    _strikes: dict[int, int] = field(default_factory=dict)

    def enter(self, epoch: int) -> None:
        """Forget what belongs to another UIDVALIDITY."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._alarmed = False
            self.losses.clear()
            self._strikes.clear()

    @property
    def wary(self) -> bool:
        """Whether to fetch one thing after the other, so that it is plain what fails."""
        return self._alarmed or bool(self.losses)

    def calm(self) -> None:
        """Note that a stretch of the folder was passed without a loss."""
        self._alarmed = False

    def lost(self, uids: Sequence[int], *, surely: bool = False) -> None:
        """Remember a fetch that failed; ``surely`` if the one message in it must be why."""
        self.doubted(uids)
        if len(uids) == 1:
            self._strikes[uids[0]] = STRIKES if surely else self._strikes.get(uids[0], 0) + 1

    def doubted(self, uids: Iterable[int]) -> None:
        """Remember what was on its way, too, behind what was being fetched."""
        self._alarmed = True
        for uid in uids:
            self.losses[uid] = self.losses.get(uid, 0) + 1

    def cleared(self, uids: Iterable[int]) -> None:
        """Forget those that were fetched, or became gaps."""
        for uid in uids:
            self.losses.pop(uid, None)
            self._strikes.pop(uid, None)

    def hopeless(self, uid: int) -> bool:
        """Whether this one has failed alone often enough."""
        return self._strikes.get(uid, 0) >= STRIKES


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a message is recognised by after its UID has changed."""

    uid: int
    message_id: str
    received_at: datetime | None
    size: int


@dataclass(slots=True)
class Recognition:
    """Finds stored messages again in a folder whose UIDVALIDITY has changed.

    By Message-ID and INTERNALDATE; by size (10 % or 2 kB off, since Exchange estimates) only
    where there is no Message-ID. Each stored message is found at most once.
    """

    fingerprints: Iterable[Fingerprint]
    _by_id: dict[str, list[Fingerprint]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Index the fingerprints."""
        for one in self.fingerprints:
            self._by_id.setdefault(bare_id(one.message_id), []).append(one)

    def find(self, head: Head) -> Fingerprint | None:
        """Return the stored message that this one is, and remember that it was found."""
        left = self._by_id.get(bare_id(head.message_id), [])
        fitting = [one for one in left if _same(one, head, named=bool(bare_id(head.message_id)))]
        if not fitting:
            return None
        found = min(fitting, key=lambda one: (_apart(one, head), abs(one.size - head.size)))
        left.remove(found)
        return found


def bare_id(message_id: str) -> str:
    """Return a Message-ID without white space, angle brackets and what stands outside of them.

    The store keeps no comment behind the bracket; with it, one mail would be taken for two.
    """
    text = "".join(message_id.split())
    start = text.find("<")
    stop = text.find(">", start)
    return text[start + 1 : stop] if 0 <= start < stop else text.strip("<>")


def _same(stored: Fingerprint, head: Head, *, named: bool) -> bool:
    if stored.received_at is not None and head.received_at is not None:
        if _apart(stored, head) > SAME_TIME:
            return False
    elif not named:
        return False
    return named or abs(stored.size - head.size) <= max(2048, stored.size // 10)


def _apart(stored: Fingerprint, head: Head) -> timedelta:
    if stored.received_at is None or head.received_at is None:
        return timedelta()
    return abs(stored.received_at - head.received_at)


def wanted_again(head: Head, checkpoint: Checkpoint) -> bool:
    """Whether a message that nothing stored matches is to be delivered after a renumbering.

    Mail that may have come since the watch began is; so is what the start setting asked for.
    What lay there before is the baseline. A message without a date is delivered.
    """
    if checkpoint.baseline_uid == 0 or head.received_at is None:
        return True
    if head.received_at >= checkpoint.watching_since - GRACE:
        return True
    since = checkpoint.since
    # SEARCH SINCE compares the date in the server's own zone, which nobody tells: be generous.
    return since is not None and head.received_at.date() >= since - timedelta(days=1)


def came_after(received_at: datetime | None, moment: datetime) -> bool:
    """Whether a message surely came after a moment; servers tell whole seconds, rounded down."""
    return received_at is not None and received_at > moment


def as_utc(moment: object) -> datetime | None:
    """Return an INTERNALDATE in UTC; ``None`` for one that makes no sense."""
    if not isinstance(moment, datetime):
        return None
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError):
        return None
