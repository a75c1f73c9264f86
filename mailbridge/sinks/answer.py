"""What an HTTP answer means for a delivery. Pure: status, headers and body in, outcome out.

The rule behind the table: only an answer that blames this one message (400, 413, 415, 422) may
set it aside; everything else, also what nobody foresaw, is tried again, because trying again
costs a request and giving up costs a mail.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from yarl import URL

from mailbridge.model import Deferred, Delivered, Outcome, Rejected

#: bytes of a receiver's answer that are kept for people to read
DETAIL_BYTES: Final = 2048
#: seconds; a Retry-After beyond it is a mistake or a joke, and is ignored instead of capped
ABSURD_RETRY_AFTER: Final = 366 * 86400.0
#: what stands for a part of the answer that repeats one of our secrets
REDACTED: Final = "***"

#: a part of a URL or header shorter than this is not struck out of answers: it is no secret,
#: and every "1" in the text would go
SECRET_CHARACTERS: Final = 8

_REJECTED: Final = frozenset({400, 413, 415, 422})
_HINTS: Final = {
    401: "the receiver refuses our credentials",
    403: "the receiver refuses us",
    404: "the receiver has nothing at this URL",
    410: "the receiver says that this URL is gone for good; the mail is kept",
    429: "the receiver asks for fewer requests",
}
_DATE_CHARACTERS: Final = 64
_HOST_CHARACTERS: Final = 253
_REDIRECTS: Final = range(300, 400)


def judge(
    status: int,
    headers: Mapping[str, str],
    detail: str,
    *,
    now: datetime,
    retry_after_cap: float,
) -> Outcome:
    """Return the outcome of an answer; ``headers`` must look up names without regard to case."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of success, as RFC 9110 section 15 has it
        return Delivered(status=status, detail=detail)
    reason = _reason(status, headers)
    if status in _REJECTED:
        return Rejected(reason=reason, status=status, detail=detail)
    known = status < 400 or status in _HINTS or status in {408, 425} or status >= 500  # noqa: PLR2004 - the table itself
    return Deferred(
        reason=reason,
        status=status,
        detail=detail,
        retry_after=retry_after(headers.get("Retry-After"), now=now, cap=retry_after_cap),
        # A 4xx that no rule names is more likely about this message than about the sink.
        sink_fault=known,
    )


def _reason(status: int, headers: Mapping[str, str]) -> str:
    # The receiver's own reason phrase is not used: it could say anything.
    try:
        reason = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        reason = f"HTTP {status}"
    if status in _REDIRECTS and "Location" in headers:
        return f"{reason}: redirect not followed to {_host(headers['Location'])}"
    hint = _HINTS.get(status)
    return f"{reason}: {hint}" if hint else reason


def _host(location: str) -> str:
    """Return the host that a redirect leads to, and nothing else of it: the rest may be secret."""
    try:
        host = URL(location).raw_host
    except ValueError:
        return "an unreadable address"
    if not host:
        return "another path of the same host"
    return host[:_HOST_CHARACTERS] if host.isprintable() else "an unreadable address"


def retry_after(value: str | None, *, now: datetime, cap: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header (RFC 9110 section 10.2.3) asks for.

    Seconds or an HTTP date, cut to ``cap``. ``None`` when there is none or it makes no sense:
    negative, not a number, in the past, more than a year ahead.
    """
    text = (value or "").strip()
    if not text or len(text) > _DATE_CHARACTERS:
        return None
    try:
        seconds = float(text) if text[0] in "0123456789" else _seconds_until(text, now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if not math.isfinite(seconds) or not 0 < seconds <= ABSURD_RETRY_AFTER:
        return None
    return min(seconds, cap)


def _seconds_until(text: str, now: datetime) -> float:
    moment = parsedate_to_datetime(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - now).total_seconds()


def extract(body: bytes, secrets: Sequence[str]) -> str:
    """Return the start of an answer for people to read: at most 2 KiB on one line.

    Control characters and other invisible ones (line breaks, terminal escapes, bidirectional
    overrides) become spaces, so that the text can neither forge log lines nor steer a terminal.
    ``secrets`` are struck out first, for some receivers repeat the request in their error page.
    It is still a stranger's text: whoever shows it in HTML or markup has to escape it for that.
    """
    if not body:
        return ""
    # Twice the length, so that a secret which the cut would halve is still whole here.
    text = body[: 2 * DETAIL_BYTES].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if not text.isprintable():
        text = "".join([ch if ch.isprintable() else " " for ch in text])
    return text.encode()[:DETAIL_BYTES].decode("utf-8", "ignore").strip()


def secret_parts(url: URL, values: Collection[str]) -> list[str]:
    """Return what must not be shown when a receiver repeats it, longest first."""
    parts = {url.raw_path_qs, url.raw_query_string, url.raw_user, url.raw_password, url.password}
    parts.update(url.raw_parts, url.parts, url.query.values(), values)
    # "Bearer abc" is as secret without its first word.
    parts.update(value.rpartition(" ")[2] for value in values)
    long_enough = {part for part in parts if part and len(part) >= SECRET_CHARACTERS}
    return sorted(long_enough, key=len, reverse=True)
