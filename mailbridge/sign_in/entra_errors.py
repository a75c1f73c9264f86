"""What Entra answers instead of a token, sorted by what to do about it.

Matched on the number of an AADSTS error, never on its sentence, which may change. What a number
means and what helps stands in the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mailbridge.catalogue.base import Entry, Ids
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.errors import MailbridgeError, SignInRejected, Throttled, Unavailable

#: characters of Entra's description that go into an error
WORDS: Final = 300

#: errors of a secret or certificate: another one of the app may still be good
CREDENTIAL_ERRORS: Final = frozenset(
    {"AADSTS7000215", "AADSTS7000222", "AADSTS700027", "AADSTS50012", "AADSTS700030"}
)

#: seconds to wait where each try in between prolongs it: smart lockout (15 to 60 minutes), and
#: what Entra takes for a loop (5 to 15)
PAUSES: Final[Mapping[str, float]] = {"AADSTS50053": 1800.0, "AADSTS50196": 900.0}
#: values of `error` (RFC 6749, 5.2, and Entra's) that no second try changes
_FINAL: Final = frozenset(
    {
        "access_denied",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_resource",
        "invalid_scope",
        "invalid_tenant",
        "unauthorized_client",
    }
)

_NOBODY: Final = Ids()
_CODE = re.compile(r"AADSTS(\d{5,8})")
_CORRELATION = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CORRELATION_LINE = re.compile(rf"Correlation ID:\s*({_CORRELATION.pattern})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_TRAILER = re.compile(r"\s*(?:Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9+/=_.\-]{100,}")


def refusal(answer: Mapping[str, Any], ids: Ids = _NOBODY) -> MailbridgeError:
    """Return the error for an OAuth error answer (RFC 6749, section 5.2).

    ``SignInRejected`` only for what is known to need a person; anything else may pass. Kind and
    fix are the catalogue's, filled in with ``ids``.
    """
    code = code_of(answer)
    kind = str(answer.get("error") or "")[:60]
    description = str(answer.get("error_description") or "")
    said = first_line(description) or f"Entra refused the request ({kind or 'no reason given'})"
    entry = CATALOGUE.get(code)
    if entry is None or entry.kind == "bug":
        # For Microsoft's support, since we know no more.
        said += correlation(answer)
    if entry is None:
        return (SignInRejected if kind in _FINAL else Unavailable)(said, code=code)
    return known(entry, said, ids)


def known(entry: Entry, said: str, ids: Ids) -> MailbridgeError:
    """Return the error that an entry of the catalogue amounts to; ``said`` is its text."""
    _, fix = explain(entry.code, ids)
    if entry.code in PAUSES:
        return Throttled(said, retry_after=PAUSES[entry.code], code=entry.code, fix=fix)
    error = Unavailable if entry.kind == "passing" else SignInRejected
    return error(said, code=entry.code, fix=fix)


def code_of(answer: Mapping[str, Any]) -> str:
    """Return the stable code of an answer: its AADSTS number, or else its ``error``."""
    number = number_of(answer)
    return (
        f"AADSTS{number}" if number else f"entra.{str(answer.get('error') or '')[:60] or 'unknown'}"
    )


def correlation(answer: Mapping[str, Any]) -> str:
    """Return `` (correlation id …)``, which Microsoft's support asks for; empty without one."""
    given = str(answer.get("correlation_id") or "")
    line = _CORRELATION_LINE.search(str(answer.get("error_description") or ""))
    found = given if _CORRELATION.fullmatch(given) else line[1] if line else ""
    return f" (correlation id {found})" if found else ""


def number_of(answer: Mapping[str, Any]) -> int:
    """Return the number of an AADSTS error, 0 where there is none."""
    match = _CODE.search(str(answer.get("error_description") or ""))
    if match:
        return int(match[1])
    codes = answer.get("error_codes")
    first = codes[0] if isinstance(codes, list) and codes else 0
    return first if isinstance(first, int) else 0


def first_line(description: str) -> str:
    """Return Entra's sentence without trace ids: one line, bounded, nothing token-like."""
    text = _CONTROL.sub(" ", _TRAILER.sub("", description)).strip()
    return _TOKEN_LIKE.sub("[removed]", text)[:WORDS]
