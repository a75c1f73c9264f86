"""What the store itself reads of a mail: its Message-ID, without parsing it."""

from __future__ import annotations

import re
from typing import Final

#: bytes of a mail that are searched; a header block beyond that is an attack or an accident
SCANNED: Final = 256 * 1024
#: characters kept; RFC 5322 section 2.1.1 limits a line to 998
LONGEST: Final = 998

#: how the field begins, in a header block in lower case
_NAME: Final = b"\nmessage-id"
# One line and its folded continuations. Each alternative consumes a whole line, so the match
# is linear in its input whatever that is.
_FIELD: Final = re.compile(
    rb"message-id[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*){0,8})", re.IGNORECASE
)


def message_id(raw: bytes) -> str | None:
    """Return the first Message-ID of the header block, ``None`` without one; never raises.

    ``<left@right>`` with its brackets when there are any, otherwise the bare text.
    """
    head = _header_block(raw)
    # To look for the name first costs a fiftieth of what the expression would alone. With the
    # line feed in front, a place in ``lower`` is the place of the name in ``head``.
    lower = b"\n" + head.lower()
    at = lower.find(_NAME)
    while at >= 0 and (found := _FIELD.match(head, at)) is None:
        at = lower.find(_NAME, at + 1)
    if at < 0 or found is None:
        return None
    text = found[1][: 4 * LONGEST].decode("utf-8", "replace")
    text = "".join(text.split())
    start = text.find("<")
    stop = text.find(">", start)
    if 0 <= start < stop:
        text = text[start : stop + 1]
    return storable(text)[:LONGEST] or None


def _header_block(raw: bytes) -> bytes:
    """Return what stands before the first empty line, at most ``SCANNED`` bytes."""
    if raw.startswith((b"\n", b"\r\n")):
        return b""
    end = raw.find(b"\r\n\r\n", 0, SCANNED)
    bound = SCANNED if end < 0 else end
    for blank in (b"\n\n", b"\n\r\n"):
        found = raw.find(blank, 0, bound)
        bound = bound if found < 0 else found
    return raw[:bound]


def storable(text: str) -> str:
    r"""Return ``text`` without what a text column refuses, ``\x00`` and lone surrogates.

    They are written out as in Python source, so that two different texts stay different.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
