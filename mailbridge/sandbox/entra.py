"""The Entra ID v2.0 endpoints that a daemon meets, over HTTPS on loopback.

Discovery, instance discovery, JWKS, and the token endpoint, whose grants stand in
``entra_grants``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import ssl
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

import orjson
from aiohttp import web

from mailbridge.sandbox import entra_documents as documents
from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_documents import SHARED
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_grants import GRANTS, Grant, TokenCall
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import TokenService

_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DNS_NAME: Final = re.compile(r"(?=.{4,253}$)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.IGNORECASE)
_HTML_PAGE: Final = (
    b"<!DOCTYPE html>\r\n<html><head><title>Sign in to your account</title></head>"
    b"<body><h1>Service Unavailable</h1></body></html>\r\n"
)
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
        self.grants: dict[str, Grant] = dict(GRANTS)
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
        if lower in self._directory.names or lower in SHARED:
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
        return self._json(
            documents.configuration(
                self.base_url, asked=name.lower(), tenant_id=self._directory.tenant_id
            ),
            headers=cache,
        )

    async def _instance(self, request: web.Request) -> web.Response:
        endpoint = urlsplit(request.query.get("authorization_endpoint", ""))
        own = urlsplit(self.base_url).netloc
        if endpoint.netloc not in {own, *documents.INSTANCES}:
            return self._refusal(errors.unknown_instance(), request)
        return self._json(documents.instance(endpoint))

    async def _keys(self, request: web.Request) -> web.Response:
        try:
            self._check_tenant(request.match_info["tenant"], discovery=True)
        except EntraError as error:
            return self._refusal(error, request)
        return self._json({"keys": [self._tokens.key.jwk()]})

    # --- tokens ------------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.StreamResponse:
        posted = await request.post()
        form = {key: value for key, value in posted.items() if isinstance(value, str)}
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
