"""What a mail that matches has to be, to wake people without a person's word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mailbridge.parse.parsed import ParsedMessage
from mailbridge.route.base import NUMBER
from mailbridge.route.match import Sight


def unauthenticated(sight: Sight) -> str | None:
    """Return why the author is not proven, ``None`` if he is."""
    found = sight.authentication
    if found.aligned:
        return None
    if sight.author is None:
        return "not authenticated: the mail has no single author"
    if found.source is None:
        return "not authenticated: it has no Authentication-Results of our own mail service"
    said = ", ".join(
        f"{name}={value or 'unclear'}"
        for name, value in (
            ("spf", found.spf),
            ("dkim", found.dkim),
            ("dmarc", found.dmarc),
            ("compauth", found.compauth),
        )
    )
    return f"not authenticated: nothing proves the author's domain ({said})"


def too_old(received_at: datetime, now: datetime, max_age: timedelta) -> str | None:
    """Return why the mail is too old, ``None`` if it is not."""
    age = now - received_at
    if age <= max_age:
        return None
    return f"too old: received {in_words(age)} ago, and max_age is {in_words(max_age)}"


def in_words(span: timedelta) -> str:
    """Return ``6d 23h``, ``15m`` or ``42s``: the two largest units of a duration."""
    seconds = int(span.total_seconds())
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def duplicate_key(message: ParsedMessage, fields: Mapping[str, Any]) -> str:
    """Return what tells that two mails are one alarm: the number, else the content.

    Empty for a mail that says nothing: it is nobody's duplicate. Attachments belong to the
    content, since an alarm may come as a PDF under the same few words every time.
    """
    number = fields.get(NUMBER)
    if isinstance(number, str | int | float) and str(number).strip():
        return _digest("number", str(number))
    body = message.text.content if message.text is not None else ""
    said = [message.subject or "", body]
    attached = sorted(part.sha256 for part in message.attachments)
    if not attached and not any(text.strip() for text in said):
        return ""
    return _digest("content", *said, *attached)


def _digest(kind: str, *texts: str) -> str:
    """Return a digest in which neither case nor the width of white space counts."""
    plain = "\0".join([" ".join(text.split()).casefold() for text in texts])
    digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}:{digest[:40]}"
