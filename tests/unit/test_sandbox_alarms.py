"""The alarm mails of the demo are what control centres send, and the same every time."""

from __future__ import annotations

import email
import email.policy
import random
from datetime import UTC, datetime
from email.message import EmailMessage

from mailbridge.sandbox.alarms import alarm_mails

AT = datetime(2026, 11, 21, 10, 0, 12, tzinfo=UTC)


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_same_chance_gives_the_same_bytes() -> None:
    """Seed and moment decide everything, so that a failure can be repeated."""
    first = alarm_mails(20, random.Random(1), at=AT)
    assert first == alarm_mails(20, random.Random(1), at=AT)
    assert first != alarm_mails(20, random.Random(2), at=AT)
    assert len({parsed(raw)["Message-ID"] for raw in first}) == 20


def test_every_format_is_a_sound_mail_with_its_facts() -> None:
    """Each mail parses without defects, and shows keyword and place in subject and body."""
    kinds = set()
    for raw in alarm_mails(40, random.Random(3), at=AT):
        mail = parsed(raw)
        assert not mail.defects
        assert mail["Subject"].startswith("Einsatzalarmierung - ")
        keyword = mail["Subject"].split(" - ")[1]
        body = mail.get_body(preferencelist=("plain",))
        assert body is not None
        assert keyword.split()[0] in body.get_content()
        kinds.add((mail.get_content_type(), *(p.get_content_type() for p in mail.iter_parts())))
        assert all(line.endswith(b"\r") for line in raw.split(b"\n")[:-1])
    assert kinds == {
        ("text/plain",),
        ("multipart/alternative", "text/plain", "text/html"),
        ("multipart/mixed", "text/plain", "application/pdf"),
        ("multipart/mixed", "text/plain", "application/xml"),
    }


def test_umlauts_and_attachments_survive_on_seven_bit_lines() -> None:
    """Headers are RFC 2047, bodies in several encodings, names of files with umlauts."""
    mails = alarm_mails(40, random.Random(4), at=AT)
    assert all(raw.isascii() for raw in mails)
    assert any("ß" in parsed(raw)["Subject"] for raw in mails)
    charsets = {
        part.get_content_charset()
        for raw in mails
        for part in parsed(raw).walk()
        if part.get_content_charset()
    }
    assert {"utf-8", "iso-8859-1", "windows-1252"} <= charsets
    names = {part.get_filename() for raw in mails for part in parsed(raw).iter_attachments()}
    assert "einsatz.xml" in names
    pdf = next(
        part
        for raw in mails
        for part in parsed(raw).iter_attachments()
        if "Übersicht" in (part.get_filename() or "")
    )
    assert pdf.get_content().startswith(b"%PDF-1.4")


def test_the_topmost_header_is_exchanges_verdict() -> None:
    """Authentication-Results comes first, without an authserv-id, above the first Received."""
    raw = alarm_mails(1, random.Random(5), at=AT)[0]
    assert raw.startswith(b"Authentication-Results: spf=pass (sender IP is ")
    assert b"compauth=pass reason=100" in raw[: raw.index(b"\r\nReceived:")]
