"""What Entra answers instead of a token, sorted by what to do about it.

Matched on the number of an AADSTS error, never on its sentence, which may change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mailbridge.errors import MailbridgeError, SignInRejected, Unavailable

#: characters of Entra's description that go into an error
WORDS: Final = 300

#: errors of a secret or certificate: another one of the app may still be good
CREDENTIAL_ERRORS: Final = frozenset(
    {"AADSTS7000215", "AADSTS7000222", "AADSTS700027", "AADSTS50012", "AADSTS700030"}
)

_APP: Final = "Entra > App registrations > the app"
#: errors that a person has to mend, and how
FIXES: Final[Mapping[int, str]] = {
    7000215: f"Store the secret's value, not its ID ({_APP} > Certificates & secrets).",
    7000222: f"Create a new client secret ({_APP} > Certificates & secrets) and store its value.",
    700016: f"Compare client_id and tenant with {_APP} > Overview.",
    7000229: "Open the admin consent link, or run New-MgServicePrincipal -AppId CLIENT_ID.",
    7000112: "Enable the app: Entra > Enterprise applications > the app > Properties.",
    70001: "Enable the app: Entra > Enterprise applications > the app > Properties.",
    90002: "Compare `tenant` with Entra > Overview > Tenant ID, and `cloud` with its cloud.",
    900023: "Write the tenant's GUID alone.",
    50059: "Write the tenant's GUID, not `common`.",
    50128: "Write the tenant's GUID, not `common`.",
    90038: "Set `cloud` to the national cloud of the tenant.",
    50194: "Write the tenant's GUID, not `common`.",
    9001023: "Write the tenant's GUID, not `common`.",
    7000218: "Give the app a credential, or switch `Allow public client flows` on "
    f"({_APP} > Authentication).",
    700025: f"Register the redirect URI under Web, not Mobile ({_APP} > Authentication).",
    7000216: "Give the app a credential.",
    9002325: f"Register the redirect URI under Web or Mobile, not Single-page ({_APP} > "
    "Authentication).",
    9002327: f"Register the redirect URI under Web or Mobile, not Single-page ({_APP} > "
    "Authentication).",
    50011: f"Register the redirect URI exactly as it is shown here ({_APP} > Authentication).",
    900971: f"Register a redirect URI ({_APP} > Authentication).",
    700005: "Use the same `tenant` for signing in and for tokens.",
    7000012: "Sign in again: the grant was given in another tenant.",
    650053: f"Add the permission ({_APP} > API permissions).",
    700027: f"Upload the certificate's public part ({_APP} > Certificates & secrets).",
    700024: "Set the clock by NTP.",
    500133: "Set the clock by NTP.",
    700213: f"Compare issuer, subject and audience ({_APP} > Federated credentials).",
    **dict.fromkeys(
        (70021, 70025, 700211, 700212, 7002138),
        f"Compare issuer, subject and audience ({_APP} > Federated credentials).",
    ),
    700222: "Present a token of another identity provider, or use `managed_identity`.",
    50013: "Check that Entra can read the keys that the token's issuer publishes.",
    50012: f"Upload the certificate's public part ({_APP} > Certificates & secrets).",
    700030: f"Upload the certificate's public part ({_APP} > Certificates & secrets).",
    53003: "Exclude the app from the Conditional Access policy (Entra > Sign-in logs names it).",
    1000031: "Unblock the app: Entra > Enterprise applications > the app > Properties.",
    1002012: "Ask for https://outlook.office365.com/.default and nothing else.",
    70011: "Ask for https://outlook.office365.com/.default and nothing else.",
    500011: "Check the cloud; the tenant needs an Exchange Online licence.",
    650052: "The tenant needs an Exchange Online licence.",
    65001: f"Grant admin consent ({_APP} > API permissions).",
    650056: f"Add the permission and grant admin consent ({_APP} > API permissions).",
    650057: f"Add the permission ({_APP} > API permissions).",
    65005: f"Add the permission ({_APP} > API permissions).",
    50001: f"Add the permission ({_APP} > API permissions).",
    50105: "Assign the user to the app, or switch `Assignment required` off.",
}
#: outages and overload at Entra, whatever HTTP status and `error` they come with
PASSING: Final = frozenset(
    {50033, 50087, 50196, 70012, 80001, 80002, 80005, 80007, 80014}
    | {90006, 90012, 90024, 90033, 90055, 90090}
)
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

_CODE = re.compile(r"AADSTS(\d{5,8})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_TRAILER = re.compile(r"\s*(?:Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9+/=_.\-]{100,}")


def refusal(answer: Mapping[str, Any]) -> MailbridgeError:
    """Return the error for an OAuth error answer (RFC 6749, section 5.2).

    ``SignInRejected`` only for what is known to need a person; anything else may pass.
    """
    description = str(answer.get("error_description") or "")
    kind = str(answer.get("error") or "")[:60]
    number = number_of(answer)
    code = f"AADSTS{number}" if number else f"entra.{kind or 'unknown'}"
    text = first_line(description) or f"Entra refused the request ({kind or 'no reason given'})"
    if number not in PASSING and (number in FIXES or kind in _FINAL):
        return SignInRejected(text, code=code, fix=FIXES.get(number, ""))
    return Unavailable(text, code=code)


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
