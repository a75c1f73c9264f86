"""Error bodies of Entra's v2.0 endpoints, as they come over the wire; those about requests.

What is said about an app's credential stands in ``entra_client_errors``, about a person in
``entra_user_errors``, about what that person granted in ``entra_grant_errors``. A client reads
``error`` and ``error_codes``; a person reads the ``AADSTS…`` sentence. Both are part of what a
diagnosis works with, so the sentences are the real ones.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any


class EntraError(Exception):
    """An answer other than a token: HTTP status, OAuth error, AADSTS code and its sentence."""

    def __init__(  # noqa: PLR0913 - the fields of the body, the rarer ones by name
        self,
        status: int,
        error: str,
        code: int,
        text: str,
        *,
        suberror: str | None = None,
        claims: str | None = None,
        kept: bool = False,
    ) -> None:
        """Keep the parts; ``text`` comes without the ``AADSTS…:`` prefix, ``claims`` is JSON.

        What is ``kept`` is shown to the person in the browser and not told to the app.
        """
        super().__init__(f"AADSTS{code}: {text}")
        self.status = status
        self.error = error
        self.code = code
        self.text = text
        self.suberror = suberror
        self.claims = claims
        self.kept = kept

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
        if self.claims is not None:
            body["claims"] = self.claims
        return body


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


def several_resources(scope: str) -> EntraError:
    """Say that the scopes belong to more than one resource."""
    return EntraError(
        400,
        "invalid_scope",
        28000,
        "Provided value for the input parameter scope is not valid because it contains more "
        f"than one resource. Scope {scope} is not valid.",
    )


def scope_for_code() -> EntraError:
    """Say that a code for several resources is redeemed without naming one of them."""
    return EntraError(
        400,
        "invalid_request",
        28003,
        "Provided value for the input parameter scope cannot be empty when requesting an access "
        "token using the provided authorization code. Please specify a valid scope.",
    )


def unknown_scope(app: str, scope: str, resource: str) -> EntraError:
    """Say that the resource, an app id, knows no such permission."""
    return EntraError(
        400,
        "invalid_client",
        650053,
        f"The application '{app}' asked for scope '{scope}' that doesn't exist on the resource "
        f"'{resource}'. Contact the app vendor.",
    )


def no_service_principal(client_id: str, tenant_id: str) -> EntraError:
    """Say that the app is registered elsewhere and was never consented here."""
    return EntraError(
        401,
        "invalid_client",
        7000229,
        f"The client application {client_id} is missing service principal in the tenant "
        f"{tenant_id}. See instructions here: https://go.microsoft.com/fwlink/?linkid=2225119",
    )


def single_tenant(client_id: str, name: str) -> EntraError:
    """Say that ``/common`` is for apps that take accounts of any tenant."""
    return EntraError(
        400,
        "invalid_request",
        50194,
        f"Application '{client_id}'({name}) is not configured as a multi-tenant application. "
        "Usage of the /common endpoint is not supported for such applications created after "
        "'10/15/2018'. Use a tenant-specific endpoint or configure the application to be "
        "multi-tenant.",
    )


def tenant_endpoint_only() -> EntraError:
    """Say that passwords go to a tenant's own endpoint, or to ``/organizations``."""
    return EntraError(
        400,
        "invalid_request",
        9001023,
        "The grant type is not supported over the /common or /consumers endpoints. Please use "
        "the /organizations or tenant-specific endpoint.",
    )


def wrong_redirect(uri: str, client_id: str) -> EntraError:
    """Say that the redirect URI is not registered, character by character."""
    return EntraError(
        400,
        "invalid_request",
        50011,
        f"The redirect URI '{uri}' specified in the request does not match the redirect URIs "
        f"configured for the application '{client_id}'. Make sure the redirect URI sent in the "
        "request matches one added to your application in the Azure portal. Navigate to "
        "https://aka.ms/redirectUriMismatchError to learn more about how to troubleshoot this "
        "error.",
    )


def no_redirect() -> EntraError:
    """Say that nothing was registered that a browser could be sent to."""
    return EntraError(400, "invalid_request", 900971, "No reply address provided.")


def unsupported_value(parameter: str, value: str) -> EntraError:
    """Say that a parameter of the authorize request has no such value."""
    return EntraError(400, "invalid_request", 90023, f"Unsupported '{parameter}' value: '{value}'.")


def unsupported_response(kind: str) -> EntraError:
    """Say that the app was not set up for tokens that come straight from the browser."""
    return EntraError(
        400,
        "unsupported_response_type",
        700054,
        f"response_type '{kind}' is not enabled for the application.",
    )


def mixed_up_browser() -> EntraError:
    """Say that a page was sent by another browser than the one it was made for."""
    return EntraError(
        400,
        "invalid_request",
        165000,
        "Invalid Request: The request tokens do not match the user context. Do not copy the "
        "user context values (cookies; form fields; headers) between different requests or user "
        "sessions; always maintain the ALL of the supplied values across a complete single user "
        "flow. Failure Reasons:[Token values do not match;]",
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
