"""Who wrote a mail, for readers that must not be fooled."""

from __future__ import annotations

import pytest

from mailbridge.parse import addresses, parse
from mailbridge.parse.parsed import Findings


def read(raw: str) -> tuple[list[tuple[str | None, str | None]], bool]:
    field = addresses.parse(raw, Findings())
    return [(each.name, each.address) for each in field.addresses], field.ambiguous


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a@b.example", [(None, "a@b.example")]),
        (" <a@b.example> ", [(None, "a@b.example")]),
        ("Joe Doe <a@b.example>", [("Joe Doe", "a@b.example")]),
        ('"Doe, Joe" <a@b.example>', [("Doe, Joe", "a@b.example")]),
        ('"D\\"oe" <a@b.example>', [('D"oe', "a@b.example")]),
        ("Joe <a@b.example>, c@d.example", [("Joe", "a@b.example"), (None, "c@d.example")]),
        ("=?utf-8?q?J=C3=B6?= <a@b.example>", [("Jö", "a@b.example")]),
        ("=?utf-8?q?a=2C_b?= <a@b.example>", [("a, b", "a@b.example")]),
        ("=?utf-8?q?=3Cevil=40x=3E?= <a@b.example>", [("<evil@x>", "a@b.example")]),
        ("a@b.example (Joe)", [("Joe", "a@b.example")]),
        ("Joe (the (real) one) <a@b.example>", [("Joe", "a@b.example")]),
        ("a@b.example <a@b.example>", [("a@b.example", "a@b.example")]),
        ('"a@ok.example" <b@evil.example>', [("a@ok.example", "b@evil.example")]),
        ("Team: a@b.example, Joe <c@d.example>;", [(None, "a@b.example"), ("Joe", "c@d.example")]),
        ("undisclosed-recipients:;", []),
        ("a.b+c@sub.b-c.example", [(None, "a.b+c@sub.b-c.example")]),
        ("jörg@müller.example", [(None, "jörg@müller.example")]),
        ("a@[192.0.2.1]", [(None, "a@[192.0.2.1]")]),
        ('"a b"@c.example', [(None, '"a b"@c.example')]),
    ],
)
def test_grammar(raw: str, expected: list[tuple[str | None, str | None]]) -> None:
    """What RFC 5322 allows and people write is read without a doubt."""
    assert read(raw) == (expected, False)


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("a@ok.org <b@evil.org>", "b@evil.org"),
        ("a@ok.org, <b@evil.org> c@ok.org", "b@evil.org"),
        ("<a@ok.org> <b@evil.org>", "b@evil.org"),
        ("<a@ok.org>b@evil.org", "a@ok.org"),
        ("<<b@evil.org>>", "b@evil.org"),
        ("Joe <a@ok.org", "a@ok.org"),
        ("Joe a@ok.org", "a@ok.org"),
        ('"a@ok.org', None),
        ("a@ok.org(", "a@ok.org"),
        ("a@ok.org (<b@evil.org>)", "a@ok.org"),
        ("<@x,@y:b@evil.org>", "b@evil.org"),
        ("a@ok.org@evil.org", "a@ok.org@evil.org"),
        ('"a@ok.org"@evil.org', None),
        ("a@ok.org;b@evil.org", "b@evil.org"),
        ("a @ ok.org", "a@ok.org"),
        ("a..b@ok.org", "a..b@ok.org"),
        ("a@ok.org\\<b@evil.org>", "b@evil.org"),
        ("a@ok.org:b@evil.org;", "b@evil.org"),
        ("=?utf-8?q?a=40ok.org?=", None),
        ("a@=?utf-8?q?ok.org?=", "a@=?utf-8?q?ok.org?="),
        ("MAILER-DAEMON", None),
        ("<>", None),
        ("a@ok.org\ufffd <b@evil.org>", "b@evil.org"),
    ],
)
def test_doubt(raw: str, address: str | None) -> None:
    """What two readers could read in two ways is flagged, and one of them gets its answer."""
    found, ambiguous = read(raw)
    assert ambiguous
    assert address in [each[1] for each in found] or (address is None and not found)


@pytest.mark.parametrize(
    ("fields", "count", "ambiguous"),
    [
        (b"From: a@ok.example\r\n", 1, False),
        (b"From: a@ok.example\r\nFrom: b@evil.example\r\n", 2, True),
        (b"From: a@ok.example\r\nfrom : a@ok.example\r\n", 2, True),
        (b"From: a@ok.example, b@evil.example\r\n", 2, True),
        (b"From:\r\n", 0, True),
        (b"To: a@ok.example\r\n", 0, True),
    ],
)
def test_exactly_one_author(fields: bytes, count: int, *, ambiguous: bool) -> None:
    """Not exactly one From field with exactly one address: nobody in particular wrote it."""
    parsed = parse(fields + b"\r\nx")
    assert len(parsed.from_) == count
    assert parsed.from_ambiguous is ambiguous


def test_long_lists_are_bounded() -> None:
    """Of a list without end 1,000 addresses are read, and that there are more is told."""
    findings = Findings()
    field = addresses.parse("a@b.example," * 1500, findings)
    assert len(field.addresses) == 1000
    assert list(findings.limits) == ["addresses"]
