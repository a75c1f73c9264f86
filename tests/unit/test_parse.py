"""What a parsed message says: text, html, attachments, dates, charsets, and its defects."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from benchmarks.mails import mails
from mailbridge.parse import ParsedMessage, fast, parse, parts

DATA = Path(__file__).parent.parent / "data"


def read(name: str) -> ParsedMessage:
    return parse((DATA / name).read_bytes())


def mail(*fields: bytes, body: bytes = b"text\r\n") -> ParsedMessage:
    return parse(b"\r\n".join((b"From: a@b.example", *fields, b"", body)))


def text_of(parsed: ParsedMessage) -> str:
    assert parsed.text is not None
    return parsed.text.content


def test_alarm_from_exchange_is_read_whole() -> None:
    """A mail as Exchange Online shows it gives every field that an event needs."""
    parsed = read("exchange-alarm.eml")
    assert (parsed.status, parsed.parser, parsed.defects) == ("ok", "fast", ())
    assert parsed.subject == "B3 Zimmerbrand, Hauptstraße 5"
    assert [tuple(a) for a in parsed.from_] == [("Leitstelle Süd", "alarm@ils.example")]
    assert [tuple(a) for a in parsed.to] == [
        ("Wache 1", "alarm@feuerwehr.example"),
        ("Meier, Jo", "jo@feuerwehr.example"),
    ]
    assert parsed.date == datetime(2026, 11, 21, 11, 15, 20, tzinfo=timezone(timedelta(hours=1)))
    assert parsed.message_id == "<4711@ils.example>"
    assert parsed.in_reply_to == "<4710@ils.example>"
    assert parsed.references == ("<4709@ils.example>", "<4710@ils.example>")
    assert text_of(parsed) == "Stichwort: B3\nStraße: Hauptstraße 5\n"
    assert parsed.html is not None
    assert parsed.html.content.strip() == "<p>Stichwort: <b>B3</b></p>"
    assert not parsed.text_from_html
    [pdf] = parsed.attachments
    content = b"%PDF-1.4 " + bytes(range(256))
    assert pdf.content == content
    assert pdf.sha256 == hashlib.sha256(content).hexdigest()
    assert (pdf.filename, pdf.content_type, pdf.size) == (
        "Depesche Süd.pdf",
        "application/pdf",
        len(content),
    )
    assert (pdf.disposition, pdf.content_id) == ("attachment", "depesche@ils.example")


def test_header_fields_keep_order_and_repeats() -> None:
    """The header list is the mail's own, top to bottom, folded lines as one."""
    parsed = mail(b"X-A: 1", b"Received: a\r\n\tb", b"X-A: 2", b"Received: c")
    assert [(h.name, h.value) for h in parsed.headers] == [
        ("From", "a@b.example"),
        ("X-A", "1"),
        ("Received", "a\tb"),
        ("X-A", "2"),
        ("Received", "c"),
    ]


def test_both_ways_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerant walk finds in ordinary mails what the fast parser finds, to the byte."""

    def refuse(*_: object) -> None:
        raise parts.Refused

    raws = [*(path.read_bytes() for path in DATA.glob("[!l]*.eml")), *mails(40)]
    by_fast = [parse(raw) for raw in raws]
    monkeypatch.setattr(fast, "leaves_of", refuse)
    by_walk = [parse(raw) for raw in raws]
    assert {parsed.parser for parsed in by_walk} == {"tolerant"}
    assert sum(parsed.parser == "fast" for parsed in by_fast) > 40
    for one, other in zip(by_fast, by_walk, strict=True):
        assert other == dataclasses.replace(one, parser="tolerant")


def test_one_bad_leaf_costs_only_itself() -> None:
    """Broken base64 in one part leaves the text and the other attachment as they are."""
    parsed = read("one-bad-leaf.eml")
    assert parsed.status == "defects"
    assert "base64-garbage" in parsed.defects
    assert text_of(parsed).strip() == "good text"
    assert [(a.filename, a.content) for a in parsed.attachments] == [
        ("bad.bin", b"hallo "),
        ("good.bin", b"good"),
    ]


def test_boundary_that_begins_like_another_is_another() -> None:
    """An inner boundary that starts with the outer one does not tear the mail apart."""
    parsed = read("boundary-prefix.eml")
    assert text_of(parsed).strip() == "plain"
    assert parsed.html is not None
    assert [(a.filename, a.content) for a in parsed.attachments] == [("a.png", b"png")]


def test_part_without_a_blank_line_keeps_its_text() -> None:
    """Text that a fast reader takes for header fields is still the text."""
    parsed = read("no-blank-line.eml")
    assert text_of(parsed).strip() == "this text comes at once\nand goes on\n\nto here"
    assert "header-stray-line" in parsed.defects


def test_mail_that_was_cut_short_gives_what_came() -> None:
    """A missing end is a defect; the parts before it are all there."""
    parsed = read("unterminated.eml")
    assert parsed.defects == ("multipart-unterminated",)
    assert text_of(parsed).strip() == "first"
    assert [a.content for a in parsed.attachments] == [b"hal"]


def test_bounce_is_not_opened() -> None:
    """The returned mail is one attachment, and its text is not taken for the bounce's."""
    parsed = read("bounce.eml")
    assert text_of(parsed).startswith("I'm sorry")
    assert [a.content_type for a in parsed.attachments] == [
        "message/delivery-status",
        "message/rfc822",
    ]
    assert b"original text" in parsed.attachments[1].content
    assert parsed.report_type == "delivery-status"


