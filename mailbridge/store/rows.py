"""What the store shows to commands and reports: frozen rows, without the bytes of a mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mailbridge.model import Checkpoint, MessageRef

#: accepted: some delivery is open; known: the same message under a new UIDVALIDITY;
#: gap: listed by the server, which would not give it; dropped: nothing is to be delivered
MessageState = Literal["accepted", "delivered", "dead", "gap", "known", "held", "dropped"]

#: as ``DeliveryState``, but a queued delivery that was attempted is called deferred
ShownState = Literal["queued", "deferred", "claimed", "delivered", "dead", "held", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One line of the mail log. ``number`` is its place in the log, 0 for a gap."""

    number: int
    id: str
    state: MessageState
    ref: MessageRef
    address: str
    message_id: str | None
    received_at: datetime | None
    #: when it was accepted; for a gap, when it was first seen
    at: datetime
    size: int
    sha256: str
    #: ``None`` when the server is not to be told
    settled: bool | None
    settled_at: datetime | None
    known_as: str | None
    #: whether its raw bytes are still here
    raw_kept: bool
    #: of a gap: why, and how often it was tried
    reason: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One delivery as commands show it."""

    id: int
    event_id: str
    type: str
    sink: str
    mailbox: str
    state: ShownState
    attempts: int
    rescues: int
    due_at: datetime
    first_due_at: datetime
    created_at: datetime
    resolved_at: datetime | None
    owner: str | None
    lease_until: datetime | None
    sequence: int
    replay: int
    last_status: int | None
    last_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt and how it went; ``seconds`` is how long it took."""

    delivery: int
    number: int
    at: datetime
    seconds: float
    outcome: str
    status: int | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything known about one message or event; all empty when the id is unknown."""

    messages: tuple[MessageRow, ...] = ()
    deliveries: tuple[DeliveryRow, ...] = ()
    attempts: tuple[AttemptRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCount:
    """What waits for one sink. ``queued`` were never attempted, ``deferred`` were."""

    sink: str
    queued: int = 0
    deferred: int = 0
    claimed: int = 0
    dead: int = 0
    held: int = 0
    #: when the first of the queued and deferred is or was due
    oldest_due: datetime | None = None
    #: when the first of them began its budget: how old the oldest waiting event is
    oldest_first_due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderCount:
    """Where one folder stands."""

    mailbox: str
    folder: str
    checkpoint: Checkpoint
    gaps: int
    unsettled: int
    last_accepted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What ``status`` shows, in one consistent look."""

    sinks: tuple[SinkCount, ...]
    folders: tuple[FolderCount, ...]
    #: by mailbox: deliveries that are not over
    backlogs: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What one step of retention removed; ``more`` says that another step has work to do."""

    raw: int = 0
    dead_letters: int = 0
    messages: int = 0
    notices: int = 0
    #: of POP3 mailboxes, long gone from the server
    uidls: int = 0
    more: bool = False
