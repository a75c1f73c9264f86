"""The nouns of mailbridge. Frozen values; this module imports only the standard library.

Times are aware ``datetime`` values in UTC; durations are seconds unless they are
``timedelta``; sizes are bytes. The words are those of the glossary in the README.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

Protocol = Literal["imap", "pop3", "smtp"]


def aware(moment: datetime) -> datetime:
    """Return ``moment`` in UTC; a naive one is refused, since nobody knows what it means."""
    if moment.tzinfo is None:
        msg = f"naive datetime {moment!r}"
        raise ValueError(msg)
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRef:
    """Where a message lies on the server. IMAP fills UIDVALIDITY and UID, POP3 the UIDL.

    A mail that was brought to us (``smtp``) lies nowhere: its folder is the address that it came
    to, and the place of the UIDL has a digest, the same when the same mail is brought again.
    """

    mailbox: str
    folder: str
    protocol: Protocol = "imap"
    uidvalidity: int = 0
    uid: int = 0
    uidl: str = ""

    @property
    def message_id(self) -> str:
        """The webhook-id: ``msg_`` and 26 base32 characters, derived from this place alone.

        No key and no counter goes in, so it is the same over retries, restarts, replay and
        even after the database was lost (docs/reliability: at least once, never under two ids).
        """
        return _message_id(self)

    def source(self) -> dict[str, Any]:
        """Return the ``data.source`` object of a webhook."""
        if self.protocol == "pop3":
            return {"protocol": "pop3", "uidl": self.uidl}
        if self.protocol == "smtp":
            return {"protocol": "smtp", "digest": self.uidl}
        return {"protocol": "imap", "uidvalidity": self.uidvalidity, "uid": self.uid}


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def derived_id(kind: str, parts: list[object]) -> str:
    """Return ``msg_`` + 26 base32 characters (130 bits of SHA-256) for these parts."""
    text = _encode(["mailbridge/1", kind, *parts])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    # 17 bytes are 28 characters, of which 26 are wanted.
    return "msg_" + base64.b32encode(digest[:17]).decode("ascii")[:26]


@lru_cache(maxsize=4096)
def _message_id(ref: MessageRef) -> str:
    # Asked for half a dozen times on a mail's way in.
    place: list[object] = [ref.mailbox, ref.folder]
    place += [ref.uidvalidity, ref.uid] if ref.protocol == "imap" else [ref.uidl]
    return derived_id("mail", place)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A bearer token and when it ends. Its value is in no repr."""

    value: str = field(repr=False)
    expires_at: datetime


