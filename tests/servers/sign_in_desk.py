"""Makes sign-ins of every kind for one sandbox tenant, and grants that a test can look into."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from mailbridge.model import Grant
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_in.account import Account, Protocol
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.consent import AuthCodeFlow, DeviceFlow
from mailbridge.sign_in.credentials import ClientSecret, Credential
from mailbridge.sign_in.delegated import DelegatedSignIn
from mailbridge.sign_in.password import PasswordSignIn
from mailbridge.sign_in.registration import Registration

SCOPE = "https://outlook.office365.com/.default"
DELEGATED = "https://outlook.office.com"
LOGIN = "mailbridge login alarm"
#: the kinds of redirect URIs that a test registers
LOOPBACK = "http://localhost:8400/callback"
WEB = "https://mailbridge.example/oauth/callback"


class Grants:
    """A ``GrantStore`` in memory. ``saved`` holds what was committed, in order.

    ``hold`` is awaited within each save, before it is durable; ``error`` is raised by it.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Grant] = {}
        self.saved: list[Grant] = []
        self.reads = 0
        self.error: Exception | None = None
        self.hold: Callable[[], Awaitable[object]] | None = None

    async def grant(self, app: str, account: str) -> Grant | None:
        self.reads += 1
        return self.rows.get((app, account.casefold()))

    async def save_grant(self, grant: Grant) -> None:
        if self.hold is not None:
            await self.hold()
        if self.error is not None:
            raise self.error
        self.rows[grant.app, grant.account.casefold()] = grant
        self.saved.append(grant)

    async def forget_grant(self, app: str, account: str) -> bool:
        return self.rows.pop((app, account.casefold()), None) is not None


class Desk:
    """Makes sign-ins for one tenant."""

    def __init__(
        self, tenant: Tenant, pool: ThreadPoolExecutor, now: Callable[[], datetime]
    ) -> None:
        self.tenant, self.now = tenant, now
        self.grants = Grants()
        self._pool = pool

    def run(self, function: Any, *args: Any) -> Any:
        """Run a blocking function in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, functools.partial(function, *args))

    def asked(self, grant: str) -> int:
        """How many requests there were for a grant, refused ones too."""
        return self.tenant.entra.asked[grant]

    def registration(
        self, app: App, *, credentials: Sequence[Credential] | None = None, **changed: Any
    ) -> Registration:
        """Return the app as mailbridge knows it, with its newest secret if nothing else is said."""
        if credentials is None:
            credentials = [ClientSecret(app.secret)] if app.secrets else []
        settings: dict[str, Any] = {
            "name": app.name,
            "authority_url": self.tenant.entra.authority,
            "client_id": app.client_id,
            "credentials": credentials,
            "ca": self.tenant.ca_file,
        }
        return Registration(**{**settings, **changed})

    def application(
        self, app: App, *credentials: Credential, roles: Sequence[str] = (), **changed: Any
    ) -> ApplicationSignIn:
        registration = self.registration(app, credentials=credentials or None, **changed)
        return ApplicationSignIn(
            app=registration, scope=SCOPE, now=self.now, run=self.run, roles=roles
        )

    def account(
        self, app: App, address: str, protocols: Sequence[Protocol] = ("imap",), **changed: Any
    ) -> Account:
        settings: dict[str, Any] = {
            "app": app.name,
            "address": address,
            "tenant_id": self.tenant.directory.tenant_id,
            "resource": DELEGATED,
            "protocols": tuple(protocols),
            "login": LOGIN,
        }
        return Account(**{**settings, **changed})

    def delegated(
        self,
        app: App,
        user: User | str,
        protocols: Sequence[Protocol] = ("imap",),
        **changed: Any,
    ) -> DelegatedSignIn:
        address = user if isinstance(user, str) else user.upn
        return DelegatedSignIn(
            app=self.registration(app, **changed),
            account=self.account(app, address, protocols),
            grants=self.grants,
            now=self.now,
            run=self.run,
        )

    def password(
        self, app: App, user: User, password: ClientSecret | None = None, **changed: Any
    ) -> PasswordSignIn:
        return PasswordSignIn(
            app=self.registration(app, **changed),
            account=self.account(app, user.upn),
            password=password or ClientSecret(user.password),
            now=self.now,
            run=self.run,
        )

    def browser_flow(
        self,
        app: App,
        address: str,
        protocols: Sequence[Protocol] = ("imap",),
        **changed: Any,
    ) -> AuthCodeFlow:
        return AuthCodeFlow(
            app=self.registration(app),
            account=self.account(app, address, protocols),
            now=self.now,
            run=self.run,
            **changed,
        )

    def device_flow(
        self,
        app: App,
        address: str,
        protocols: Sequence[Protocol] = ("imap",),
        *,
        credentials: Sequence[Credential] | None = None,
        **changed: Any,
    ) -> DeviceFlow:
        return DeviceFlow(
            app=self.registration(app, credentials=credentials),
            account=self.account(app, address, protocols),
            now=self.now,
            run=self.run,
            **changed,
        )

    async def consent(
        self,
        app: App,
        user: User,
        protocols: Sequence[Protocol] = ("imap",),
        *,
        redirect: str = LOOPBACK,
    ) -> Grant:
        """Let the person sign in in a browser, and keep the grant."""
        flow = self.browser_flow(app, user.upn, protocols)
        url = await flow.start(redirect)
        async with self.tenant.browser() as browser:
            landing = await browser.walk_authorize(url, user)
        grant = await flow.finish(landing.fields)
        await self.grants.save_grant(grant)
        return grant
