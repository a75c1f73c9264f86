"""Header sections: split, unfolded and decoded, within limits and without trust.

Everything here is linear in what it reads, and what it reads is bounded before.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from mailbridge.parse import transfer
from mailbridge.parse.charset import clean_line, decode
from mailbridge.parse.parsed import (
    HEADER_BYTES,
    HEADER_FIELDS,
    HEADER_SECTION_BYTES,
    PART_FIELDS,
    PART_SECTION_BYTES,
    Findings,
    Header,
)

# A named tuple's own constructor is a Python function, and there are dozens of fields in a mail.
_new: Final = tuple.__new__
_PLAIN: Final = bytes((0x09, 0x0A, 0x0D, *range(0x20, 0x7F)))
_NAME = re.compile(r"[!-9;-~]+\Z")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_MBOX = re.compile(rb"(?:>?From [^\n]*\n)+")
_BLANK_LINES = re.compile(rb"[\r\n]+(?=(?:Received|Return-Path|From|Date|To|Subject|X-[A-Za-z]+):)")
_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?\n]*)\?=")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]++|\\.)*+"?|[^;]*)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PIECE = re.compile(r"([^*]+)\*(?:(\d{1,4})(\*)?)?\Z")
_DATE_CHARACTERS: Final = 128
_REMEMBERED: Final = 200


class Section(NamedTuple):
    """The unfolded field texts of a header section, and where its body starts.

    ``plain`` says that all of it is printable ASCII and tabs, as it nearly always is.
    """

    lines: list[str]
    body_at: int
    plain: bool


def section(raw: bytes, start: int, findings: Findings) -> Section:
    """Split the root's header section, which starts at ``start``.

    It ends at the first blank line, or where lines come that cannot be header fields;
    a single stray line among fields is passed over.
    """
    end, body_at = section_end(raw, start, start + HEADER_SECTION_BYTES)
    if end < 0:
        findings.limit("header_bytes")
        cut = start + HEADER_SECTION_BYTES
        end = raw.rfind(b"\n", start, cut) + 1 or cut
        _, body_at = section_end(raw, cut - 1, len(raw))
    return _section(raw, start, end, body_at, HEADER_FIELDS, findings)


def part_section(raw: bytes, start: int, stop: int, findings: Findings) -> Section:
    """As ``section`` for a part; at ``stop`` the next part begins, or the message ends."""
    most = start + PART_SECTION_BYTES
    end, body_at = section_end(raw, start, min(stop, most))
    if end < 0:
        end = body_at = min(stop, most)
        if stop > most:
            findings.limit("header_bytes")
    return _section(raw, start, end, body_at, PART_FIELDS, findings)


def _section(  # noqa: PLR0913, PLR0917 - where it lies, and how much of it is wanted
    raw: bytes, start: int, end: int, body_at: int, limit: int, findings: Findings
) -> Section:
    block = raw[start:end]
    lines = _unfold(block, limit)
    if not all([":" in line for line in lines]):  # noqa: C419 - a generator costs three times this
        findings.defect("header-stray-line")
        block, body_at = _without_strays(raw, start, end, body_at)
        lines = _unfold(block, limit)
    if len(lines) > limit:
        findings.limit("headers")
        del lines[limit:]
    plain = not block.translate(None, _PLAIN) and block.count(b"\r") == block.count(b"\r\n")
    return Section(lines, body_at, plain)


def section_end(raw: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where the section ends and where the body begins; -1 when ``stop`` comes before."""
    if raw[start : start + 1] == b"\n":
        return start, start + 1
    if raw[start : start + 2] == b"\r\n":
        return start, start + 2
    crlf = raw.find(b"\n\r\n", start, stop)
    bare = raw.find(b"\n\n", start, stop if crlf < 0 else crlf)
    if bare >= 0:
        return bare + 1, bare + 2
    if crlf >= 0:
        return crlf + 1, crlf + 3
    return (len(raw), len(raw)) if stop >= len(raw) else (-1, -1)


def _unfold(block: bytes, limit: int) -> list[str]:
    # latin-1 keeps every byte, for `_text` to look at again where it is not ASCII.
    text = block.decode("latin-1").replace("\r\n", "\n")
    text = text.replace("\n ", " ").replace("\n\t", "\t")
    return [line for line in text.split("\n", limit + 1)[: limit + 1] if line]


def _without_strays(raw: bytes, start: int, end: int, body_at: int) -> tuple[bytes, int]:
    """Return the section without lines that are no fields, and where the body begins."""
    kept: list[bytes] = []
    at = start
    for line in raw[start:end].split(b"\n"):
        following = at + len(line) + 1
        if _FIELD.match(line) or (kept and line[:1] in {b" ", b"\t"}):
            kept.append(line)
        elif line.strip() and not _FIELD.match(raw, following):
            # Two lines that are no fields: the blank line is missing and this is the body.
            return b"\n".join(kept), at
        at = following
    return b"\n".join(kept), body_at


def preamble(raw: bytes, findings: Findings) -> int:
    """Return where the header section begins: behind an mbox "From " line or blank lines."""
    start = 0
    if raw[:1] in {b"F", b">"} and (mbox := _MBOX.match(raw, 0, HEADER_BYTES)):
        findings.defect("mbox-from-line")
        start = mbox.end()
    if raw[start : start + 1] in {b"\r", b"\n"} and (
        blank := _BLANK_LINES.match(raw, start, start + HEADER_BYTES)
    ):
        findings.defect("leading-blank-lines")
        start = blank.end()
    return start


@lru_cache(maxsize=4096)
def _key(name: str) -> str:
    """Return a field's name in lower case, empty when it cannot be one (RFC 5322 section 2.2)."""
    name = name.rstrip(" \t")
    return name.lower() if _NAME.match(name) else ""


