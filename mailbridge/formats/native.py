"""The format ``mailbridge``: the events of ``mailbridge.event`` as they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from mailbridge.event import (
    INLINE_BYTES,
    STALE_AFTER,
    AttachmentsMode,
    EventSettings,
    Link,
    mail_event,
    notice_event,
)
from mailbridge.model import Delivery
from mailbridge.parse import ParsedMessage
from mailbridge.parse.lately import lately

JSON: Final = "application/json; charset=utf-8"


class NativeFormat:
    """Renders a claimed delivery. Pure: the same delivery gives the same bytes, every time.

    Never raises because of what a mail contains. A mail for which not even the event could be
    built is rendered as ``failed``, with its place, size and hash, so that the receiver
    learns of it and can ask for the raw message.
    """

    content_type = JSON

    def __init__(
        self,
        attachments_mode: AttachmentsMode = "meta",
        attachments_max: int = INLINE_BYTES,
        *,
        stale_after: timedelta = STALE_AFTER,
        link: Link | None = None,
    ) -> None:
        self._settings = EventSettings(
            attachments=attachments_mode,
            attachments_max=attachments_max,
            stale_after=stale_after,
            link=link,
        )

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the exact bytes to sign and send; ``ValueError`` for a delivery of nothing."""
        return self.body(delivery), self.content_type

    def judge(self, status: int, body: bytes) -> None:
        """Leave it to the status: whoever answers 2xx has taken it."""
        del status, body

    def body(self, delivery: Delivery) -> bytes:
        """Return the event as JSON."""
        if delivery.mail is None:
            if delivery.body is None:
                msg = f"delivery {delivery.id} has neither a mail nor a body"
                raise ValueError(msg)
            return notice_event(
                delivery.type,
                delivery.event_id,
                delivery.mailbox,
                delivery.created_at,
                delivery.body,
            )
        message = lately.again(delivery.mail.raw, delivery.mail.raw_sha256)
        said: dict[str, Any] = {
            "route": delivery.route,
            "fields": delivery.fields,
            "since": delivery.first_due_at,
        }
        try:
            return mail_event(delivery.mail, message, self._settings, **said)
        except Exception:  # noqa: BLE001 - a mail must reach its receiver even past a bug of ours
            failed = ParsedMessage(status="failed", defects=("event-failed",))
            return mail_event(delivery.mail, failed, self._settings, **said)
