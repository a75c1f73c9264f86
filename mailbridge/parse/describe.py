"""What an attachment is beyond a file: an invitation, a message, a container. Bounded, lazy.

Messages within the message are described and never opened: who reads them wants the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mailbridge.parse import headers as header_fields
from mailbridge.parse.charset import clean_line, decode
from mailbridge.parse.parsed import Findings

#: bytes of a calendar that are read, and characters of what is told of it
CALENDAR_BYTES: Final = 64 * 1024
VALUE: Final = 500

_FOLD: Final = re.compile(r"\r?\n[ \t]")
_PROPERTY: Final = re.compile(r"([A-Za-z-]{1,40})((?:;[^:\"]*(?:\"[^\"]*\"[^:\"]*)*)?):(.*)")
_TOLD: Final = {
    "UID": "uid",
    "SUMMARY": "summary",
    "LOCATION": "location",
    "DTSTART": "starts",
    "DTEND": "ends",
    "ORGANIZER": "organizer",
    "STATUS": "status",
}
_ZONE: Final = re.compile(r";TZID=\"?([^;:\"]{1,80})", re.IGNORECASE)

_CALENDARS: Final = frozenset({"text/calendar", "application/ics"})
_MESSAGES: Final = frozenset({"message/rfc822", "message/global"})
#: the types of which there is more to tell
DESCRIBED: Final = _CALENDARS | _MESSAGES


def describe(content_type: str, content: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of an attachment of a type in ``DESCRIBED``, and what it tells."""
    if content_type in _CALENDARS:
        return "calendar", _calendar(content)
    return "message", _message(content)


def _calendar(content: bytes) -> dict[str, Any]:
    """Return what the first event of a calendar says (RFC 5545 section 3.1), as it says it."""
    findings = Findings()
    text = decode(content[:CALENDAR_BYTES], "utf-8", findings, cut=len(content) > CALENDAR_BYTES)
    told: dict[str, Any] = {"method": None}
    depth: list[str] = []
    for line in _FOLD.sub("", text).splitlines():
        match = _PROPERTY.match(line)
        if match is None:
            continue
        name, parameters, value = match[1].upper(), match[2], match[3].strip()
        if name == "BEGIN":
            depth.append(value.upper())
        elif name == "END":
            if depth and depth.pop() == "VEVENT":
                break
        elif name == "METHOD" and depth == ["VCALENDAR"]:
            told["method"] = _clean(value).upper()
        elif name in _TOLD and depth[1:] == ["VEVENT"]:
            told.setdefault(_TOLD[name], _clean(_unescaped(value)))
            if (zone := _ZONE.search(parameters)) is not None:
                told[f"{_TOLD[name]}_zone"] = _clean(zone[1])
    return told


def _unescaped(value: str) -> str:
    return re.sub(r"\\([nN,;\\])", lambda m: " " if m[1] in "nN" else m[1], value)


def _message(content: bytes) -> dict[str, Any]:
    """Return the fields by which people know a message."""
    findings = Findings()
    section = header_fields.part_section(content, 0, len(content), findings)
    first: dict[str, str] = {}
    for header in header_fields.headers(section, findings):
        first.setdefault(header.key, header.value)
    return {
        key.replace("-", "_"): _clean(first[key]) if key in first else None
        for key in ("subject", "from", "date", "message-id")
    }


def _clean(value: str) -> str:
    return clean_line(value, Findings())[:VALUE]
