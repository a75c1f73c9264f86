"""msal at the sandbox's login service: real apps, each with an HTTP session of its own.

msal asks for somebody's realm at ``https://localhost/common/userrealm/…``, whatever port the
authority has; ``Session`` puts the port back.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msal
import requests

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_walker import Landing
from mailbridge.sandbox.tenant import Tenant

IMAP = "https://outlook.office.com/IMAP.AccessAsUser.All"
POP = "https://outlook.office.com/POP.AccessAsUser.All"
SMTP = "https://outlook.office.com/SMTP.Send"
APP_ONLY = "https://outlook.office365.com/.default"
UPN = "leitstelle@feuerwehr.example"
LOOPBACK = "http://localhost:5000/callback"


class Session(requests.Session):
    """A session that trusts the tenant's CA alone, and finds its way without a port."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(tenant.ca_file)
        self._base = tenant.entra.base_url + "/"

    def request(self, method: Any, url: Any, *args: Any, **given: Any) -> requests.Response:
        """Send a request."""
        if url.startswith("https://localhost/"):
            url = url.replace("https://localhost/", self._base, 1)
        return super().request(method, url, *args, **given)


class Desk:
    """Signs people and apps in to one tenant, with msal."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._sessions: list[Session] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, tenant: Tenant) -> AsyncIterator[Desk]:
        """Open a desk; its sessions are closed in the end."""
        desk = cls(tenant)
        # msal remembers for the whole process which hosts have no realms; another test's had none.
        msal.authority.Authority._domains_without_user_realm_discovery.clear()
        try:
            yield desk
        finally:
            for session in desk._sessions:
                session.close()

    async def do(self, function: Callable[..., Any], *args: Any, **given: Any) -> Any:
        """Run a blocking function in a thread."""
        return await asyncio.to_thread(function, *args, **given)

    async def public(self, app: App, *, tenant: str = "") -> Any:
        """Return a msal app without a credential."""
        return await self._made(msal.PublicClientApplication, app, tenant)

    async def confidential(self, app: App, credential: Any = None, *, tenant: str = "") -> Any:
        """Return a msal app with the app's newest secret, or another credential."""
        given = {"client_credential": app.secret if credential is None else credential}
        return await self._made(msal.ConfidentialClientApplication, app, tenant, **given)

    async def _made(self, kind: Any, app: App, tenant: str, **given: Any) -> Any:
        session = Session(self.tenant)
        self._sessions.append(session)
        name = tenant or self.tenant.directory.tenant_id
        return await self.do(
            kind,
            app.client_id,
            authority=f"{self.tenant.entra.base_url}/{name}",
            instance_discovery=False,
            http_client=session,
            **given,
        )

    async def sign_in(
        self, client: Any, user: User, *scopes: str, redirect_uri: str = LOOPBACK, **walk: Any
    ) -> dict[str, Any]:
        """Walk the authorize pages and redeem the code; returns msal's answer."""
        flow, landing = await self.walk(client, user, *scopes, redirect_uri=redirect_uri, **walk)
        result: dict[str, Any] = await self.do(
            client.acquire_token_by_auth_code_flow, flow, landing.fields
        )
        return result

    async def walk(  # noqa: PLR0913 - what msal and a person may do differently, by name
        self,
        client: Any,
        user: User,
        *scopes: str,
        redirect_uri: str = LOOPBACK,
        prompt: str | None = None,
        login_hint: str | None = None,
        response_mode: str = "form_post",
        **walk: Any,
    ) -> tuple[dict[str, Any], Landing]:
        """Walk the authorize pages; returns msal's flow and where the browser landed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # msal recommends form_post
            flow = client.initiate_auth_code_flow(
                list(scopes or (IMAP,)),
                redirect_uri=redirect_uri,
                prompt=prompt,
                login_hint=login_hint,
                response_mode=response_mode,
            )
        async with self.tenant.browser() as browser:
            return flow, await browser.walk_authorize(flow["auth_uri"], user, **walk)

    async def refresh(self, app: App, token: str, **changes: str) -> tuple[int, dict[str, Any]]:
        """Use a refresh token without msal's cache; an app with a secret presents it."""
        form = {"client_id": app.client_id, "grant_type": "refresh_token", "refresh_token": token}
        if app.secrets:
            form["client_secret"] = app.secret
        return await self.post({**form, **changes})

    async def post(
        self,
        form: dict[str, str],
        *,
        endpoint: str = "token",
        tenant: str = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Post a form to the token endpoint, or to ``devicecode``; returns status and JSON."""
        name = tenant or self.tenant.directory.tenant_id
        url = f"{self.tenant.entra.base_url}/{name}/oauth2/v2.0/{endpoint}"
        context = self.tenant.authority.client_context()
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=form, headers=headers, ssl=context) as response,
        ):
            return response.status, await response.json()


def told(answer: dict[str, Any]) -> tuple[str, int, str | None]:
    """Return what a client reads of a refusal: error, code, suberror."""
    return answer["error"], answer["error_codes"][0], answer.get("suberror")
