"""FETCH items (RFC 3501 section 6.4.5) of a message."""

from __future__ import annotations

import email.policy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import Final

from mailbridge.sandbox.imap_protocol import internal_date, quoted, text
from mailbridge.sandbox.imap_view import flags_text
from mailbridge.sandbox.imap_wire import ProtocolError
from mailbridge.sandbox.mailstore import Message
from mailbridge.sandbox.rendering import header_of

_MACROS: Final = {
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
}
_PLAIN: Final = frozenset({"UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"})
_OLD_NAMES: Final = {
    "RFC822": ("", False),
    "RFC822.HEADER": ("HEADER", True),
    "RFC822.TEXT": ("TEXT", False),
}
_BODY: Final = re.compile(
    r"BODY(\.PEEK)?\[(|HEADER|TEXT|HEADER\.FIELDS(?:\.NOT)? \(([^()]*)\))\](?:<(\d+)\.(\d+)>)?",
    re.IGNORECASE,
)
_ENVELOPE_ADDRESSES: Final = ("from", "sender", "reply-to", "to", "cc", "bcc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One data item. ``section`` is ``None`` unless it gives bytes of the message."""

    name: str
    section: str | None = None
    fields: tuple[str, ...] = ()
    excluding: bool = False
    peek: bool = True
    offset: int | None = None
    length: int = 0


def parse_items(args: Sequence[object]) -> list[Item]:
    """Parse the items of a FETCH; raises ``ProtocolError`` for what Exchange does not know."""
    if len(args) != 1:
        raise ProtocolError("Command Argument Error. 11")
    names = [text(arg) for arg in args[0]] if isinstance(args[0], list) else [text(args[0])]
    if len(names) == 1 and names[0].upper() in _MACROS:
        names = list(_MACROS[names[0].upper()])
    if not names:
        raise ProtocolError("Command Argument Error. 11")
    return [_item(name) for name in names]


def _item(name: str) -> Item:
    upper = name.upper()
    if upper in _PLAIN:
        return Item(name=upper)
    if upper in _OLD_NAMES:
        section, is_peek = _OLD_NAMES[upper]
        return Item(name=upper, section=section, peek=is_peek)
    match = _BODY.fullmatch(name)
    if match is None:
        raise ProtocolError("Command Argument Error. 11")
    peek, section, fields, offset, length = match.groups()
    shown = f"BODY[{section.upper()}]" + (f"<{offset}>" if offset else "")
    return Item(
        name=shown,
        section=section.partition(" ")[0].upper(),
        fields=tuple(field.strip('"').lower() for field in (fields or "").split()),
        excluding=".NOT" in section.upper(),
        peek=bool(peek),
        offset=int(offset) if offset else None,
        length=int(length or 0),
    )


def section_of(item: Item, raw: bytes) -> bytes:
    """Return the bytes that an item with a section asks for, cut to its partial range."""
    header = header_of(raw)
    if item.section == "":
        data = raw
    elif item.section == "TEXT":
        data = raw[len(header) :]
    elif item.section == "HEADER":
        data = header
    else:
        data = _some_fields(header, item)
    if item.offset is not None:
        data = data[item.offset : item.offset + item.length]
    return data


def _some_fields(header: bytes, item: Item) -> bytes:
    kept = bytearray()
    for line in re.findall(rb"[^\n]*\n(?:[ \t][^\n]*\n)*", header):
        name = line.partition(b":")[0].strip().lower().decode("latin-1")
        if line.strip() and (name in item.fields) is not item.excluding:
            kept += line
    return bytes(kept) + b"\r\n"


def plain_value(item: Item, message: Message, *, raw: bytes, size: int) -> str:
    """Return the value of an item without a section."""
    if item.name == "UID":
        return str(message.uid)
    if item.name == "FLAGS":
        return flags_text(message.flags)
    if item.name == "INTERNALDATE":
        return internal_date(message.received_at)
    if item.name == "RFC822.SIZE":
        return str(size)
    return envelope(raw)


def _string(value: str | None) -> str:
    if value is None:
        return "NIL"
    # Line ends and 8-bit text cannot stand in a quoted string.
    return quoted(re.sub(r"[\r\n\x00]+", "", value).encode("ascii", "replace").decode("ascii"))


def _addresses(values: list[str]) -> str:
    out = []
    for name, address in getaddresses(values):
        local, _, domain = address.partition("@")
        out.append(f"({_string(name or None)} NIL {_string(local)} {_string(domain)})")
    return "(" + "".join(out) + ")" if out else "NIL"


def envelope(raw: bytes) -> str:
    """Return the ENVELOPE structure (RFC 3501 section 7.4.2)."""
    headers = BytesHeaderParser(policy=email.policy.compat32).parsebytes(header_of(raw))

    def first(name: str) -> str | None:
        value = headers.get(name)
        return None if value is None else str(value)

    def all_of(name: str) -> list[str]:
        return [str(value) for value in headers.get_all(name, [])]

    lists = {name: all_of(name) for name in _ENVELOPE_ADDRESSES}
    for name in ("sender", "reply-to"):
        lists[name] = lists[name] or lists["from"]
    addresses = " ".join(_addresses(lists[name]) for name in _ENVELOPE_ADDRESSES)
    head = f"{_string(first('date'))} {_string(first('subject'))}"
    return f"({head} {addresses} {_string(first('in-reply-to'))} {_string(first('message-id'))})"
