"""A mail that comes as a whole (message/rfc822, sendmail, the relay): read, checked, completed.

Its bytes stay as they are, except: every line ends with CRLF, Bcc is taken out, and what is
missing of Date, Message-ID and (where that is asked for) From is put in front, with our own mark.
Nothing is decoded and encoded again, so signatures of the body and of the fields hold. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Final, Literal, NamedTuple

from mailbridge.compose import text
from mailbridge.compose.addresses import Party, each_once, read
from mailbridge.compose.build import RECIPIENTS
from mailbridge.compose.draft import Built, Fault, Written
from mailbridge.compose.fields import MARK
from mailbridge.parse.parsed import HEADER_FIELDS, HEADER_SECTION_BYTES

#: how often a mail may have passed through a mailbridge; one more, and it goes in circles
HOPS: Final = 5
#: servers that a mail may have passed (RFC 5321, section 6.3)
SERVERS: Final = 100

_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:")
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,990}>")
_HIDDEN: Final = frozenset({"bcc", "resent-bcc"})
_ENVELOPE: Final = frozenset({"to", "cc", "bcc"})
#: what mbox files and some programs put before a mail
_MBOX: Final = re.compile(rb"\A>?From [^\r\n:]*(?:\d\d:\d\d)[^\r\n]*\r\n")


class Field(NamedTuple):
    """A field as it stands, with its folds and its end."""

    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """The value without folds; what is no UTF-8 becomes U+FFFD."""
        bare = self.raw.partition(b":")[2].replace(b"\r\n", b"")
        return bare.decode("utf-8", "replace").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A mail that was handed over. ``author`` is who stands in From, if anybody.

    ``unqualified`` is a name in From without a domain, as programs on Unix write it.
    """

    fields: tuple[Field, ...] = field(repr=False)
    body: bytes = field(repr=False)
    author: Party | None
    unqualified: str = ""

    def named(self, name: str) -> list[Field]:
        """Return the fields of a name in small letters."""
        return [one for one in self.fields if one.name == name]


def take_apart(
    raw: bytes, faults: list[Fault], *, form: Literal["strict", "unix"] = "strict"
) -> Whole:
    """Read a mail. ``unix`` also takes what sendmail takes: a text without header, a bare name.

    Every fault is added to ``faults``; with one, the mail is not to be sent.
    """
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if lines and not lines.endswith(b"\r\n"):
        lines += b"\r\n"
    lines = _MBOX.sub(b"", lines)
    if b"\0" in lines:
        faults.append(Fault(where="message", detail="this holds a NUL"))
    fields, body = _split(lines, faults, form)
    _check_lines(lines, faults)
    _check_loops(fields, faults)
    faults += [
        Fault(where=f"message.{name}", detail="this field is there twice")
        for name in ("from", "message-id")
        if sum(one.name == name for one in fields) > 1
    ]
    author, unqualified = _author(fields, faults, form)
    return Whole(fields=tuple(fields), body=body, author=author, unqualified=unqualified)


def _split(
    lines: bytes, faults: list[Fault], form: Literal["strict", "unix"]
) -> tuple[list[Field], bytes]:
    """Return the fields, and the rest with the empty line before it."""
    fields: list[Field] = []
    at = 0
    while at < len(lines):
        end = lines.index(b"\r\n", at) + 2
        line = lines[at:end]
        if line == b"\r\n":
            return fields, lines[at:]
        if len(fields) >= HEADER_FIELDS or end > HEADER_SECTION_BYTES:
            faults.append(Fault(where="message", detail="its header is larger than any may be"))
            return fields, b"\r\n"
        if line[:1] in b" \t" and fields:
            fields[-1] = Field(fields[-1].name, fields[-1].raw + line)
        elif match := _FIELD.match(line):
            fields.append(Field(match[1].decode("ascii").lower(), line))
        elif form == "unix":
            return fields, b"\r\n" + lines[at:]
        else:
            number = lines.count(b"\r\n", 0, at) + 1
            faults.append(Fault(where="message", detail=f"line {number} is no header field"))
            return fields, b"\r\n"
        at = end
    if not fields:
        faults.append(Fault(where="message", detail="there is nothing in it"))
    return fields, b"\r\n"


def _check_lines(lines: bytes, faults: list[Fault]) -> None:
    for number, line in enumerate(lines.split(b"\r\n"), 1):
        if len(line) > text.LONGEST_LINE:
            detail = (
                f"line {number} is longer than {text.LONGEST_LINE} bytes; "
                "encode its part as quoted-printable or base64"
            )
            faults.append(Fault(where="message", detail=detail, code="send.long_line"))
            return


def _check_loops(fields: Sequence[Field], faults: list[Fault]) -> None:
    hops = sum(one.name == MARK.lower() for one in fields)
    servers = sum(one.name == "received" for one in fields)
    if hops > HOPS or servers > SERVERS:
        detail = f"this goes in circles: it passed {hops} times here, and {servers} servers"
        faults.append(Fault(where="message", detail=detail, code="send.loop"))


def _author(
    fields: Sequence[Field], faults: list[Fault], form: Literal["strict", "unix"]
) -> tuple[Party | None, str]:
    written = next((one.value for one in fields if one.name == "from"), "")
    if not written:
        return None, ""
    if form == "unix" and "@" not in written:
        return None, text.shown(written)
    wrong: list[Fault] = []
    found = read(Written(written), "message.from", wrong)
    faults += [Fault(where=one.where, detail=one.detail) for one in wrong]
    if len(found) > 1:
        faults.append(Fault(where="message.from", detail="a mail has one author here"))
    return (found[0] if found else None), ""


def recipients_of(whole: Whole, faults: list[Fault]) -> list[Party]:
    """Return whom To, Cc and Bcc name."""
    found: list[Party] = []
    for one in whole.fields:
        if one.name in _ENVELOPE and one.value:
            value = one.value
            if not _is_empty_group(value):
                found += read(Written(value), f"message.{one.name}", faults)
    return found


def _is_empty_group(value: str) -> bool:
    return re.fullmatch(r"[^:;@<>]*:\s*;", value) is not None


def check_recipients(recipients: Sequence[Party], faults: list[Fault]) -> tuple[str, ...]:
    """Return the envelope's recipients, each once: at least one, and not too many."""
    found = each_once(one.address for one in recipients)
    if not recipients and not faults:
        faults.append(Fault(where="to", detail="there is no recipient"))
    if len(found) > RECIPIENTS:
        faults.append(Fault(where="to", detail=f"there are more than {RECIPIENTS} recipients"))
    return found


def complete(
    whole: Whole,
    *,
    sender: Party,
    recipients: tuple[str, ...],
    mark: str,
    date: datetime,
) -> Built:
    """Return the mail with what was missing; ``mark`` is its id here.

    ``sender`` is who stands in From, now if not before.
    """
    message_id = next((one.value for one in whole.named("message-id")), "")
    usable = _MESSAGE_ID.fullmatch(message_id) is not None
    put = [f"{MARK}: {mark}"]
    left_out = set(_HIDDEN)
    if whole.author is None:
        left_out.add("from")
        put.append(f"From: {text.addresses('From', [sender])}")
    if not usable:
        left_out.add("message-id")
        message_id = f"<{mark}@{sender.domain}>"
        put.append(f"Message-ID: {message_id}")
    if not whole.named("date"):
        put.append(f"Date: {format_datetime(date)}")
    kept = [one.raw for one in whole.fields if one.name not in left_out]
    head = "".join(f"{line}\r\n" for line in put).encode() + b"".join(kept)
    return Built(raw=head + whole.body, message_id=message_id, recipients=recipients)
