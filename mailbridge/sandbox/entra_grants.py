"""What the token endpoint does for each ``grant_type``; further grants are added here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_documents import SHARED
from mailbridge.sandbox.tokens import TokenService

#: resources that every tenant with Exchange has
_RESOURCES: Final = frozenset(
    {
        "https://outlook.office365.com",
        "https://outlook.office.com",
        "https://ps.outlook.com",
        "https://graph.microsoft.com",
        "00000002-0000-0ff1-ce00-000000000000",
        "00000003-0000-0000-c000-000000000000",
    }
)
_SUFFIX: Final = "/.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCall:
    """What a grant has to work with: the form, the app it authenticated as, the tenant."""

    app: App
    form: dict[str, str]
    directory: Directory
    tokens: TokenService
    tenant: str


Grant = Callable[[TokenCall], Awaitable[dict[str, Any]]]


async def client_credentials(call: TokenCall) -> dict[str, Any]:
    """Grant an app-only token; without consent it is one without roles, not an error."""
    if call.tenant in SHARED:
        raise errors.no_tenant()
    audience = _resource(call)
    return {
        "token_type": "Bearer",
        "expires_in": call.app.lifetime,
        "ext_expires_in": call.app.lifetime,
        "access_token": call.tokens.app_token(call.app, audience=audience),
    }


def _resource(call: TokenCall) -> str:
    scopes = call.form.get("scope", "").split()
    if not scopes:
        raise errors.missing_parameter("scope")
    if not all(scope.endswith(_SUFFIX) for scope in scopes):
        raise errors.scope_without_default(" ".join(scopes))
    if len(scopes) > 1:
        raise errors.several_scopes(" ".join(scopes))
    resource = scopes[0].removesuffix(_SUFFIX)
    if resource.rstrip("/").lower() not in _RESOURCES:
        raise errors.unknown_resource(resource, call.directory.display_name)
    return resource


#: by ``grant_type``; the app is authenticated before a grant is asked
GRANTS: Final[Mapping[str, Grant]] = {"client_credentials": client_credentials}
