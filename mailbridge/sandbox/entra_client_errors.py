"""What Entra says about an app's credential: secrets, certificates, federated tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from mailbridge.sandbox.entra_errors import EntraError

_CERTIFICATES: Final = (
    "Review the documentation at "
    "https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
)
_FEDERATION: Final = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"


def dotnet(moment: datetime) -> str:
    """Return a moment as Entra's sentences hold it: seven digits behind the seconds."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}0Z"


def wrong_secret(client_id: str) -> EntraError:
    """Say that the secret is none of the app's; most often somebody copied the secret's ID."""
    return EntraError(
        401,
        "invalid_client",
        7000215,
        "Invalid client secret provided. Ensure the secret being sent in the request is the "
        "client secret value, not the client secret ID, for a secret added to app "
        f"'{client_id}'.",
    )


def expired_secret(client_id: str) -> EntraError:
    """Say that the secret is right and too old."""
    return EntraError(
        401,
        "invalid_client",
        7000222,
        f"The provided client secret keys for app '{client_id}' are expired. Visit the Azure "
        "portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider "
        "using certificate credentials for added security: https://aka.ms/certCreds.",
    )


def no_credential(grant: str) -> EntraError:
    """Say that a confidential grant came without any credential."""
    return EntraError(
        401,
        "invalid_client",
        7000216,
        f"'client_assertion', 'client_secret' or 'request' is required for the '{grant}' "
        "grant type.",
    )


def credential_needed() -> EntraError:
    """Say that the app is confidential, or that its public client flows are switched off."""
    return EntraError(
        401,
        "invalid_client",
        7000218,
        "The request body must contain the following parameter: 'client_assertion' or "
        "'client_secret'.",
    )


def credential_unwanted() -> EntraError:
    """Say that a public client must not present what it cannot keep."""
    return EntraError(
        401,
        "invalid_client",
        700025,
        "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
    )


def missing_field(name: str) -> EntraError:
    """Say that a field of the credential is absent or has no value that is known."""
    return EntraError(
        400,
        "invalid_request",
        90014,
        f"The required field '{name}' is missing from the credential. Ensure that you have all "
        "the necessary parameters for the login request.",
    )


def malformed_assertion() -> EntraError:
    """Say that the assertion is no JWT, or lacks a claim."""
    return EntraError(401, "invalid_client", 50027, "JWT token is invalid or malformed.")


def key_trouble(client_id: str, reason: str, thumbprint: str, found: str = "") -> EntraError:
    """Say why the certificate behind an assertion is not taken; ``found`` are its dates."""
    key = f", Found key '{found}'" if found else ""
    return EntraError(
        401,
        "invalid_client",
        700027,
        f"Client assertion contains an invalid signature. [Reason - {reason}, Thumbprint of key "
        f"used by client: '{thumbprint}'{key}, Please visit the Azure Portal, Graph Explorer or "
        f"directly use MS Graph to see configured keys for app Id '{client_id}'. Review the "
        "documentation at https://docs.microsoft.com/en-us/graph/deployments to determine the "
        "corresponding service endpoint and https://docs.microsoft.com/en-us/graph/api/"
        "application-get?view=graph-rest-1.0&tabs=http to build a query request URL, such as "
        f"'https://graph.microsoft.com/beta/applications/{client_id}'].",
    )


def key_not_registered(client_id: str) -> EntraError:
    """Say that the app has no certificate at all."""
    return EntraError(
        401,
        "invalid_client",
        700027,
        "The certificate with identifier used to sign the client assertion is not registered on "
        f"application '{client_id}'.",
    )


def assertion_times(now: datetime, start: datetime, end: datetime) -> EntraError:
    """Say that the assertion is too old, too new, or good for too long."""
    return EntraError(
        401,
        "invalid_client",
        700024,
        f"Client assertion is not within its valid time range. Current time: {dotnet(now)}, "
        f"assertion valid from {dotnet(start)}, expiry time of assertion {dotnet(end)}. "
        + _CERTIFICATES,
    )


def assertion_audience() -> EntraError:
    """Say that the assertion is made for another place than this token endpoint."""
    return EntraError(
        401,
        "invalid_client",
        700023,
        "Client assertion audience claim does not match Realm issuer. " + _CERTIFICATES,
    )


def assertion_client() -> EntraError:
    """Say that the assertion was made by, or about, another app."""
    return EntraError(
        401,
        "invalid_client",
        700021,
        "Client assertion application identifier doesn't match 'client_id' parameter. "
        + _CERTIFICATES,
    )


def entra_token_as_assertion() -> EntraError:
    """Say that a token of Entra itself is no federated credential."""
    return EntraError(
        401,
        "invalid_client",
        700222,
        "AAD-issued tokens may not be used for federated identity flows.",
    )


def no_federation(client_id: str, name: str) -> EntraError:
    """Say that the app has no federated credential at all."""
    return EntraError(
        401,
        "invalid_client",
        70025,
        f"The client '{client_id}'({name}) has no configured federated identity credentials.",
    )


def no_record(issuer: str, subject: str, audience: str) -> EntraError:
    """Say that each of the three is known, but not together."""
    return EntraError(
        401,
        "invalid_client",
        70021,
        "No matching federated identity record found for presented assertion. Assertion Issuer: "
        f"'{issuer}'. Assertion Subject: '{subject}'. Assertion Audience: '{audience}'. "
        + _FEDERATION,
    )


def no_record_of(part: str, value: str, *, case_only: bool = False) -> EntraError:
    """Say which of ``issuer``, ``subject`` and ``audience`` no credential of the app has."""
    codes = {"issuer": 700211, "audience": 700212, "subject": 700213}
    hint = (
        f" The {part} matches with case-insensitive comparison, but not with case-sensitive "
        "comparison."
        if case_only
        else ""
    )
    return EntraError(
        401,
        "invalid_client",
        7002138 if case_only and part == "subject" else codes[part],
        f"No matching federated identity record found for presented assertion {part} "
        f"'{value}'.{hint} Check your federated identity credential Subject, Audience and Issuer "
        "against the presented assertion. " + _FEDERATION,
    )


def federated_signature(reason: str) -> EntraError:
    """Say that the token's issuer did not sign it, as far as its published keys tell."""
    return EntraError(
        401,
        "invalid_client",
        50013,
        f"Assertion failed signature validation. [Reason - {reason}].",
    )


def workload_blocked() -> EntraError:
    """Say that Conditional Access for workload identities blocks the app."""
    return EntraError(
        400,
        "invalid_grant",
        53003,
        "Access has been blocked by Conditional Access policies. The access policy does not "
        "allow token issuance.",
        suberror="message_only",
    )


def cross_origin_only() -> EntraError:
    """Say that the redirect URI stands under the platform of single-page apps."""
    return EntraError(
        400,
        "invalid_request",
        9002327,
        "Tokens issued for the 'Single-Page Application' client-type may only be redeemed via "
        "cross-origin requests.",
    )


def no_cross_origin() -> EntraError:
    """Say that a browser's script asks with a redirect URI of another platform."""
    return EntraError(
        400,
        "invalid_request",
        9002326,
        "Cross-origin token redemption is permitted only for the 'Single-Page Application' "
        "client-type.",
    )


def pkce_needed() -> EntraError:
    """Say that single-page apps must use PKCE."""
    return EntraError(
        400,
        "invalid_request",
        9002325,
        "Proof Key for Code Exchange is required for cross-origin authorization code redemption.",
    )
