"""A mail that comes whole is sent as it is, and completed; what cannot be sent is told."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.compose import accept
from mailbridge.compose.addresses import Party
from mailbridge.compose.draft import Built, Fault
from mailbridge.parse import parse
from mailbridge.sinks.smtp_message import wire_form

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MARK = "out_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SENDER = Party("", "alarm@fw.example")
WHOLE = (
    b"From: =?utf-8?q?S=C3=BCd?= <alarm@fw.example>\r\n"
    b"To: a@b.example,\r\n\tc@d.example\r\n"
    b"Subject:  odd   spacing\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0100\r\n"
    b"Message-ID: <1@printer.example>\r\n"
    b"\r\n"
    b"text \r\n.\r\n..two\r\n"
)
Form = Literal["strict", "unix"]


def completed(raw: bytes, form: Form = "strict", *, beside: tuple[str, ...] = ()) -> Built:
    faults: list[Fault] = []
    whole = accept.take_apart(raw, faults, form=form)
    found = [Party("", one) for one in beside] or accept.recipients_of(whole, faults)
    recipients = accept.check_recipients(found, faults)
    assert faults == []
    sender = whole.author or SENDER
    return accept.complete(whole, sender=sender, recipients=recipients, mark=MARK, date=NOON)


def faults(raw: bytes, form: Form = "strict") -> list[str]:
    found: list[Fault] = []
    accept.check_recipients(
        accept.recipients_of(accept.take_apart(raw, found, form=form), found), found
    )
    return [f"{one.where} {one.code}" for one in found]


def test_a_whole_mail_keeps_its_bytes() -> None:
    """Only our mark is put in front: folds, spaces and encoded words stay as they were."""
    mail = completed(WHOLE)
    assert mail.raw == f"X-Mailbridge-Id: {MARK}\r\n".encode() + WHOLE
    assert mail.message_id == "<1@printer.example>"
    assert mail.recipients == ("a@b.example", "c@d.example")


def test_bcc_gets_it_and_is_not_seen() -> None:
    """Bcc is taken out however it is written; recipients that are given stand for all others."""
    fields = b"BCC : x@y.example,\r\n z@y.example\r\nResent-Bcc: s@t.example\r\nbcc:\r\n"
    mail = completed(fields + WHOLE)
    assert mail.raw.endswith(WHOLE)
    assert b"y.example" not in mail.raw
    assert b"t.example" not in mail.raw
    assert mail.recipients == ("x@y.example", "z@y.example", "a@b.example", "c@d.example")
    assert completed(fields + WHOLE, beside=("q@r.example",)).recipients == ("q@r.example",)


def test_what_is_missing_is_put_in_front() -> None:
    """Date, Message-ID and From, when there are none; the rest stays."""
    mail = completed(b"To: a@b.example\r\n\r\ntext\r\n")
    read = parse(mail.raw)
    assert mail.raw.endswith(b"To: a@b.example\r\n\r\ntext\r\n")
    assert read.date == NOON
    assert read.message_id == mail.message_id == f"<{MARK}@fw.example>"
    assert [one.address for one in read.from_] == ["alarm@fw.example"]
    assert len(read.headers) == 5


@pytest.mark.parametrize("written", ["1@printer", "<a b@c>", "", "<a@b> <c@d>"])
def test_a_message_id_that_is_none_is_replaced(written: str) -> None:
    """By it the sent items are searched and reports are matched, so it has to be one."""
    mail = completed(WHOLE.replace(b"<1@printer.example>", written.encode()))
    assert mail.message_id == f"<{MARK}@fw.example>"
    assert len(re.findall(rb"(?mi)^message-id:", mail.raw)) == 1


ENDS = [b"\r", b"\n", b"\r\n", b"\r\r\n", b"\n\r", b"\n\n", b"\r\r", b""]


@pytest.mark.parametrize("before", ENDS)
@pytest.mark.parametrize("after", ENDS)
@pytest.mark.parametrize("dot", [b".", b".."])
def test_no_end_is_smuggled_in(before: bytes, dot: bytes, after: bytes) -> None:
    """Every variant of an end of the mail within it: only CRLF is kept, and dots are stuffed."""
    inner = before + dot + after
    evil = b"MAIL FROM:<evil@evil.example>" + inner
    mail = completed(WHOLE + b"text" + inner + evil)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", mail.raw)
    sent = wire_form(mail.raw).data
    assert b"\r\n.\r\n" not in sent
    assert not re.search(rb"[\r\n]\.[\r\n]", sent)


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x", b" ", b"Bcc: e@f.example"])))
@settings(max_examples=300, deadline=None)
def test_line_ends_are_crlf_whatever_comes(pieces: list[bytes]) -> None:
    """However bare CR and LF are mixed, in the header or below, what is kept has only CRLF."""
    for raw in (WHOLE + b"".join(pieces), b"".join(pieces) + b"\r\n" + WHOLE):
        found: list[Fault] = []
        whole = accept.take_apart(raw, found, form="unix")
        mail = accept.complete(whole, sender=SENDER, recipients=("a@b.c",), mark=MARK, date=NOON)
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", mail.raw)
        assert not any(one.key == "bcc" for one in parse(mail.raw).headers)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "message send.invalid"),
        (b"just text\r\n", "message send.invalid"),
        (b"To: a@b.example\r\nno field\r\n\r\n", "message send.invalid"),
        (b" folded: first\r\nTo: a@b.example\r\n\r\n", "message send.invalid"),
        (b"To: a@b.example\r\n\r\nNUL \0\r\n", "message send.invalid"),
        (b"To: a@b.example\r\n\r\n" + b"x" * 999, "message send.long_line"),
        (b"Subject: " + b"x" * 999 + b"\r\nTo: a@b.example\r\n\r\n", "message send.long_line"),
        (b"From: a@b.example\r\n" + WHOLE, "message.from send.invalid"),
        (b"Message-ID: <2@b.example>\r\n" + WHOLE, "message.message-id send.invalid"),
        (b"From: a@b.example, c@d.example\r\nTo: a@b.example\r\n\r\n", "message.from send.invalid"),
        (b"From: a@b.example <c@d.example>\r\nTo: a@b.c\r\n\r\n", "message.from send.invalid"),
        (b"From: root\r\nTo: a@b.example\r\n\r\n", "message.from send.invalid"),
        (b"To: root\r\n\r\n", "message.to send.bad_address"),
        (b"To: a@b.example c@d.example\r\n\r\n", "message.to send.bad_address"),
        (b"Subject: x\r\n\r\n", "to send.invalid"),
        (b"To: undisclosed-recipients:;\r\n\r\n", "to send.invalid"),
        (b"X-Mailbridge-Id: out_A\r\n" * 6 + WHOLE, "message send.loop"),
        (b"Received: by x\r\n" * 101 + WHOLE, "message send.loop"),
        (b"X: y\r\n" * 1001 + WHOLE, "message send.invalid"),
        (b"Cc: " + b"a@b.example,\r\n " * 40000 + b"\r\n" + WHOLE, "message send.invalid"),
    ],
)
def test_what_cannot_be_sent_is_told(raw: bytes, told: str) -> None:
    """A mail without header, author or recipient, with two of one, too long, or in circles."""
    assert told in faults(raw)


def test_a_mail_that_comes_back_is_stopped() -> None:
    """Two instances that forward to each other: the mark counts the passes, and the sixth ends."""
    raw = WHOLE
    for _ in range(accept.HOPS + 1):
        raw = completed(raw).raw
    assert faults(raw) == ["message send.loop"]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"Disk full\nBcc: no field\n", b"\r\nDisk full\r\nBcc: no field\r\n"),
        (b"Subject: x\nDisk: full\n/dev/sda\n", b"Disk: full\r\n\r\n/dev/sda\r\n"),
        (b"From root Sat Nov 21 10:00:00 2026\nSubject: x\n\ny\n", b"Subject: x\r\n\r\ny\r\n"),
        (b"From: root (Cron Daemon)\nSubject: x\n\ny", b"Subject: x\r\n\r\ny\r\n"),
    ],
)
def test_unix_programs_write_as_they_do(raw: bytes, kept: bytes) -> None:
    """Text without header, mbox's first line, a bare name in From: taken as sendmail takes them."""
    mail = completed(raw, "unix", beside=("a@b.example",))
    assert mail.raw.endswith(kept)
    assert [one.address for one in parse(mail.raw).from_] == ["alarm@fw.example"]
    assert b"From root" not in mail.raw


def test_a_bare_name_is_told_to_whoever_completes() -> None:
    """The name that cron writes in From becomes the name beside the mailbox's address."""
    whole = accept.take_apart(b"From: root (Cron\n\tDaemon)\nTo: a@b.example\n\n", [], form="unix")
    assert (whole.author, whole.unqualified) == (None, "root (Cron Daemon)")
