"""Mails that are made to hurt: deep, long, endless, torn, lying. Importable, seeded, no input.

``hostile(scale)`` yields them by name. At scale 1 they are as large as they have to be to hurt
(tens of MB); the test suite takes a smaller scale, where the same paths are walked.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from typing import Final

#: bytes of the largest of them at scale 1
LARGEST: Final = 30_000_000

_HEAD: Final = b"From: Alarm <alarm@ils.example>\r\nTo: a@b.example\r\nSubject: hostile\r\n"
_MIXED: Final = _HEAD + b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n'
_CLOSE: Final = b"\r\n--x--\r\n"


def garbled(seed: int, count: int) -> Iterator[bytes]:
    """Yield ``count`` messages put together from awkward pieces, some of them cut short."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _garbled(rng)


def _n(count: float, scale: float) -> int:
    return max(1, int(count * scale))


def _filler(scale: float) -> bytes:
    return (b"x" * 70 + b"\r\n") * _n(LARGEST / 72, scale)


# -- structure -----------------------------------------------------------------------------------


def _nested(levels: int, tail: bytes) -> bytes:
    parts = [
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(levels)
    ]
    return _HEAD + b"".join(parts) + b"\r\n" + tail


def _deep_10(scale: float) -> bytes:
    return _nested(10, _filler(scale))


def _deep_49(scale: float) -> bytes:
    return _nested(49, _filler(scale))


def _deep_100(scale: float) -> bytes:
    return _nested(100, _filler(scale))


def _deep_100_000(scale: float) -> bytes:
    return _nested(_n(100_000, scale), b"bottom")


def _deep_same_boundary(scale: float) -> bytes:
    level = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    return _HEAD + level * _n(100_000, scale) + b"\r\nbottom"


def _messages_40_deep_with_filler(scale: float) -> bytes:
    return _HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 40 + b"\r\n" + _filler(scale)


def _messages_in_parts_40_deep(scale: float) -> bytes:
    return _MIXED + b"Content-Type: message/rfc822\r\n\r\n" * 40 + b"\r\n" + _filler(scale) + _CLOSE


def _messages_100_000_deep(scale: float) -> bytes:
    return _HEAD + b"Content-Type: message/rfc822\r\n\r\n" * _n(100_000, scale) + b"\r\nbottom"


def _digests_deep(scale: float) -> bytes:
    level = b"Content-Type: multipart/digest; boundary=%d\r\n\r\n--%d\r\n\r\n"
    return _HEAD + b"".join(level % (n, n) for n in range(45)) + _filler(scale)


def _message_hidden_in_an_encoded_word(scale: float) -> bytes:
    hidden = b"Content-Type: =?utf-8?q?message/rfc=38=32=32?=\r\n\r\n"
    inner = b"Content-Type: message/rfc822\r\n\r\n" * 40
    return _MIXED + hidden + inner + _filler(scale) + _CLOSE


def _message_hidden_in_base64(scale: float) -> bytes:
    inner = b"Subject: " + b"=?utf-8?q?a?=\n " * _n(100_000, scale) + b"\n\nhi"
    head = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return _MIXED + head + base64.encodebytes(inner) + _CLOSE


def _empty_parts(scale: float) -> bytes:
    return _MIXED + b"\r\n\r\n--x\r\n" * _n(50_000, scale) + _CLOSE


def _parts_without_end(scale: float) -> bytes:
    return _MIXED + b"\r\n--x" * _n(LARGEST / 5, scale)


def _lines_of_hyphens(scale: float) -> bytes:
    return _MIXED + b"\r\n" + b"\n--" * _n(LARGEST / 3, scale) + _CLOSE


def _fields_of_hyphens(scale: float) -> bytes:
    return _MIXED + b"--:\n" * _n(LARGEST / 4, scale) + _CLOSE


def _only_hyphens(scale: float) -> bytes:
    return _MIXED + b"\r\n" + b"-" * _n(LARGEST, scale) + _CLOSE


def _long_boundary(scale: float) -> bytes:
    boundary = b"-" * 10_000
    head = _HEAD + b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\r\n\r\n'
    return head + (b"\r\n--" + boundary + b"\r\n\r\nx") * _n(1000, scale)


def _parts_of_long_fields(scale: float) -> bytes:
    part = b"\r\n--x\r\n" + b"Content-Description: " + b"a" * 60_000 + b"\r\n\r\nx"
    return _MIXED + part * _n(500, scale) + _CLOSE


def _parts_of_many_fields(scale: float) -> bytes:
    part = b"\r\n--x\r\n" + b"a:\r\n" * 7000 + b"\r\nx"
    return _MIXED + part * _n(1000, scale) + _CLOSE


