"""The format ``raw``: the mail itself, byte for byte as it came."""

from __future__ import annotations

from mailbridge.formats.values import only_mails
from mailbridge.model import Delivery


class RawFormat:
    """``message/rfc822``. The bytes need not be UTF-8, and are signed as they are."""

    content_type = "message/rfc822"

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the mail."""
        only_mails(delivery, "raw")
        return (delivery.mail.raw if delivery.mail else b""), self.content_type

    def judge(self, status: int, body: bytes) -> None:
        """Leave it to the status."""
        del status, body