def test_second_text_is_not_lost() -> None:
    """Only the first text is the text; a second one is listed like an attachment."""
    body = b"--x\r\n\r\none\r\n--x\r\n\r\ntwo\r\n--x--\r\n"
    parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
    assert text_of(parsed) == "one"
    assert [(a.content_type, a.content) for a in parsed.attachments] == [("text/plain", b"two")]


def test_attached_text_is_not_the_text() -> None:
    """A text/plain part marked as attachment is none of the bodies."""
    body = (
        b"--x\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nattached\r\n"
        b"--x\r\n\r\nthe text\r\n--x--\r\n"
    )
    parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
    assert text_of(parsed) == "the text"
    assert [a.filename for a in parsed.attachments] == ["a.txt"]


def test_text_is_derived_from_html() -> None:
    """A mail with only html has a readable text: no tags, scripts, styles or comments."""
    parsed = read("html-only.eml")
    assert parsed.text_from_html
    assert text_of(parsed) == "Stichwort: B3 & mehr\n\nOrt Köln\n\n5 < 6"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("a<br>b<br/>c<BR />d", "a\nb\nc\nd"),
        ("<p>a</p>\n\n<p>b</p>", "a\n\nb"),
        ("<!-- a > b --><b>c</b>", "c"),
        ("<script>if (a < b) {}</script>d", "d"),
        ("a<style>never closed", "a"),
        ("a<!-- never closed", "a"),
        ("&uuml;&#252;&#xfc;", "üüü"),
        ("<<<>>>", "<<<>>>"),
        ("", ""),
    ],
)
def test_html_to_text(markup: str, text: str) -> None:
    """Tags go, what a reader would see stays."""
    parsed = mail(b"Content-Type: text/html; charset=utf-8", body=markup.encode())
    assert text_of(parsed) == text


@pytest.mark.parametrize(
    ("charset", "content", "text", "defects"),
    [
        (b"utf-8", "Straße €".encode(), "Straße €", ()),
        (b"UTF-8", b"\xef\xbb\xbfa", "a", ()),
        (b"iso-8859-1", b"Stra\xdfe \x80", "Straße €", ()),
        (b"iso-8859-15", b"\xa4", "€", ()),
        (b"windows-1252", b"\x93a\x94", "“a”", ()),
        (b"iso-2022-jp", b"\x1b$B;3ED\x1b(B", "山田", ()),
        (b"gb2312", "中文".encode("gb18030"), "中文", ()),
        (b"utf-16", "a".encode("utf-16"), "a", ()),
        (b"us-ascii", b"Stra\xdfe", "Straße", ("charset-undeclared-8bit",)),
        (b"x-nope", b"Stra\xdfe", "Straße", ("charset-unknown",)),
        (b"x-nope", "Straße".encode(), "Straße", ("charset-unknown",)),
        (b"utf-7", b"+ADw-script+AD4-", "+ADw-script+AD4-", ("charset-unknown",)),
        (b"zlib", b"x\x9c", "xœ", ("charset-unknown",)),
        (b"rot13", b"nynez", "nynez", ("charset-unknown",)),
        (b"unicode_escape", b"\\ud800", "\\ud800", ("charset-unknown",)),
        (b"utf-8", b"Stra\xdfe", "Straße", ("charset-invalid-bytes",)),
        (b"utf-8", b"\xc3\xbc\xff", "ü\ufffd", ("charset-invalid-bytes",)),
        (b"utf-8", b"a\x00b", "a\ufffdb", ("unfit-characters",)),
        (b"utf-8", b"a\xc2\x80\xc2\x85b\tc\n", "a\ufffd\ufffdb\tc\n", ("unfit-characters",)),
        (b"utf-8", b"\xed\xa0\x80\xc3\xbc", "\ufffd\ufffd\ufffdü", ("charset-invalid-bytes",)),
    ],
)
def test_charset(charset: bytes, content: bytes, text: str, defects: tuple[str, ...]) -> None:
    """Known charsets decode, others are guessed and say so, and nothing unfit passes."""
    parsed = mail(b"Content-Type: text/plain; charset=" + charset, body=content)
    assert text_of(parsed) == text
    assert parsed.defects == defects