def _parts_of_folds(scale: float) -> bytes:
    part = b"\r\n--x\r\na:b\n" + b" \n" * 30_000 + b"\r\n\r\nx"
    return _MIXED + part * _n(490, scale) + _CLOSE


_STRUCTURE: Final[tuple[Callable[[float], bytes], ...]] = (
    _deep_10,
    _deep_49,
    _deep_100,
    _deep_100_000,
    _deep_same_boundary,
    _messages_40_deep_with_filler,
    _messages_in_parts_40_deep,
    _messages_100_000_deep,
    _digests_deep,
    _message_hidden_in_an_encoded_word,
    _message_hidden_in_base64,
    _empty_parts,
    _parts_without_end,
    _lines_of_hyphens,
    _fields_of_hyphens,
    _only_hyphens,
    _long_boundary,
    _parts_of_long_fields,
    _parts_of_many_fields,
    _parts_of_folds,
)


# -- header fields -------------------------------------------------------------------------------


def _header_flood(scale: float) -> bytes:
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(_n(100_000, scale)))
    return _HEAD + fields + b"\r\nbody"


def _header_flood_of_30_mb(scale: float) -> bytes:
    return _HEAD + b"a: b\n" * _n(LARGEST / 5, scale) + b"\nbody"


def _header_of_30_mb(scale: float) -> bytes:
    return _HEAD + b"X-Long: " + b"a" * _n(LARGEST, scale) + b"\r\n\r\nbody"


def _header_of_folds(scale: float) -> bytes:
    return _HEAD + b"X-Long: a" + b"\r\n a" * _n(LARGEST / 4, scale) + b"\r\n\r\nbody"


def _strays_and_folds(scale: float) -> bytes:
    return _HEAD + b"no field\na:\n" + b" \n" * _n(130_000, scale) + b"\r\n\r\nbody"


def _stray_lines(scale: float) -> bytes:
    return _HEAD + b"stray\nA: b\n" * _n(100_000, scale) + b"\r\n\r\nbody"


def _encoded_words_in_subject(scale: float) -> bytes:
    return b"Subject: " + b"=?utf-8?q?a?=\r\n " * _n(100_000, scale) + b"\r\n" + _HEAD + b"\r\nx"


def _encoded_words_in_many_fields(scale: float) -> bytes:
    field = b"X-Words: " + b"=?utf-8?b?YQ==?=\r\n " * 600 + b"\r\n"
    return _HEAD + field * _n(100, scale) + b"\r\nx"


def _half_encoded_words(scale: float) -> bytes:
    return _HEAD + b"X-Words: " + b"=?a?q?" * _n(100_000, scale) + b"\r\n\r\nx"


def _encoded_words_in_a_part(scale: float) -> bytes:
    field = b"Content-Description: " + b"=?utf-8?q?a?=\r\n " * _n(100_000, scale)
    return _MIXED + field + b"\r\n\r\nhi" + _CLOSE


def _comment_bomb(scale: float) -> bytes:
    return b"From: " + b"(" * _n(1_000_000, scale) + b"\r\nTo: " + b"(" * 16_000 + b"\r\n\r\nx"


def _quote_bomb(scale: float) -> bytes:
    return b'From: "' + b'\\"' * _n(500_000, scale) + b"\r\nTo: " + b'"\\' * 8000 + b"\r\n\r\nx"


def _bracket_bomb(scale: float) -> bytes:
    return b"From: " + b"<" * _n(500_000, scale) + b"\r\nTo: " + b"<a@b," * 3000 + b"\r\n\r\nx"


def _group_bomb(scale: float) -> bytes:
    return b"From: " + b"a:" * _n(500_000, scale) + b"\r\nCc: " + b"a:;" * 5000 + b"\r\n\r\nx"


def _recipients(scale: float) -> bytes:
    return _HEAD + b"Cc: " + b"a@b.example,\r\n " * _n(100_000, scale) + b"c@d\r\n\r\nx"


def _parameters(scale: float) -> bytes:
    field = b"Content-Type: text/plain" + b";\r\n a=b" * _n(100_000, scale)
    return _HEAD + field + b"\r\n\r\nx"


def _continuations(scale: float) -> bytes:
    pieces = b"".join(b";\r\n filename*%d*=a" % number for number in range(_n(100_000, scale)))
    return _MIXED + b"Content-Disposition: attachment" + pieces + b"\r\n\r\nhi" + _CLOSE


def _references(scale: float) -> bytes:
    return _HEAD + b"References: " + b"<a@b>\r\n " * _n(100_000, scale) + b"\r\n\r\nx"


def _no_field_at_all(scale: float) -> bytes:
    return b"abc\n" * _n(LARGEST / 4, scale)


def _blank_lines(scale: float) -> bytes:
    return b"\r\n" * _n(LARGEST / 2, scale) + b"From: a@b\r\n\r\nx"


