"""The Entra ID v2.0 endpoints that a daemon meets, over HTTPS on loopback.

Discovery, instance discovery, JWKS, and the token endpoint. What a grant does stands in
``grants`` under its ``grant_type``, so that further grants are added there.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import ssl
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

import orjson
from aiohttp import web

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import TokenService

#: pseudo tenants: any account, work accounts, personal accounts
_SHARED: Final = frozenset({"common", "organizations", "consumers"})
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
_KNOWN_INSTANCES: Final = (
    "login.microsoftonline.com",
    "login.windows.net",
    "login.microsoft.com",
    "sts.windows.net",
)
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DNS_NAME: Final = re.compile(r"(?=.{4,253}$)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.IGNORECASE)
_HTML_PAGE: Final = (
    b"<!DOCTYPE html>\r\n<html><head><title>Sign in to your account</title></head>"
    b"<body><h1>Service Unavailable</h1></body></html>\r\n"
)
_SUFFIX: Final = "/.default"
#: seconds that open requests get when the server stops
_STOP_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One answered request for a token, for assertions. It holds no credential."""

    tenant: str
    grant: str
    client_id: str
    scope: str
    status: int
    code: int | None
    correlation_id: str


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
    if call.tenant in _SHARED:
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


class Entra:
    """The login service. ``requests`` holds the last token requests, newest last."""

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
        self.port = 0
        self.grants: dict[str, Grant] = {"client_credentials": client_credentials}
        self.requests: deque[TokenRequest] = deque(maxlen=10_000)
        #: how often openid-configuration was asked for
        self.discoveries = 0

    @property
    def base_url(self) -> str:
        """Where it listens: ``https://localhost:PORT``."""
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> str:
        """The login URL with the tenant's GUID, as ``apps.NAME.tenant`` wants it."""
        return f"{self.base_url}/{self._directory.tenant_id}"

    async def start(self, context: ssl.SSLContext, *, host: str, port: int) -> None:
        """Listen; port 0 takes a free one."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_get("/common/discovery/instance", self._instance)
        application.router.add_get(
            "/{tenant}/v2.0/.well-known/openid-configuration", self._discovery
        )
        application.router.add_get("/{tenant}/discovery/v2.0/keys", self._keys)
        application.router.add_route("*", "/{tenant}/oauth2/v2.0/token", self._token)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_STOP_SECONDS,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests that hang are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- answers -----------------------------------------------------------------------------

    def _json(
        self, body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
    ) -> web.Response:
        return web.Response(
            body=orjson.dumps(body),
            status=status,
            headers={
                "Content-Type": "application/json; charset=utf-8",
                "Cache-Control": "no-store, no-cache",
                "Pragma": "no-cache",
                "Expires": "-1",
                "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
                "X-Content-Type-Options": "nosniff",
                "x-ms-request-id": str(uuid.uuid4()),
                "x-ms-ests-server": "2.1.22000.6 - FRC ProdSlices",
                **(headers or {}),
            },
        )

    def _refusal(
        self, error: EntraError, request: web.Request, headers: dict[str, str] | None = None
    ) -> web.Response:
        body = error.body(moment=self._now(), correlation_id=_correlation(request))
        return self._json(body, status=error.status, headers=headers)

    def _check_tenant(self, name: str, *, discovery: bool) -> None:
        lower = name.lower()
        if lower in self._directory.names or lower in _SHARED:
            return
        if not _GUID.fullmatch(name) and not _DNS_NAME.fullmatch(name):
            raise errors.malformed_tenant(name, discovery=discovery)
        raise errors.unknown_tenant(name, discovery=discovery)

    # --- discovery ---------------------------------------------------------------------------

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        self.discoveries += 1
        if fault := self._faults.take("discovery.hang"):
            await self._faults.hold(fault)
        if self._faults.take("discovery.wrong_body"):
            return _page(200)
        if fault := self._faults.take("discovery.503"):
            return _page(503, retry_after=fault["retry_after"])
        name = request.match_info["tenant"]
        try:
            self._check_tenant(name, discovery=True)
        except EntraError as error:
            return self._refusal(error, request)
        cache = {"Cache-Control": "max-age=86400, private", "Access-Control-Allow-Origin": "*"}
        return self._json(self._configuration(name.lower()), headers=cache)

    def _configuration(self, name: str) -> dict[str, Any]:
        # A domain is answered with the GUID in every URL; "common" stays as it is, and its
        # issuer holds a literal placeholder.
        tenant = name if name in _SHARED else self._directory.tenant_id
        issuer = "{tenantid}" if name in _SHARED else tenant
        base = f"{self.base_url}/{tenant}"
        return {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": [
                "client_secret_post",
                "private_key_jwt",
                "client_secret_basic",
            ],
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": f"{self.base_url}/{issuer}/v2.0",
            "request_uri_parameter_supported": False,
            "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "http_logout_supported": True,
            "frontchannel_logout_supported": True,
            "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
            "claims_supported": [
                *("sub", "iss", "cloud_instance_name", "cloud_instance_host_name"),
                *("cloud_graph_host_name", "msgraph_host", "aud", "exp", "iat", "auth_time"),
                *("acr", "nonce", "preferred_username", "name", "tid", "ver", "at_hash"),
                *("c_hash", "email"),
            ],
            "kerberos_endpoint": f"{base}/kerberos",
            "tenant_region_scope": "EU",
            "cloud_instance_name": "microsoftonline.com",
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": "graph.microsoft.com",
            "rbac_url": "https://pas.windows.net",
        }

    async def _instance(self, request: web.Request) -> web.Response:
        endpoint = urlsplit(request.query.get("authorization_endpoint", ""))
        own = urlsplit(self.base_url).netloc
        if endpoint.netloc not in {own, *_KNOWN_INSTANCES}:
            return self._refusal(errors.unknown_instance(), request)
        tenant = endpoint.path.strip("/").partition("/")[0]
        aliases = list(_KNOWN_INSTANCES)
        return self._json(
            {
                "tenant_discovery_endpoint": (
                    f"https://{endpoint.netloc}/{tenant}/v2.0/.well-known/openid-configuration"
                ),
                "api-version": "1.1",
                "metadata": [
                    {
                        "preferred_network": "login.microsoftonline.com",
                        "preferred_cache": "login.windows.net",
                        "aliases": aliases,
                    }
                ],
            }
        )

    async def _keys(self, request: web.Request) -> web.Response:
        try:
            self._check_tenant(request.match_info["tenant"], discovery=True)
        except EntraError as error:
            return self._refusal(error, request)
        return self._json({"keys": [self._tokens.key.jwk()]})

    # --- tokens ------------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {key: value for key, value in (await request.post()).items() if _is_text(value)}
        _add_basic(form, request.headers.get("Authorization", ""))
        response, code = await self._answer(request, form)
        self.requests.append(
            TokenRequest(
                tenant=request.match_info["tenant"],
                grant=form.get("grant_type", ""),
                client_id=form.get("client_id", ""),
                scope=form.get("scope", ""),
                status=response.status,
                code=code,
                correlation_id=_correlation(request),
            )
        )
        return response

    async def _answer(
        self, request: web.Request, form: dict[str, str]
    ) -> tuple[web.StreamResponse, int | None]:
        try:
            faulty = await self._faulty(request, form.get("client_id", ""))
            if faulty is not None:
                return faulty, None
            return self._json(await self._grant(request, form)), None
        except EntraError as error:
            return self._refusal(error, request), error.code

    async def _faulty(self, request: web.Request, client_id: str) -> web.StreamResponse | None:
        take = self._faults.take
        if fault := take("token.hang", client_id=client_id):
            await self._faults.hold(fault)
        if take("token.drop", client_id=client_id):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if fault := take("token.429", client_id=client_id):
            return self._refusal(errors.throttled(), request, _after(fault["retry_after"]))
        if take("token.500", client_id=client_id):
            return web.Response(status=500)
        if fault := take("token.503", client_id=client_id):
            return _page(503, retry_after=fault["retry_after"])
        if take("token.wrong_body", client_id=client_id):
            return _page(200)
        if fault := take("token.error", client_id=client_id):
            raise EntraError(
                fault["status"],
                fault["error"],
                fault["code"],
                fault["text"],
                suberror=fault["suberror"],
            )
        return None

    async def _grant(self, request: web.Request, form: dict[str, str]) -> dict[str, Any]:
        tenant = request.match_info["tenant"].lower()
        self._check_tenant(tenant, discovery=False)
        if request.method != "POST":
            raise errors.only_post(request.method)
        for name in ("grant_type", "client_id"):
            if not form.get(name):
                raise errors.missing_parameter(name)
        grant = self.grants.get(form["grant_type"])
        if grant is None:
            raise errors.unsupported_grant(form["grant_type"])
        app = self._authenticate(form)
        return await grant(
            TokenCall(
                app=app, form=form, directory=self._directory, tokens=self._tokens, tenant=tenant
            )
        )

    def _authenticate(self, form: dict[str, str]) -> App:
        client_id = form["client_id"]
        app = self._directory.find(client_id)
        if app is None:
            raise errors.unknown_app(client_id, self._directory.display_name)
        if not app.enabled:
            raise errors.disabled_app(client_id, app.name)
        given = form.get("client_secret", "").encode()
        if not given:
            raise errors.no_credential(form["grant_type"])
        fitting = [s for s in app.secrets if hmac.compare_digest(s.value.encode(), given)]
        if not fitting:
            raise errors.wrong_secret(client_id)
        moment = self._now()
        if all(s.expires_at is not None and s.expires_at <= moment for s in fitting):
            raise errors.expired_secret(client_id)
        return app


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _correlation(request: web.Request) -> str:
    given = request.headers.get("client-request-id", "")
    return given if _GUID.fullmatch(given) else str(uuid.uuid4())


def _after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _page(status: int, *, retry_after: float | None = None) -> web.Response:
    return web.Response(
        body=_HTML_PAGE, status=status, content_type="text/html", headers=_after(retry_after)
    )


def _add_basic(form: dict[str, str], header: str) -> None:
    """Take client id and secret from HTTP Basic, form-encoded within it (RFC 6749, 2.3.1)."""
    scheme, _, blob = header.partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        client_id, _, secret = base64.b64decode(blob, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return
    form.setdefault("client_id", unquote_plus(client_id))
    form.setdefault("client_secret", unquote_plus(secret))
