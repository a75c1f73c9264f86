"""A mail on its way into SMTP: line ends, dots, and what has to be said about it."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.sinks.smtp_message import (
    BadAddress,
    Commands,
    Envelope,
    commands,
    on_the_wire,
    wire_form,
)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"..", b"\r\n.\r\n"])))
def test_no_bytes_make_an_end_before_the_end(pieces: list[bytes]) -> None:
    """However CR, LF and dots are mixed, only our own dot ends the mail; nothing else is lost."""
    raw = b"".join(pieces)
    form = wire_form(raw)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", form.data)
    assert not re.search(rb"(?:\A|\r\n)\.(?:\r\n|\Z)", form.data)
    assert form.data.endswith(b"\r\n")
    lines = form.data.split(b"\r\n")
    back = b"\n".join(line.removeprefix(b".") for line in lines)
    text = re.sub(rb"\r\n|\r", b"\n", raw)
    assert back == (text if text.endswith(b"\n") else text + b"\n")
    assert form.size == len(back) + back.count(b"\n")


def test_every_mixture_of_ends_around_a_dot_is_stuffed() -> None:
    """All sequences of up to three ends before a dot and up to two behind it."""
    ends = [b"\r", b"\n", b"\r\n", b""]
    for before in product(ends, repeat=3):
        for behind in product(ends, repeat=2):
            data = wire_form(b"a" + b"".join(before) + b"." + b"".join(behind) + b"b").data
            assert b"\r\n.\r\n" not in data
            assert b"\n.\n" not in data.replace(b"\r\n", b"\n")


def test_what_a_mail_needs_is_seen() -> None:
    """Eight bits in the text need 8BITMIME; in the header SMTPUTF8, too."""
    plain, text, head = (
        wire_form(one) for one in (b"A: b\n\nc", b"A: b\n\n\xc3\xa4", b"A: \xc3\xa4\n\nc")
    )
    assert (plain.eight_bit, plain.international) == (False, False)
    assert (text.eight_bit, text.international) == (True, False)
    assert (head.eight_bit, head.international) == (True, True)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("a.b+c@d.example", "a.b+c@d.example"),
        ('"a b"@d.example', '"a b"@d.example'),
        ("müller@bücher.example", "müller@xn--bcher-kva.example"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@localhost", "a@localhost"),
        ("o'brien/x=y@d.example", "o'brien/x=y@d.example"),
    ],
)
def test_an_address_is_written_for_smtp(address: str, written: str) -> None:
    """Domains in ASCII, local parts as they are."""
    assert on_the_wire(address) == written


@pytest.mark.parametrize(
    "address",
    [
        *("", "a", "@b.example", "a@", "a@b@c.example", "a b@c.example", "<a@b.example>"),
        *(
            "a@b.example>",
            "a@b.example\r\nDATA",
            "a\n@b.example",
            "a@b\x00.example",
            "a@-b.example",
        ),
        *("a@b..example", ".a@b.example", "a.@b.example", "a..b@c.example", '"a\r"@b.example'),
        *("a@straße.example", "x" * 65 + "@b.example", "a@" + "b" * 64 + ".example"),
        *(
            "a@" + ".".join(["b" * 60] * 5),
            "a@b.example SIZE=1",
            "a@b.example\u2028",
            "a\u00a0b@c.example",
        ),
    ],
)
def test_what_is_no_address_is_not_written(address: str) -> None:
    """Nothing that could end a command, mean two domains, or be no address at all."""
    with pytest.raises(BadAddress):
        on_the_wire(address)


@given(st.text(max_size=60))
def test_no_text_becomes_more_than_one_command(text: str) -> None:
    """Any text as a recipient: it is refused, or stands in one RCPT command alone."""
    envelope = Envelope(sender="a@b.example", recipients=(text,))
    asked = commands(envelope, wire_form(b"x"), {"smtputf8": ""})
    assert isinstance(asked, Commands)
    for command in asked.recipients.values():
        assert (
            re.fullmatch(rb"RCPT TO:<[^\x00-\x20<>]+@[^\x00-\x20<>]+>", command) or b'"' in command
        )
        assert not re.search(rb"[\x00-\x1f\x7f]", command)
    assert len(asked.recipients) + len(asked.refused) == 1


def test_a_bad_sender_refuses_the_mail() -> None:
    """An injected sender is refused here; an empty one (a report) is fine."""
    form = wire_form(b"x")
    bad = commands(Envelope(sender="a@b.example>\r\nRSET", recipients=("c@d.example",)), form, {})
    assert not isinstance(bad, Commands)
    assert bad.code == "smtp.invalid_address"
    empty = commands(Envelope(sender="", recipients=("c@d.example",)), form, {})
    assert isinstance(empty, Commands)
    assert empty.mail == b"MAIL FROM:<>"
