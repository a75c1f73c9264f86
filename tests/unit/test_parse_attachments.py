"""Attachments that are more than a file: winmail.dat, invitations, messages within messages."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.parse import parse
from mailbridge.parse.parsed import Findings
from mailbridge.parse.tnef import FILES, SIGNATURE, unpack

LONG_FILENAME, MIME_TAG, CONTENT_ID = 0x3707, 0x370E, 0x3712


def attribute(number: int, data: bytes, level: int = 2) -> bytes:
    """Return an attribute as MS-OXTNEF section 2.1.3.1 lays it out."""
    head = struct.pack("<BHHI", level, number, 6, len(data))
    return head + data + struct.pack("<H", sum(data) & 0xFFFF)


def properties(values: Sequence[tuple[int, str]]) -> bytes:
    """Return a list of UTF-16 properties, one of them named by a GUID."""
    out = struct.pack("<I", len(values) + 1)
    out += struct.pack("<HH16sII", 0x0003, 0x8001, b"G" * 16, 0, 5) + struct.pack("<I", 7)
    for name, value in values:
        data = (value + "\0").encode("utf-16-le")
        padding = b"\0" * (-len(data) % 4)
        out += struct.pack("<HHII", 0x001F, name, 1, len(data)) + data + padding
    return out


def file_of(title: bytes, content: bytes, more: Sequence[tuple[int, str]] = ()) -> bytes:
    return (
        attribute(0x9002, b"\0" * 14)
        + attribute(0x8010, title + b"\0")
        + attribute(0x800F, content)
        + (attribute(0x9005, properties(more)) if more else b"")
    )


def stream(*parts: bytes) -> bytes:
    return SIGNATURE + b"\1\0" + b"".join(parts)


def mail(*parts: tuple[str, bytes]) -> bytes:
    """Return a multipart mail of these (header lines, content)."""
    body = b"".join(
        b"--b\r\n"
        + head.encode()
        + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(content)
        + b"\r\n"
        for head, content in parts
    )
    return (
        b"From: a@b.example\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body + b"--b--\r\n"
    )


WINMAIL = 'Content-Type: application/ms-tnef; name="winmail.dat"'


def test_the_files_of_a_winmail_dat_are_listed() -> None:
    """What Outlook packs away is there under its own name and type, behind the winmail.dat."""
    packed = stream(
        attribute(0x9007, struct.pack("<I", 1252), level=1),
        attribute(0x800C, "Stichwort: Öl\0".encode("cp1252"), level=1),
        file_of(
            b"DEPESC~1.PDF",
            b"%PDF-1.7 x",
            [
                (LONG_FILENAME, "../Depesche ä.pdf"),
                (MIME_TAG, "application/pdf"),
                (CONTENT_ID, "c1"),
            ],
        ),
        file_of(b"plan.txt", b"hin"),
    )
    found = parse(mail((WINMAIL, packed)))
    assert [(a.kind, a.filename, a.content_type, a.within) for a in found.attachments] == [
        ("tnef", "winmail.dat", "application/ms-tnef", None),
        ("file", "_Depesche ä.pdf", "application/pdf", "winmail.dat"),
        ("file", "plan.txt", "application/octet-stream", "winmail.dat"),
    ]
    assert found.attachments[1].content == b"%PDF-1.7 x"
    assert found.attachments[1].content_id == "c1"
    assert found.text is not None
    assert found.text.content == "Stichwort: Öl"
    assert found.status == "ok"


def test_the_text_outside_of_a_winmail_dat_wins() -> None:
    """A mail that has a text of its own keeps it, wherever the winmail.dat stands."""
    packed = stream(attribute(0x800C, b"inside\0", level=1))
    for parts in (
        [(WINMAIL, packed), ("Content-Type: text/plain", b"outside")],
        [("Content-Type: text/plain", b"outside"), (WINMAIL, packed)],
    ):
        found = parse(mail(*parts))
        assert found.text is not None
        assert found.text.content == "outside"
        assert len(found.attachments) == 1


def test_a_torn_winmail_dat_gives_what_was_readable() -> None:
    """Cut anywhere, the files before the cut are there, and the mail says that something is off."""
    whole = stream(file_of(b"a.txt", b"A" * 50), file_of(b"b.txt", b"B" * 50))
    full = len(unpack(whole, Findings()).files)
    for end in range(len(SIGNATURE) + 3, len(whole)):
        found = unpack(whole[:end], Findings())
        assert len(found.files) <= full
        assert all(f.content in {b"A" * 50, b"B" * 50} for f in found.files)
    assert full == 2
    assert "tnef-torn" in parse(mail((WINMAIL, whole[:-20]))).defects


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_no_winmail_dat_makes_parsing_raise(noise: bytes, seed: int) -> None:
    """Noise behind the signature, and a real stream with bytes turned over, are read or refused."""
    rng = random.Random(seed)
    real = bytearray(stream(file_of(b"a.txt", b"A" * 50, [(LONG_FILENAME, "x.pdf")])))
    for _ in range(5):
        real[rng.randrange(len(SIGNATURE), len(real))] = rng.randrange(256)
    for content in (SIGNATURE + noise, bytes(real)):
        assert len(unpack(content, Findings()).files) <= FILES
        assert parse(mail((WINMAIL, content))).status != "failed"


def test_a_winmail_dat_of_thousands_of_files_is_bounded() -> None:
    """No stream lists more attachments than any mail may, and it says that it was cut."""
    found = parse(mail((WINMAIL, stream(*(file_of(b"a", b"A") for _ in range(1000))))))
    assert len(found.attachments) == 100
    assert found.status == "limited"


def test_an_invitation_is_marked() -> None:
    """A calendar says that it is one, by which method, when and where."""
    calendar = (
        b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VTIMEZONE\r\nDTSTART:19700101T000000\r\n"
        b"END:VTIMEZONE\r\nBEGIN:VEVENT\r\nUID:4711@x\r\n"
        b"SUMMARY:\xc3\x9cbung\\, gro\r\n \xc3\x9f\r\n"
        b'DTSTART;TZID="W. Europe Standard Time":20261121T190000\r\nLOCATION:Wache\r\n'
        b"BEGIN:VALARM\r\nSUMMARY:no\r\nEND:VALARM\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\n"
        b"SUMMARY:second\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    found = parse(
        mail(
            ("Content-Type: text/plain", b"Einladung"),
            ("Content-Type: text/calendar; method=REQUEST; name=invite.ics", calendar),
        )
    )
    [entry] = found.attachments
    assert entry.kind == "calendar"
    assert entry.details == {
        "method": "REQUEST",
        "uid": "4711@x",
        "summary": "Übung, groß",
        "starts": "20261121T190000",
        "starts_zone": "W. Europe Standard Time",
        "location": "Wache",
    }


def test_a_message_within_is_described_and_not_opened() -> None:
    """A forwarded mail is listed with its subject and author; its own attachments stay in it."""
    inner = (
        b"From: ILS <ils@ils.example>\r\nSubject: =?utf-8?q?=C3=96l?=\r\nMessage-ID: <1@ils>\r\n"
        b"Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\n"
        b"Content-Disposition: attachment; filename=a.pdf\r\n\r\nx\r\n--i--\r\n"
    )
    raw = (
        b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: message/rfc822\r\n\r\n" + inner + b"\r\n--b--\r\n"
    )
    [entry] = parse(raw).attachments
    assert entry.kind == "message"
    assert entry.details == {
        "subject": "Öl",
        "from": "ILS <ils@ils.example>",
        "date": None,
        "message_id": "<1@ils>",
    }
    assert entry.content.rstrip() == inner.rstrip()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_calendar_or_message_makes_parsing_raise(noise: bytes) -> None:
    """Whatever stands in an invitation or an enclosed mail, the mail around it is read."""
    found = parse(
        mail(
            ("Content-Type: text/calendar", b"BEGIN:VCALENDAR\nBEGIN:VEVENT\n" + noise),
            ("Content-Type: message/rfc822", noise),
        )
    )
    assert found.status != "failed"
