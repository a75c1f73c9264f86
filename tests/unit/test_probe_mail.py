"""A test mail: whoever reads it knows it for one, and its mark is read as it was written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mailbridge.parse import parse
from mailbridge.test_mail import SUBJECT, compose, mark_of

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
ADDRESS = "alarm@feuerwehr.example"


def test_it_says_what_it_is() -> None:
    """Subject and text tell a person, headers tell programs, that nothing is to be done."""
    mail = compose(sender=ADDRESS, to=ADDRESS, at=NOW)
    found = parse(mail.raw)
    headers = {name: value for name, value, *_ in found.headers}
    assert found.status == "ok"
    assert (found.message_id, found.subject) == (mail.message_id, SUBJECT)
    assert headers["Auto-Submitted"] == "auto-generated"
    assert found.text is not None
    assert "Es ist nichts zu tun." in found.text.content
    assert "Empfänger" in found.text.content
    assert all(line.endswith(b"\r") for line in mail.raw.split(b"\n")[:-1])


def test_it_has_no_word_that_wakes() -> None:
    """Should a mark ever not be known, no route for alarms finds what it looks for."""
    mail = compose(sender="x@feuerwehr.example", to="x@feuerwehr.example", at=NOW)
    text = parse(mail.raw).text
    assert text is not None
    for word in ("alarm", "einsatz", "stichwort", "brand", "notfall", "emergency"):
        assert word not in f"{SUBJECT} {text.content}".lower()


def test_no_two_are_alike() -> None:
    """Nonce and Message-ID are drawn by lot, and neither tells the other."""
    mails = [compose(sender=ADDRESS, to=ADDRESS, at=NOW) for _ in range(50)]
    assert len({one.nonce for one in mails} | {one.message_id for one in mails}) == 100
    assert all(one.nonce not in one.message_id for one in mails)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"Received: by there\r\nX-Other: 1\r\n" + raw,
        lambda raw: raw.replace(b"\r\n", b"\n"),
        lambda raw: raw.replace(b"X-Mailbridge-Test", b"x-MAILBRIDGE-test"),
        lambda raw: raw.replace(b"X-Mailbridge-Test: ", b"X-Mailbridge-Test:\r\n "),
    ],
)
def test_servers_may_write_it_in_their_way(change: Callable[[bytes], bytes]) -> None:
    """Other fields, line ends, letters and folds: the mark is the same."""
    mail = compose(sender=ADDRESS, to=ADDRESS, at=NOW)
    assert mark_of(change(mail.raw)) == mail.nonce


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"Subject: x\r\n\r\nX-Mailbridge-Test: " + b"a" * 26,
        b"X-Mailbridge-Test: " + b"a" * 25 + b"\r\n\r\n",
        b"X-Mailbridge-Test: " + b"a" * 27 + b"\r\n\r\n",
        b"X-Mailbridge-Test: " + b"a" * 26 + b" b\r\n\r\n",
        (b"X-Mailbridge-Test: " + b"a" * 26 + b"\r\n") * 2 + b"\r\n",
        b"Y-X-Mailbridge-Test: " + b"a" * 26 + b"\r\n\r\n",
        b"X: " + b"a" * 300_000 + b"\r\nX-Mailbridge-Test: " + b"a" * 26 + b"\r\n\r\n",
    ],
)
def test_what_is_no_mark(raw: bytes) -> None:
    """In the body, twice, too long, too short, or behind a header that nobody writes: no mark."""
    assert mark_of(raw) is None