def test_undeclared_8bit_is_readable() -> None:
    """A mail in windows-1252 that does not say so is still read right, and the guess is told."""
    parsed = read("latin1-8bit.eml")
    assert (parsed.subject, text_of(parsed)) == ("Grüße", "Straße\n")
    assert set(parsed.defects) == {"header-8bit", "charset-undeclared-8bit"}


def test_long_text_is_cut_by_bytes_and_says_so() -> None:
    """Text beyond 256 KiB of UTF-8 is cut between characters; its whole size is told."""
    body = "ü".encode() * 200_000
    parsed = mail(b"Content-Type: text/plain; charset=utf-8", body=body)
    assert parsed.text is not None
    assert parsed.text.truncated
    assert parsed.text.size == 400_000
    assert parsed.text.content == "ü" * 131_072
    assert (parsed.status, parsed.limits_hit) == ("limited", ("text",))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"=?utf-8?Q?Stra=C3=9Fe?=", "Straße"),
        (b"=?utf-8?b?U3RyYcOf?= =?utf-8?q?e_5?=", "Straße 5"),
        (b"=?utf-8?q?=C3?=\r\n =?utf-8?q?=9F?=", "ß"),
        (b"a =?utf-8?q?b?= c", "a b c"),
        (b"=?utf-8*de?q?b?=", "b"),
        (b"=?x-nope?q?=DF?=", "ß"),
        (b"=?utf-7?q?+ADw-?=", "+ADw-"),
        (b"=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
        (b"=?utf-8?b?bad*base64?=", "mæ\ufffd²Å¬{®"),
        (b"=?utf-8?q?a=00b=0D=0AFrom:_x?=", "a\ufffdb\ufffd\ufffdFrom: x"),
        (b"", ""),
    ],
)
def test_subject(value: bytes, expected: str) -> None:
    """Encoded words are decoded, and never bring a line break or a NUL with them."""
    parsed = mail(b"Subject: " + value)
    if expected.startswith("m"):
        assert parsed.subject is not None
        assert parsed.subject.isprintable()
    else:
        assert parsed.subject == expected


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        (b"Sat, 21 Nov 2026 11:15:20 +0100", "2026-11-21T11:15:20+01:00"),
        (b"21 Nov 2026 11:15:20 -0000 (UTC)", "2026-11-21T11:15:20+00:00"),
        (b"Sat, 21 Nov 26 11:15 GMT", "2026-11-21T11:15:00+00:00"),
        (b"Sat, 31 Feb 2026 11:15:20 +0100", None),
        (b"Sat, 21 Nov 2026 11:15:20 +9999", None),
        (b"31 Dec 9999 23:59:59 -2359", None),
        (b"yesterday", None),
        (b"1" * 5000, None),
    ],
)
def test_date(value: bytes, iso: str | None) -> None:
    """A date keeps its own offset; one that makes no sense is none, and its text stays."""
    parsed = mail(b"Date: " + value)
    assert (parsed.date.isoformat() if parsed.date else None) == iso
    assert parsed.date_raw == value.decode()
    assert ("date-invalid" in parsed.defects) == (iso is None)


