"""A message, or a notice, to the JSON that a webhook gets (schema ``mailbridge/1``). Pure.

The bytes depend on nothing but the stored message, what its route said and the settings: no
clock, no counter.
So every attempt and every replay of a delivery sends the same body.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from mailbridge import __version__
from mailbridge.event_size import EVENT_BYTES, fit, inline_bytes
from mailbridge.model import StoredMail
from mailbridge.parse import Address, Attachment, Body, ParsedMessage
from mailbridge.trust import judge

SCHEMA: Final = "mailbridge/1"
#: a mail accepted later than this after it was received is marked stale
STALE_AFTER: Final = timedelta(minutes=15)
#: bytes of attachments that one event carries inline, all together, unless told otherwise
INLINE_BYTES: Final = 5 * 1024 * 1024

AttachmentsMode = Literal["none", "meta", "inline", "link"]
#: gives the link to an attachment: the message's id, its index, and since when it is good
Link = Callable[[str, int, datetime], str]

NOTICE_TYPES: Final = frozenset(
    {
        "mail.vanished",
        "delivery.dead",
        "delivery.held",
        "webhook.failing",
        "webhook.recovered",
        "format.drift",
        "mailbox.degraded",
        "mailbox.recovered",
        "probe.missed",
        "probe.recovered",
        "secret.expiring",
        "send.sent",
        "send.failed",
        "send.held",
        "send.parked",
        "send.resumed",
        "test.ping",
    }
)
MAIL_TYPE: Final = "mail.received"
EVENT_TYPES: Final = frozenset({MAIL_TYPE, *NOTICE_TYPES})
#: what a route extracted that extracts nothing
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """How a sink wants its mails. ``attachments_max`` are bytes before base64, per event.

    ``link`` makes the links of the mode of that name.
    """

    attachments: AttachmentsMode = "meta"
    attachments_max: int = INLINE_BYTES
    stale_after: timedelta = STALE_AFTER
    link: Link | None = None


def mail_event(  # noqa: PLR0913 - what an event is made of, all by keyword
    mail: StoredMail,
    message: ParsedMessage,
    settings: EventSettings | None = None,
    *,
    route: str | None = None,
    fields: Mapping[str, Any] = NOTHING,
    since: datetime | None = None,
) -> bytes:
    """Return the body of ``mail.received``: valid UTF-8, the same for every attempt.

    ``route`` brought it here, ``fields`` is what that one extracted (plain JSON). Links are good
    from ``since`` on, when the delivery's budget began; without it, from acceptance.
    """
    settings = settings or EventSettings()
    data = mail_data(mail, message, settings, route=route, fields=fields, since=since)
    event = {
        "type": MAIL_TYPE,
        "timestamp": stamp(mail.accepted_at),
        "schema": SCHEMA,
        "data": data,
    }
    body = _dumped(event)
    if len(body) > EVENT_BYTES:
        room = EVENT_BYTES + inline_bytes(data)
        fit(data, lambda: len(_dumped(event)), room)
        body = _dumped(event)
    return body


def mail_data(  # noqa: PLR0913 - the same
    mail: StoredMail,
    message: ParsedMessage,
    settings: EventSettings,
    *,
    route: str | None = None,
    fields: Mapping[str, Any] = NOTHING,
    since: datetime | None = None,
) -> dict[str, Any]:
    """Return the ``data`` object of ``mail.received``."""
    verdict = judge(message)
    return {
        **_place(mail, settings),
        **_said(message),
        "text": _body(message.text) or _NO_TEXT,
        "html": _body(message.html),
        "text_from_html": message.text_from_html,
        "attachments": _attachments(message.attachments, settings, mail, since),
        "auth": verdict.auth,
        "trust": verdict.trust,
        "auto": verdict.auto,
        "fields": dict(fields),
        "route": route,
        "parse": {
            "status": message.status,
            "defects": list(message.defects),
            "limits_hit": list(message.limits_hit),
            "parser": f"mailbridge/{__version__} {message.parser}",
        },
    }


def notice_event(type_: str, id_: str, mailbox: str, at: datetime, data: dict[str, Any]) -> bytes:
    """Return the body of an event that is no mail. ``data`` comes without ``id`` and ``mailbox``.

    Raises ``ValueError`` for a type that does not exist: that is a bug, not a mail.
    """
    if type_ not in NOTICE_TYPES:
        msg = f"no such event type: {type_}"
        raise ValueError(msg)
    body = {
        "type": type_,
        "timestamp": stamp(at),
        "schema": SCHEMA,
        "data": {"id": id_, "mailbox": mailbox, **data},
    }
    return _dumped(body)


def stamp(moment: datetime) -> str:
    """Return an instant as RFC 3339 in UTC with milliseconds."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _place(mail: StoredMail, settings: EventSettings) -> dict[str, Any]:
    received = mail.received_at
    return {
        "id": mail.id,
        "mailbox": mail.ref.mailbox,
        "address": mail.address,
        "folder": mail.ref.folder,
        "source": mail.ref.source(),
        "received_at": stamp(received) if received else None,
        "accepted_at": stamp(mail.accepted_at),
        "stale": received is not None and mail.accepted_at - received > settings.stale_after,
        "size": len(mail.raw),
        "raw_sha256": mail.raw_sha256,
    }


