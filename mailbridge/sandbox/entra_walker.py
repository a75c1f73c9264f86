"""Somebody with a browser, for tests: walks the sign-in pages as a person would, without one.

::

    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(flow["auth_uri"], user)
        app.acquire_token_by_auth_code_flow(flow, landing.fields)
        await browser.approve_device(start["user_code"], user)
        await browser.walk_admin_consent(link, admin)

The pages are the real ones, read from their HTML: what no form on a page offers cannot be sent.
Redirects to the app are not followed; ``Landing.deliver`` brings the answer to it.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final
from urllib.parse import parse_qsl, urljoin, urlsplit

import aiohttp

from mailbridge.sandbox.directory import User

#: pages of one sign-in; more is a circle
_LONGEST_WALK: Final = 12
#: pages without a form that is to be filled in
_ENDS: Final = frozenset({"done", "declined"})


class PageRefusedError(Exception):
    """The sign-in ended at the login service. ``code`` is the AADSTS number on the page."""

    def __init__(self, page: str, code: int, text: str) -> None:
        super().__init__(f"page {page}: AADSTS{code}: {text}")
        self.page, self.code, self.text = page, code, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """Where the browser was sent in the end. ``pages`` are those that it was shown before."""

    url: str
    fields: dict[str, str]
    method: str = "GET"
    pages: tuple[str, ...] = ()

    async def deliver(self, *, context: ssl.SSLContext | None = None) -> tuple[int, str]:
        """Bring the answer to the app, as the browser would; returns status and text."""
        async with aiohttp.ClientSession() as session:
            data = self.fields if self.method == "POST" else None
            async with session.request(
                self.method, self.url, data=data, ssl=context or True
            ) as response:
                return response.status, await response.text()


@dataclass(slots=True)
class Page:
    """What a page offers: its name, its form, its buttons, what it says is wrong."""

    name: str = ""
    action: str = ""
    hidden: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    code: int = 0
    text: str = ""

    def button(self, value: str) -> dict[str, str]:
        """Return what pressing a button sends; ``LookupError`` when there is none of the kind."""
        for name, own in self.buttons:
            if own == value:
                return {name: own}
        raise LookupError(f"the page {self.name!r} has no button {value!r}: {self.buttons}")


class _Reader(HTMLParser):
    """Reads a page. Only its first form counts; there is no other."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._in_error = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        page = self.page
        if tag == "main":
            page.name = given.get("data-page", "")
        elif tag == "form":
            page.action = given.get("action", "")
        elif tag == "input" and given.get("type") == "hidden":
            page.hidden[given.get("name", "")] = given.get("value", "")
        elif tag == "input":
            page.inputs.append(given.get("name", ""))
        elif tag == "button":
            page.buttons.append((given.get("name", ""), given.get("value", "")))
        elif tag == "li" and "data-scope" in given:
            page.scopes.append(given["data-scope"])
        if "data-code" in given:
            page.code, self._in_error = int(given["data-code"]), True

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._in_error = False

    def handle_data(self, data: str) -> None:
        if self._in_error:
            self.page.text += data