#: gives a token with enough life left for a new session; raises the errors of ``errors``
TokenSource = Callable[[], Awaitable[AccessToken]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a person has consented to: kept encrypted, and never in a repr.

    ``app`` is the app registration's name, ``account`` the address that signs in. Entra may
    give another refresh token with every access token; ``former`` is the one before, tried
    when a crash came between Entra's answer and our commit. ``cache`` is msal's token cache,
    serialised. ``granted_at`` is when the person consented, ``refreshed_at`` when the refresh
    token was last replaced: it dies after 90 days without use.
    """

    app: str
    account: str
    refresh_token: str = field(repr=False)
    former: str | None = field(default=None, repr=False)
    cache: str = field(default="", repr=False)
    #: as Entra granted them, full scope strings
    scopes: tuple[str, ...] = ()
    #: of the account: object id and tenant id, from the id token
    object_id: str = ""
    tenant_id: str = ""
    granted_at: datetime
    refreshed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMessage:
    """The bytes of a message as they came, with their place and the server's INTERNALDATE."""

    ref: MessageRef
    raw: bytes = field(repr=False)
    received_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a folder was read: every UID up to ``uid`` is stored or stands in the gap list.

    ``baseline_uid`` and ``since`` tell what lay in the folder before the watch began: UIDs up
    to ``baseline_uid`` are wanted only from INTERNALDATE ``since`` on (``None``: all of them).
    POP3 leaves ``uidvalidity`` and ``uid`` 0: there, the set of known UIDLs is the checkpoint.
    ``watching_since`` is when the watch began; after a change of UIDVALIDITY, mail received
    after it and matched by nothing known is delivered, never baselined away.
    """

    mailbox: str
    folder: str
    uidvalidity: int
    uid: int
    baseline_uid: int = 0
    since: date | None = None
    watching_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A message that the server listed and would not give. Kept, retried, shown, never skipped."""

    ref: MessageRef
    reason: str
    tries: int
    first_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one route said of a mail, in the order in which they were asked.

    ``passed_by``: it does not match. ``deliver``, ``hold`` and ``drop`` are what becomes of it at
    ``webhooks``; ``reason`` says why, for a person. A route that wants no duplicates leaves the
    question to the store, which alone knows: the same ``duplicate_key`` of this route within
    ``duplicate_within`` before makes the step's verdict ``otherwise``. ``expires_at`` (of
    ``max_age``) is when an open delivery gets ``otherwise`` too. ``fields`` is what was extracted,
    plain JSON; ``wanted`` names every field that the route extracts, found or not.
    """

    route: str
    verdict: Literal["deliver", "hold", "drop", "passed_by"]
    reason: str
    webhooks: tuple[str, ...] = ()
    otherwise: Literal["deliver", "hold", "drop"] = "hold"
    expires_at: datetime | None = None
    duplicate_key: str = ""
    duplicate_within: timedelta | None = None
    wanted: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


#: what every route of a mailbox said of one mail
Ruling = tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one fetch brings into one transaction of the store.

    ``messages`` become durable with one delivery for each of ``sinks``. ``known`` are places
    whose message the store already has under another place (``known_as``, after a change of
    UIDVALIDITY): remembered, not delivered. ``gaps`` are written or updated, ``vanished`` are
    gaps that the server no longer lists. ``checkpoint`` replaces the folder's checkpoint.
    ``swept`` says that the messages were found by a look-back sweep, behind the checkpoint.
    ``rulings`` are by ``MessageRef.message_id``: such a message goes where its routes say, and not
    to ``sinks``. ``fallbacks`` are, for sinks that have one, the seconds after which a delivery
    that was not taken goes to another too. ``listeners`` are, by event type, the sinks that are
    told of what the store itself finds out (``delivery.held``, ``format.drift``).
    ``marks`` are, by ``MessageRef.message_id``, what messages are marked with as test mails; the
    store knows which of them are (``test_mail``), and those go to no sink as mails.
    POP3 has no UIDs to put a line between: ``before`` are UIDLs that lay there when the watch
    began, or are listed again after they were gone (remembered, not delivered), ``gone`` those
    that the server no longer lists (remembered for a while).
    """

    mailbox: str
    folder: str
    checkpoint: Checkpoint
    sinks: tuple[str, ...] = ()
    messages: tuple[RawMessage, ...] = ()
    known: tuple[tuple[MessageRef, str], ...] = ()
    gaps: tuple[Gap, ...] = ()
    vanished: tuple[MessageRef, ...] = ()
    swept: bool = False
    before: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    rulings: Mapping[str, Ruling] = field(default_factory=lambda: MappingProxyType({}))
    fallbacks: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    listeners: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    marks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What an ``accept`` did: messages that are new in the store, and those it already had.

    ``tests`` of the new ones are test mails of ours.
    """

    new: int
    known: int
    tests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a stored message is recognised by when its UID is worth nothing any more."""

    id: str
    uid: int
    message_id: str
    received_at: datetime | None
    size: int


class DeliveryState(StrEnum):
    """Where a delivery is. ``deferred`` in commands means queued after at least one attempt."""

    #: waits for its time
    QUEUED = "queued"
    #: in the hands of a dispatcher, until its lease ends
    CLAIMED = "claimed"
    #: answered 2xx
    DELIVERED = "delivered"
    #: given up; a person sees it and can retry it
    DEAD = "dead"
    #: kept back by a rule until a person releases it
    HELD = "held"
    #: dropped by a person
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one sink, claimed: ``fence`` guards against a former owner.

    ``type`` is the event type. A ``mail.received`` has ``mail`` (its raw bytes are rendered
    at delivery); every other event has ``body``, the finished ``data`` object. A mail to be sent
    has the type ``send`` and ``send``; its sink is ``send:`` and the mailbox.
    """

    id: int
    sink: str
    event_id: str
    type: str
    mailbox: str
    created_at: datetime
    #: attempts made before this one
    attempts: int
    #: when the budget of seven days began: acceptance, or the replay
    first_due_at: datetime
    sequence: int
    replay: int = 0
    fence: int
    mail: StoredMail | None = None
    body: dict[str, Any] | None = None
    send: StoredSend | None = None
    #: the route that brought it here, and what that one extracted
    route: str | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: from when on it is too old to be delivered without a person's word
    expires_at: datetime | None = None
    #: what becomes of it then
    otherwise: Literal["deliver", "hold", "drop"] = "deliver"
    #: the sink that it stands in for, since that one had not taken it in time
    fallback_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMail:
    """A message as the store gives it back."""

    id: str
    ref: MessageRef
    address: str
    received_at: datetime | None
    accepted_at: datetime
    raw: bytes = field(repr=False)
    raw_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One recipient of an outgoing mail, and what became of it there.

    ``open`` is still to be sent to, ``doubt`` as well, but may have it already (the final dot of a
    submission to it was about to be written, and nobody knows what came of that), ``taken`` has it
    (the server said 250 to the final dot), ``refused`` never gets it. ``reply`` is the server's
    word, for a person.
    """

    address: str
    state: Literal["open", "doubt", "taken", "refused"] = "open"
    code: str = ""
    reply: str = ""


