"""CloudEvents 1.0, structured mode in JSON (https://github.com/cloudevents/spec, v1.0.2).

The attributes say what a router needs; ``data`` is that of the format ``mailbridge``.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import orjson

from mailbridge.event import AttachmentsMode, Link
from mailbridge.formats.native import NativeFormat
from mailbridge.model import Delivery

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
#: characters of the subject: routers look at it, people read that of `data`
SUBJECT: Final = 256
# What section "Type System" of the specification keeps out of strings: controls and noncharacters.
_UNFIT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
    )
    + "]+"
)


class CloudEventsFormat:
    """Every event as a CloudEvent; its id is the ``webhook-id``."""

    content_type = CONTENT_TYPE

    def __init__(
        self,
        attachments_mode: AttachmentsMode = "meta",
        attachments_max: int = 0,
        link: Link | None = None,
    ) -> None:
        self._native = NativeFormat(attachments_mode, attachments_max, link=link)

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the event."""
        event = orjson.loads(self._native.body(delivery))
        data = event["data"]
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": delivery.event_id,
            "source": f"urn:mailbridge:{quote(delivery.mailbox, safe='') or 'daemon'}",
            "type": event["type"],
            "time": event["timestamp"],
        }
        subject = _UNFIT.sub(" ", str(data.get("subject") or ""))[:SUBJECT].strip()
        if subject:
            attributes["subject"] = subject
        attributes["datacontenttype"] = "application/json"
        return orjson.dumps({**attributes, "data": data}), self.content_type

    def judge(self, status: int, body: bytes) -> None:
        """Leave it to the status."""
        del status, body