def headers(section: Section, findings: Findings) -> list[Header]:
    """Return the fields in order: raw is unfolded and clean, value is decoded as well."""
    found = []
    plain = section.plain
    for line in section.lines:
        if len(line) > HEADER_BYTES:
            findings.limit("header_length")
            line = line[:HEADER_BYTES]  # noqa: PLW2901 - the rest of it shall not be seen below
        name, _, raw = line.partition(":")
        key = _key(name)
        if not key:
            findings.defect("header-stray-line")
            continue
        raw = raw.strip(" \t\r\n")
        if not plain:
            raw = _text(raw, findings)
            name = name.rstrip(" \t")
        value = decode_words(raw, findings) if "=?" in raw else raw
        found.append(_new(Header, (name, value, raw, key)))
    return found


def _text(value: str, findings: Findings) -> str:
    if value.isascii():
        return value if value.isprintable() else clean_line(value, findings)
    findings.defect("header-8bit")
    return clean_line(decode(value.encode("latin-1"), "utf-8", Findings()), findings)


def decode_words(text: str, findings: Findings) -> str:
    """Decode RFC 2047 encoded words; what is none stays as it is. The result is one clean line."""
    if len(text) >= _REMEMBERED:
        return _decode_words(text, findings)
    decoded, defects = _remembered_words(text)
    for defect in defects:
        findings.defect(defect)
    return decoded


@lru_cache(maxsize=1024)
def _remembered_words(text: str) -> tuple[str, tuple[str, ...]]:
    # The same senders write again and again, and each name is decoded twice for every mail.
    findings = Findings()
    return _decode_words(text, findings), tuple(findings.defects)


def _decode_words(text: str, findings: Findings) -> str:
    pieces: list[str] = []
    pending = b""
    charset = ""
    at = 0
    for word in _WORD.finditer(text):
        between = text[at : word.start()]
        label = word[1].partition("*")[0].lower()
        if pending and (between.strip() or label != charset):
            pieces.append(decode(pending, charset, findings))
            pending = b""
        if between.strip() or not at:
            # White space between two encoded words is not part of the text (section 6.2).
            pieces.append(between)
        # Bytes are joined before decoding: many senders tear characters at the word's end.
        pending += _word_bytes(word[2], word[3])
        charset = label
        at = word.end()
    if pending:
        pieces.append(decode(pending, charset, findings))
    pieces.append(text[at:])
    return clean_line("".join(pieces), findings)


def _word_bytes(encoding: str, payload: str) -> bytes:
    data = payload.encode("utf-8")
    if encoding in "bB":
        return transfer.base64(data)
    return binascii.a2b_qp(data, header=True)


def parameters(value: str, findings: Findings) -> tuple[str, Mapping[str, str]]:
    """Split ``text/plain; charset=x`` into the token and its parameters, in lower case.

    RFC 2231 continuations and charsets are put together, and win over the plain form.
    """
    # A boundary is never seen again; remembering it would only drive out what is.
    if len(value) < _REMEMBERED and "*" not in value and "boundary" not in value:
        return _remembered(value)
    return _parameters(value, findings)


@lru_cache(maxsize=1024)
def _remembered(value: str) -> tuple[str, Mapping[str, str]]:
    # Without an extended form nothing is decoded, so there is nothing to be found.
    return _parameters(value, Findings())


def _parameters(value: str, findings: Findings) -> tuple[str, Mapping[str, str]]:
    token, _, _ = value.partition(";")
    plain: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for match in _PARAMETER.finditer(value, len(token)):
        name, content = match[1].lower(), match[2].strip()
        if content.startswith('"'):
            content = _ESCAPED.sub(r"\1", content[1:].removesuffix('"'))
        if "*" in name and (piece := _PIECE.match(name)):
            encoded = piece[2] is None or piece[3] is not None
            pieces.setdefault(piece[1], []).append((int(piece[2] or 0), encoded, content))
        else:
            plain.setdefault(name, content)
    for name, parts in pieces.items():
        plain[name] = _extended(parts, findings)
    return token.strip().lower(), plain


def _extended(parts: list[tuple[int, bool, str]], findings: Findings) -> str:
    parts.sort(key=lambda part: part[0])
    charset = "utf-8"
    data = b""
    for index, (_, encoded, content) in enumerate(parts):
        piece = content
        if encoded and index == 0 and piece.count("'") >= 2:  # noqa: PLR2004 - charset'language'
            charset, _, piece = piece.split("'", 2)
        data += unquote_to_bytes(piece) if encoded else piece.encode("utf-8", "replace")
    return decode(data, charset or "utf-8", findings)


_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, +)?(\d{1,2}) +([A-Z][a-z]{2}) +(\d{4}) +"
    r"(\d\d):(\d\d):(\d\d) +([+-])(\d\d)([0-5]\d)(?: *\([^()]*\))?\Z",
    re.ASCII,
)


def date(value: str) -> datetime | None:
    """Return the moment of a Date field with the sender's own offset, ``None`` if it has none."""
    if len(value) > _DATE_CHARACTERS:
        return None
    try:
        return _date(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _date(value: str) -> datetime:
    # The form that nearly all mail has; the standard library's reader knows the odd ones.
    if (match := _DATE.match(value)) and (month := _MONTHS.get(match[2])):
        day, _, year, hour, minute, second, sign, hours, minutes = match.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
        moment = datetime(
            int(year), month, int(day), int(hour), int(minute), int(second), tzinfo=zone
        )
    else:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
    # Some offsets are accepted and break only when they are used.
    moment.astimezone(UTC)
    return moment
