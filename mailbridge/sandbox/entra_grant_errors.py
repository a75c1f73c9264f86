"""What Entra says about what a person has granted: codes, refresh tokens, device codes."""

from __future__ import annotations

from datetime import datetime, timedelta

from mailbridge.sandbox.entra_client_errors import dotnet
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_user_errors import invalid_grant

# --- codes ------------------------------------------------------------------------------------


def malformed_grant() -> EntraError:
    """Say that a code or refresh token is none: cut short, or encoded twice."""
    return invalid_grant(9002313, "Invalid request. Request is malformed or invalid.")


def code_used() -> EntraError:
    """Say that the code was redeemed before."""
    return invalid_grant(
        54005,
        "OAuth2 Authorization code was already redeemed, please retry with a new valid code or "
        "use an existing refresh token.",
    )


def code_expired() -> EntraError:
    """Say that the code is older than ten minutes."""
    return invalid_grant(
        70008,
        "The provided authorization code or refresh token has expired due to inactivity. Send a "
        "new interactive authorization request for this user and resource.",
    )


def other_tenant() -> EntraError:
    """Say that the code was made at another tenant's endpoint."""
    return invalid_grant(
        700005,
        "Provided Authorization Code is intended to use against other tenant, thus rejected. "
        "OAuth2 Authorization Code must be redeemed against same tenant it was acquired for "
        "(/common or /{tenant-ID} as appropriate).",
    )


def other_redirect(given: str, asked: str) -> EntraError:
    """Say that the code was sent to another address than the one named now."""
    return invalid_grant(
        500112,
        f"The reply address '{given}' does not match the reply address '{asked}' provided when "
        "requesting Authorization code.",
    )


def wrong_verifier() -> EntraError:
    """Say that PKCE's verifier is not the one that the request was begun with."""
    return invalid_grant(
        501481,
        "The Code_Verifier does not match the code_challenge supplied in the authorization "
        "request.",
    )


def challenge_size() -> EntraError:
    """Say that PKCE's challenge has not 43 to 128 characters (RFC 7636, 4.2)."""
    return EntraError(
        400, "invalid_request", 50147, "The size of the code challenge parameter is not valid."
    )


# --- refresh tokens ---------------------------------------------------------------------------


def inactive(issued: datetime) -> EntraError:
    """Say that the refresh token was not used for ninety days."""
    return invalid_grant(
        700082,
        "The refresh token has expired due to inactivity. The token was issued on "
        f"{dotnet(issued)} and was inactive for 90.00:00:00.",
    )


def single_page_expired(issued: datetime) -> EntraError:
    """Say that a single-page app's refresh token is older than a day."""
    return invalid_grant(
        700084,
        "The refresh token was issued to a single page app (SPA), and therefore has a fixed, "
        "limited lifetime of 1.00:00:00, which cannot be extended. It is now expired and a new "
        "sign in request must be sent by the SPA to the sign in page. The token was issued on "
        f"{dotnet(issued)}.",
    )


def revoked(issued: datetime, valid_from: datetime) -> EntraError:
    """Say that the sessions were revoked, or the password changed, since the grant."""
    return invalid_grant(
        50173,
        "The provided grant has expired due to it being revoked, a fresh auth token is needed. "
        "The user might have changed or reset their password. The grant was issued on "
        f"'{dotnet(issued)}' and the TokensValidFrom date (before which tokens are not valid) "
        f"for this user is '{dotnet(valid_from)}'.",
        suberror="bad_token",
    )


def password_reset() -> EntraError:
    """Say that an administrator has set another password since the grant."""
    return invalid_grant(
        50133,
        "The session is not valid due to password expiration or recent password change.",
        suberror="bad_token",
    )


def sign_in_frequency(issued: datetime, allowed: timedelta) -> EntraError:
    """Say that Conditional Access wants a new sign-in every so often."""
    return invalid_grant(
        70043,
        "The refresh token has expired or is invalid due to sign-in frequency checks by "
        f"conditional access. The token was issued on {dotnet(issued)} and the maximum allowed "
        f"lifetime for this request is {int(allowed.total_seconds())}.",
        suberror="token_expired",
    )


def family_revoked() -> EntraError:
    """Say that a refresh token came twice, and what descends from it has ended with it."""
    return invalid_grant(70000, "Provided grant is invalid or malformed.", suberror="bad_token")


def other_client() -> EntraError:
    """Say that the refresh token belongs to another app."""
    return invalid_grant(
        70000, "Provided grant is invalid or malformed.", suberror="client_mismatch"
    )


# --- device codes -----------------------------------------------------------------------------


def pending() -> EntraError:
    """Say that nobody has typed in the code yet."""
    return EntraError(
        400,
        "authorization_pending",
        70016,
        "OAuth 2.0 device flow error. Authorization is pending. Continue polling.",
    )


def slow_down() -> EntraError:
    """Say that the device asks too often (RFC 8628, 3.5)."""
    return EntraError(
        400,
        "slow_down",
        70016,
        "OAuth 2.0 device flow error. Authorization is pending. Poll less often.",
    )


def device_declined() -> EntraError:
    """Say that the person refused the device."""
    return EntraError(
        400,
        "authorization_declined",
        70000,
        "The end user denied the authorization request.",
    )


def device_expired() -> EntraError:
    """Say that the code is older than fifteen minutes."""
    return EntraError(
        400,
        "expired_token",
        70020,
        "The provided value for the input parameter 'device_code' is not valid. This device "
        "code has expired.",
    )


def device_unknown() -> EntraError:
    """Say that there is no such device code, or that it was used."""
    return EntraError(
        400,
        "bad_verification_code",
        70018,
        "The verification code is not valid. The provided value for the input parameter "
        "'device_code' is not valid.",
    )


def user_code() -> EntraError:
    """Say that the code which somebody typed in is none, or no longer one."""
    return EntraError(
        400,
        "bad_verification_code",
        70018,
        "That code didn't work. Check the code and try again.",
    )
