"""Managed identities: the endpoints inside Azure that give tokens for no credential at all.

::

    tenant.add_identity("vm")                       # system-assigned
    shared = tenant.add_identity("shared", assigned="user")
    monkeypatch.setenv(*tenant.identities.machine)  # as on a virtual machine (IMDS)
    for pair in tenant.identities.app_service: monkeypatch.setenv(*pair)

They speak plain HTTP, as the real ones do. Tokens are told to expire by the tenant's clock;
msal compares the App Service's ``expires_on`` with the machine's.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from aiohttp import web

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_http import after, json_answer
from mailbridge.sandbox.entra_scopes import kind_of
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import BACKDATE, TokenService

_IMDS: Final = "/metadata/identity/oauth2/token"
_APP_SERVICE: Final = "/msi/token"
_STOP_SECONDS: Final = 0.2
#: parameters that name an identity, by their names on both endpoints
_SELECTORS: Final = ("client_id", "object_id", "principal_id", "msi_res_id", "mi_res_id")


class _Refused(Exception):  # noqa: N818 - an answer, not a mistake
    """A refusal: status and text."""

    def __init__(self, status: int, error: str, text: str) -> None:
        super().__init__(text)
        self.status, self.error, self.text = status, error, text


class IdentityEndpoints:
    """Both endpoints. ``asked`` counts the requests, ``answered`` those that got a token."""

    def __init__(
        self,
        *,
        directory: Directory,
        tokens: TokenService,
        faults: Faults,
        now: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._faults = faults
        self._now = now
        self._runner: web.AppRunner | None = None
        #: what the App Service wants in ``X-IDENTITY-HEADER``
        self.header = secrets.token_hex(16)
        self.port = 0
        self.asked = 0
        self.answered = 0

    @property
    def machine(self) -> tuple[str, str]:
        """The environment variable that leads clients here instead of to 169.254.169.254."""
        return "AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{self.port}"

    @property
    def app_service(self) -> list[tuple[str, str]]:
        """The environment variables that an App Service sets."""
        endpoint = f"http://127.0.0.1:{self.port}{_APP_SERVICE}"
        return [("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", self.header)]

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        application = web.Application()
        application.router.add_get(_IMDS, self._on_machine)
        application.router.add_get(_APP_SERVICE, self._on_app_service)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_STOP_SECONDS,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests that hang are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _on_machine(self, request: web.Request) -> web.Response:
        try:
            await self._faulty()
            _check_local(request)
            app = self._identity(request.query, "Identity not found")
            body = self._token(app, request.query)
        except _Refused as refused:
            answer = {"error": refused.error, "error_description": refused.text}
            return json_answer(answer, status=refused.status, headers=self._pause(refused))
        return json_answer(body)

    async def _on_app_service(self, request: web.Request) -> web.Response:
        try:
            await self._faulty()
            self._check_header(request)
            app = self._identity(
                request.query,
                "No User Assigned or Delegated Managed Identity found for specified "
                "ClientId/ResourceId/PrincipalId.",
            )
            body = self._token(app, request.query)
        except _Refused as refused:
            # A resource that does not exist is a failure of its own to the App Service.
            status = 500 if refused.error == "invalid_resource" else refused.status
            answer = {"statusCode": status, "message": refused.text}
            return json_answer(answer, status=status, headers=self._pause(refused))
        return json_answer({k: v for k, v in body.items() if k not in {"expires_in", "not_before"}})

    async def _faulty(self) -> None:
        self.asked += 1
        if fault := self._faults.take("identity.hang"):
            await self._faults.hold(fault)
        if fault := self._faults.take("identity.429"):
            raise _Throttled(fault["retry_after"])
        if self._faults.take("identity.500"):
            text = "Failed to retrieve token from the Active directory."
            raise _Refused(500, "unknown", text)

    def _check_header(self, request: web.Request) -> None:
        given = request.headers.get("X-IDENTITY-HEADER", "").encode()
        if not hmac.compare_digest(given, self.header.encode()):
            raise _Refused(401, "unauthorized", "The header X-IDENTITY-HEADER is wrong.")

    @staticmethod
    def _pause(refused: _Refused) -> dict[str, str]:
        return after(refused.retry_after) if isinstance(refused, _Throttled) else {}

    def _identity(self, query: Mapping[str, str], absent: str) -> App:
        """Return the identity that is named, or the one of the machine."""
        for name in ("api-version", "resource"):
            if not query.get(name):
                raise _Refused(
                    400, "invalid_request", f"Required query variable '{name}' is missing"
                )
        named = {query[name].lower() for name in _SELECTORS if query.get(name)}
        for app in self._directory.identities():
            names = {app.client_id.lower(), app.object_id.lower(), _resource_id(app).lower()}
            if app.enabled and (named <= names if named else app.managed == "system"):
                return app
        raise _Refused(400, "invalid_request", absent)

    def _token(self, app: App, query: Mapping[str, str]) -> dict[str, str]:
        resource = query["resource"]
        if kind_of(resource, self._tokens.audiences) is None:
            error: EntraError = errors.unknown_resource(resource, self._directory.display_name)
            raise _Refused(400, "invalid_resource", str(error))
        self.answered += 1
        moment = int(self._now().timestamp())
        return {
            "access_token": self._tokens.app_token(app, audience=resource.rstrip("/"), acr="2"),
            "client_id": app.client_id,
            "expires_in": str(app.lifetime),
            "expires_on": str(moment + app.lifetime),
            "not_before": str(moment - BACKDATE),
            "resource": resource,
            "token_type": "Bearer",
        }


class _Throttled(_Refused):
    def __init__(self, retry_after: float | None) -> None:
        super().__init__(429, "too_many_requests", "Too many requests")
        self.retry_after = retry_after


def _check_local(request: web.Request) -> None:
    """Refuse what somebody tricked a web server into asking: no header, or through a proxy."""
    if request.headers.get("Metadata", "").lower() != "true":
        raise _Refused(400, "invalid_request", "Required metadata header not specified")
    if "X-Forwarded-For" in request.headers:
        raise _Refused(400, "invalid_request", "The request must not be forwarded")


def _resource_id(app: App) -> str:
    """Return the name of a user-assigned identity in Azure Resource Manager."""
    return (
        "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/sandbox/providers/"
        f"Microsoft.ManagedIdentity/userAssignedIdentities/{app.name}"
    )
