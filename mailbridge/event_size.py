"""Cuts the data of a mail's event to a size that receivers take. Pure.

Almost no mail needs it. What goes first is what a receiver misses least, since it can be had from
the raw message; what was cut is named in ``parse.limits_hit``, and nothing goes unsaid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

#: bytes of an event, beside attachments that come inline (docs/events.md)
EVENT_BYTES: Final = 1024 * 1024
#: characters that are left of a text, of all header values, of a name
TEXT: Final = 64 * 1024
HEADERS: Final = 64 * 1024
NAME: Final = 255
#: entries that are left of a list of addresses
ADDRESSES: Final = 100

_LISTS: Final = ("to", "cc", "bcc", "reply_to")


def inline_bytes(data: dict[str, Any]) -> int:
    """Return how much of an event is attachments, which have a bound of their own."""
    return sum(len(part.get("content_base64") or "") for part in data["attachments"])


def fit(data: dict[str, Any], size: Callable[[], int], most: int = EVENT_BYTES) -> None:
    """Cut ``data`` in place, step by step, until ``size()`` is at most ``most``."""
    for name, step in _STEPS:
        if size() <= most:
            return
        step(data)
        data["parse"]["limits_hit"].append(name)
        if data["parse"]["status"] != "failed":
            data["parse"]["status"] = "limited"


def _html(data: dict[str, Any]) -> None:
    if data["html"] is not None:
        data["html"].update(content="", truncated=True)


def _text(data: dict[str, Any]) -> None:
    text = data["text"]
    if len(text["content"]) > TEXT:
        data["text"] = {**text, "content": text["content"][:TEXT], "truncated": True}


def _headers(data: dict[str, Any]) -> None:
    room, kept = HEADERS, []
    for header in data["headers"]:
        room -= len(header["name"]) + len(header["value"])
        if room < 0:
            break
        kept.append(header)
    data["headers"] = kept


def _addresses(data: dict[str, Any]) -> None:
    for key in _LISTS:
        data[key] = [_short(entry) for entry in data[key][:ADDRESSES]]
    data["delivered_to"] = data["delivered_to"][:ADDRESSES]
    data["references"] = data["references"][:ADDRESSES]


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "name": entry["name"][:NAME] if entry["name"] else entry["name"]}


def _attachments(data: dict[str, Any]) -> None:
    for part in data["attachments"]:
        if part["filename_raw"]:
            part["filename_raw"] = part["filename_raw"][:NAME]


def _fields(data: dict[str, Any]) -> None:
    data["fields"] = {}


_STEPS: Final[tuple[tuple[str, Callable[[dict[str, Any]], None]], ...]] = (
    ("event-html", _html),
    ("event-headers", _headers),
    ("event-text", _text),
    ("event-addresses", _addresses),
    ("event-attachments", _attachments),
    ("event-fields", _fields),
)
