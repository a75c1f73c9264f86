"""Signed links to single attachments: who has the link gets that file, for a while, and no more.

The signature is an HMAC-SHA256 over message, attachment and end, under a key that is derived
from ``state.key`` (HKDF-SHA256, RFC 5869) and good for nothing else. So links outlive a restart
and a lost database, and those of the former key hold while it stands in the configuration.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import quote

#: how long a link is good: a receiver may be away for seven days, and wants a day more
VALID: Final = timedelta(days=8)
#: bytes of a signature that are kept: 128 bits cannot be guessed
_SIGNATURE: Final = 16
_CONTEXT: Final = b"mailbridge state key: sign links"


class Links:
    """Makes and checks links. Its ``repr`` shows neither keys nor signatures."""

    def __init__(self, base_url: str, keys: Sequence[str], *, valid: timedelta = VALID) -> None:
        """``keys`` are those of ``state.key``, the newest first: at least one."""
        self._base = base_url.rstrip("/")
        self._keys = [_derived(key) for key in keys]
        self._valid = valid

    def __repr__(self) -> str:
        """Say where they lead."""
        return f"<Links to {self._base}>"

    def make(self, message_id: str, index: int, *, since: datetime) -> str:
        """Return the link to an attachment, the same each time: it ends ``VALID`` after ``since``.

        ``since`` is when the delivery that carries it was made, so that every attempt sends the
        same bytes.
        """
        end = int((since + self._valid).timestamp())
        signature = _sign(self._keys[0], message_id, index, end)
        return f"{self._base}/attachments/{quote(message_id)}/{index}?exp={end}&sig={signature}"

    def check(
        self, message_id: str, index: int, end: int, signature: str, *, now: datetime
    ) -> bool | None:
        """Tell whether a link is ours and good; ``None`` when it is ours and has ended."""
        ours = False
        for key in self._keys:
            wanted = _sign(key, message_id, index, end)
            ours |= hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace"))
        if not ours:
            return False
        return True if now.astimezone(UTC).timestamp() < end else None


def _sign(key: bytes, message_id: str, index: int, end: int) -> str:
    said = f"{message_id}\n{index}\n{end}".encode("utf-8", "replace")
    digest = hmac.new(key, said, sha256).digest()[:_SIGNATURE]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _derived(key: str) -> bytes:
    """Return the key of links; the state key is 32 bytes of chance in base64, so salt adds none."""
    try:
        secret = base64.b64decode(key.strip(), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise ValueError("links need a state key")
    first = hmac.new(bytes(sha256().digest_size), secret, sha256).digest()
    return hmac.new(first, _CONTEXT + b"\x01", sha256).digest()
