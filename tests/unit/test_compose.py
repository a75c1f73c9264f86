"""A request becomes one mail: what was asked for, nothing more, on any server."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.compose import build
from mailbridge.compose.addresses import Party
from mailbridge.compose.draft import Built, Draft, Fault, File, Written
from mailbridge.parse import parse
from mailbridge.parse.charset import clean_line
from mailbridge.parse.parsed import Findings

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MARK = "out_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
AUTHOR = Party("Leitstelle Süd", "alarm@feuerwehr.example")
#: what line ends look like to some reader
ENDS = ("\r", "\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029")
FIELDS = {
    "x-mailbridge-id",
    "from",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "auto-submitted",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
}


def draft(**changed: Any) -> Draft:
    asked: dict[str, Any] = {"sender": Written("alarm"), "to": (Written("max@fw.example"),)}
    return Draft(**{**asked, **changed})


def built(**changed: Any) -> Built:
    faults: list[Fault] = []
    letter = build.check(draft(**changed), faults)
    assert faults == []
    return build.write(letter, sender=AUTHOR, mark=MARK, date=NOON)


def faults(**changed: Any) -> list[str]:
    found: list[Fault] = []
    build.check(draft(**changed), found)
    return [fault.where for fault in found]


def file(content: bytes = b"%PDF", **changed: str) -> File:
    return File(content_base64=base64.b64encode(content).decode(), **changed)


def fit(mail: Built) -> bytes:
    """Check what every mail has to be on the wire, and return it."""
    raw = mail.raw
    assert raw.isascii()
    assert b"\0" not in raw
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", raw)
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    return raw


def one_line(text: str) -> str:
    return clean_line(text, Findings())


def test_a_mail_says_what_was_asked_for() -> None:
    """Text, html, an image within it and an attachment, read back by the parser."""
    mail = built(
        to=(
            Written("Jörg Müller <j@bücher.example>, a@b.example"),
            Written("c@d.example", 'X, "Y"'),
        ),
        cc=(Written("e@f.example"),),
        bcc=(Written("hidden@g.example"),),
        reply_to=(Written("info@feuerwehr.example"),),
        subject="Einsatz für B3: Ölspur",
        text="Grüße\n.\nEnde",
        html='<p><img src="cid:logo@fw"></p>',
        files=(
            file(b"png", filename="l.png", content_type="image/png", content_id="logo@fw"),
            file(b"%PDF", filename="Lageplan Süd.pdf", content_type="application/pdf"),
        ),
        headers=(("X-Priority", "1"), ("In-Reply-To", "<1@ils.example>")),
    )
    read = parse(fit(mail))
    assert (read.status, read.defects, read.from_ambiguous) == ("ok", (), False)
    assert [tuple(one) for one in read.from_] == [tuple(AUTHOR)]
    assert [tuple(one) for one in read.to] == [
        ("Jörg Müller", "j@xn--bcher-kva.example"),
        (None, "a@b.example"),
        ('X, "Y"', "c@d.example"),
    ]
    assert [one.address for one in read.cc] == ["e@f.example"]
    assert [one.address for one in read.reply_to] == ["info@feuerwehr.example"]
    assert read.subject == "Einsatz für B3: Ölspur"
    assert read.text is not None
    assert read.text.content.splitlines() == ["Grüße", ".", "Ende"]
    assert read.html is not None
    assert "cid:logo@fw" in read.html.content
    assert [(one.filename, one.content, one.content_id) for one in read.attachments] == [
        ("l.png", b"png", "logo@fw"),
        ("Lageplan Süd.pdf", b"%PDF", None),
    ]
    assert read.date == NOON
    assert read.message_id == f"<{MARK}@feuerwehr.example>" == mail.message_id
    assert read.in_reply_to == "<1@ils.example>"
    assert {one.key: one.value for one in read.headers}["x-mailbridge-id"] == MARK
    assert mail.recipients == (
        *("j@xn--bcher-kva.example", "a@b.example", "c@d.example"),
        *("e@f.example", "hidden@g.example"),
    )
    assert b"hidden" not in mail.raw


@pytest.mark.parametrize(
    ("asked", "types"),
    [
        ({}, ["text/plain"]),
        ({"html": "<p>"}, ["text/html"]),
        ({"text": "a", "html": "<p>"}, ["multipart/alternative", "text/plain", "text/html"]),
        (
            {"html": "<p>", "files": (file(content_id="a@b", content_type="image/png"),)},
            ["multipart/related", "text/html", "image/png"],
        ),
        (
            {"text": "a", "files": (file(content_id="a@b", content_type="image/png"),)},
            ["multipart/mixed", "text/plain", "image/png"],
        ),
    ],
)
def test_no_level_is_there_without_need(asked: dict[str, Any], types: list[str]) -> None:
    """Alternatives, images within html, and attachments are levels only where there are some."""
    raw = fit(built(**asked))
    assert re.findall(rb"(?m)^Content-Type: ([a-z/]+)", raw) == [one.encode() for one in types]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_text_makes_another_header_or_recipient(data: st.DataObject) -> None:
    """Whatever stands in a field is refused there, or it is one field that reads as it was."""
    hostile = st.text(
        st.one_of(
            st.characters(codec="utf-8"),
            st.sampled_from([*ENDS, " ", "=", "?", "<", ">", ",", ":", '"', "@", "\\", "("]),
        ),
        max_size=60,
    ) | st.sampled_from(
        [
            "a\r\nBcc: evil@evil.example",
            "=?utf-8?q?a=0D=0ABcc:_evil@evil.example?=",
            "x" * 1500,
            "ä" * 300,
            "a@b.example>\r\nRCPT TO:<evil@evil.example",
            '"<evil@evil.example>"',
        ]
    )
    subject, name, filename, value = (data.draw(hostile) for _ in range(4))
    asked: dict[str, Any] = {
        "subject": subject,
        "to": (Written("max@fw.example", name),),
        "files": (file(filename=filename, content_type="image/png"),),
        "headers": (("X-Test", value),),
    }
    wrong = set(faults(**asked))
    texts = {"subject": subject, "to.0.name": name, "headers.X-Test": value}
    for where, text in texts.items():
        assert (where in wrong) or not {"\r", "\n", "\0"} & set(text)
    if wrong:
        return
    mail = built(**asked)
    read = parse(fit(mail))
    assert {one.key for one in read.headers} <= FIELDS | {"x-test"}
    assert len({one.key for one in read.headers}) == len(read.headers)
    assert mail.recipients == ("max@fw.example",)
    assert [one.address for one in read.to] == ["max@fw.example"]
    assert (read.to[0].name or "") == one_line(" ".join(name.split())).strip()
    assert (read.subject or "").strip() == one_line(subject).strip()
    [given_back] = [one.value for one in read.headers if one.key == "x-test"]
    assert given_back.strip() == one_line(value).strip()
    assert len(read.attachments) == 1


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=400))
@settings(max_examples=100, deadline=None)
def test_every_text_arrives(text: str) -> None:
    """A body is the text that was given; only its line ends are those of mail."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    read = parse(fit(built(text=text, html=text)))
    assert read.text is not None
    found = read.text.content.replace("\r\n", "\n").replace("\ufffd", "")
    for character in set(lines):
        if character.isalnum():
            assert found.count(character) == lines.count(character)
    assert len(read.attachments) == 0


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\0", "\ud800"])
@pytest.mark.parametrize("field", ["subject", "to", "cc", "bcc", "reply_to", "name", "filename"])
def test_line_ends_are_refused_and_named(end: str, field: str) -> None:
    """CR, LF, NUL and broken Unicode in any field are told with the field's name."""
    text = f"a{end}Bcc: evil@evil.example"
    if field == "name":
        assert faults(to=(Written("a@b.example", text),)) == ["to.0.name"]
    elif field == "filename":
        assert faults(files=(file(filename=text),)) == ["attachments.0.filename"]
    elif field == "subject":
        assert faults(subject=text) == ["subject"]
    else:
        assert f"{field}.0" in faults(**{field: (Written(f"a@b.example{end}"),)})
        assert f"{field}.0" in faults(**{field: (Written(text),)})