@pytest.mark.parametrize(
    ("field", "filename"),
    [
        (b'Content-Disposition: attachment; filename="a b.pdf"', "a b.pdf"),
        (b"Content-Disposition: attachment; filename*=utf-8''%C3%A4.pdf", "ä.pdf"),
        (b"Content-Disposition: attachment; filename*=iso-8859-1'de'%E4.pdf", "ä.pdf"),
        (b"Content-Disposition: attachment; filename*0=a; filename*1=b.pdf", "ab.pdf"),
        (b'Content-Disposition: attachment; filename="=?utf-8?q?=C3=A4.pdf?="', "ä.pdf"),
        (b"Content-Type: a/b; name*0*=utf-8''%C3; name*1*=%A4.pdf", "ä.pdf"),
        (b'Content-Type: a/b; name="b.pdf"', "b.pdf"),
        (b"Content-Disposition: attachment; filename=../../etc/passwd", "_.._etc_passwd"),
        (b'Content-Disposition: attachment; filename="C:\\\\a\\\\b.exe"', "C__a_b.exe"),
        (b"Content-Disposition: attachment; filename=.bashrc", "bashrc"),
        (b"Content-Disposition: attachment; filename=CON.txt", "_CON.txt"),
        (b"Content-Disposition: attachment; filename*=utf-8''a%E2%80%AEgpj.exe", "agpj.exe"),
        (
            b"Content-Disposition: attachment; filename*=utf-8''a%0D%0Ab%00.txt",
            "a\ufffd\ufffdb\ufffd.txt",
        ),
        (b"Content-Disposition: attachment; filename=...", "unnamed"),
        (b"Content-Disposition: attachment", None),
    ],
)
def test_filename(field: bytes, filename: str | None) -> None:
    """Both encodings of file names are read, and what comes out is never a path."""
    body = b"--x\r\n" + field + b"\r\n\r\nx\r\n--x--\r\n"
    parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
    names = [a.filename for a in parsed.attachments]
    assert names == [filename]


def test_long_filename_keeps_its_extension() -> None:
    """A file name is cut to 255 bytes between characters, and stays a pdf."""
    name = "ä".encode() * 5000 + b".pdf"
    body = b'--x\r\nContent-Disposition: attachment; filename="' + name + b'"\r\n\r\nx\r\n--x--'
    parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
    filename = parsed.attachments[0].filename
    assert filename == "ä" * 125 + ".pdf"


@pytest.mark.parametrize(
    ("encoding", "content", "decoded"),
    [
        (b"base64", b"aGFsbG8=", b"hallo"),
        (b"base64", b"aGFs\r\nbG8", b"hallo"),
        (b"base64", b"aGFsbG8=\r\naGFsbG8=\r\n", b"hallohallo"),
        (b"base64", b"aGF!sbG8=", b"hallo"),
        (b"base64", b"A", b""),
        (b"base64", b"\x00\xff", b""),
        (b"quoted-printable", b"a=3Db=\r\nc=ZZ", b"a=bc=ZZ"),
        (b"x-uuencode", b"begin 644 a\r\n#86)C\r\n`\r\nend\r\n", b"abc"),
        (b"x-uuencode", b"nothing", b"nothing"),
        (b"x-nope", b"as it is", b"as it is"),
        (b"8bit", b"\xff", b"\xff"),
    ],
)
def test_transfer_encoding(encoding: bytes, content: bytes, decoded: bytes) -> None:
    """Encodings are undone as far as they go, in a part as in a whole mail."""
    fields = b"Content-Type: a/b\r\nContent-Transfer-Encoding: " + encoding
    body = b"--x\r\n" + fields + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    inside = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
    assert inside.attachments[0].content.strip(b"\r\n") == decoded.strip(b"\r\n")
    alone = mail(*fields.split(b"\r\n"), body=content)
    assert alone.attachments[0].content == decoded


def test_stray_first_lines_are_passed_over() -> None:
    """A mail from an mbox file, with its "From " lines, is read like any other."""
    parsed = read("lf-mbox-from-line.eml")
    assert parsed.subject == "mbox"
    assert text_of(parsed) == "text\n"
    assert parsed.defects == ("mbox-from-line",)


def test_stray_line_among_fields_is_passed_over() -> None:
    """One line that is no field hides none of those behind it."""
    parsed = parse(b"From: a@b.example\nstray\nSubject: s\n\ntext")
    assert (parsed.subject, text_of(parsed)) == ("s", "text")
    assert parsed.defects == ("header-stray-line",)


