"""The tables of the store, the same for SQLite and PostgreSQL.

Times are integers: microseconds since 1970 in UTC. Both databases compare and index them alike,
and no driver's idea of a time zone comes in between. What the columns mean is said here; how
they got there is said in ``migrations``, and a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import sqlalchemy as sa

#: the revision of ``migrations`` that this code reads and writes
SCHEMA: Final = "0006"

#: a delivery rescued this often in a row is a suspect, claimed apart from the others: first
#: with so many other suspects, since most are innocent, and later by itself
ALONE_AFTER: Final = 3
GROUP: Final = 16
SINGLE_AFTER: Final = 6
#: and this often: it goes to the dead letters
POISON_AFTER: Final = 10

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


def utc_now() -> datetime:
    """Return the present moment, aware."""
    return datetime.now(UTC)


def micros(moment: datetime) -> int:
    """Return an aware ``moment`` as the integer that the tables hold."""
    return (moment - EPOCH) // _TICK


# The mails of a batch share their times, and are read in one go.
@lru_cache(maxsize=256)
def moment(value: int) -> datetime:
    """Return the aware UTC time of an integer from the tables."""
    return EPOCH + timedelta(microseconds=value)


def moment_or_none(value: int | None) -> datetime | None:
    """Return the time of an integer from the tables, ``None`` for NULL."""
    return None if value is None else moment(value)


class Settle:
    """Values of ``messages.settle``: whether the server is to be told that we have it."""

    NOT_WANTED: Final = 0
    WANTED: Final = 1
    DONE: Final = 2


class Kept:
    """Values of ``messages.kept``: what retention has left of a message."""

    #: only its place and what recognises it, so that it is never delivered a second time
    PLACE: Final = 0
    #: its row in the log with deliveries and attempts, without the raw bytes
    LOG: Final = 1
    #: everything
    RAW: Final = 2


# SQLite makes only a plain INTEGER primary key an alias of the row number.
_NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata: Final = sa.MetaData()


def _number() -> sa.Column[int]:
    return sa.Column("pk", _NUMBER, primary_key=True)


def _place() -> list[sa.Column[str] | sa.Column[int]]:
    return [
        sa.Column("mailbox", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("uidvalidity", sa.BigInteger, nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False),
        sa.Column("uidl", sa.Text, nullable=False),
    ]


#: one row for each place on a server that a message was accepted from
messages: Final = sa.Table(
    "messages",
    metadata,
    _number(),
    sa.Column("id", sa.Text, nullable=False),
    *_place(),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text),
    sa.Column("received_at", sa.BigInteger),
    sa.Column("accepted_at", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("settle", sa.SmallInteger, nullable=False),
    sa.Column("settled_at", sa.BigInteger),
    # the id of the same message under its former place, after a change of UIDVALIDITY
    sa.Column("known_as", sa.Text),
    # how many deliveries were made for it when it was accepted
    sa.Column("routed", sa.Integer, nullable=False),
    sa.Column("kept", sa.SmallInteger, nullable=False),
    # 1 for a test mail of ours, which no webhook gets as a mail; NULL for all others
    sa.Column("test", sa.SmallInteger),
)
sa.Index("messages_id", messages.c.id, unique=True)
# The id is derived from the place. Should that derivation ever change, this index still keeps
# one message from being accepted under two ids; it also serves the fingerprints of one epoch.
sa.Index(
    "messages_place",
    *(messages.c[name] for name in ("mailbox", "folder", "uidvalidity", "uid", "uidl", "protocol")),
    unique=True,
)
sa.Index(
    "messages_message_id",
    messages.c.message_id,
    sqlite_where=sa.text("message_id IS NOT NULL"),
    postgresql_where=sa.text("message_id IS NOT NULL"),
)
sa.Index(
    "messages_unsettled",
    messages.c.mailbox,
    messages.c.folder,
    messages.c.pk,
    sqlite_where=sa.text("settle = 1"),
    postgresql_where=sa.text("settle = 1"),
)
sa.Index("messages_kept", messages.c.kept, messages.c.accepted_at, messages.c.pk)
# What no webhook was to get: few, and asked for by name.
sa.Index(
    "messages_unrouted",
    messages.c.pk,
    sqlite_where=sa.text("routed = 0 AND known_as IS NULL"),
    postgresql_where=sa.text("routed = 0 AND known_as IS NULL"),
)
sa.Index(
    "messages_known_as",
    messages.c.known_as,
    sqlite_where=sa.text("known_as IS NOT NULL"),
    postgresql_where=sa.text("known_as IS NOT NULL"),
)

#: the bytes as they came, apart from the rows that are read often
raw: Final = sa.Table(
    "raw",
    metadata,
    sa.Column(
        "message", _NUMBER, sa.ForeignKey(messages.c.pk), primary_key=True, autoincrement=False
    ),
    sa.Column("bytes", sa.LargeBinary, nullable=False),
)

#: one event on its way to one sink
deliveries: Final = sa.Table(
    "deliveries",
    metadata,
    _number(),
    # NULL for an event that is not a mail; that one has its finished data in ``body``
    sa.Column("message", _NUMBER, sa.ForeignKey(messages.c.pk)),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", sa.Text),
    sa.Column("sink", sa.Text, nullable=False),
    sa.Column("mailbox", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # attempts of the present budget; a retry by hand begins a new one
    sa.Column("attempts", sa.Integer, nullable=False),
    # how often in a row its claim outlived its owner
    sa.Column("rescues", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("first_due_at", sa.BigInteger, nullable=False),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("owner", sa.Text),
    # counts the claims; whoever comes back with an older number changes nothing
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("replay", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("resolved_at", sa.BigInteger),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_reason", sa.Text),
    # the route that brought it here; NULL where none is written
    sa.Column("route", sa.Text),
    # from when on it is too old to be delivered (a route's max_age), and what becomes of it then
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("otherwise", sa.Text),
    # when another sink gets it too, unless this one has taken it; NULL when there is no other
    sa.Column("fall_back_at", sa.BigInteger),
    # the sink for which it stands in, when it was made because that one had not taken it in time
    sa.Column("fallback_of", sa.Text),
    # 1 while its sink keeps the order; only then it is in the index for that
    sa.Column("ordered", sa.SmallInteger),
    # the outgoing mail; NULL for events. ``message`` is NULL then, too
    sa.Column("send", _NUMBER),
)
# Rows of one mail lie side by side here; an index on the event's id would have to write a page
# of its own for each mail, anywhere in the file. Such an id is looked up in ``messages``.
sa.Index(
    "deliveries_message",
    deliveries.c.message,
    deliveries.c.sink,
    deliveries.c.replay,
    unique=True,
)


def _partial_index(
    name: str, where: str, *columns: sa.Column[int] | sa.Column[str], unique: bool = False
) -> None:
    condition = sa.text(where)
    sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition, unique=unique)


# These hold only what is open, so they stay small however long the history grows.
_partial_index(
    "deliveries_due",
    "state = 'queued'",
    deliveries.c.sink,
    deliveries.c.due_at,
    deliveries.c.pk,
)
_partial_index(
    "deliveries_alone",
    "state = 'queued' AND rescues >= 3",
    deliveries.c.sink,
    # Always the same; it makes SQLite prefer this index to the one of all that waits.
    deliveries.c.state,
    deliveries.c.due_at,
    deliveries.c.pk,
)
_partial_index("deliveries_send", "send IS NOT NULL", deliveries.c.send)
_partial_index("deliveries_claimed", "state = 'claimed'", deliveries.c.lease_until)
_partial_index("deliveries_dead", "state = 'dead'", deliveries.c.sink, deliveries.c.pk)
_partial_index("deliveries_held", "state = 'held'", deliveries.c.sink, deliveries.c.pk)
_partial_index(
    "deliveries_notice",
    "message IS NULL",
    deliveries.c.event_id,
    deliveries.c.sink,
    deliveries.c.replay,
    unique=True,
)
_partial_index(
    "deliveries_old_notices",
    "message IS NULL AND send IS NULL AND resolved_at IS NOT NULL",
    deliveries.c.resolved_at,
)
# The order that a strict sink keeps: the oldest open delivery of each mailbox comes first.
_partial_index(
    "deliveries_order",
    "ordered = 1 AND state IN ('queued', 'claimed')",
    deliveries.c.sink,
    deliveries.c.mailbox,
    deliveries.c.sequence,
)
_partial_index(
    "deliveries_fall_back",
    "fall_back_at IS NOT NULL AND state IN ('queued', 'claimed', 'dead')",
    deliveries.c.fall_back_at,
)

#: what the routes said of a message when it was accepted
rulings: Final = sa.Table(
    "rulings",
    metadata,
    sa.Column(
        "message", _NUMBER, sa.ForeignKey(messages.c.pk), primary_key=True, autoincrement=False
    ),
    # JSON: a list of steps, see ``store.routing``
    sa.Column("steps", sa.Text, nullable=False),
    # how many of them took it: 0 when no route wanted it
    sa.Column("taken", sa.SmallInteger, nullable=False),
)

#: the messages that a route took, to look through the log by route
takings: Final = sa.Table(
    "takings",
    metadata,
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column(
        "message", _NUMBER, sa.ForeignKey(messages.c.pk), primary_key=True, autoincrement=False
    ),
    sqlite_with_rowid=False,
)

#: what a route that wants no duplicates has seen lately
recent: Final = sa.Table(
    "recent",
    metadata,
    sa.Column("route", sa.Text, primary_key=True),
    # a digest of the number or the content that tells a duplicate
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    # the event id of the mail that was first
    sa.Column("first", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("recent_at", recent.c.at)

#: how often in a row a field that a route extracts has been empty
drift: Final = sa.Table(
    "drift",
    metadata,
    sa.Column("mailbox", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("field", sa.Text, primary_key=True),
    # mails in which it was found, all told, and mails without it since the last one
    sa.Column("filled", sa.BigInteger, nullable=False),
    sa.Column("empty", sa.BigInteger, nullable=False),
    # when the last mail that had it was accepted
    sa.Column("filled_at", sa.BigInteger),
    # JSON: the event ids of the first mails without it since then
    sa.Column("mails", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

#: one row for each attempt, with how it went
attempts: Final = sa.Table(
    "attempts",
    metadata,
    sa.Column(
        "delivery", _NUMBER, sa.ForeignKey(deliveries.c.pk), primary_key=True, autoincrement=False
    ),
    # of the claim under which it was made: one claim has one outcome, whatever the clock says
    sa.Column("fence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

#: how far each folder was read
checkpoints: Final = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("mailbox", sa.Text, primary_key=True),
    sa.Column("folder", sa.Text, primary_key=True),
    sa.Column("uidvalidity", sa.BigInteger, nullable=False),
    sa.Column("uid", sa.BigInteger, nullable=False),
    sa.Column("baseline_uid", sa.BigInteger, nullable=False),
    sa.Column("since", sa.Text),
    sa.Column("watching_since", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("accepted_at", sa.BigInteger),
)

#: messages that the server listed and would not give
gaps: Final = sa.Table(
    "gaps",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    *_place(),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("first_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    # set when the server no longer lists it; the row stays for the log until retention takes it
    sa.Column("vanished_at", sa.BigInteger),
)
_OPEN_GAP: Final = "vanished_at IS NULL"
sa.Index(
    "gaps_due",
    gaps.c.mailbox,
    gaps.c.folder,
    gaps.c.due_at,
    sqlite_where=sa.text(_OPEN_GAP),
    postgresql_where=sa.text(_OPEN_GAP),
)

#: every POP3 UIDL that was dealt with: stored, a gap, or there before the watch began. It
#: outlives the message's row, since a server may list a mail for years
uidls: Final = sa.Table(
    "uidls",
    metadata,
    sa.Column("mailbox", sa.Text, primary_key=True),
    sa.Column("folder", sa.Text, primary_key=True),
    sa.Column("uidl", sa.Text, primary_key=True),
    # set when the server no longer lists it; retention takes it a good while later
    sa.Column("gone_at", sa.BigInteger),
    sqlite_with_rowid=False,
)
_partial_index("uidls_gone", "gone_at IS NOT NULL", uidls.c.gone_at)

#: the last ``sequence`` given for a mailbox and a sink
sequences: Final = sa.Table(
    "sequences",
    metadata,
    sa.Column("mailbox", sa.Text, primary_key=True),
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)

#: one row for each outgoing mail
sends: Final = sa.Table(
    "sends",
    metadata,
    _number(),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("mailbox", sa.Text, nullable=False),
    # of the envelope
    sa.Column("sender", sa.Text, nullable=False),
    # without its brackets, as the Sent folder and bounces are searched for it
    sa.Column("message_id", sa.Text, nullable=False),
    # api, cli, sendmail or relay, and which client of the API
    sa.Column("via", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("accepted_at", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    # when the final dot was about to be written; NULL again once it is known what came of it
    sa.Column("in_doubt_at", sa.BigInteger),
    # when the last open recipient was taken or refused
    sa.Column("ended_at", sa.BigInteger),
    # 1 once a person wants it to be sent although it was in doubt, unless it is found
    sa.Column("released", sa.SmallInteger, nullable=False),
    # the server's last word on the whole mail
    sa.Column("reply", sa.Text),
    # a bounce that came back for somebody who is none of its recipients: when, and what it says
    sa.Column("bounced_at", sa.BigInteger),
    sa.Column("bounce", sa.Text),
    sa.Column("kept", sa.SmallInteger, nullable=False),
)
sa.Index("sends_id", sends.c.id, unique=True)
sa.Index("sends_message_id", sends.c.message_id)
sa.Index("sends_kept", sends.c.kept, sends.c.accepted_at, sends.c.pk)
_partial_index("sends_in_doubt", "in_doubt_at IS NOT NULL", sends.c.mailbox, sends.c.in_doubt_at)

#: the bytes of an outgoing mail, fixed when it was accepted
send_raw: Final = sa.Table(
    "send_raw",
    metadata,
    sa.Column("send", _NUMBER, sa.ForeignKey(sends.c.pk), primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.LargeBinary, nullable=False),
)

#: whom an outgoing mail goes to, each with what became of it
recipients: Final = sa.Table(
    "recipients",
    metadata,
    sa.Column("send", _NUMBER, sa.ForeignKey(sends.c.pk), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # of the sender, for the budget
    sa.Column("mailbox", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    # open, doubt, taken or refused
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
    # when it was taken or refused, which is what the budget counts; the same for all of whom the
    # server was asked at once
    sa.Column("at", sa.BigInteger),
    # a bounce that came back: when, and what it says
    sa.Column("bounced_at", sa.BigInteger),
    sa.Column("bounce", sa.Text),
    sqlite_with_rowid=False,
)
_partial_index("recipients_at", "at IS NOT NULL", recipients.c.mailbox, recipients.c.at)

#: which mail a client's Idempotency-Key stands for
idempotency: Final = sa.Table(
    "idempotency",
    metadata,
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("send_id", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("idempotency_at", idempotency.c.at)

#: test mails that were sent, or are about to be: what they are recognised by, what became of them
probes: Final = sa.Table(
    "probes",
    metadata,
    # in the mail's header
    sa.Column("nonce", sa.Text, primary_key=True),
    sa.Column("mailbox", sa.Text, nullable=False),
    # with its brackets
    sa.Column("message_id", sa.Text, nullable=False),
    # JSON: a list of those that are to be told of its arrival
    sa.Column("webhooks", sa.Text, nullable=False),
    # 0 when a person asked for it, 1 when the schedule did
    sa.Column("scheduled", sa.SmallInteger, nullable=False),
    sa.Column("begun_at", sa.BigInteger, nullable=False),
    # when it has to have arrived everywhere
    sa.Column("due_at", sa.BigInteger, nullable=False),
    # when it was accepted, and the id of the message; only the first mail counts
    sa.Column("seen_at", sa.BigInteger),
    sa.Column("message", sa.Text),
    # how often it has arrived: sent again after a lost answer it may come twice
    sa.Column("copies", sa.Integer, nullable=False),
    # passed, missed, late (passed after all) or void (nobody waits for it any more); NULL: open
    sa.Column("outcome", sa.Text),
    sa.Column("ended_at", sa.BigInteger),
    # JSON: of one that was missed, where it stopped and why
    sa.Column("found", sa.Text),
    sqlite_with_rowid=False,
)
sa.Index("probes_mailbox", probes.c.mailbox, probes.c.begun_at)
_partial_index("probes_open", "scheduled = 1 AND outcome IS NULL", probes.c.mailbox, unique=True)

#: what people consented to. Nothing here can be read without the state key, not even whose it is
grants: Final = sa.Table(
    "grants",
    metadata,
    # a keyed hash of app and account
    sa.Column("name", sa.LargeBinary, primary_key=True),
    # see ``sealing``
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

#: facts about the database itself
meta: Final = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
