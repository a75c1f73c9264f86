"""What the server makes of a stored message: its header, or a stand-in when it cannot."""

from __future__ import annotations

import re
from typing import Final

_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")
_KEPT: Final = (b"subject:", b"from:", b"date:")


def header_of(raw: bytes) -> bytes:
    """Return the header block with the empty line that ends it."""
    if raw.startswith((b"\r\n", b"\n")):
        return raw[: raw.index(b"\n") + 1]
    match = _HEADER_END.search(raw)
    return raw if match is None else raw[: match.end()]


def placeholder(raw: bytes, number: int, *, protocol: str) -> bytes:
    """Return the mail that stands in for one which the server cannot convert."""
    kept = [line for line in header_of(raw).splitlines() if line.lower().startswith(_KEPT)]
    notice = f"Retrieval using the {protocol} protocol failed for the following message: {number}"
    lines = [
        b'From: "Microsoft Exchange Server" <>',
        b"Subject: " + notice.encode(),
        b"MIME-Version: 1.0",
        b'Content-Type: text/plain; charset="us-ascii"',
        b"",
        b"The server couldn't retrieve the following message:",
        b"",
        *kept,
        b"",
        b"The message hasn't been deleted. You might be able to view it using either Outlook or",
        b"Outlook Web App. You can also contact the sender to find out what the message says.",
        b"",
    ]
    return b"\r\n".join(lines)
