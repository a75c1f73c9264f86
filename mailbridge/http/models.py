"""What the API answers with: the documents of the store's rows, described for programs.

A later version may add members; nothing here is removed or changes its meaning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

#: as in the store's rows (``tests/unit/test_http_models.py`` keeps them in step)
MessageState = Literal[
    "accepted", "delivered", "dead", "gap", "known", "held", "dropped", "unrouted", "test"
]
ShownState = Literal["queued", "deferred", "claimed", "delivered", "dead", "held", "dropped"]
#: those of deliveries that are not over
OpenState = Literal["queued", "deferred", "claimed", "held", "dead"]
Verdict = Literal["deliver", "hold", "drop", "passed_by"]
Sight = Literal["starting", "ok", "degraded", "not_connected", "parked", "not running", "off"]
SendState = Literal["queued", "deferred", "sending", "sent", "failed", "held", "dropped"]
RecipientState = Literal["open", "doubt", "taken", "refused"]
Via = Literal["api", "cli", "sendmail", "relay", "probe"]
SignInState = Literal[
    "unknown",
    "ok",
    "needs_consent",
    "needs_admin_consent",
    "secret_expired",
    "rejected",
    "temporarily_unavailable",
]

#: what a mailbox, a webhook and a client can be called
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
#: a webhook-id, or the Message-ID of a mail
MessageName = Annotated[str, Field(pattern="^[!-~]{1,998}$")]
Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Row(BaseModel):
    """A document of which later versions may tell more."""

    model_config = ConfigDict(extra="allow")


class Place(Row):
    """Where a message lies on its server."""

    mailbox: str
    folder: str
    protocol: str
    uidvalidity: int
    uid: int
    uidl: str


class Message(Row):
    """One line of the mail log."""

    number: int = Field(description="its place in the log, 0 for a gap")
    id: str = Field(description="the webhook-id")
    state: MessageState
    ref: Place
    address: str
    message_id: str | None
    received_at: AwareDatetime | None = Field(description="when its server had it")
    at: AwareDatetime = Field(description="when it was accepted; of a gap, first seen")
    size: int = Field(description="bytes")
    sha256: str
    settled: bool | None = Field(description="whether the server was told; null: it is not to be")
    settled_at: AwareDatetime | None
    known_as: str | None = Field(description="the id of the same message under its former place")
    raw_kept: bool = Field(description="whether its bytes are still here")
    routes: list[str] = Field(description="those that took it, in their order")
    reason: str = Field(description="why it is in this state; of a gap, what the server said")
    webhook: str | None = Field(description="whose delivery the reason is about")
    tries: int = Field(description="of a gap, or of that delivery")


class Delivery(Row):
    """One event on its way to one webhook."""

    id: int
    event_id: str = Field(description="the webhook-id")
    type: str = Field(examples=["mail.received"])
    sink: str = Field(description="the webhook")
    mailbox: str
    state: ShownState
    attempts: int
    rescues: int = Field(description="how often in a row the daemon died with it in hand")
    due_at: AwareDatetime
    first_due_at: AwareDatetime
    created_at: AwareDatetime
    resolved_at: AwareDatetime | None
    owner: str | None
    lease_until: AwareDatetime | None
    sequence: int
    replay: int = Field(description="how often it was asked to be delivered again")
    last_status: int | None = Field(description="HTTP status of the last attempt")
    last_reason: str | None
    route: str | None
    expires_at: AwareDatetime | None
    otherwise: str | None
    fall_back_at: AwareDatetime | None


class Attempt(Row):
    """One attempt at a delivery."""

    delivery: int
    number: int
    at: AwareDatetime
    seconds: float
    outcome: str
    status: int | None
    reason: str
    detail: str


class Step(Row):
    """What one route said of a message."""

    route: str
    verdict: Verdict
    reason: str
    webhooks: list[str]
    fields: dict[str, Any]
    missing: list[str]
    duplicate_of: str | None


class Ruling(Row):
    """What the routes said of a message, in the order they were asked."""

    message: str
    steps: list[Step]


class Recipient(Row):
    """One recipient of an outgoing mail, and what became of it there."""

    address: str
    state: RecipientState
    code: str
    reply: str = Field(description="the server's word")


class Bounce(Row):
    """A bounce that came back for an outgoing mail."""

    recipient: str
    at: AwareDatetime
    report: str


class Send(Row):
    """An outgoing mail and what became of it."""

    id: str
    number: int = Field(description="of its delivery")
    state: SendState
    mailbox: str
    sender: str
    message_id: str = Field(description="without brackets")
    via: Via
    client: str
    accepted_at: AwareDatetime
    size: int
    sha256: str
    recipients: list[Recipient]
    attempts: int
    due_at: AwareDatetime | None = Field(description="when it is tried next, while it waits")
    ended_at: AwareDatetime | None
    in_doubt_at: AwareDatetime | None = Field(
        description="since when nobody knows whether the server has it"
    )
    reason: str
    reply: str = Field(description="the server's last word")
    bounces: list[Bounce]
    raw_kept: bool


class Trace(Row):
    """Everything known about a message."""

    messages: list[Message]
    deliveries: list[Delivery]
    attempts: list[Attempt]
    rulings: list[Ruling]
    sends: list[Send]


class Expiry(Row):
    """When a credential ends."""

    kind: str
    expires_at: AwareDatetime
    fix: str


class Standing(Row):
    """How the sign-in of a mailbox stands."""

    state: SignInState
    code: str
    cause: str
    fix: str
    account: str = Field(description="who signs in, empty for an app by itself")
    credential: str = Field(description="which one is in use")
    expiries: list[Expiry]


class Folder(Row):
    """How one folder is seen."""

    folder: str
    state: Sight
    mode: str
    cause: str
    code: str
    fix: str
    last_check: AwareDatetime | None
    last_message: AwareDatetime | None


class Probe(Row):
    """How the test mails went that a mailbox sends to itself."""

    state: Literal["none", "passed", "missed"] = Field(description="none: there was none yet")
    last: AwareDatetime | None = Field(description="when the last that was judged was begun")
    seconds: float | None = Field(
        description="of the last that came through: from the queue to the last webhook"
    )
    stages: dict[str, float] = Field(description="the same, to each station")
    passed_at: AwareDatetime | None
    open_since: AwareDatetime | None = Field(description="of the one that is under way")
    missed_since: AwareDatetime | None
    stage: str = Field(description="of one that was missed: the station that it did not pass")
    code: str
    cause: str
    fix: str


class Mailbox(Row):
    """How a mailbox is seen, as ``mailbridge status`` shows it."""

    name: str
    address: str
    app: str
    sign_in: str
    standing: Standing | None
    state: Sight
    mode: str = Field(description="push, poll or none")
    cause: str
    code: str
    fix: str
    last_check: AwareDatetime | None = Field(description="when it was last proven to be seen")
    last_message: AwareDatetime | None
    throttled_until: AwareDatetime | None
    next_try: AwareDatetime | None
    backlog: int = Field(description="deliveries of its mails that are not over")
    gaps: int
    probe: Probe | None
    folders: list[Folder]


class Query(BaseModel):
    """What stands after the question mark; a name that is not known is a fault, not ignored."""

    model_config = ConfigDict(extra="forbid")
    limit: int = Field(100, ge=1, le=1000, description="at most so many")


class MessageQuery(Query):
    """Which lines of the mail log."""

    mailbox: Name | None = None
    state: MessageState | None = None
    since: AwareDatetime | None = Field(None, description="accepted from then on")
    cursor: str | None = Field(
        None, pattern="^[0-9a-f]{1,16}$", description="next_cursor of the page before"
    )


class DeliveryQuery(Query):
    """Which deliveries."""

    state: OpenState | None = Field(None, description="default: all that are not over")
    webhook: Name | None = None


class Mailboxes(BaseModel):
    """Every mailbox of the configuration."""

    mailboxes: list[Mailbox]


class Messages(BaseModel):
    """A page of the mail log, the newest first."""

    messages: list[Message]
    next_cursor: str | None = Field(description="what to ask for the next page with; null: none")


class Deliveries(BaseModel):
    """Deliveries that are not over, in the order in which they will go."""

    deliveries: list[Delivery]
    more: bool = Field(description="whether there are more than were asked for")


class Replay(BaseModel):
    """Where a message is to be delivered again."""

    model_config = ConfigDict(extra="forbid")
    webhook: Name | None = Field(None, description="one webhook; without it, each that gets mails")


class Replayed(BaseModel):
    """A message that is delivered again under its id."""

    replayed: int = Field(description="deliveries queued; 0 where it waits already")


class Requeued(BaseModel):
    """A delivery that is tried again."""

    requeued: int
