"""Header fields that a client may add, and those that are not its to write. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mailbridge.compose.draft import Fault
from mailbridge.compose.text import broken, unstructured

#: how many a client may add, and characters of each
FIELDS: Final = 50
FIELD_LENGTH: Final = 8000

#: the field that names the mail here: by it the sent items are searched, and loops are seen
MARK: Final = "X-Mailbridge-Id"

_NAME: Final = re.compile(r"[!-9;-~]{1,76}")
#: those that have a place of their own in a request
_OURS: Final = {
    **{name: f"use `{name.replace('-', '_')}`" for name in ("from", "to", "cc", "bcc")},
    "reply-to": "use `reply_to`",
    "subject": "use `subject`",
    "auto-submitted": "use `auto`",
}
#: those that say how a mail is built, how it went, or who vouches for it
_RESERVED: Final = re.compile(
    r"sender|date|message-id|mime-version|content-.*|resent-.*|received|received-spf|return-path"
    r"|delivered-to|x-original-to|envelope-.*|apparently-.*|authentication-results|arc-.*"
    r"|dkim-signature|domainkey-signature|x-mailbridge-.*|x-ms-exchange-.*"
)


def custom(headers: Iterable[tuple[str, str]], faults: list[Fault]) -> list[tuple[str, str]]:
    """Return fields of a client as they are written; what may not be is added to ``faults``."""
    made = []
    for number, (name, value) in enumerate(headers):
        if number >= FIELDS:
            faults.append(Fault(where="headers", detail=f"there are more than {FIELDS}"))
            break
        place = f"headers.{name}" if _NAME.fullmatch(name) else f"headers.{number}"
        if detail := _refused(name, value):
            faults.append(Fault(where=place, detail=detail))
        else:
            made.append((name, unstructured(name, value)))
    return made


def _refused(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        return "this is not the name of a header field"
    lower = name.lower()
    if lower in _OURS:
        return f"this field has a place of its own: {_OURS[lower]}"
    if _RESERVED.fullmatch(lower):
        return "this field is not a client's to write"
    if len(value) > FIELD_LENGTH:
        return f"this is longer than {FIELD_LENGTH} characters"
    return broken(value)
