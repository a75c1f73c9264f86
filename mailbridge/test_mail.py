"""A test mail: marked, so that the daemon knows it for one; composed and read here. Pure.

A mark alone means nothing: anybody can write one. It counts when its nonce was put down in the
store beforehand, for this mailbox and this Message-ID, and only for the first mail that has both
(``store.probes``). So nobody can have an alarm taken for a test by marking it, and a copy of an
old test mail is a mail like any other.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Final

HEADER: Final = "X-Mailbridge-Test"
# Whoever reads the mailbox is told at once, in two languages. Neither here nor in the text are
# words that a route for alarms may look for: should a mark ever not be known, nobody is woken.
SUBJECT: Final = "mailbridge: test mail, please ignore / Testmail, bitte ignorieren"
_TEXT: Final = (
    "This mail was sent by mailbridge to see whether mail arrives. Nothing has to be done.",
    "It is sent from this mailbox to itself, and goes to no receiver as a mail.",
    "",
    "Diese Mail hat mailbridge geschickt, um zu sehen, ob Mail ankommt. Es ist nichts zu tun.",
    "Sie geht vom Postfach an es selbst, und an keinen Empfänger als Mail.",
)

#: bytes of a mail that are searched for the mark; a header block beyond that is none of ours
_SEARCHED: Final = 256 * 1024
_NAME: Final = b"\nx-mailbridge-test:"
_MARK: Final = re.compile(rb"[ \t]*(?:\r?\n[ \t]+)?([a-z2-7]{26})[ \t]*(?:\r?\n|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedMail:
    """A test mail that is ready to be sent. ``message_id`` has its brackets."""

    nonce: str
    message_id: str
    raw: bytes = field(repr=False)


def compose(*, sender: str, to: str, at: datetime) -> MarkedMail:
    """Return a new test mail: header and lines end in CRLF, and nothing is missing.

    ``sender`` and ``to`` are addresses. Its nonce and Message-ID are drawn by lot (130 bits), and
    have to be put down (``expect-test``, ``ProbeStore.expect``) before it is sent.
    """
    nonce, other = _drawn(), _drawn()
    domain = sender.rpartition("@")[2]
    message_id = f"<{other}@{domain if domain.isascii() and domain else 'mailbridge.invalid'}>"
    lines = (
        f"From: <{sender}>",
        f"To: <{to}>",
        f"Subject: {SUBJECT}",
        f"Date: {format_datetime(at)}",
        f"Message-ID: {message_id}",
        # RFC 3834, section 5; the other one keeps Exchange from answering that nobody is there.
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: All",
        f"{HEADER}: {nonce}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: base64",
        "",
        base64.encodebytes("\r\n".join(_TEXT).encode()).decode("ascii").replace("\n", "\r\n"),
    )
    return MarkedMail(nonce=nonce, message_id=message_id, raw="\r\n".join(lines).encode())


def mark_of(raw: bytes) -> str | None:
    """Return the nonce that a mail is marked with, ``None`` without a mark or with several.

    Linear in the header block. Says nothing of whether the mark is ours.
    """
    head = b"\n" + _header_block(raw).lower()
    at = head.find(_NAME)
    if at < 0 or head.find(_NAME, at + 1) >= 0:
        return None
    found = _MARK.match(head, at + len(_NAME))
    return found[1].decode("ascii") if found else None


def _header_block(raw: bytes) -> bytes:
    # The second search ends where the first has: a body may be long, and every mail comes by here.
    end = raw.find(b"\r\n\r\n", 0, _SEARCHED)
    bound = _SEARCHED if end < 0 else end
    bare = raw.find(b"\n\n", 0, bound)
    return raw[: bound if bare < 0 else bare]


def _drawn() -> str:
    # 17 bytes are 28 characters, of which 26 are wanted.
    return base64.b32encode(secrets.token_bytes(17)).decode("ascii")[:26].lower()