def test_missing_blank_line_keeps_the_text() -> None:
    """Fields followed at once by text: the text is the body."""
    parsed = parse(b"From: a@b.example\nSubject: s\nfirst line\nsecond line\n")
    assert (parsed.subject, text_of(parsed)) == ("s", "first line\nsecond line\n")


def test_nothing_at_all_is_a_message() -> None:
    """A mail of 0 bytes is parsed, with its defects named."""
    parsed = parse(b"")
    assert parsed.status == "defects"
    assert parsed.defects == ("empty", "from-missing")
    assert (parsed.headers, parsed.subject, parsed.date) == ((), None, None)


def test_more_attachments_than_the_limit_are_counted_out() -> None:
    """100 attachments are listed, and that there were more is told."""
    part = b"--x\r\nContent-Type: a/b\r\n\r\nx\r\n"
    parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=part * 150 + b"--x--\r\n")
    assert len(parsed.attachments) == 100
    assert parsed.limits_hit == ("attachments",)


def test_nesting_deeper_than_the_limit_stays_one_attachment() -> None:
    """Below 50 containers nothing is opened, and nothing is thrown away."""
    levels = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(60)
    )
    parsed = parse(b"From: a@b.example\r\n" + levels + b"\r\nbottom\r\n")
    assert "depth" in parsed.limits_hit
    [rest] = parsed.attachments
    assert rest.content_type == "multipart/mixed"
    assert rest.content.endswith(b"bottom\r\n")


def test_header_limits_keep_the_text() -> None:
    """Too many, and too long, header fields cost only what is over the limit."""
    fields = b"".join(b"X-%d: a\r\n" % n for n in range(2000))
    parsed = parse(b"From: a@b.example\r\nSubject: " + b"s" * 20_000 + b"\r\n" + fields + b"\r\nx")
    assert len(parsed.headers) == 1000
    assert parsed.subject == "s" * (16 * 1024 - len("Subject: "))
    assert text_of(parsed) == "x"
    assert set(parsed.limits_hit) == {"headers", "header_length"}


class Panic(BaseException):
    """What a panic in Rust looks like from Python: no Exception."""


def test_panic_of_the_fast_parser_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the fast parser panics the mail is read the tolerant way, and is whole."""

    def panic(*_: object, **__: object) -> None:
        raise Panic

    whole = read("exchange-alarm.eml")
    monkeypatch.setattr(fast, "parse_email_tree", panic)
    parsed = read("exchange-alarm.eml")
    assert parsed.parser == "tolerant"
    assert (parsed.text, parsed.html, parsed.attachments) == (
        whole.text,
        whole.html,
        whole.attachments,
    )


def test_bug_of_ours_still_gives_header_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both ways broken the mail is failed, and its header fields are there."""

    def broken(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(fast, "leaves_of", broken)
    parsed = read("exchange-alarm.eml")
    assert (parsed.status, parsed.parser) == ("failed", "none")
    assert "Message-ID" in [h.name for h in parsed.headers]


def test_only_bodies_without_hidden_messages_reach_the_fast_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages within messages, however hidden, are never given to the fast parser."""
    asked: list[int] = []
    monkeypatch.setattr(fast, "parse_email_tree", lambda raw, **_: asked.append(len(raw)))
    inner = base64.encodebytes(b"Content-Type: message/rfc822\n\n" * 40)
    for field in (
        b"Content-Type: message/rfc822",
        b"Content-Type: MESSAGE/RFC822\r\nContent-Transfer-Encoding: base64",
        b"Content-Type: =?utf-8?q?message/rfc=38=32=32?=",
        b"Content-Type: multipart/digest; boundary=y",
    ):
        body = b"--x\r\n" + field + b"\r\n\r\n" + inner + b"\r\n--x--\r\n"
        parsed = mail(b"Content-Type: multipart/mixed; boundary=x", body=body)
        assert parsed.parser == "tolerant"
    assert asked == []


def test_parsing_leaves_nothing_behind() -> None:
    """The same bytes give the same message, whatever was parsed in between."""
    raws = [path.read_bytes() for path in sorted(DATA.glob("*.eml"))]
    first = [parse(raw) for raw in raws]
    again = [parse(raw) for raw in reversed(raws)]
    assert first == again[::-1]
