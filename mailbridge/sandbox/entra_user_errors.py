"""What Entra says about people: their sign-in, their second factor, their consent."""

from __future__ import annotations

import json
import uuid
from typing import Final

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_errors import EntraError

_EXCHANGE: Final = "00000002-0000-0ff1-ce00-000000000000"
_POLICY: Final = (
    "Due to a configuration change made by your administrator, or because you moved to a new "
    "location, you must {} to access '" + _EXCHANGE + "'."
)


def invalid_grant(
    code: int, text: str, *, suberror: str | None = None, claims: str | None = None
) -> EntraError:
    """Say that this sign-in, code or refresh token is none that gives a token."""
    return EntraError(400, "invalid_grant", code, text, suberror=suberror, claims=claims)


def _policies() -> str:
    """Return the claims challenge that names the policy which has to be met."""
    wanted = {"essential": True, "values": [str(uuid.uuid4())]}
    return json.dumps({"access_token": {"capolids": wanted}}, separators=(",", ":"))


# --- people -----------------------------------------------------------------------------------


def wrong_password() -> EntraError:
    """Say that name or password is wrong."""
    return invalid_grant(50126, "Error validating credentials due to invalid username or password.")


def unknown_user(tenant_id: str) -> EntraError:
    """Say that nobody of that name is in the directory; Entra hides the name."""
    return invalid_grant(
        50034,
        f"The user account {{EmailHidden}} does not exist in the {tenant_id} directory. To sign "
        "into this application, the account must be added to the directory.",
        suberror="bad_token",
    )


def locked() -> EntraError:
    """Say that smart lockout refuses every password for a while."""
    return invalid_grant(
        50053,
        "You've tried to sign in too many times with an incorrect user ID or password.",
    )


def password_expired() -> EntraError:
    """Say that the password is right and too old."""
    return invalid_grant(50055, "The password is expired.", suberror="user_password_expired")


def disabled_user() -> EntraError:
    """Say that sign-in is blocked, as it is for the account of a shared mailbox."""
    return invalid_grant(50057, "The user account is disabled.")


def foreign_user(user: User, app: App, directory: str) -> EntraError:
    """Say that the account belongs to somebody else than this tenant."""
    return invalid_grant(
        50020,
        f"User account '{user.upn}' from identity provider '{user.foreign}' does not exist in "
        f"tenant '{directory}' and cannot access the application '{app.client_id}'({app.name}) "
        "in that tenant. The account needs to be added as an external user in the tenant first. "
        "Sign out and sign in again with a different Azure Active Directory user account.",
    )


def not_assigned(user: User, app: App) -> EntraError:
    """Say that the app is for chosen people only."""
    return invalid_grant(
        50105,
        f"Your administrator has configured the application {app.name} ('{app.client_id}') to "
        f"block users unless they are specifically granted ('assigned') access to the "
        f"application. The signed in user '{user.upn}' is blocked because they are not a direct "
        "member of a group with access, nor had access directly assigned by an administrator. "
        "Please contact your administrator to assign access to this application.",
    )


def mfa_required() -> EntraError:
    """Say that a second factor is wanted, which only a browser can give."""
    return invalid_grant(
        50076,
        _POLICY.format("use multi-factor authentication"),
        suberror="basic_action",
        claims=_policies(),
    )


def mfa_enrollment() -> EntraError:
    """Say that a second factor is wanted and none is set up."""
    return EntraError(
        400,
        "interaction_required",
        50079,
        _POLICY.format("enroll in multi-factor authentication"),
        suberror="basic_action",
        claims=_policies(),
    )


def mfa_failed() -> EntraError:
    """Say that the second factor was wrong."""
    return invalid_grant(500121, "Authentication failed during strong authentication request.")


def conditional_access() -> EntraError:
    """Say that a Conditional Access policy blocks the person or the app."""
    return invalid_grant(
        53003,
        "Access has been blocked by Conditional Access policies. The access policy does not "
        "allow token issuance.",
        suberror="message_only",
        claims=_policies(),
    )


def security_defaults() -> EntraError:
    """Say that the tenant's security defaults forbid this way of signing in."""
    return invalid_grant(530035, "Access has been blocked by security defaults.")


def not_signed_in() -> EntraError:
    """Say that ``prompt=none`` found nobody signed in."""
    return EntraError(
        400, "login_required", 50058, "A silent sign-in request was sent but no user is signed in."
    )


# --- consent ----------------------------------------------------------------------------------


def no_consent(app: App) -> EntraError:
    """Say that nobody has consented to what the app asks for."""
    return invalid_grant(
        65001,
        "The user or administrator has not consented to use the application with ID "
        f"'{app.client_id}' named '{app.name}'. Send an interactive authorization request for "
        "this user and resource.",
        suberror="consent_required",
    )


def declined() -> EntraError:
    """Say that the person pressed Cancel."""
    return EntraError(400, "access_denied", 65004, "User declined to consent to access the app.")


def admin_declined() -> EntraError:
    """Say that the administrator pressed Cancel, in the words of admin consent."""
    return EntraError(
        400,
        "consent_required",
        65004,
        "The resource owner or authorization server denied the request.",
    )


def admin_needed() -> EntraError:
    """Say that people may not consent by themselves here."""
    return EntraError(400, "access_denied", 90094, "The grant requires admin permission.")
