"""What the store shows to commands and reports: frozen rows, without the bytes of a mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

from mailbridge.model import Checkpoint, MessageRef, Recipient, Via

#: accepted: some delivery is open; held: kept back for a person; known: the same message under a
#: new UIDVALIDITY; gap: listed by the server, which would not give it; unrouted: no webhook was to
#: get it; dropped: a route or a person has given it up; test: a test mail of ours, which no webhook
#: gets as a mail
MessageState = Literal[
    "accepted", "delivered", "dead", "gap", "known", "held", "dropped", "unrouted", "test"
]

#: as ``DeliveryState``, but a queued delivery that was attempted is called deferred
ShownState = Literal["queued", "deferred", "claimed", "delivered", "dead", "held", "dropped"]


#: sending: in hand at this moment; sent: everybody was asked and somebody has it; failed: nobody
#: has it, or it was given up; held: nobody knows whether the server has it, and a person decides
SendState = Literal["queued", "deferred", "sending", "sent", "failed", "held", "dropped"]


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
    #: the routes that took it, in their order
    routes: tuple[str, ...] = ()
    #: why it is in this state; of a delivery, that at ``webhook``; of a gap, what the server said
    reason: str = ""
    webhook: str | None = None
    #: of a gap or of that delivery
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
    #: the route that brought it here
    route: str | None = None
    #: when it becomes too old to go out without a person's word, and what becomes of it then
    expires_at: datetime | None = None
    otherwise: str | None = None
    #: when another webhook gets it too, unless this one has taken it
    fall_back_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """What one route said of a message. ``verdict`` is the one that counted.

    It may decide for fewer than ``webhooks``: of two routes that name one, the first decides.
    """

    route: str
    verdict: Literal["deliver", "hold", "drop", "passed_by"]
    reason: str
    webhooks: tuple[str, ...] = ()
    #: what it extracted, and the names of what it looked for and did not find
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    missing: tuple[str, ...] = ()
    #: the webhook-id of the mail that it is a duplicate of
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingRow:
    """What the routes said of a message, by its webhook-id, in the order they were asked."""

    message: str
    steps: tuple[StepRow, ...]


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
class BounceRow:
    """A bounce that came back for an outgoing mail."""

    recipient: str
    at: datetime
    report: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRow:
    """An outgoing mail and what became of it, without its bytes."""

    id: str
    #: the number of its delivery
    number: int
    state: SendState
    mailbox: str
    sender: str
    #: without brackets
    message_id: str
    via: Via
    client: str
    accepted_at: datetime
    size: int
    sha256: str
    recipients: tuple[Recipient, ...]
    attempts: int
    #: when it is tried next, while it waits
    due_at: datetime | None
    #: when the last recipient was taken or refused
    ended_at: datetime | None
    #: since when nobody knows whether the server has it
    in_doubt_at: datetime | None
    #: why it is in this state, if there is something to say
    reason: str
    #: the server's last word
    reply: str
    bounces: tuple[BounceRow, ...]
    #: whether its bytes are still here
    raw_kept: bool


#: passed: it came through in time; missed: not in time; late: missed, and came through after all;
#: void: nobody waits for it any more
ProbeOutcome = Literal["passed", "missed", "late", "void"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a webhook made of being told that a test mail has arrived."""

    webhook: str
    delivered_at: datetime | None = None
    state: str = ""
    attempts: int = 0
    #: what it said last, or why it was not reached
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """A test mail and how far it has come; ``outcome`` is ``None`` until it is judged."""

    nonce: str = field(repr=False)
    mailbox: str
    #: with brackets
    message_id: str
    webhooks: tuple[str, ...]
    #: whether the schedule sent it, or a person
    scheduled: bool
    begun_at: datetime
    due_at: datetime
    #: when it was accepted, and under which id
    seen_at: datetime | None
    message: str | None
    outcome: ProbeOutcome | None
    ended_at: datetime | None
    #: of one that was missed: where it stopped and why
    found: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    answers: tuple[Answer, ...] = ()

    @property
    def told(self) -> tuple[Answer, ...]:
        """What each of the webhooks made of it, also those that were not asked yet."""
        found = {one.webhook: one for one in self.answers}
        return tuple(found.get(name) or Answer(webhook=name) for name in self.webhooks)

    @property
    def delivered_at(self) -> datetime | None:
        """When the last of the webhooks had it, ``None`` while one of them has not."""
        had = {one.webhook: one.delivered_at for one in self.answers if one.delivered_at}
        if self.seen_at is None or not had.keys() >= set(self.webhooks):
            return None
        return max((self.seen_at, *had.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything known about one message or event; all empty when the id is unknown."""

    messages: tuple[MessageRow, ...] = ()
    deliveries: tuple[DeliveryRow, ...] = ()
    attempts: tuple[AttemptRow, ...] = ()
    rulings: tuple[RulingRow, ...] = ()
    sends: tuple[SendRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCount:
    """What waits for one sink. ``queued`` were never attempted, ``deferred`` were."""

    sink: str
    queued: int = 0
    deferred: int = 0
    claimed: int = 0
    dead: int = 0
    held: int = 0
    #: of mails to be sent: nobody knows whether the server has them
    in_doubt: int = 0
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
    #: of routes that want no duplicates
    recent: int = 0
    #: outgoing mails that lost their bytes
    sent: int = 0
    more: bool = False
