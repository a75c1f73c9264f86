"""What the token endpoint does for each ``grant_type``; further grants are added here.

``client_credentials`` stands here, the grants of people in ``entra_user_grants``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailbridge.sandbox import entra_client_errors as client_errors
from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_clients import Client
from mailbridge.sandbox.entra_documents import SHARED
from mailbridge.sandbox.entra_scopes import app_resource
from mailbridge.sandbox.entra_state import State
from mailbridge.sandbox.tokens import TokenService

#: seconds; tokens that live at least so long say when half of it is over (``refresh_in``)
_LONG_LIFE: Final = 7200


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCall:
    """What a grant has to work with: the form, the app it came from, the tenant in the URL.

    ``origin`` is the Origin header, which a script in a browser sends.
    """

    client: Client
    form: dict[str, str]
    state: State
    tenant: str
    origin: str = ""

    @property
    def app(self) -> App:
        """The app that asks."""
        return self.client.app

    @property
    def directory(self) -> Directory:
        """The tenant's directory."""
        return self.state.directory

    @property
    def tokens(self) -> TokenService:
        """What mints the tokens."""
        return self.state.tokens

    def require(self, *names: str) -> None:
        """Raise ``EntraError`` for a form field that is absent or empty."""
        for name in names:
            if not self.form.get(name):
                raise errors.missing_parameter(name)


Grant = Callable[[TokenCall], Awaitable[dict[str, Any]]]


def lifetimes(app: App) -> dict[str, int]:
    """Return the fields that say how long an access token lives, in seconds."""
    fields = {"expires_in": app.lifetime, "ext_expires_in": app.lifetime}
    return fields if app.lifetime < _LONG_LIFE else {**fields, "refresh_in": app.lifetime // 2}


async def client_credentials(call: TokenCall) -> dict[str, Any]:
    """Grant an app-only token; without consent it is one without roles, not an error."""
    if call.tenant in SHARED:
        raise errors.no_tenant()
    if call.app.blocked:
        raise client_errors.workload_blocked()
    audience = app_resource(
        call.form.get("scope", ""),
        audiences=call.tokens.audiences,
        directory=call.directory.display_name,
    )
    return {
        "token_type": "Bearer",
        **lifetimes(call.app),
        "access_token": call.tokens.app_token(call.app, audience=audience, acr=call.client.acr),
    }


#: by ``grant_type``; what is presented as a credential is judged before a grant is asked
GRANTS: Final[Mapping[str, Grant]] = {"client_credentials": client_credentials}
