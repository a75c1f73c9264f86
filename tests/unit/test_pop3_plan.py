"""What a listing and a header tell, without a server."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from mailbridge.model import Checkpoint, Fingerprint
from mailbridge.sources.pop3_plan import (
    LONGEST_UIDL,
    Head,
    Recognition,
    Suspects,
    came_since,
    read_head,
    read_listing,
    received_at,
    storable_uidl,
    wanted,
)
from mailbridge.store.scan import storable

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RECEIVED = b"Received: from a by b; Sat, 21 Nov 2026 13:00:00 +0100\r\n"
OLDER = b"Received: from c by a; Fri, 20 Nov 2026 13:00:00 +0100\r\n"
BODY = b"\r\nReceived: in the body; Sun, 22 Nov 2026 13:00:00 +0100\r\n"


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        (RECEIVED + OLDER + BODY, NOON),
        (b"Return-Path: <a@b>\r\n" + RECEIVED + OLDER + BODY, NOON),
        (b"RECEIVED:from a\r\n\tby b (x; y)\r\n ; Sat, 21 Nov\r\n 2026 12:00:00 GMT\r\n\r\n", NOON),
        (RECEIVED.replace(b"\r\n", b"\n") + b"\nReceived: x; y\n", NOON),
        (b"X-Received: from a; Sat, 21 Nov 2026 13:00:00 +0100\r\n" + BODY, None),
        (b"Subject: x\r\nDate: Sat, 21 Nov 2026 13:00:00 +0100\r\n" + BODY, None),
        (b"Received: from a by b; soon\r\n" + OLDER, None),
        (b"Received: from a by b\r\n" + OLDER, None),
        (BODY, None),
        (b"", None),
    ],
)
def test_the_time_of_arrival_is_that_of_the_topmost_received(
    raw: bytes, moment: datetime | None
) -> None:
    """The last server's own stamp counts; what stands below or in the body is anybody's word."""
    assert received_at(raw) == moment


def test_a_head_without_received_is_dated_by_its_sender() -> None:
    """To tell old mail from new, Date is better than nothing."""
    head = read_head(
        b"Date: Sat, 21 Nov 2026 13:00:00 +0100\r\nMESSAGE-ID: c <1@x> (y)\r\n\r\nMessage-ID: <2@x>"
    )
    assert head == Head(received_at=NOON, message_id="1@x")
    assert read_head(b"") == Head(received_at=None, message_id="")
    assert read_head(RECEIVED + b"Date: no\r\n\r\n").received_at == NOON


def test_nothing_in_a_header_breaks_the_reading(rng: random.Random) -> None:
    """Whatever bytes come, there is an answer."""
    pieces = [
        b"Received:",
        b";",
        b"\r\n",
        b" ",
        b"\n",
        b"\xff\x00",
        b"Date: ",
        b"Message-ID:<",
        RECEIVED,
    ]
    for _ in range(3000):
        raw = b"".join(rng.choices(pieces, k=rng.randrange(12)))
        received_at(raw)
        read_head(raw)


def test_a_day_begins_where_the_server_is() -> None:
    """As IMAP's SINCE: the date as it was written counts; without one nothing is left out."""
    early = Head(
        received_at=datetime(2026, 11, 21, 0, 30, tzinfo=timezone(timedelta(hours=1))),
        message_id="",
    )
    assert came_since(early, date(2026, 11, 21))
    assert not came_since(early, date(2026, 11, 22))
    assert came_since(Head(received_at=None, message_id=""), date(2026, 11, 22))


def test_a_listing_is_read_by_its_tokens() -> None:
    """Numbers, UIDLs and sizes; copies stand together, the oldest first."""
    listing = read_listing(b"2 b\r\n1 a x\r\n3 b\r\n", b"1 10\r\n2 20 y\r\n3 20\r\n")
    assert listing.numbers == {"a": (1,), "b": (2, 3)}
    assert listing.sizes == {1: 10, 2: 20, 3: 20}
    assert listing.complete
    assert (listing.first("b"), listing.copies("b")) == (2, (2, 3))
    assert listing.names([3, 1]) == ["b", "a"] or listing.names([3, 1]) == ["a", "b"]
    assert not read_listing(b"1 a\r\n", b"").complete


@pytest.mark.parametrize("token", [b"a", b"\x00", b"\xff\x80", b"x" * 5000, b"\x7f\x01"])
def test_a_uidl_is_kept_as_the_store_keeps_it(token: bytes) -> None:
    """What the source compares and what the database gives back are the same text."""
    uidl = storable_uidl(token)
    assert storable(uidl) == uidl == storable_uidl(token)
    assert len(uidl) <= LONGEST_UIDL


def test_stored_mail_is_recognised_once_and_by_id_and_time() -> None:
    """Two mails with one Message-ID are two; a time too far off is another mail."""

    def stored(name: str, minutes: int) -> Fingerprint:
        moment = NOON + timedelta(minutes=minutes)
        return Fingerprint(id=name, uid=0, message_id="<1@x>", received_at=moment, size=1)

    def head(minutes: int, message_id: str = "1@x") -> Head:
        return Head(received_at=NOON + timedelta(minutes=minutes), message_id=message_id)

    found = Recognition([stored("a", 0), stored("a", 0), stored("b", 60)], timedelta(minutes=1))
    assert found.find(head(30)) is None
    assert found.find(head(60)) == "b"
    assert found.find(head(0)) == "a"
    assert found.find(head(0)) is None
    assert found.find(head(0, "")) is None


def test_a_senders_date_makes_no_mail_old() -> None:
    """Only the server's own stamp tells what lay there before; in doubt a mail is delivered."""
    watch = Checkpoint(
        mailbox="alarm", folder="INBOX", uidvalidity=0, uid=0, baseline_uid=1, watching_since=NOON
    )
    assert wanted(read_head(b"Date: Sun, 01 Jan 2006 00:00:00 +0000\r\n\r\n"), watch)
    old = b"Received: from a by b; Sun, 01 Jan 2006 00:00:00 +0000\r\n\r\n"
    assert not wanted(read_head(old), watch)


def test_who_cost_the_connection_is_forgotten_when_it_is_over() -> None:
    """Suspicion ends with a success, a gap, or when the server no longer lists the message."""
    suspects = Suspects()
    suspects.lost(["a", "b", "c"])
    suspects.lost(["a"], surely=True)
    assert (suspects.hopeless("a"), suspects.hopeless("b")) == (True, False)
    suspects.cleared("a")
    suspects.cleared("never seen")
    suspects.forget_all_but({"b"})
    assert suspects.losses == {"b": 1}
