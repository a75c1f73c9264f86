"""A desk for signing in on the web, behind a real uvicorn on loopback, with a sandbox tenant."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from mailbridge.config import Config, check
from mailbridge.http.oauth import oauth_routes
from mailbridge.http.server import HttpServer, guard, make_app
from mailbridge.http.tokens import Tokens
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_walker import Landing
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_in_desk import SignInDesk
from mailbridge.sign_ins import SignIns
from tests.servers.sign_in_desk import Grants

ADDRESS = "alarm@feuerwehr.example"
#: until a test gives up
SECONDS = 40


@dataclass(frozen=True, slots=True)
class Shown:
    """A page as a browser got it."""

    status: int
    html: str
    headers: dict[str, str]
    url: str

    @property
    def name(self) -> str:
        """Which page it says that it is."""
        found = re.search(r'<main data-page="([^"]*)"', self.html)
        return found[1] if found else ""

    @property
    def text(self) -> str:
        """What a person reads."""
        body = re.sub(r"<style>.*?</style>", "", self.html, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())

    @property
    def ticket(self) -> str:
        """What its form would send."""
        found = re.search(r'name="ticket" value="([^"]*)"', self.html)
        return found[1] if found else ""

    @property
    def link(self) -> str:
        """Where it leads."""
        found = re.search(r'href="([^"]*)"', self.html)
        return unescape(found[1]) if found else ""


class Browser:
    """A browser of the simplest kind: its cookies, its language."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, url: str, **given: Any) -> Shown:
        return await self._shown("GET", url, **given)

    async def post(self, url: str, form: dict[str, str], **given: Any) -> Shown:
        return await self._shown("POST", url, data=form, **given)

    async def _shown(self, method: str, url: str, **given: Any) -> Shown:
        async with self.session.request(method, url, **given) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Shown(response.status, await response.text(), headers, str(response.url))


@dataclass(slots=True, kw_only=True)
class Web:
    """A tenant, a mailbox that a person signs in for, and the daemon's pages."""

    tenant: Tenant
    app: App
    user: User
    config: Config
    file: Path
    desk: SignInDesk
    grants: Grants
    url: str
    mended: list[str] = field(default_factory=list)

    async def link(self, mailbox: str = "alarm") -> str:
        """Return a link as the command prints it."""
        return str((await self.desk.link({"mailbox": mailbox}))["url"])

    @asynccontextmanager
    async def browser(self, language: str = "en") -> AsyncIterator[Browser]:
        jar = aiohttp.CookieJar(unsafe=True)
        headers = {"Accept-Language": language}
        async with aiohttp.ClientSession(cookie_jar=jar, headers=headers) as session:
            yield Browser(session)

    async def away(self, browser: Browser, mailbox: str = "alarm") -> str:
        """Open a link, press the button; returns where Microsoft is."""
        shown = await browser.get(await self.link(mailbox))
        start = f"{self.url}/oauth/start/{mailbox}"
        return (await browser.post(start, {"ticket": shown.ticket})).link

    async def walk(self, url: str, user: User | None = None, **walk: Any) -> Landing:
        """Sign in at Microsoft's; returns the answer for the callback."""
        async with self.tenant.browser() as microsoft:
            return await microsoft.walk_authorize(url, user or self.user, **walk)

    async def back(self, browser: Browser, fields: dict[str, str]) -> Shown:
        """Bring an answer to the callback, and go where that leads."""
        return await browser.get(f"{self.url}/oauth/callback?{urlencode(fields)}")

    async def settled(self, browser: Browser, shown: Shown) -> Shown:
        """Look again, as the page does by itself, until it has no more to tell."""
        async with asyncio.timeout(SECONDS):
            while 'http-equiv="refresh"' in shown.html:
                await asyncio.sleep(0.05)
                shown = await browser.get(shown.url)
        return shown


def config_text(tenant: Tenant, app: App, home: Path, port: int) -> str:
    """Return a configuration with one mailbox that is signed in for, and its shared neighbour."""
    key = home / "state.key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    secret = home / "app.secret"
    secret.write_text(app.secret)
    server = (
        json.dumps({"host": "localhost", "port": tenant.imap.port, "tls": "implicit"})[:-1]
        + f', "ca": {json.dumps(str(tenant.ca_file))}}}'
    )
    return f"""
state:
  database: sqlite:///{home}/mailbridge.db
  key: {{file: {key}}}
http:
  listen: 127.0.0.1:{port}
apps:
  web:
    tenant: {tenant.entra.authority}
    ca: {tenant.ca_file}
    client_id: {app.client_id}
    credential: {{client_secret: {{file: {secret}}}}}
mailboxes:
  alarm:
    address: {ADDRESS}
    app: web
    sign_in: delegated
    fetch: {{protocol: imap, server: {server}}}
  shared:
    address: shared@feuerwehr.example
    signed_in_as: {ADDRESS}
    app: web
    sign_in: delegated
    fetch: {{protocol: imap, server: {server}}}
  machine:
    address: machine@feuerwehr.example
    app: web
    sign_in: application
    fetch: {{protocol: imap, server: {server}}}
webhooks:
  erp:
    url: https://erp.example/hook
"""


@asynccontextmanager
async def serving(desk: SignInDesk, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the pages of a desk, behind all that the daemon has in front of them."""
    stop = asyncio.Event()
    server = HttpServer(guard(make_app([oauth_routes(desk)]), Tokens({})), [listener])
    running = asyncio.create_task(server.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        await desk.close()


@asynccontextmanager
async def web(
    tenant: Tenant,
    home: Path,
    pool: ThreadPoolExecutor,
    now: Callable[[], datetime],
    *,
    public_url: str = "",
    **given: Any,
) -> AsyncIterator[Web]:
    """Start the pages; ``given`` goes to the desk."""
    app = tenant.directory.add(App(name="web"))
    app.add_secret()
    user = tenant.add_user(ADDRESS)
    tenant.add_mailbox(ADDRESS)
    tenant.grant(user, tenant.add_mailbox("shared@feuerwehr.example"))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    url = f"http://localhost:{port}"
    app.add_redirect((public_url or url) + "/oauth/callback")
    file = home / "mailbridge.yaml"
    await asyncio.to_thread(file.write_text, config_text(tenant, app, home, port))
    checked = check(file)
    assert checked.config is not None, checked.problems
    config = checked.config
    grants = Grants()

    def run(function: Any, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(pool, functools.partial(function, *args, **kwargs))

    mended: list[str] = []
    sign_ins = SignIns(config, grants=grants, now=now, run=run)
    desk = SignInDesk(
        public_url=public_url or url,
        config=lambda: config,
        sign_ins=sign_ins,
        mended=mended.append,
        now=now,
        run=run,
        **given,
    )
    async with serving(desk, listener):
        yield Web(
            tenant=tenant,
            app=app,
            user=user,
            config=config,
            file=file,
            desk=desk,
            grants=grants,
            url=url,
            mended=mended,
        )
    await sign_ins.close()
