"""What the store itself reads of a mail: its Message-ID, without parsing it."""

from __future__ import annotations

import re
from typing import Final

#: bytes of a mail that are searched; a header block beyond that is an attack or an accident
SCANNED: Final = 256 * 1024
#: characters kept; RFC 5322 section 2.1.1 limits a line to 998
LONGEST: Final = 998

_END: Final = re.compile(rb"\A\r?\n|\r?\n\r?\n")
# One line and its folded continuations. Each alternative consumes a whole line, so the search
# is linear in its input whatever that is.
_FIELD: Final = re.compile(
    rb"^message-id[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*){0,8})", re.IGNORECASE | re.MULTILINE
)


def message_id(raw: bytes) -> str | None:
    """Return the first Message-ID of the header block, ``None`` without one; never raises.

    ``<left@right>`` with its brackets when there are any, otherwise the bare text.
    """
    head = raw[:SCANNED]
    end = _END.search(head)
    found = _FIELD.search(head, 0, end.start() if end else len(head))
    if found is None:
        return None
    text = found[1][: 4 * LONGEST].decode("utf-8", "replace")
    text = "".join(text.split())
    start = text.find("<")
    stop = text.find(">", start)
    if 0 <= start < stop:
        text = text[start : stop + 1]
    return storable(text)[:LONGEST] or None


def storable(text: str) -> str:
    r"""Return ``text`` without what a text column refuses, ``\x00`` and lone surrogates.

    They are written out as in Python source, so that two different texts stay different.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