def _mbox_lines(scale: float) -> bytes:
    return b"From \n" * _n(100_000, scale) + _HEAD + b"\r\nx"


_HEADERS: Final[tuple[Callable[[float], bytes], ...]] = (
    _header_flood,
    _header_flood_of_30_mb,
    _header_of_30_mb,
    _header_of_folds,
    _strays_and_folds,
    _stray_lines,
    _encoded_words_in_subject,
    _encoded_words_in_many_fields,
    _half_encoded_words,
    _encoded_words_in_a_part,
    _comment_bomb,
    _quote_bomb,
    _bracket_bomb,
    _group_bomb,
    _recipients,
    _parameters,
    _continuations,
    _references,
    _no_field_at_all,
    _blank_lines,
    _mbox_lines,
)


# -- content -------------------------------------------------------------------------------------


def _encoded(name: bytes, body: bytes) -> bytes:
    return _HEAD + b"Content-Transfer-Encoding: " + name + b"\r\n\r\n" + body


def _base64_garbage(scale: float) -> bytes:
    return _encoded(b"base64", bytes(random.Random(1).randbytes(_n(LARGEST, scale))))


def _base64_paddings(scale: float) -> bytes:
    return _encoded(b"base64", b"QQ==" * _n(LARGEST / 4, scale))


def _base64_bad_leaf(scale: float) -> bytes:
    bad = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\naGFsbG8*gd"
    good = b"\r\n--x\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return _MIXED + bad + good + base64.encodebytes(b"good" * _n(1_000_000, scale)) + _CLOSE


def _quoted_printable_garbage(scale: float) -> bytes:
    return _encoded(b"quoted-printable", b"=ZZ=3D=\n=" * _n(LARGEST / 9, scale))


def _uuencode_garbage(scale: float) -> bytes:
    return _encoded(b"x-uuencode", b"begin 644 a\n" + b"M!!\n" * _n(LARGEST / 4, scale))


def _nuls(scale: float) -> bytes:
    return b"From: a\0b@c\r\nSubject: \0\0\r\n\r\n" + b"\0" * _n(LARGEST, scale)


def _only_nuls(scale: float) -> bytes:
    return b"\0" * _n(LARGEST, scale)


def _random_bytes(scale: float) -> bytes:
    return random.Random(2).randbytes(_n(1_000_000, scale))


def _one_line(scale: float) -> bytes:
    return _HEAD + b"\r\n" + b"a" * _n(LARGEST, scale)


def _controls(scale: float) -> bytes:
    body = b"\xc2\x80\xc2\x9f\xe2\x80\xae\xed\xa0\x80" * _n(1_000_000, scale)
    return _HEAD + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body


def _html(body: bytes) -> bytes:
    return _HEAD + b"Content-Type: text/html; charset=utf-8\r\n\r\n" + body


def _html_of_brackets(scale: float) -> bytes:
    return _html(b"<" * _n(LARGEST, scale))


def _html_of_comments(scale: float) -> bytes:
    return _html(b"<!--" * _n(LARGEST / 4, scale))


def _html_of_scripts(scale: float) -> bytes:
    return _html(b"<script><style>" * _n(LARGEST / 15, scale))


def _html_of_entities(scale: float) -> bytes:
    return _html(b"&#0;&#129;&#xD800;&amp&" * _n(LARGEST / 23, scale))


def _html_of_breaks(scale: float) -> bytes:
    return _html(b"<br>" * _n(LARGEST / 4, scale))


def _html_of_spaces(scale: float) -> bytes:
    return _html(b" \n" * _n(LARGEST / 2, scale))


def _wide_characters(scale: float) -> bytes:
    text = ("\U0001f692" * _n(500_000, scale)).encode("utf-32")
    return _HEAD + b"Content-Type: text/plain; charset=utf-32\r\n\r\n" + text


def _many_attachments(scale: float) -> bytes:
    part = b"Content-Type: application/pdf; name=a.pdf\r\n\r\n%PDF\r\n--x\r\n"
    return _MIXED + part * _n(999, scale) + b"\r\n\r\nlast" + _CLOSE


def _attachment_of_30_mb(scale: float) -> bytes:
    head = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    content = random.Random(3).randbytes(_n(LARGEST * 3 / 4, scale))
    return _MIXED + head + base64.encodebytes(content) + _CLOSE


def _nothing(scale: float) -> bytes:
    del scale
    return b""


def _one_byte(scale: float) -> bytes:
    del scale
    return b"\r"


_CONTENT: Final[tuple[Callable[[float], bytes], ...]] = (
    _base64_garbage,
    _base64_paddings,
    _base64_bad_leaf,
    _quoted_printable_garbage,
    _uuencode_garbage,
    _nuls,
    _only_nuls,
    _random_bytes,
    _one_line,
    _controls,
    _html_of_brackets,
    _html_of_comments,
    _html_of_scripts,
    _html_of_entities,
    _html_of_breaks,
    _html_of_spaces,
    _wide_characters,
    _many_attachments,
    _attachment_of_30_mb,
    _nothing,
    _one_byte,
)


