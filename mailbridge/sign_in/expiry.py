"""Foresight: which of the announced days before a credential's end has been reached. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from mailbridge.model import Notice, derived_id
from mailbridge.sign_in.base import Expiry

#: days before the end at which somebody is told
THRESHOLDS: Final = (60, 30, 14, 7, 1)
_DAY: Final = 86_400


def days_left(expires_at: datetime, now: datetime) -> int:
    """Return the whole days that are left, negative once it has ended."""
    return int((expires_at - now).total_seconds() // _DAY)


def reached(expires_at: datetime, now: datetime) -> int | None:
    """Return the smallest threshold that is reached; ``None`` with more than 60 days left.

    The last one, 1, stays reached when the end is past.
    """
    seconds = (expires_at - now).total_seconds()
    return min((days for days in THRESHOLDS if seconds <= days * _DAY), default=None)


def notice(expiry: Expiry, *, app: str, account: str, mailbox: str, now: datetime) -> Notice | None:
    """Return the event ``secret.expiring`` for a credential; ``None`` while it has time.

    The id is the same for one threshold of one credential, so the store takes it once, however
    often and on however many hosts this is called. ``mailbox`` is one of those that stop.
    """
    threshold = reached(expiry.expires_at, now)
    if threshold is None:
        return None
    ends = expiry.expires_at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    data: dict[str, Any] = {
        "app": app,
        "kind": expiry.kind,
        "expires_at": ends,
        "days_left": days_left(expiry.expires_at, now),
        "fix": expiry.fix,
    }
    return Notice(
        id=derived_id("secret.expiring", [app, account, expiry.kind, ends, threshold]),
        type="secret.expiring",
        mailbox=mailbox,
        at=now,
        data=data,
    )
