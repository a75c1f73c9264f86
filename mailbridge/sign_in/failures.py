"""Errors that can be kept, raised again and shown: without traceback, cause and secrets.

The frames of a traceback hold the token request, and with it the secret; and one instance that
many tasks raise would mix their traces.
"""

from __future__ import annotations

from collections.abc import Callable

from mailbridge.errors import MailbridgeError, Throttled, Unavailable

Hide = Callable[[str], str]


def copied(error: MailbridgeError, hide: Hide | None = None) -> MailbridgeError:
    """Return the same error anew, with ``hide`` applied to its text."""
    text = str(error) if hide is None else hide(str(error))
    if isinstance(error, Throttled):
        return Throttled(text, retry_after=error.retry_after, code=error.code, fix=error.fix)
    return type(error)(text, code=error.code, fix=error.fix)


def of_msal(exc: Exception, hide: Hide) -> MailbridgeError:
    """Return the error for what msal raised. An unknown error is a temporary one, by contract."""
    # Of other exceptions, only the type is known to hold nothing that came over the wire.
    text = hide(str(exc))[:200] if type(exc) is ValueError else ""
    told = f"{type(exc).__name__} {text}".strip()
    return Unavailable(f"msal could not ask for a token: {told}", code="entra.msal")