#: the way by which an outgoing mail came in
Via = Literal["api", "cli", "sendmail", "relay", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A mail that a client hands over to be sent. Message-ID, Date and bytes are final.

    ``id`` is ``out_`` and 26 base32 characters by chance. ``sender`` is the envelope's: the
    mailbox's own address, whoever of ``send_as`` stands in From. ``client`` and ``key`` are of an
    Idempotency-Key: the same pair gives the same mail again, or a conflict when ``digest`` (of
    what the client said, before Message-ID and Date were added) is another. Without a key a mail
    is always a new one.
    """

    id: str
    mailbox: str
    sender: str
    recipients: tuple[str, ...]
    message_id: str
    raw: bytes = field(repr=False)
    via: Via
    client: str = ""
    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSend:
    """An outgoing mail as the store gives it back, with every recipient.

    ``in_doubt_at`` is when its final dot was about to be written: if nothing came of that claim,
    nobody knows whether the server has it, until somebody has looked. ``released``: a person
    wants it sent again then, unless it is found; nobody is to be asked once more.
    """

    id: str
    mailbox: str
    sender: str
    message_id: str
    accepted_at: datetime
    recipients: tuple[Recipient, ...]
    raw: bytes = field(repr=False)
    in_doubt_at: datetime | None = None
    released: bool = False

    @property
    def open(self) -> tuple[str, ...]:
        """Whom it is still to be sent to, as far as is known."""
        return tuple(one.address for one in self.recipients if one.state in {"open", "doubt"})

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Who may have it already: a copy in the sent items speaks of these and nobody else."""
        return tuple(one.address for one in self.recipients if one.state == "doubt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A request ready to be sent: the exact bytes that are signed, and their type.

    ``refusal`` stands instead of the bytes when the configuration could not make any of this
    mail (a template that fails): nothing is sent, and the delivery waits with that reason.
    """

    delivery: Delivery
    body: bytes = field(repr=False)
    content_type: str
    refusal: Deferred | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The sink took it. ``status`` is the HTTP status, ``detail`` a short extract of the answer."""

    status: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Try later. ``retry_after`` are the seconds that the sink asked for, already sane."""

    reason: str
    status: int | None = None
    detail: str = ""
    retry_after: float | None = None
    #: the sink itself is in trouble (not this message): counts towards its alert
    sink_fault: bool = True
    #: a person has to act, and is told at once
    alert: bool = False
    #: it is tried after ``retry_after``, whatever the schedule says
    exactly: bool = False
    #: the sink was not asked to take it: ``exactly``, and no attempt is counted
    unasked: bool = False
    #: nothing may be asked of the sink before ``retry_after`` is over, for any delivery
    pauses: bool = False
    #: what it is called, and what a person can do about it, where the sink knows
    code: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The sink does not want this message; it is tried again a few times, then set aside.

    ``hold``: it is set aside at once, for a person to decide what becomes of it.
    """

    reason: str
    status: int | None = None
    detail: str = ""
    hold: bool = False


Outcome = Delivered | Deferred | Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Decision: the delivery is over and well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Decision: queued again, due at this moment."""

    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """Decision: a dead letter, for a person to see."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Decision: kept back by a rule until a person releases it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Decision: a rule says that it is not to be delivered."""

    reason: str


Decision = Done | Retry | Dead | Held | Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What one attempt came to, for the store: outcome, decision, and how it went.

    Without an ``outcome`` nothing was sent, and it counts as no attempt. ``listeners`` are, by
    event type, the sinks that are told of a dead letter, of a delivery that is held, or of the end
    of an outgoing mail.
    """

    delivery: Delivery
    outcome: Outcome | None
    decision: Decision
    started_at: datetime
    seconds: float
    listeners: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """A sink takes nothing: since when, after how many attempts in a row, and what it said."""

    since: datetime
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event that is not a mail, for instance ``mailbox.degraded`` or ``delivery.dead``.

    ``data`` is the event's data object (without ``id``, which is ``id``).
    """

    id: str
    type: str
    mailbox: str
    at: datetime
    data: dict[str, Any]
