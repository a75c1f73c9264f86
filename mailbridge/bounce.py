"""Reports that a mail of ours did not arrive, recognised in fetched mail. Pure.

Read are delivery status notifications (RFC 3464 in a ``multipart/report`` of RFC 6522), which
Exchange's own non-delivery reports are as well, and the older form of ``X-Failed-Recipients``.
Which mail is meant is taken from the header of the enclosed original, then from the envelope id
that we gave (RFC 3461, ENVID), then from what the report answers to. Automatic replies (RFC 3834,
an absence) come by a null Return-Path, too, and are no bounces: they name no failed recipient.

Anybody can write such a mail. So it never changes what is known of a send; it is told beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser, HeaderParser
from email.policy import compat32
from typing import Final

from mailbridge.parse import parse
from mailbridge.parse.parsed import Attachment, ParsedMessage

#: bytes of a header section that are looked at
HEADER: Final = 64 * 1024
#: bytes of a status or an original that are read, recipients of one report
_PART: Final = 256 * 1024
MOST: Final = 200
#: characters of the diagnosis that are kept
WORDS: Final = 500

_NULL_PATH: Final = re.compile(rb"^return-path:[ \t]*<>", re.MULTILINE)
_STATUS_TYPES: Final = frozenset({"message/delivery-status", "message/global-delivery-status"})
_ORIGINAL_TYPES: Final = frozenset(
    {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}
)
_BLANK: Final = re.compile(r"\n[ \t]*\n+")
#: without NUL, which PostgreSQL takes in no text
_ID: Final = re.compile(r"<([^<>\s\x00]{1,998})>")
_OURS: Final = re.compile(r"\bout_[A-Za-z0-9]{26}\b")
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Somebody to whom a mail did not get, by a report.

    ``message_ids`` are those that the mail may have (without brackets), the surest first;
    ``send`` is our own id of it, empty when the report does not have it.
    """

    send: str
    message_ids: tuple[str, ...]
    recipient: str
    text: str


def suspected(raw: bytes) -> bool:
    """Tell at a glance whether a mail may be a report; no for nearly all, at the price of a look.

    Only the header is looked at.
    """
    end = raw.find(b"\r\n\r\n", 0, HEADER)
    if end < 0:
        end = raw.find(b"\n\n", 0, HEADER)
    head = raw[: end if end >= 0 else HEADER].lower()
    # An expression alone would take ten times as long over every ordinary mail.
    if b"multipart/report" in head or b"x-failed-recipients:" in head:
        return True
    return b"return-path:" in head and _NULL_PATH.search(head) is not None


def failures(raw: bytes) -> Sequence[Failure]:
    """Return what a mail reports as failed, each recipient once; never raises for its content."""
    message = parse(raw)
    told = {recipient.casefold(): (recipient, text) for recipient, text in _told(message)}
    if not told:
        return ()
    send, ids = _meant(message)
    if not send and not ids:
        return ()
    return [
        Failure(send=send, message_ids=ids, recipient=recipient, text=text)
        for recipient, text in list(told.values())[:MOST]
    ]


def _told(message: ParsedMessage) -> Iterator[tuple[str, str]]:
    """Yield the recipients that failed, with what was said of each."""
    statuses = [one for one in message.attachments if one.content_type in _STATUS_TYPES]
    for one in statuses:
        for block in _BLANK.split(_text(one))[1:]:
            fields = HeaderParser(policy=compat32).parsestr(block)
            if _clean(fields.get("Action", "")).lower() != "failed":
                continue
            address = _address(fields.get("Original-Recipient")) or _address(
                fields.get("Final-Recipient")
            )
            if address:
                said = _typed(fields.get("Diagnostic-Code")) or _clean(fields.get("Status", ""))
                yield address, said[:WORDS]
    if statuses:
        return
    for header in message.headers:
        if header.key == "x-failed-recipients":
            for address in header.value.split(","):
                if "@" in address:
                    yield _clean(address), _clean(message.subject or "")[:WORDS]


def _meant(message: ParsedMessage) -> tuple[str, tuple[str, ...]]:
    """Return our own id of the mail that came back, and the Message-IDs that it may have."""
    send = ""
    ids: list[str] = []
    for one in message.attachments:
        if one.content_type in _ORIGINAL_TYPES:
            fields = BytesHeaderParser(policy=compat32).parsebytes(one.content[:_PART])
            send = send or _ours(fields.get("X-Mailbridge-Id", ""))
            ids += _ID.findall(str(fields.get("Message-ID", "")))
        elif one.content_type in _STATUS_TYPES:
            first = HeaderParser(policy=compat32).parsestr(_BLANK.split(_text(one))[0])
            send = send or _ours(first.get("Original-Envelope-Id", ""))
    for text in (message.in_reply_to or "", *message.references[-1:]):
        ids += _ID.findall(text) or [text.strip()]
    return send, tuple(dict.fromkeys(one for one in ids if one))


def _text(part: Attachment) -> str:
    return part.content[:_PART].decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\n")


def _ours(text: object) -> str:
    match = _OURS.search(str(text))
    return match[0] if match else ""


def _address(field: str | None) -> str:
    """Return the address of ``rfc822;somebody@example`` (RFC 3464, 2.3.1)."""
    value = _typed(field).strip("<> ")
    return value if "@" in value and " " not in value else ""


def _typed(field: str | None) -> str:
    """Return what stands behind the type and its semicolon."""
    text = _clean(str(field)) if field is not None else ""
    return text.partition(";")[2].strip() if ";" in text else text


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