def read_page(html: str) -> Page:
    """Return what a page offers."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page


@dataclass(frozen=True, slots=True)
class _Person:
    """Somebody, with what they will type; ``cancel_at`` names a page to press Cancel on."""

    user: User
    accept: bool
    password: str
    mfa_code: str
    cancel_at: str
    organization: bool


class Browser:
    """One browser with its cookies: who has signed in once need not do so again."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url
        #: pages of the last walk, in order, by name and as HTML; what its consent page listed
        self.seen: list[str] = []
        self.html: list[str] = []
        self.scopes: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, base_url: str, context: ssl.SSLContext) -> AsyncIterator[Browser]:
        """Open a browser that trusts the sandbox's CA."""
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield cls(session, base_url)

    async def walk_authorize(  # noqa: PLR0913 - what a person may do differently, by name
        self,
        url: str,
        user: User,
        *,
        accept: bool = True,
        password: str | None = None,
        mfa_code: str | None = None,
        cancel_at: str = "",
        organization: bool = False,
    ) -> Landing:
        """Sign in at an authorize URL and return where the app gets its answer.

        ``accept`` false cancels at consent, ``cancel_at`` on another page (``password`` say).
        Raises ``PageRefusedError`` when the login service says no on a page of its own.
        """
        person = _Person(
            user,
            accept,
            user.password if password is None else password,
            user.mfa_code if mfa_code is None else mfa_code,
            cancel_at,
            organization,
        )
        return await self._walk(url, {}, person)

    async def walk_admin_consent(self, url: str, user: User, *, accept: bool = True) -> Landing:
        """Open an admin consent link and press Accept, or Cancel."""
        return await self.walk_authorize(url, user, accept=accept)

    async def approve_device(
        self, user_code: str, user: User, *, accept: bool = True, cancel_at: str = ""
    ) -> str:
        """Type in a device's code and sign in; returns the last page, ``done`` or ``declined``."""
        person = _Person(user, accept, user.password, user.mfa_code, cancel_at, organization=False)
        landing = await self._walk(self._base_url + "/devicelogin", {"otc": user_code}, person)
        return landing.pages[-1]

    async def _walk(self, url: str, typed: dict[str, str], person: _Person) -> Landing:
        self.seen, self.html, self.scopes = [], [], []
        method, form = "GET", dict[str, str]()
        for _ in range(_LONGEST_WALK):
            landing, page, url = await self._load(method, url, form)
            if landing is not None:
                return landing
            self.seen.append(page.name)
            self.scopes = page.scopes or self.scopes
            repeated = page.code and self.seen[-2:] == [page.name] * 2
            if page.name == "error" or repeated:
                raise PageRefusedError(page.name, page.code, page.text)
            if page.name in _ENDS:
                return Landing(url=url, fields={}, pages=tuple(self.seen))
            if page.name == "form_post":
                return self._landing(page.action, page.hidden, "POST")
            method, form = "POST", {**page.hidden, **_filled(page, typed, person)}
            url = urljoin(url, page.action)
        raise PageRefusedError(self.seen[-1], 0, f"the pages lead in a circle: {self.seen}")

    async def _load(
        self, method: str, url: str, form: dict[str, str]
    ) -> tuple[Landing | None, Page, str]:
        """Load a page; a redirect to anywhere else is where the walk ends."""
        async with self._session.request(
            method, url, data=form if method == "POST" else None, allow_redirects=False
        ) as response:
            location = response.headers.get("Location")
            if location is None:
                self.html.append(await response.text())
                return None, read_page(self.html[-1]), url
        parts = urlsplit(location)
        fields = dict(parse_qsl(parts.fragment or parts.query, keep_blank_values=True))
        return self._landing(location, fields, "GET"), Page(), url

    def _landing(self, url: str, fields: dict[str, str], method: str) -> Landing:
        return Landing(url=url, fields=fields, method=method, pages=tuple(self.seen))


def _filled(page: Page, typed: dict[str, str], person: _Person) -> dict[str, str]:
    """Return what the person fills in and presses."""
    if page.name == person.cancel_at:
        return page.button("cancel")
    user = person.user
    known = {
        "loginfmt": user.upn,
        "passwd": person.password,
        "otc": typed.get("otc", "") if page.name == "device" else person.mfa_code,
    }
    form = {name: known[name] for name in page.inputs if name in known}
    if page.name == "picker":
        tiles = [(name, upn) for name, upn in page.buttons if upn == user.upn]
        return dict(tiles) if tiles else page.button("other")
    if page.name == "consent":
        if person.organization:
            form["organization"] = "1"
        return {**form, **page.button("accept" if person.accept else "cancel")}
    if page.name == "admin":
        return page.button("cancel")
    if page.name == "confirm":
        return page.button("continue" if person.accept else "cancel")
    return {**form, **page.button("next")}