def _said(message: ParsedMessage) -> dict[str, Any]:
    date = message.date
    return {
        "headers": [{"name": name, "value": value} for name, value, _, _ in message.headers],
        "from": _author(message),
        "sender": _address(message.sender) if message.sender else None,
        "to": _addresses(message.to),
        "cc": _addresses(message.cc),
        "bcc": _addresses(message.bcc),
        "reply_to": _addresses(message.reply_to),
        "delivered_to": list(message.delivered_to),
        "subject": message.subject,
        "date": date.isoformat() if date else None,
        "date_raw": message.date_raw,
        "message_id": message.message_id,
        "in_reply_to": message.in_reply_to,
        "references": list(message.references),
    }


def _author(message: ParsedMessage) -> dict[str, Any] | None:
    if message.from_raw is None:
        return None
    first = message.from_[0] if message.from_ else Address(None, None)
    return {"name": first.name, "address": first.address, "raw": message.from_raw}


def _address(address: Address) -> dict[str, Any]:
    return {"name": address.name, "address": address.address}


def _addresses(addresses: tuple[Address, ...]) -> list[dict[str, Any]]:
    return [{"name": address.name, "address": address.address} for address in addresses]


_NO_TEXT: Final = {"content": "", "charset": None, "truncated": False, "size": 0}


def _body(body: Body | None) -> dict[str, Any] | None:
    if body is None:
        return None
    content, charset, truncated, size = body
    return {"content": content, "charset": charset, "truncated": truncated, "size": size}


def _attachments(
    attachments: tuple[Attachment, ...],
    settings: EventSettings,
    mail: StoredMail,
    since: datetime | None,
) -> list[dict[str, Any]]:
    if settings.attachments == "none":
        return []
    room = settings.attachments_max if settings.attachments == "inline" else -1
    listed = []
    for index, part in enumerate(attachments):
        entry: dict[str, Any] = {
            "index": index,
            "filename": part.filename,
            "filename_raw": part.filename_raw,
            "content_type": part.content_type,
            "size": part.size,
            "sha256": part.sha256,
            "disposition": part.disposition,
            "content_id": part.content_id,
            "kind": part.kind,
        }
        if part.details is not None:
            entry["details"] = dict(part.details)
        if part.within is not None:
            entry["within"] = part.within
        if settings.link is not None:
            entry["url"] = settings.link(mail.id, index, since or mail.accepted_at)
        if settings.attachments == "inline":
            fits = part.size <= room
            room -= part.size if fits else 0
            entry["content_base64"] = _base64(part.content) if fits else None
        listed.append(entry)
    return listed


def _base64(content: bytes) -> str:
    # As an ASCII string: orjson looks through one faster than a fragment's quotes are put around.
    return binascii.b2a_base64(content, newline=False).decode("ascii")


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        # A lone surrogate in a name from the outside (a folder, say): everything else that
        # mailbridge puts here was cleaned before.
        return orjson.dumps(_mended(body))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value
