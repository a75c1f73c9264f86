"""Standard Webhooks signatures: https://www.standardwebhooks.com, scheme ``v1`` (HMAC-SHA256).

What is signed is ``webhook-id.webhook-timestamp.body`` on the exact bytes that go out, so a
captured request can be replayed neither later (the timestamp is signed) nor to somebody else
(every webhook has a key of its own). No text of this module contains a secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
#: bytes of a new key; the specification asks for 24 to 64
NEW_KEY_BYTES: Final = 32
MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
#: up to this size one call on a joined copy is faster than two calls on its pieces
JOINED_BYTES: Final = 131_072


def new_secret() -> str:
    """Return a new signing secret: ``whsec_`` and the base64 of 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_KEY_BYTES)).decode("ascii")


def parse_secret(text: str) -> bytes:
    """Return the key in a ``whsec_…`` secret.

    White space around it is dropped, since a secret read from a file ends in a line feed.
    Raises ``ValueError`` with a sentence that says what is wrong and never what was given.
    """
    encoded = text.strip()
    if not encoded.startswith(PREFIX):
        msg = f"a signing secret starts with {PREFIX!r}; make one with `mailbridge secret webhook`"
        raise ValueError(msg)
    try:
        key = base64.b64decode(encoded.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        # ``from None``: the cause of a non-ASCII secret would carry the secret itself.
        msg = f"what follows {PREFIX!r} in a signing secret must be base64"
        raise ValueError(msg) from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        msg = (
            f"a signing secret holds {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes,"
            f" this one holds {len(key)}"
        )
        raise ValueError(msg)
    return key


def sign(keys: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` header: one ``v1,<base64>`` for each key, in their order.

    ``timestamp`` is in whole seconds since 1970. Two keys sign while one replaces the other, so
    that a receiver may know either.
    """
    prefix = f"{event_id}.{timestamp}.".encode()
    return " ".join([_entry(key, prefix, body) for key in keys])


def _entry(key: bytes, prefix: bytes, body: bytes) -> str:
    if len(body) < JOINED_BYTES:
        digest = hmac.digest(key, prefix + body, "sha256")
    else:
        # Fed in two pieces: joining them would copy a body that may be tens of megabytes.
        pieces = hmac.new(key, prefix, "sha256")
        pieces.update(body)
        digest = pieces.digest()
    return "v1," + base64.b64encode(digest).decode("ascii")
