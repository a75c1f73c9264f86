"""FETCH answers: the quick reader and imapclient's parser say the same."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imapclient.exceptions import ProtocolError
from imapclient.response_parser import parse_fetch_response

from mailbridge.sources.imap_answers import Part, internal_date, rows, swallowed

DATE = b'"21-Nov-2026 04:22:28 +0100"'


def _slow(parts: list[Part]) -> dict[int, dict[bytes, object]]:
    wanted = {b"INTERNALDATE", b"BODY[]", b"RFC822.SIZE"}
    parsed = parse_fetch_response(parts, False, True)  # noqa: FBT003 - its signature
    return {
        uid: {name: value for name, value in row.items() if name in wanted}
        for uid, row in parsed.items()
    }


def _message(number: int, uid: int, body: bytes, shape: int) -> list[Part]:
    heads = [
        b"%d (UID %d INTERNALDATE " % (number, uid) + DATE + b" BODY[] {%d}" % len(body),
        b"%d (INTERNALDATE " % number + DATE + b" UID %d BODY[] {%d}" % (uid, len(body)),
        b"%d (FLAGS () UID %d INTERNALDATE " % (number, uid) + DATE + b" BODY[] {%d}" % len(body),
        b"%d (INTERNALDATE " % number + DATE + b" BODY[] {%d}" % len(body),
    ]
    return [(heads[shape], body), b" UID %d)" % uid if shape == 3 else b")"]


@given(
    st.lists(
        st.tuples(st.integers(1, 2**32 - 1), st.binary(max_size=60), st.integers(0, 3)),
        max_size=8,
        unique_by=lambda one: one[0],
    )
)
def test_bodies_are_read_alike_in_every_order_of_items(
    messages: list[tuple[int, bytes, int]],
) -> None:
    """Whichever reader takes an answer, the bytes, UIDs and times are the same."""
    parts = [
        part
        for number, (uid, body, shape) in enumerate(messages, 1)
        for part in _message(number, uid, body, shape)
    ]

    found = {
        uid: {name: row[name] for name in (b"INTERNALDATE", b"BODY[]")}
        for uid, row in rows(parts).items()
    }

    assert found == (_slow(parts) if parts else {})
    assert {uid: row[b"BODY[]"] for uid, row in found.items()} == {
        uid: body for uid, body, _ in messages
    }


@pytest.mark.parametrize(
    "parts",
    [
        [b"1 (UID 7 RFC822.SIZE 4711)", b"2 (RFC822.SIZE 12 UID 8)"],
        [b"1 (UID 7 RFC822.SIZE 4711 FLAGS (\\Seen))"],
        [b"1 (FLAGS (\\Seen) UID 9)", b"1 (UID 9 RFC822.SIZE 5)"],
        [b"1 (UID 7 INTERNALDATE " + DATE + b" BODY[] NIL)"],
        [b'1 (UID 7 INTERNALDATE "nonsense" BODY[] "short")'],
        [(b"1 (UID 7 INTERNALDATE " + DATE + b" BODY[] {3}", b"abc"), b")", b"1 (FLAGS () UID 7)"],
    ],
)
def test_other_shapes_are_read_alike(parts: list[Part]) -> None:
    """Sizes in either order, flags among them, no body at all, a quoted one."""
    wanted = {b"INTERNALDATE", b"BODY[]", b"RFC822.SIZE"}

    found = {
        uid: {name: value for name, value in row.items() if name in wanted}
        for uid, row in rows(parts).items()
    }

    assert found == _slow(parts)


@pytest.mark.parametrize("parts", [[], [None]])
def test_no_answer_is_no_row(parts: list[Part | None]) -> None:
    """OK without data is empty, and the caller asks again."""
    assert rows(parts) == {}


def test_a_literal_of_another_length_than_announced_is_no_message() -> None:
    """It is an error, never a shorter mail."""
    with pytest.raises(ProtocolError, match="literal"):
        rows([(b"1 (UID 7 INTERNALDATE " + DATE + b" BODY[] {9}", b"abc"), b")"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"21-Nov-2026 04:22:28 +0100", datetime(2026, 11, 21, 3, 22, 28, tzinfo=UTC)),
        (b" 1-Jan-2026 00:00:00 -0330", datetime(2026, 1, 1, 3, 30, tzinfo=UTC)),
        (b"01-Jan-2026 00:00:00 +0000", datetime(2026, 1, 1, tzinfo=UTC)),
        (b"31-Feb-2026 00:00:00 +0000", None),
        (b"01-Foo-2026 00:00:00 +0000", None),
        (b"01-Jan-0000 00:00:00 +0000", None),
        (b"01-Jan-2026 00:00:60 +0000", None),
        (b"01-Jan-2026 00:00:00 +9900", None),
        (b"", None),
    ],
)
def test_internal_dates_are_read_or_left(text: bytes, expected: datetime | None) -> None:
    """A date that no calendar has is none; the zone counts."""
    assert internal_date(text) == expected


def _read(stream: bytes) -> list[Part] | None:
    """Cut answers as imaplib does; ``None`` where it would give up or wait for more."""
    parts: list[Part] = []
    at = 0

    def line() -> bytes | None:
        nonlocal at
        end = stream.find(b"\r\n", at)
        text, at = stream[at:end], end + 2
        return None if end < 0 else text

    while at < len(stream):
        text = line()
        if text is None:
            return None
        if re.match(rb"T1 OK ", text):
            return parts if at == len(stream) else None
        match = re.match(rb"\* (\d+) FETCH (.*)", text)
        if match is None:
            return None
        rest: bytes | None = match[1] + b" " + match[2]
        while rest is not None and (announced := re.search(rb"\{(\d+)\}\Z", rest)):
            size = int(announced[1])
            if at + size > len(stream):
                return None
            parts.append((rest, stream[at : at + size]))
            at += size
            rest = line()
        if rest is None:
            return None
        parts.append(rest)
    return None


BODIES = {
    uid: b"Subject: %d\r\n\r\n" % uid + b"(text) of message\r\n" * (uid % 5 + 1)
    for uid in range(21, 26)
}


def _stream(broken: int, delta: int, shape: int) -> bytes:
    out = b""
    for number, (uid, body) in enumerate(BODIES.items(), 1):
        announced = max(0, len(body) + (delta if uid == broken else 0))
        head, *rest = _message(number, uid, body, shape)
        assert isinstance(head, tuple)
        text = head[0].rsplit(b"{", 1)[0] + b"{%d}" % announced
        tail = rest[0]
        assert isinstance(tail, bytes)
        out += b"* " + text.replace(b" (", b" FETCH (", 1) + b"\r\n" + body + tail + b"\r\n"
    return out + b"T1 OK FETCH completed.\r\n"


@pytest.mark.parametrize("shape", [0, 1, 2, 3])
@pytest.mark.parametrize("broken", BODIES)
def test_a_broken_literal_gives_no_message_wrong_bytes(broken: int, shape: int) -> None:
    """However many bytes a literal is off: right bytes, no bytes, or an error."""
    read = 0
    for delta in range(-len(BODIES[broken]), 500):
        parts = _read(_stream(broken, delta, shape))
        if parts is None:
            continue
        try:
            found = rows(parts)
        except (ProtocolError, ValueError):
            continue
        for uid in swallowed(found, BODIES.keys() - found.keys()):
            del found[uid]
        read += 1
        wrong = {uid for uid, row in found.items() if row[b"BODY[]"] != BODIES[uid]}
        assert wrong == set(), delta
    assert read >= 1


def test_a_mail_may_quote_an_answer() -> None:
    """A transcript in a mail is no broken literal as long as no message is missing."""
    body = b"a\r\n* 2 FETCH (UID 8 FLAGS ())\r\nb"
    found = rows([(b"1 (UID 7 INTERNALDATE " + DATE + b" BODY[] {%d}" % len(body), body), b")"])

    assert swallowed(found, set()) == set()
    assert swallowed(found, {88}) == set()
    assert swallowed(found, {8}) == {7}