@pytest.mark.parametrize(
    "address",
    [
        *("", "root", "a b@c.example", "a@b@c.example", "<a@b.example", "a@b.example c@d.example"),
        *(
            "a@b.example>",
            "a@-b.example",
            "a..b@c.example",
            "a@b.example\x7f",
            "a@[::1",
            "@b.example",
        ),
        *('"a@x.example>"@b.example', "a@straße.example", f"{'a' * 65}@b.example"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """Nothing reaches a command or a header that two programs could read differently."""
    assert faults(to=(Written(address),)) == ["to.0"]


@pytest.mark.parametrize(
    "name",
    [
        *("From", "to", "CC", "Bcc", "Reply-To", "Subject", "Auto-Submitted", "Sender", "Date"),
        *("Message-ID", "MIME-Version", "Content-Type", "content-x", "Received", "Return-Path"),
        *("Resent-To", "Resent-Bcc", "DKIM-Signature", "ARC-Seal", "Authentication-Results"),
        *("X-Mailbridge-Id", "X-MS-Exchange-Organization-SCL", "Delivered-To", "Received-SPF"),
    ],
)
def test_fields_of_structure_way_and_trust_are_not_a_clients(name: str) -> None:
    """Fields that have a place of their own, or say what only servers may, are refused by name."""
    assert faults(headers=((name, "x"),)) == [f"headers.{name}"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nBcc", "ä", "x" * 77])
def test_what_is_no_field_is_refused(name: str) -> None:
    """A name of a field has the characters that one may have."""
    assert faults(headers=((name, "x"),)) == ["headers.0"]


def test_an_international_address_alone_brings_utf8() -> None:
    """A domain becomes ASCII; only a local part that has no other form stands as it is."""
    assert fit(built(to=(Written("max@bücher.example"),))).isascii()
    mail = built(to=(Written("jörg@bücher.example"),), subject="Süd")
    assert mail.recipients == ("jörg@xn--bcher-kva.example",)
    head = mail.raw.partition(b"\r\n\r\n")[0].decode()
    assert [line for line in head.split("\r\n") if not line.isascii()] == [
        "To: jörg@xn--bcher-kva.example"
    ]


def test_each_gets_it_once() -> None:
    """An address that is named twice is one recipient; domains have no capitals."""
    mail = built(to=(Written("a@b.example"),), cc=(Written("a@B.example"), Written("A@b.example")))
    assert mail.recipients == ("a@b.example", "A@b.example")
    only_hidden = built(to=(), bcc=(Written("a@b.example"),))
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in only_hidden.raw
    assert b"a@b.example" not in only_hidden.raw


def test_everything_is_bounded() -> None:
    """More than 500 recipients, 100 attachments, 50 fields, and none at all, are refused."""
    many = tuple(Written(f"{number}@b.example") for number in range(501))
    assert faults(to=many) == ["to"]
    assert faults(to=many[:500]) == []
    assert faults(to=()) == ["to"]
    assert faults(files=(file(),) * 101) == ["attachments"]
    assert faults(headers=tuple((f"X-{n}", "x") for n in range(51))) == ["headers"]
    assert faults(subject="x" * 2001) == ["subject"]
    assert faults(text="a\0b", html="\0") == ["text", "html"]
    assert faults(headers=(("X-Long", "x" * 8001),)) == ["headers.X-Long"]


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"content_base64": "a"}, "content_base64"),
        ({"content_base64": "YQ"}, "content_base64"),
        ({"content_base64": "ä"}, "content_base64"),
        ({"content_base64": "YWJj-_=="}, "content_base64"),
        ({"content_type": "png"}, "content_type"),
        ({"content_type": "image/png; x"}, "content_type"),
        ({"content_type": "image/png\r\nX: y"}, "content_type"),
        ({"content_type": 'image/png; a="\r\nX: y"'}, "content_type"),
        ({"content_type": "multipart/mixed"}, "content_type"),
        ({"content_id": "a b"}, "content_id"),
        ({"content_id": "a>\r\nX: <y"}, "content_id"),
        ({"filename": "../../etc/passwd"}, "filename"),
        ({"filename": "a\tb"}, "filename"),
        ({"filename": "ä" * 128}, "filename"),
    ],
)
def test_a_wrong_attachment_is_told(changed: dict[str, str], where: str) -> None:
    """Each member of an attachment is checked, and named when it is wrong."""
    given_ = {"content_base64": "YWJj", **changed}
    assert faults(files=(File(**given_),)) == [f"attachments.0.{where}"]


def test_a_mail_within_a_mail_is_not_encoded() -> None:
    """message/rfc822 may not be (RFC 2046, 5.2.1): as it is if it is clean, else a file."""
    inner = b"Subject: inner\r\n\r\ntext\r\n"
    raw = fit(built(files=(file(inner, content_type="message/rfc822", filename="a.eml"),)))
    assert inner in raw
    again = fit(
        built(files=(file(inner + b"\xff", content_type="message/rfc822", filename="a.eml"),))
    )
    assert b"Content-Type: application/octet-stream" in again
    assert parse(again).attachments[0].content == inner + b"\xff"


@pytest.mark.parametrize(
    ("auto", "value"), [("generated", "auto-generated"), ("replied", "auto-replied"), ("no", None)]
)
def test_a_machines_mail_says_so(auto: str, value: str | None) -> None:
    """Auto-Submitted keeps absence notices from answering, unless a person writes."""
    fields = {one.key: one.value for one in parse(built(auto=auto).raw).headers}
    assert fields.get("auto-submitted") == value
