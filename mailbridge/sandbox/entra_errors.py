"""Error bodies of Entra's v2.0 endpoints, as they come over the wire.

A client reads ``error`` and ``error_codes``; a person reads the ``AADSTS…`` sentence. Both are
part of what a diagnosis works with, so the sentences are the real ones.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any


class EntraError(Exception):
    """An answer other than a token: HTTP status, OAuth error, AADSTS code and its sentence."""

    def __init__(
        self, status: int, error: str, code: int, text: str, *, suberror: str | None = None
    ) -> None:
        """Keep the parts; ``text`` comes without the ``AADSTS…:`` prefix."""
        super().__init__(f"AADSTS{code}: {text}")
        self.status = status
        self.error = error
        self.code = code
        self.text = text
        self.suberror = suberror

    def body(self, *, moment: datetime, correlation_id: str) -> dict[str, Any]:
        """Return the JSON document, with fresh trace id."""
        trace_id = str(uuid.uuid4())
        timestamp = moment.strftime("%Y-%m-%d %H:%M:%SZ")
        body: dict[str, Any] = {
            "error": self.error,
            "error_description": (
                f"AADSTS{self.code}: {self.text}\r\nTrace ID: {trace_id}"
                f"\r\nCorrelation ID: {correlation_id}\r\nTimestamp: {timestamp}"
            ),
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": f"https://login.microsoftonline.com/error?code={self.code}",
        }
        if self.suberror is not None:
            body["suberror"] = self.suberror
        return body


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


def unknown_app(client_id: str, directory: str) -> EntraError:
    """Say that no app of this tenant has the client id."""
    return EntraError(
        400,
        "unauthorized_client",
        700016,
        f"Application with identifier '{client_id}' was not found in the directory "
        f"'{directory}'. This can happen if the application has not been installed by the "
        "administrator of the tenant or consented to by any user in the tenant. You may have "
        "sent your authentication request to the wrong tenant.",
    )


def disabled_app(client_id: str, name: str) -> EntraError:
    """Say that the enterprise app is switched off."""
    return EntraError(
        400,
        "unauthorized_client",
        7000112,
        f"Application '{client_id}'({name}) is disabled.",
    )


def unknown_tenant(name: str, *, discovery: bool) -> EntraError:
    """Say that there is no such tenant; discovery and token endpoint name the error differently."""
    return EntraError(
        400,
        "invalid_tenant" if discovery else "invalid_request",
        90002,
        f"Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are "
        "signing into the correct cloud. Check with your subscription administrator, this may "
        "happen if there are no active subscriptions for the tenant.",
    )


def malformed_tenant(name: str, *, discovery: bool) -> EntraError:
    """Say that what stands in the tenant's place is neither a GUID nor a domain."""
    return EntraError(
        400,
        "invalid_tenant" if discovery else "invalid_request",
        900023,
        f"Specified tenant identifier '{name}' is neither a valid DNS name, nor a valid "
        "external domain.",
    )


def no_tenant() -> EntraError:
    """Say that ``common`` tells no tenant when there is no user who belongs to one."""
    return EntraError(
        400,
        "invalid_request",
        50059,
        "No tenant-identifying information found in either the request or implied by any "
        "provided credentials.",
    )


def missing_parameter(name: str) -> EntraError:
    """Say that a form field is absent."""
    return EntraError(
        400,
        "invalid_request",
        900144,
        f"The request body must contain the following parameter: '{name}'.",
    )


def unsupported_grant(grant: str) -> EntraError:
    """Say that the ``grant_type`` is none that this endpoint knows."""
    return EntraError(
        400,
        "unsupported_grant_type",
        70003,
        f"The app requested an unsupported grant type '{grant}'.",
    )


def only_post(method: str) -> EntraError:
    """Say that the token endpoint was asked with another verb."""
    return EntraError(
        400,
        "invalid_request",
        900561,
        f"The endpoint only accepts POST requests. Received a {method} request.",
    )


def scope_without_default(scope: str) -> EntraError:
    """Say that client credentials ask for ``/.default`` and nothing else."""
    return EntraError(
        400,
        "invalid_scope",
        1002012,
        f"The provided value for scope {scope} is not valid. Client credential flows must have "
        "a scope value with /.default suffixed to the resource identifier (application ID URI).",
    )


def several_scopes(scope: str) -> EntraError:
    """Say that one token is for one resource."""
    return EntraError(
        400,
        "invalid_scope",
        70011,
        "The provided request must include a 'scope' input parameter. The provided value for "
        f"the input parameter 'scope' is not valid. The scope {scope} is not valid. static "
        "scope limit exceeded.",
    )


def unknown_resource(resource: str, directory: str) -> EntraError:
    """Say that the scope names a resource that this tenant does not have."""
    return EntraError(
        400,
        "invalid_resource",
        500011,
        f"The resource principal named {resource} was not found in the tenant named "
        f"{directory}. This can happen if the application has not been installed by the "
        "administrator of the tenant or consented to by any user in the tenant. You might have "
        "sent your authentication request to the wrong tenant.",
    )


def unknown_instance() -> EntraError:
    """Say that instance discovery was asked about a login host that nobody knows."""
    return EntraError(400, "invalid_instance", 50049, "Unknown or invalid instance.")


def throttled() -> EntraError:
    """Say that there were too many requests."""
    return EntraError(
        429,
        "temporarily_unavailable",
        90055,
        "The tenant exceeded request rate limit. Please wait and retry.",
    )
