"""What a token says about itself, for diagnosis only: nothing here verifies a signature."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

#: characters; Entra's largest access tokens have about 10,000
LONGEST_TOKEN: Final = 65536


def claims(token: str) -> dict[str, Any]:
    """Return the payload of a JWT (RFC 7519); empty for anything that is not one.

    The interesting ones are aud, roles, scp, tid, appid, oid and exp (seconds since 1970).
    The mail server decides about a token; this tells a person why it may have said no.
    """
    parts = token.split(".")
    if len(parts) != 3 or len(token) > LONGEST_TOKEN:  # noqa: PLR2004 - header, payload, signature
        return {}
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        payload = json.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}
