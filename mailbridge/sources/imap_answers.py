"""Reads the answers to our own FETCH commands, as imaplib collects them.

imapclient's parser looks at every character in Python; at 100 messages a command that is most
of the work of fetching. The shapes that servers really answer with are matched here at once;
an answer in any other shape goes to imapclient's parser as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Any, Final, TypeAlias

from imapclient.exceptions import ProtocolError
from imapclient.response_parser import parse_fetch_response

from mailbridge.sources.imap_plan import Head, as_utc

#: an untagged FETCH: one line, or what stands before a literal together with the literal
Part: TypeAlias = bytes | tuple[bytes, bytes]
Row: TypeAlias = dict[bytes, Any]

_BODY = re.compile(
    rb'\d+ \((?:UID (?P<uid1>\d{1,10})|INTERNALDATE "(?P<date1>[^"]{26})") '
    rb'(?:UID (?P<uid2>\d{1,10})|INTERNALDATE "(?P<date2>[^"]{26})") BODY\[\] \{(?P<size>\d+)\}'
)
_SIZE = re.compile(
    rb"\d+ \((?:UID (?P<uid1>\d{1,10}) RFC822\.SIZE (?P<size1>\d+)"
    rb"|RFC822\.SIZE (?P<size2>\d+) UID (?P<uid2>\d{1,10}))\)"
)
_RESPONSE = re.compile(rb"\d+ \(.*\)", re.DOTALL)
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_UID_ITEM = re.compile(rb"[ (]UID \d")
_DATE = re.compile(rb"([ \d]\d)-([A-Z][a-z]{2})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_MONTHS: Final = {
    name.encode(): number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}


def rows(parts: Sequence[Part | None]) -> dict[int, Row]:
    """Return what a FETCH answered, by UID: the items by name, times aware.

    Raises what imapclient's parser raises for what is not IMAP.
    """
    if not parts or parts[0] is None:
        return {}
    present = [part for part in parts if part is not None]
    quick = _bodies(present) if isinstance(present[0], tuple) else _sizes(present)
    if quick is not None:
        return quick
    _check_whole(present)
    slow: dict[int, Row] = parse_fetch_response(present, False, True)  # noqa: FBT003 - its signature
    return slow


def _check_whole(parts: Sequence[Part]) -> None:
    """Raise ``ProtocolError`` unless each response is one: no item twice, one literal at most.

    A literal that is longer than announced, or shorter, joins a message with what follows it;
    a tolerant parser would give one message the bytes of another.
    """
    texts: list[bytes] = []
    literals = 0
    for part in parts:
        if isinstance(part, tuple):
            literals += 1
            texts.append(part[0])
            continue
        texts.append(part)
        text = _QUOTED.sub(b'""', b" ".join(texts))
        uids, bodies = len(_UID_ITEM.findall(text)), text.count(b" BODY[") + text.count(b"(BODY[")
        fits = _RESPONSE.fullmatch(text) and (not literals or part[:1] in {b")", b" "})
        if not fits or literals > 1 or bodies > 1 or uids > 1 or (bodies and not uids):
            raise ProtocolError("a literal of another length than announced")
        texts, literals = [], 0
    if texts:
        raise ProtocolError("an answer without end")


def swallowed(found: Mapping[int, Row], missing: Collection[int]) -> set[int]:
    """Return the messages whose bytes hold the answer for one that is ``missing``.

    Such a literal was announced with so many bytes too many that it ends where another ends.
    """
    if not missing:
        return set()
    numbers = b"|".join(b"%d" % uid for uid in missing)
    before = rb"\r\n\* \d+ FETCH \((?:[^\r\n]* )?UID (?:%b)[ )]" % numbers
    behind = rb" UID (?:%b)\)\r\n\* \d+ FETCH \(" % numbers
    answer = re.compile(before + b"|" + behind)
    return {
        uid
        for uid, row in found.items()
        if isinstance(row.get(b"BODY[]"), bytes) and answer.search(row[b"BODY[]"])
    }


def _bodies(parts: Sequence[Part]) -> dict[int, Row] | None:
    """Read ``n (UID … INTERNALDATE … BODY[] {size}``, literal, ``)``, over and over."""
    found: dict[int, Row] = {}
    if len(parts) % 2:
        return None
    for part, end in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(part, tuple) or end != b")":
            return None
        match = _BODY.fullmatch(part[0])
        if match is None:
            return None
        uid = match["uid1"] or match["uid2"]
        moment = internal_date(match["date1"] or match["date2"] or b"")
        if uid is None or moment is None or int(match["size"]) != len(part[1]):
            return None
        if int(uid) in found:
            return None
        found[int(uid)] = {b"INTERNALDATE": moment, b"BODY[]": part[1]}
    return found


def _sizes(parts: Sequence[Part]) -> dict[int, Row] | None:
    """Read ``n (UID … RFC822.SIZE …)``, line by line."""
    found: dict[int, Row] = {}
    for part in parts:
        match = _SIZE.fullmatch(part) if isinstance(part, bytes) else None
        if match is None:
            return None
        uid = int(match["uid1"] or match["uid2"])
        found[uid] = {b"RFC822.SIZE": int(match["size1"] or match["size2"])}
    return found


def internal_date(text: bytes) -> datetime | None:
    """Return an INTERNALDATE (RFC 3501, ``date-time``); ``None`` for what is none."""
    match = _DATE.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    offset = timedelta(hours=int(match[8]), minutes=int(match[9]))
    try:
        zone = timezone(-offset if match[7] == b"-" else offset) if offset else UTC
        return datetime(
            int(match[3]),
            _MONTHS[match[2]],
            int(match[1]),
            int(match[4]),
            int(match[5]),
            int(match[6]),
            tzinfo=zone,
        )
    except ValueError:
        return None


def head_of(uid: int, row: Row) -> Head:
    """Return what a message is recognised by, from the answer to a FETCH of its head."""
    text = next((value for key, value in row.items() if key.startswith(b"BODY[HEADER")), b"")
    header = BytesHeaderParser(policy=compat32).parsebytes(text or b"")
    size = row.get(b"RFC822.SIZE")
    return Head(
        uid=uid,
        message_id=str(header.get("Message-ID", "")),
        received_at=as_utc(row.get(b"INTERNALDATE")),
        size=size if isinstance(size, int) else 0,
    )
