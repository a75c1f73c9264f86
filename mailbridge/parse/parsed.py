"""What parsing gives: plain values, and the limits that keep hostile mails cheap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

#: bytes of a header section that are read; the rest stays in the raw message
HEADER_SECTION_BYTES: Final = 256 * 1024
#: header fields that are read
HEADER_FIELDS: Final = 1000
#: bytes of one header field; a longer one is cut
HEADER_BYTES: Final = 16 * 1024
#: containers within containers; what is deeper stays one opaque part
DEPTH: Final = 50
#: parts of one message; what comes later stays one opaque part
PARTS: Final = 1000
#: bytes of the header section of one part, its fields, and the bytes of all such sections
PART_SECTION_BYTES: Final = 64 * 1024
PART_FIELDS: Final = 100
PART_SECTIONS_BYTES: Final = 4 * 1024 * 1024
#: lines that look like a boundary and are looked at, matching or not
BOUNDARY_LINES: Final = 100_000
#: bytes of UTF-8 of the text and of the html that an event carries
TEXT_BYTES: Final = 256 * 1024
HTML_BYTES: Final = 512 * 1024
#: attachments that are listed
ATTACHMENTS: Final = 100
#: bytes of UTF-8 of a cleaned file name (what file systems take)
FILENAME_BYTES: Final = 255
#: addresses that are read of one header field
ADDRESSES: Final = 1000

Status = Literal["ok", "defects", "limited", "failed"]


class Header(NamedTuple):
    """A header field: ``value`` is decoded and clean, ``raw`` only unfolded and clean.

    ``key`` is the name in lower case, to compare by.
    """

    name: str
    value: str
    raw: str
    key: str


class Address(NamedTuple):
    """A mailbox as RFC 5322 means it. ``None`` is what the header does not say."""

    name: str | None
    address: str | None


class Body(NamedTuple):
    """A text for people. ``size`` counts the bytes of the whole part, transfer-decoded."""

    content: str
    charset: str | None
    truncated: bool
    size: int


class Attachment(NamedTuple):
    """A part that is not the text and not the html. ``content`` is transfer-decoded.

    ``filename`` is clean: never a path, no control characters, at most 255 bytes.
    ``filename_raw`` is what the sender declared, decoded, fit for JSON and nothing else.
    ``kind`` is ``file``, ``calendar`` (an invitation), ``message`` (a mail) or ``tnef``
    (winmail.dat, whose files follow it and name it in ``within``); ``details`` are what a
    calendar or a message says of itself.
    """

    filename: str | None
    filename_raw: str | None
    content_type: str
    size: int
    sha256: str
    disposition: str | None
    content_id: str | None
    content: bytes
    kind: Literal["file", "calendar", "message", "tnef"] = "file"
    details: Mapping[str, Any] | None = None
    within: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMessage:
    """A message as far as it could be read. No string in it holds NUL, C1 or a lone surrogate.

    ``status`` is ``ok`` (nothing was mended), ``defects`` (something was, see ``defects``),
    ``limited`` (a limit cut something off, see ``limits_hit``) or ``failed`` (only header
    fields could be read). ``parser`` says which way the body went: ``fast``, ``tolerant`` or
    ``none``.
    """

    status: Status
    defects: tuple[str, ...] = ()
    limits_hit: tuple[str, ...] = ()
    parser: Literal["fast", "tolerant", "none"] = "none"
    headers: tuple[Header, ...] = ()
    #: the addresses of every From field, the topmost first
    from_: tuple[Address, ...] = ()
    #: how many From fields there are; RFC 5322 section 3.6 wants exactly one
    from_fields: int = 0
    #: a strict and a lenient reader would not agree on who the author is
    from_ambiguous: bool = False
    from_raw: str | None = None
    sender: Address | None = None
    reply_to: tuple[Address, ...] = ()
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    delivered_to: tuple[str, ...] = ()
    subject: str | None = None
    #: aware, in the offset that the sender wrote
    date: datetime | None = None
    date_raw: str | None = None
    message_id: str | None = None
    in_reply_to: str | None = None
    references: tuple[str, ...] = ()
    content_type: str = "text/plain"
    report_type: str | None = None
    text: Body | None = field(default=None, repr=False)
    html: Body | None = field(default=None, repr=False)
    text_from_html: bool = False
    attachments: tuple[Attachment, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class Findings:
    """What was mended and what was cut while one message is read; each is named once."""

    defects: dict[str, None] = field(default_factory=dict)
    limits: dict[str, None] = field(default_factory=dict)

    def defect(self, name: str) -> None:
        """Note that something had to be mended."""
        self.defects[name] = None

    def limit(self, name: str) -> None:
        """Note that something was cut off."""
        self.limits[name] = None

    def status(self) -> Status:
        """Say it in one word."""
        if self.limits:
            return "limited"
        return "defects" if self.defects else "ok"
