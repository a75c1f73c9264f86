"""The Entra ID endpoints that a daemon and a person's browser meet, over HTTPS on loopback.

Discovery, JWKS, realm discovery, the token endpoint with its grants (``entra_grants``,
``entra_user_grants``), device codes (``entra_device``), and the pages of a sign-in: authorize
(``entra_authorize``), the device page, admin consent (``entra_consent``). ``entra_walker``
walks the pages for a test.

msal asks for somebody's realm before it sends a password, at ``https://localhost/common/…``
without the port. To reach this service there, give msal an ``http_client`` that puts the port
back, as ``tests/servers/entra.py`` does, or listen on 443.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from mailbridge.sandbox import entra_device
from mailbridge.sandbox import entra_documents as documents
from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_pages as pages
from mailbridge.sandbox.directory import Directory
from mailbridge.sandbox.entra_authorize import Authorize
from mailbridge.sandbox.entra_browsing import Browsing
from mailbridge.sandbox.entra_client_errors import no_credential
from mailbridge.sandbox.entra_clients import add_basic, authenticate
from mailbridge.sandbox.entra_consent import AdminConsent
from mailbridge.sandbox.entra_device import DevicePage
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.entra_grants import GRANTS, Grant, TokenCall
from mailbridge.sandbox.entra_http import after, correlation, json_answer, outage, refusal
from mailbridge.sandbox.entra_ledger import Ledger
from mailbridge.sandbox.entra_state import State, TokenRequest
from mailbridge.sandbox.entra_user_grants import USER_GRANTS
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import TokenService

#: seconds that open requests get when the server stops
_STOP_SECONDS: Final = 0.2
_DEVICE_START: Final = "devicecode"


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
        self._runner: web.AppRunner | None = None
        self.port = 0
        #: for tests that look behind the service, and for what is set there
        self.state = State(
            directory=directory, tokens=tokens, faults=faults, now=now, ledger=Ledger(now=now)
        )
        self.grants: dict[str, Grant] = {**GRANTS, **USER_GRANTS}
        #: how often openid-configuration was asked for
        self.discoveries = 0

    @property
    def requests(self) -> deque[TokenRequest]:
        """The last requests for tokens and device codes."""
        return self.state.requests

    @property
    def asked(self) -> Counter[str]:
        """How many requests there were for each grant, refused ones too."""
        return self.state.asked

    @property
    def base_url(self) -> str:
        """Where it listens: ``https://localhost:PORT``."""
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> str:
        """The login URL with the tenant's GUID, as ``apps.NAME.tenant`` wants it."""
        return f"{self.base_url}/{self._directory.tenant_id}"

    def trust(self, issuer: Issuer) -> Issuer:
        """Learn the keys of another identity provider, as its JWKS would tell them."""
        self.state.issuers[issuer.url] = issuer
        return issuer

    async def start(self, context: ssl.SSLContext, *, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. ``ValueError`` for anything beyond loopback."""
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the sandbox's sign-in pages are for loopback only, not {host}")
        application = web.Application(client_max_size=1 << 20)
        self._add_routes(application.router)
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
        self.state.base_url = self.base_url

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/common/discovery/instance", self._instance)
        router.add_get("/common/userrealm/{upn}", self._realm)
        router.add_get("/{tenant}/v2.0/.well-known/openid-configuration", self._discovery)
        router.add_get("/{tenant}/discovery/v2.0/keys", self._keys)
        router.add_route("*", "/{tenant}/oauth2/v2.0/token", self._token)
        router.add_route("*", "/{tenant}/oauth2/v2.0/devicecode", self._devicecode)
        browsing = Browsing(self.state)
        authorize = Authorize(self.state, browsing)
        device = DevicePage(self.state, browsing)
        consent = AdminConsent(self.state, browsing)
        for method, path, handler in (
            ("GET", "/{tenant}/oauth2/v2.0/authorize", authorize.handle),
            ("POST", "/{tenant}/oauth2/v2.0/authorize", authorize.handle),
            ("POST", pages.STEP_PATH, browsing.step),
            ("GET", pages.DEVICE_PATH, device.show),
            ("POST", pages.DEVICE_PATH, device.take),
            ("GET", "/{tenant}/v2.0/adminconsent", consent.v2),
            ("GET", "/{tenant}/adminconsent", consent.v1),
        ):
            router.add_route(method, path, browsing.guarded(handler))

    async def stop(self) -> None:
        """Stop listening; requests that hang are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _refusal(
        self, error: EntraError, request: web.Request, headers: dict[str, str] | None = None
    ) -> web.Response:
        return refusal(error, request, self.state.now(), headers)

    # --- discovery ---------------------------------------------------------------------------

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        self.discoveries += 1
        if fault := self._faults.take("discovery.hang"):
            await self._faults.hold(fault)
        if self._faults.take("discovery.wrong_body"):
            return outage(200)
        if fault := self._faults.take("discovery.503"):
            return outage(503, retry_after=fault["retry_after"])
        name = request.match_info["tenant"]
        try:
            self.state.tenant(name, discovery=True)
        except EntraError as error:
            return self._refusal(error, request)
        cache = {"Cache-Control": "max-age=86400, private", "Access-Control-Allow-Origin": "*"}
        return json_answer(
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
        return json_answer(documents.instance(endpoint))

    async def _realm(self, request: web.Request) -> web.Response:
        upn = request.match_info["upn"]
        return json_answer(documents.realm(self.base_url, self._directory, upn))

    async def _keys(self, request: web.Request) -> web.Response:
        try:
            self.state.tenant(request.match_info["tenant"], discovery=True)
        except EntraError as error:
            return self._refusal(error, request)
        return json_answer({"keys": [self._tokens.key.jwk()]})

    # --- tokens ------------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.StreamResponse:
        return await self._logged(request, "")

    async def _devicecode(self, request: web.Request) -> web.StreamResponse:
        return await self._logged(request, _DEVICE_START)

    async def _logged(self, request: web.Request, grant: str) -> web.StreamResponse:
        """Answer, and note the request without what is secret in it."""
        posted = await request.post()
        form = {key: value for key, value in posted.items() if isinstance(value, str)}
        add_basic(form, request.headers.get("Authorization", ""))
        grant = grant or form.get("grant_type", "")
        response, code = await self._answer(request, form, grant)
        self.state.note(
            TokenRequest(
                tenant=request.match_info["tenant"],
                grant=grant,
                client_id=form.get("client_id", ""),
                scope=form.get("scope", ""),
                status=response.status,
                code=code,
                correlation_id=correlation(request),
            )
        )
        return response

    async def _answer(
        self, request: web.Request, form: dict[str, str], grant: str
    ) -> tuple[web.StreamResponse, int | None]:
        client_id = form.get("client_id", "")
        try:
            faulty = await self._faulty(request, client_id, grant.upper())
            if faulty is not None:
                return faulty, None
            body = await self._granted(request, form, grant)
        except EntraError as error:
            return self._refusal(error, request), error.code
        if self._faults.take("token.answer_lost", client_id=client_id, command=grant.upper()):
            return _cut(request), None
        return json_answer(body), None

    async def _faulty(
        self, request: web.Request, client_id: str, grant: str
    ) -> web.StreamResponse | None:
        def take(name: str) -> Any:
            return self._faults.take(name, client_id=client_id, command=grant)

        if fault := take("token.hang"):
            await self._faults.hold(fault)
        if take("token.drop"):
            return _cut(request)
        if fault := take("token.429"):
            return self._refusal(errors.throttled(), request, after(fault["retry_after"]))
        if take("token.500"):
            return web.Response(status=500)
        if fault := take("token.503"):
            return outage(503, retry_after=fault["retry_after"])
        if take("token.wrong_body"):
            return outage(200)
        if fault := take("token.error"):
            raise EntraError(
                fault["status"],
                fault["error"],
                fault["code"],
                fault["text"],
                suberror=fault["suberror"],
            )
        return None

    async def _granted(
        self, request: web.Request, form: dict[str, str], kind: str
    ) -> dict[str, Any]:
        tenant = self.state.tenant(request.match_info["tenant"])
        if request.method != "POST":
            raise errors.only_post(request.method)
        if kind == _DEVICE_START:
            return entra_device.start(self.state, form, tenant)
        for name in ("grant_type", "client_id"):
            if not form.get(name):
                raise errors.missing_parameter(name)
        grant = self.grants.get(kind)
        if grant is None:
            raise errors.unsupported_grant(kind)
        client = authenticate(self.state, form, tenant)
        if not client.proof and kind not in USER_GRANTS:
            raise no_credential(kind)
        call = TokenCall(
            client=client,
            form=form,
            state=self.state,
            tenant=tenant,
            origin=request.headers.get("Origin", ""),
        )
        return await grant(call)


def _cut(request: web.Request) -> web.Response:
    """Close the connection instead of an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
