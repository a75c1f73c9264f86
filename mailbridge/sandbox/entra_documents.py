"""The discovery documents of Entra, with the fields that the real ones have."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult

from mailbridge.sandbox.directory import Directory

#: pseudo tenants: any account, work accounts, personal accounts
SHARED: Final = frozenset({"common", "organizations", "consumers"})
#: login hosts of the public cloud, all the same service
INSTANCES: Final = (
    "login.microsoftonline.com",
    "login.windows.net",
    "login.microsoft.com",
    "sts.windows.net",
)
_CONSTANT: Final[dict[str, Any]] = {
    "token_endpoint_auth_methods_supported": [
        "client_secret_post",
        "private_key_jwt",
        "client_secret_basic",
    ],
    "response_modes_supported": ["query", "fragment", "form_post"],
    "subject_types_supported": ["pairwise"],
    "id_token_signing_alg_values_supported": ["RS256"],
    "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
    "scopes_supported": ["openid", "profile", "email", "offline_access"],
    "request_uri_parameter_supported": False,
    "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
    "http_logout_supported": True,
    "frontchannel_logout_supported": True,
    "claims_supported": [
        *("sub", "iss", "cloud_instance_name", "cloud_instance_host_name"),
        *("cloud_graph_host_name", "msgraph_host", "aud", "exp", "iat", "auth_time"),
        *("acr", "nonce", "preferred_username", "name", "tid", "ver", "at_hash"),
        *("c_hash", "email"),
    ],
    "tenant_region_scope": "EU",
    "cloud_instance_name": "microsoftonline.com",
    "cloud_graph_host_name": "graph.windows.net",
    "msgraph_host": "graph.microsoft.com",
    "rbac_url": "https://pas.windows.net",
}


def configuration(base_url: str, *, asked: str, tenant_id: str) -> dict[str, Any]:
    """Return openid-configuration for what stood in the tenant's place, in lower case.

    A domain is answered with the GUID in every URL; ``common`` stays as it is, and its issuer
    holds a literal placeholder.
    """
    tenant = asked if asked in SHARED else tenant_id
    issuer = "{tenantid}" if asked in SHARED else tenant_id
    base = f"{base_url}/{tenant}"
    return {
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "issuer": f"{base_url}/{issuer}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
        "kerberos_endpoint": f"{base}/kerberos",
        **_CONSTANT,
    }


def instance(endpoint: SplitResult) -> dict[str, Any]:
    """Return the instance discovery document for an authorization endpoint."""
    tenant = endpoint.path.strip("/").partition("/")[0]
    discovery = f"https://{endpoint.netloc}/{tenant}/v2.0/.well-known/openid-configuration"
    return {
        "tenant_discovery_endpoint": discovery,
        "api-version": "1.1",
        "metadata": [
            {
                "preferred_network": INSTANCES[0],
                "preferred_cache": INSTANCES[1],
                "aliases": list(INSTANCES),
            }
        ],
    }


def realm(base_url: str, directory: Directory, upn: str) -> dict[str, Any]:
    """Return where somebody's password is checked: here (Managed), or at their own AD FS.

    The AD FS itself is not there: its address answers 404.
    """
    user = directory.find_user(upn)
    domain = upn.rpartition("@")[2].lower()
    shared = {
        "ver": "1.0",
        "cloud_instance_name": _CONSTANT["cloud_instance_name"],
        "cloud_audience_urn": "urn:federation:MicrosoftOnline",
    }
    if user is not None and user.federated:
        adfs = f"{base_url}/adfs/services/trust"
        return {
            **shared,
            "account_type": "Federated",
            "domain_name": domain,
            "federation_protocol": "WSTrust",
            "federation_metadata_url": f"{adfs}/mex",
            "federation_active_auth_url": f"{adfs}/2005/usernamemixed",
        }
    if domain in directory.names:
        return {**shared, "account_type": "Managed", "domain_name": domain}
    return {**shared, "account_type": "Unknown"}
