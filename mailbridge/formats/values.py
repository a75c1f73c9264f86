"""What templates see of a delivery: plain values, cleaned and bounded as in every event."""

from __future__ import annotations

from typing import Any

import orjson

from mailbridge.errors import TemporaryError
from mailbridge.formats.native import NativeFormat
from mailbridge.model import Delivery


def values_of(native: NativeFormat, delivery: Delivery) -> dict[str, Any]:
    """Return ``mail``, ``fields``, ``route`` and ``event`` for a template.

    Of an event that is no mail, ``mail`` and ``fields`` are empty.
    """
    event: dict[str, Any] = orjson.loads(native.body(delivery))
    data = event["data"]
    is_mail = delivery.mail is not None
    return {
        "mail": _flat(data) if is_mail else {},
        "fields": data["fields"] if is_mail else {},
        "route": (data["route"] if is_mail else None) or "",
        "event": event,
    }


def only_mails(delivery: Delivery, form: str) -> None:
    """Refuse what is no mail: an alarm server would wake people for a mailbox's trouble."""
    if delivery.mail is None:
        raise TemporaryError(
            f"{delivery.type} is no mail, and the format {form} sends nothing else",
            code="format.mails_only",
            fix="take this event out of the webhook's `events`.",
        )


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    author = data["from"] or {"name": None, "address": None}
    first: dict[str, str] = {}
    for header in data["headers"]:
        first.setdefault(header["name"].lower(), header["value"])
    return {
        **{key: data[key] for key in ("id", "mailbox", "address", "folder", "accepted_at")},
        **{key: data[key] for key in ("stale", "size", "raw_sha256", "attachments")},
        "received_at": data["received_at"] or "",
        "from": author["address"] or "",
        "from_name": author["name"] or "",
        **{key: _addresses(data[key]) for key in ("to", "cc", "reply_to")},
        **{key: data[key] or "" for key in ("subject", "date", "message_id")},
        "text": data["text"]["content"],
        "html": data["html"]["content"] if data["html"] else "",
        "headers": first,
        "authenticated": data["auth"]["aligned"],
        "automatic": data["auto"]["auto_submitted"] != "no" or data["auto"]["bounce"],
        "parse_status": data["parse"]["status"],
        "limits_hit": data["parse"]["limits_hit"],
    }


def _addresses(listed: list[dict[str, str | None]]) -> list[str]:
    return [entry["address"] for entry in listed if entry["address"]]
