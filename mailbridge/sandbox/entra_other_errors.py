"""What Entra says in situations that the sandbox does not have, for the faults that say it.

::

    tenant.faults.add("token.error", **said(90033))
    tenant.faults.add("sign_in.refused", **said(53001))

Each is the body as it comes over the wire: status, ``error``, sentence, ``suberror``. Ids, names
and dates in the sentences are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_STRANGER: Final = (
    "User account '{EmailHidden}' from identity provider 'live.com' does not exist in tenant "
    "'Feuerwehr Musterstadt' and cannot access the application "
    "'6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10'(alarm-app) in that tenant. The account needs to be "
    "added as an external user in the tenant first. Sign out and sign in again with a different "
    "Azure Active Directory user account."
)
_ENROLL: Final = (
    "Due to a configuration change made by your administrator, or because you moved to a new "
    "location, you must enroll in multi-factor authentication to access "
    "'00000002-0000-0ff1-ce00-000000000000'."
)
_LATER: Final = "A transient error has occurred. Please try again."


def _all(
    status: int, error: str, texts: Mapping[int, str], *, suberror: str | None = None
) -> dict[int, dict[str, Any]]:
    return {
        code: {"code": code, "status": status, "error": error, "text": text, "suberror": suberror}
        for code, text in texts.items()
    }


_SAID: Final[Mapping[int, Mapping[str, Any]]] = {
    **_all(
        400,
        "invalid_scope",
        {
            28000: "Provided value for the input parameter scope is not valid because it contains "
            "more than one resource. Scope https://outlook.office365.com/IMAP.AccessAsUser.All "
            "https://graph.microsoft.com/Mail.Read is not valid.",
            28002: "Provided value for the input parameter scope 'IMAP' is not valid when "
            "requesting an access token. Please specify a valid scope.",
            28003: "Provided value for the input parameter scope cannot be empty when requesting "
            "an access token using the provided authorization code. Please specify a valid scope.",
            700022: "The provided value for the input parameter 'scope' is not valid because it "
            "contains more than one resource.",
            700023: "The provided value for the input parameter 'scope' is not valid because it "
            "contains no resource.",
        },
    ),
    **_all(
        401,
        "invalid_client",
        {
            700030: "Invalid certificate - subject name in certificate is not authorized. "
            "SubjectNames/SubjectAlternativeNames (up to 10) in token certificate are: mailbridge.",
            50012: "Client assertion contains an invalid signature.",
            50003: "No signing key is configured.",
            500133: "Assertion is not within its valid time range. Ensure that the access token "
            "is not expired before using it for user assertion, or request a new token.",
        },
    ),
    **_all(
        400,
        "invalid_request",
        {
            50128: "Invalid domain name - No tenant-identifying information found in either the "
            "request or implied by any provided credentials.",
            90038: "The specified tenant 'feuerwehr.example' belongs to the National Cloud "
            "'MicrosoftOnline.US'. Current cloud instance 'MicrosoftOnline.COM' does not federate "
            "with MicrosoftOnline.US.",
            901002: "The 'resource' request parameter is not supported.",
        },
    ),
    **_all(
        400,
        "unauthorized_client",
        {
            70001: "The application '6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10' is disabled.",
            1000031: "Application alarm-app cannot be accessed at this time. Contact your "
            "administrator.",
            650052: "The app is trying to access a service "
            "'00000002-0000-0ff1-ce00-000000000000'(Office 365 Exchange Online) that your "
            "organization '0d1c0a57-6b0a-4f60-8f0e-1f3f5a1f7c11' lacks a service principal for. "
            "Contact your IT Admin to review the configuration of your service subscriptions or "
            "consent to the application in order to create the required service principal.",
        },
    ),
    **_all(
        400,
        "invalid_grant",
        {
            7000012: "The grant was obtained for a different tenant.",
            65002: "Consent between first party application "
            "'6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10' and first party resource "
            "'00000002-0000-0ff1-ce00-000000000000' must be configured via preauthorization - "
            "applications owned and operated by Microsoft must get approval from the API owner "
            "before requesting tokens for that API.",
            50144: "The user's Active Directory password has expired.",
            50056: "Invalid or null password: password does not exist in the directory for this "
            "user.",
            50064: "Credential validation on username or password has failed.",
            50135: "Password change is required due to account risk.",
            50014: "The user's redemption is in a pending state. The guest user account isn't "
            "fully created yet.",
            51004: "The user account {EmailHidden} does not exist in the "
            "0d1c0a57-6b0a-4f60-8f0e-1f3f5a1f7c11 directory. To sign into this application, the "
            "account must be added to the directory.",
            90072: _STRANGER,
            80012: "The users attempted to log on outside of the allowed hours (this is specified "
            "in AD).",
            80013: "The authentication attempt could not be completed due to time skew between "
            "the machine running the authentication agent and AD.",
            50089: "Authentication failed due to flow token expired.",
            50196: "The server terminated an operation because it encountered a loop while "
            "processing a request.",
            80001: "The Authentication Agent is unable to connect to Active Directory. Make sure "
            "the authentication agent is installed on a domain-joined machine that has line of "
            "sight to a DC that can serve the user's login request.",
            80002: "Internal error. The Authentication Agent's password validation request timed "
            "out.",
            80005: "An unknown error occurred while processing the response from the "
            "Authentication Agent. Retry the request.",
            80007: "The Authentication Agent is unable to validate user's password.",
            80014: "Validation request responded after maximum elapsed time exceeded.",
        },
    ),
    **_all(
        400,
        "invalid_resource",
        {
            50001: "The application named 00000002-0000-0ff1-ce00-000000000000 was not found in "
            "the tenant named 0d1c0a57-6b0a-4f60-8f0e-1f3f5a1f7c11. The resource is disabled or "
            "does not exist.",
            650057: "Invalid resource. The client has requested access to a resource which is not "
            "listed in the requested permissions in the client's application registration. Client "
            "app ID: 6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10(alarm-app). Resource value from request: "
            "https://outlook.office365.com. Resource app ID: 00000002-0000-0ff1-ce00-000000000000. "
            "List of valid resources from app registration: 00000003-0000-0000-c000-000000000000.",
            65005: "The client application has requested access to resource "
            "'https://outlook.office365.com'. This request has failed because the client has not "
            "specified this resource in its requiredResourceAccess list.",
        },
    ),
    **_all(
        400,
        "invalid_client",
        {
            650056: "Misconfigured application. This could be due to one of the following: the "
            "client has not listed any permissions for 'Office 365 Exchange Online' in the "
            "requested permissions in the client's application registration. Or, the admin has not "
            "consented in the tenant. Or, check the application identifier in the request to "
            "ensure it matches the configured client application identifier. Please contact your "
            "admin to fix the configuration or consent on behalf of the tenant. Client app ID: "
            "6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10.",
            90008: "The user or administrator has not consented to use the application with ID "
            "'6f6c2a2e-5d0f-4b0e-9d43-2f4c8f1f7a10'. This happened because application is "
            "misconfigured: it must require access to Windows Azure Active Directory by specifying "
            "at least 'Sign in and read user profile' permission.",
        },
    ),
    **_all(
        400,
        "consent_required",
        {
            90095: "Admin consent is required for the permissions requested by this application. "
            "An admin consent request may be sent to the admin.",
        },
    ),
    **_all(
        400,
        "interaction_required",
        {
            16000: _STRANGER,
            53004: "User needs to complete Multi-factor authentication registration process "
            "before accessing this content. User should register for multi-factor authentication.",
            53010: "Cannot configure multi-factor authentication methods because the organization "
            "requires this information to be set from specific locations or devices.",
        },
    ),
    **_all(
        400,
        "interaction_required",
        {
            50072: _ENROLL,
            50074: "Strong Authentication is required.",
            50158: "External security challenge was not satisfied. User will be redirected to "
            "another page or authentication provider to satisfy additional authentication "
            "challenges.",
        },
        suberror="basic_action",
    ),
    **_all(
        400,
        "invalid_grant",
        {
            50078: "Presented multi-factor authentication has expired due to policies configured "
            "by your administrator, you must refresh your multi-factor authentication to access "
            "'00000002-0000-0ff1-ce00-000000000000'.",
        },
        suberror="basic_action",
    ),
    **_all(
        400,
        "invalid_grant",
        {
            53000: "Device is not in required device state: {state}. Conditional Access policy "
            "requires a compliant device, and the device is not compliant. The user must enroll "
            "their device with an approved MDM provider like Intune.",
            53001: "Device is not in required device state: {state}. Conditional Access policy "
            "requires a domain joined device, and the device is not domain joined.",
            53002: "Application used is not an approved application for conditional access. User "
            "needs to use one of the apps from the list of approved applications to use in order "
            "to get access.",
        },
        suberror="message_only",
    ),
    **_all(
        400,
        "interaction_required",
        {
            50097: "Device authentication is required.",
        },
        suberror="additional_action",
    ),
    **_all(
        400,
        "interaction_required",
        {
            50131: "Device is not in required device state: {state}. Or, the request was blocked "
            "due to suspicious activity, access policy, or security policy decisions.",
            50005: "User tried to log in to a device from a platform that's currently not "
            "supported through Conditional Access policy.",
        },
        suberror="message_only",
    ),
    **_all(
        400,
        "access_denied",
        {
            530032: "The tenant admin has configured a security policy that blocks this request.",
            530034: "A delegated administrator was blocked from accessing the tenant due to "
            "account risk in their home tenant.",
            53011: "User blocked due to risk on home tenant.",
        },
    ),
    **_all(
        400,
        "invalid_grant",
        {
            50132: "The session is not valid due to the following reasons: password expiration or "
            "recent password change; SSO Artifact is invalid or expired; session is not fresh "
            "enough for application; a silent sign-in request was sent but the user's session with "
            "Azure AD is invalid or has expired.",
            50085: "Refresh token needs social IDP login. Have user try signing-in again with "
            "username -password.",
        },
        suberror="bad_token",
    ),
    **_all(
        400,
        "expired_token",
        {
            70019: "Verification code expired. Have the user retry the sign-in.",
        },
    ),
    **_all(
        400,
        "temporarily_unavailable",
        {
            90055: "The tenant exceeded request rate limit. Please wait and retry.",
            90006: "The service is temporarily unavailable.",
            90012: "The request has timed out. Please retry.",
            90024: _LATER,
            90033: _LATER,
            90090: "The service is temporarily unavailable. Please retry later.",
            50033: _LATER,
        },
    ),
    **_all(
        400,
        "server_error",
        {
            50087: "A transient error has occurred during strong authentication. Please try again.",
            70012: "A server error occurred while authenticating an MSA (consumer) user. Try "
            "again.",
        },
    ),
}


def said(code: int) -> dict[str, Any]:
    """Return the options of a fault that answers with this number; ``KeyError`` if unknown."""
    return dict(_SAID[code])
