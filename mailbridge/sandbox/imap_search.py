"""SEARCH (RFC 3501 section 6.4.4) over a view of a folder."""

from __future__ import annotations

import email.header
import email.utils
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

from mailbridge.sandbox.imap_protocol import MONTHS, NumberSet, text
from mailbridge.sandbox.imap_view import View
from mailbridge.sandbox.imap_wire import ProtocolError
from mailbridge.sandbox.mailstore import Message
from mailbridge.sandbox.rendering import header_of

Test = Callable[[Message], bool]

_FLAG_KEYS: Final = {
    "ANSWERED": "\\Answered",
    "DELETED": "\\Deleted",
    "DRAFT": "\\Draft",
    "FLAGGED": "\\Flagged",
    "SEEN": "\\Seen",
}
_SET: Final = re.compile(r"[0-9*][0-9*:,]*")


def _day(value: str) -> date:
    match = re.fullmatch(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})", value)
    if match is None or match[2].title() not in MONTHS:
        raise ProtocolError("Command Argument Error. 11")
    try:
        return date(int(match[3]), MONTHS.index(match[2].title()) + 1, int(match[1]))
    except ValueError as exc:
        raise ProtocolError("Command Argument Error. 11") from exc


def _sent_day(message: Message) -> date | None:
    for value in header_values(message.raw, "date"):
        try:
            return email.utils.parsedate_to_datetime(value).date()
        except ValueError:
            return None
    return None


def header_values(raw: bytes, name: str) -> list[str]:
    """Return the unfolded, decoded values of a header."""
    pattern = re.compile(
        rb"^" + re.escape(name.encode("latin-1")) + rb"[ \t]*:(.*(?:\r?\n[ \t].*)*)",
        re.IGNORECASE | re.MULTILINE,
    )
    return [_decoded(match[1]) for match in pattern.finditer(header_of(raw))]


def _decoded(value: bytes) -> str:
    unfolded = re.sub(rb"\r?\n", b"", value).decode("latin-1").strip()
    try:
        pieces = email.header.decode_header(unfolded)
        return "".join(
            piece if isinstance(piece, str) else piece.decode(charset or "latin-1", "replace")
            for piece, charset in pieces
        )
    except (ValueError, LookupError):
        # An encoded word that lies about itself is searched as it stands.
        return unfolded


class Search:
    """Compiles search keys into one test of a message."""

    def __init__(self, args: list[object], view: View) -> None:
        self._args = args
        self._position = 0
        self._view = view

    def compile(self) -> Test:
        """Return the test; all keys must hold."""
        tests = []
        while self._position < len(self._args):
            tests.append(self._key())
        if not tests:
            raise ProtocolError("Command Argument Error. 11")
        return lambda message: all(test(message) for test in tests)

    def _next(self) -> object:
        if self._position == len(self._args):
            raise ProtocolError("Command Argument Error. 11")
        self._position += 1
        return self._args[self._position - 1]

    def _word(self) -> str:
        return text(self._next())

    def _key(self) -> Test:
        arg = self._next()
        if isinstance(arg, list):
            return Search(arg, self._view).compile()
        key = text(arg).upper()
        if _SET.fullmatch(key):
            return self._numbers(key, by_uid=False)
        for handler in (self._by_flag, self._by_date, self._by_content, self._by_logic):
            test = handler(key)
            if test is not None:
                return test
        raise ProtocolError("Command Argument Error. 11")

    def _numbers(self, value: str, *, by_uid: bool) -> Test:
        wanted = set(self._view.select(NumberSet.parse(value), by_uid=by_uid))
        return lambda message: message.uid in wanted

    def _by_logic(self, key: str) -> Test | None:
        if key in {"ALL", "OLD"}:
            return lambda _message: True
        if key in {"NEW", "RECENT"}:
            # Exchange has no \\Recent: nothing ever is.
            return lambda _message: False
        if key == "NOT":
            inner = self._key()
            return lambda message: not inner(message)
        if key == "OR":
            left, right = self._key(), self._key()
            return lambda message: left(message) or right(message)
        if key == "UID":
            return self._numbers(self._word(), by_uid=True)
        return None

    def _by_flag(self, key: str) -> Test | None:
        if key in {"KEYWORD", "UNKEYWORD"}:
            wanted = self._word().lower()
            flag = "$MDNSent" if wanted == "$mdnsent" else None
            has = key == "KEYWORD"
            return lambda message: (flag in message.flags) is has
        plain = key.removeprefix("UN")
        if plain in _FLAG_KEYS:
            has, name = plain == key, _FLAG_KEYS[plain]
            return lambda message: (name in message.flags) is has
        return None

    def _by_date(self, key: str) -> Test | None:
        relation = key.removeprefix("SENT")
        if relation not in {"SINCE", "BEFORE", "ON"}:
            return None
        day = _day(self._word())
        moment = _sent_day if relation != key else _received_day

        def test(message: Message) -> bool:
            found = moment(message)
            if found is None:
                return False
            if relation == "ON":
                return found == day
            return found >= day if relation == "SINCE" else found < day

        return test

    def _by_content(self, key: str) -> Test | None:
        if key in {"FROM", "TO", "CC", "BCC", "SUBJECT"}:
            return _in_header(key, self._word())
        if key == "HEADER":
            name = self._word()
            return _in_header(name, self._word())
        if key in {"BODY", "TEXT"}:
            needle = self._word().lower().encode("latin-1")
            whole = key == "TEXT"
            return lambda m: needle in (m.raw if whole else m.raw[len(header_of(m.raw)) :]).lower()
        if key in {"LARGER", "SMALLER"}:
            size = self._word()
            if not size.isdigit():
                raise ProtocolError("Command Argument Error. 11")
            limit, larger = int(size), key == "LARGER"
            return lambda m: len(m.raw) > limit if larger else len(m.raw) < limit
        return None


def _received_day(message: Message) -> date:
    return datetime.astimezone(message.received_at, UTC).date()


def _in_header(name: str, needle: str) -> Test:
    wanted = needle.lower()
    return lambda message: any(wanted in v.lower() for v in header_values(message.raw, name))