# -- lies ----------------------------------------------------------------------------------------


def _two_from_fields(scale: float) -> bytes:
    del scale
    return b"From: ok@ils.example\r\nFrom: evil@evil.example\r\nSubject: alarm\r\n\r\nx"


def _address_in_the_name(scale: float) -> bytes:
    del scale
    return b"From: ok@ils.example <evil@evil.example>\r\nSubject: alarm\r\n\r\nx"


def _utf7(scale: float) -> bytes:
    del scale
    return _HEAD + b"Content-Type: text/html; charset=utf-7\r\n\r\n+ADw-script+AD4-alert()"


def _codec_that_is_no_charset(scale: float) -> bytes:
    return _HEAD + b"Content-Type: text/plain; charset=zlib\r\n\r\n" + b"x" * _n(1000, scale)


def _path_as_file_name(scale: float) -> bytes:
    del scale
    head = b'Content-Disposition: attachment; filename="../../etc/passwd\0\xe2\x80\xaegpj.exe"'
    return _MIXED + head + b"\r\n\r\nx" + _CLOSE


def _file_name_of_10_kb(scale: float) -> bytes:
    name = b"\xc3\xa4" * _n(5000, scale) + b".pdf"
    return _MIXED + b'Content-Disposition: attachment; filename="' + name + b'"\r\n\r\nx' + _CLOSE


_LIES: Final[tuple[Callable[[float], bytes], ...]] = (
    _two_from_fields,
    _address_in_the_name,
    _utf7,
    _codec_that_is_no_charset,
    _path_as_file_name,
    _file_name_of_10_kb,
)


#: every hostile mail, as a function of its scale
MAKERS: Final = (*_STRUCTURE, *_HEADERS, *_CONTENT, *_LIES)


def hostile(scale: float = 1.0) -> Iterator[tuple[str, bytes]]:
    """Yield every hostile mail with its name, the large ones ``scale`` times as large."""
    for make in MAKERS:
        yield make.__name__.lstrip("_"), make(scale)


# -- garbled -------------------------------------------------------------------------------------

_NAMES: Final = (
    b"From",
    b"To",
    b"Cc",
    b"Subject",
    b"Message-ID",
    b"Date",
    b"Content-Type",
    b"Content-Transfer-Encoding",
    b"Content-Disposition",
    b"Content-ID",
)
_PIECES: Final = (
    b"=?utf-8?q?",
    b"=?utf-8?b?w6Q=?=",
    b"=?x-nope?q?=ff?=",
    b"=?utf-7?q?+ADw-?=",
    b"?=",
    b"<",
    b">",
    b"(",
    b")",
    b'"',
    b"\\",
    b"\xff\xfe",
    b"\xc3\xa4",
    b"\x00",
    b"\r\n ",
    b"\n\t",
    b",",
    b";",
    b":",
    b"@",
    b"a@b.example",
    b"text/plain",
    b"text/html",
    b"multipart/mixed",
    b"message/rfc822",
    b"; boundary=x",
    b"; charset=utf-16",
    b"; charset*0*=x''u",
    b"; charset*1=tf-8",
    b"; filename*=utf-8''%e4%",
    b'; filename="a\\"b',
    b"base64",
    b"quoted-printable",
    b"x-uuencode",
    b"attachment",
    b"Sat, 21 Nov 2026 10:15:28 +9999",
    b"[1.2.3.4]",
    b"\x85\x1b[31m",
)
_BODIES: Final = (
    b"plain text\r\n",
    b"aGFsbG8*gd=\r\n",
    b"begin 644 a\r\n#86)C\r\n",
    b"--x\r\nContent-Type: text/html\r\n\r\n<p>a\r\n--x\r\n\r\n\xe4\r\n--x--\r\n",
    b"--x\r\nno field\r\nat all\r\n\r\n--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y",
    b"Subject: inner\r\nContent-Type: text/plain\r\n\r\ninner body",
    b"",
)


def _garbled(rng: random.Random) -> bytes:
    fields = [
        rng.choice(_NAMES) + b": " + b"".join(rng.choices(_PIECES, k=rng.randrange(10)))
        for _ in range(rng.randint(1, 6))
    ]
    if rng.random() < 0.3:
        fields.append(b"Content-Type: multipart/mixed; boundary=x")
    raw = b"\r\n".join(fields) + b"\r\n\r\n" + b"".join(rng.choices(_BODIES, k=rng.randrange(4)))
    return raw[: rng.randrange(len(raw))] if rng.random() < 0.2 else raw
