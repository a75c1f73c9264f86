"""The sandbox's sign-in pages: escaped, bound to one browser, for loopback only."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_walker import PageRefusedError, read_page
from mailbridge.sandbox.tenant import Tenant
from tests.servers.entra import IMAP, UPN
from tests.servers.sandbox_client import signing_key

WEB = "https://mailbridge.example/oauth/callback"
EVIL = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>"


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        yield running


@pytest.fixture
def user(tenant: Tenant) -> User:
    return tenant.add_user(UPN)


@pytest.fixture
def app(tenant: Tenant) -> App:
    app = tenant.add_app()
    app.add_redirect(WEB)
    return app


def link(tenant: Tenant, app: App, **changes: str | None) -> str:
    """Return an authorize URL; a parameter that is changed to ``None`` is left out."""
    query = {
        "client_id": app.client_id,
        "response_type": "code",
        "redirect_uri": WEB,
        "scope": IMAP,
        "state": "s",
        **changes,
    }
    given = {name: value for name, value in query.items() if value is not None}
    return f"{tenant.entra.authority}/oauth2/v2.0/authorize?{urlencode(given)}"


async def get(tenant: Tenant, url: str, **given: Any) -> tuple[int, str, dict[str, str]]:
    """Load a page by hand, without following redirects."""
    context = tenant.authority.client_context()
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=context, allow_redirects=False, **given) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


class Scripts(HTMLParser):
    """Collects what a browser would run, and where forms go."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note scripts, images and handlers."""
        if tag in {"script", "img", "iframe", "object"}:
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name.startswith("on")]


async def test_nothing_that_a_request_or_a_name_holds_becomes_markup(
    tenant: Tenant, app: App
) -> None:
    """Hints, states, app and user names, codes and addresses are shown as text on every page."""
    app.name, app.consented = f"App {EVIL}", False
    app.scopes = (f"X{EVIL}",)
    evil = tenant.add_user(f"a{EVIL}@feuerwehr.example", name=EVIL, admin=True)
    evil.mfa = "required"
    async with tenant.browser() as browser:
        default = "https://outlook.office.com/.default"
        url = link(tenant, app, state=EVIL, response_mode="form_post", scope=default)
        landing = await browser.walk_authorize(url, evil)
        assert landing.fields["state"] == EVIL
        assert browser.seen == ["account", "password", "mfa", "consent", "form_post"]
        shown = browser.html
        await browser.walk_authorize(link(tenant, app, prompt="select_account"), evil)
        shown += browser.html
        with pytest.raises(PageRefusedError):
            await browser.approve_device(EVIL, evil)
        shown += browser.html
    shown += [
        (await get(tenant, url))[1]
        for url in (
            link(tenant, app, login_hint=EVIL, prompt="login"),
            link(tenant, app, client_id=EVIL),
            link(tenant, app, redirect_uri=f"https://x.example/{EVIL}"),
        )
    ]
    assert len(shown) >= 10
    for html in shown:
        scripts = ["script"] if 'data-page="form_post"' in html else []
        assert Scripts(html).found == scripts, html
    assert sum("&lt;script&gt;" in html for html in shown) >= 6


async def test_pages_are_not_framed_cached_or_scripted(tenant: Tenant, app: App) -> None:
    """The policy forbids scripts and frames; the one that posts back may run its own line."""
    _, html, headers = await get(tenant, link(tenant, app))
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store, no-cache"
    assert headers["Referrer-Policy"] == "no-referrer"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "Secure" in cookie
    assert "SameSite=Lax" in cookie
    assert read_page(html).name == "account"
    url = link(tenant, app, scope="typo", response_mode="form_post")
    _, html, headers = await get(tenant, url)
    (nonce,) = re.findall(r'<script nonce="([^"]+)">document', html)
    assert f"script-src 'nonce-{nonce}'" in headers["Content-Security-Policy"]


async def test_pages_answer_to_loopback_names_only(tenant: Tenant, app: App) -> None:
    """A name of somebody else's that leads here is refused, and so is any other interface."""
    url = link(tenant, app)
    status, text, _ = await get(tenant, url, headers={"Host": "evil.example"})
    assert (status, "form" in text) == (403, False)
    for host in ("localhost:1", "127.0.0.1", "[::1]:443"):
        assert (await get(tenant, url, headers={"Host": host}))[0] == 200, host
    with pytest.raises(ValueError, match="loopback"):
        await tenant.entra.start(tenant.authority.server_context(), host="0.0.0.0", port=0)


async def test_a_page_is_good_in_the_browser_that_it_was_shown_in(
    tenant: Tenant, app: App, user: User
) -> None:
    """A form that another browser posts, or nobody was shown, is refused."""
    _, html, _ = await get(tenant, link(tenant, app, login_hint=UPN))
    page = read_page(html)
    context = tenant.authority.client_context()
    form = {**page.hidden, "passwd": user.password, "action": "next"}
    async with tenant.browser() as browser:
        await browser.walk_authorize(link(tenant, app), user)
        cookies = {cookie.key: cookie.value for cookie in browser._session.cookie_jar}
    for given, jar in ((form, {}), (form, cookies), ({**form, "ctx": "guess"}, cookies)):
        async with (
            aiohttp.ClientSession(cookies=jar) as session,
            session.post(
                tenant.entra.base_url + page.action, data=given, ssl=context, allow_redirects=False
            ) as response,
        ):
            answer = read_page(await response.text())
        assert (response.status, answer.name, answer.code) == (400, "error", 165000)


async def test_a_finished_sign_in_cannot_be_posted_again(
    tenant: Tenant, app: App, user: User
) -> None:
    """Going back in the browser and pressing the button once more gives no second code."""
    context = tenant.authority.client_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async with session.get(link(tenant, app, login_hint=UPN)) as response:
            page = read_page(await response.text())
        form = {**page.hidden, "passwd": user.password, "action": "next"}
        target = tenant.entra.base_url + page.action
        async with session.post(target, data=form, allow_redirects=False) as response:
            assert response.status == 302
        async with session.post(target, data=form, allow_redirects=False) as response:
            assert read_page(await response.text()).code == 165000
    assert len(tenant.entra.state.ledger.codes) == 1


async def test_redirect_uris_are_compared_character_by_character(tenant: Tenant, app: App) -> None:
    """Scheme, case, slash and query count; only the port of http on loopback does not."""
    app.add_redirect("http://localhost", "public")
    app.add_redirect("http://127.0.0.1/back", "public")
    good = [
        WEB,
        "http://localhost",
        "http://localhost/",
        "http://localhost:5000",
        "http://localhost:61234/",
        "http://127.0.0.1:5000/back",
    ]
    bad = [
        WEB + "/",
        WEB.upper(),
        WEB.replace("https", "http"),
        WEB + "?x=1",
        "https://mailbridge.example:8443/oauth/callback",
        "http://localhost:5000/other",
        "http://127.0.0.1:5000/Back",
        "http://localhost.evil.example:5000/",
        "http://user@localhost:5000/",
        "https://localhost:5000/",
        "http://[broken",
        "javascript:alert(1)",
    ]
    for uri in good:
        assert (await get(tenant, link(tenant, app, redirect_uri=uri)))[0] == 200, uri
    for uri in bad:
        status, html, headers = await get(tenant, link(tenant, app, redirect_uri=uri))
        page = read_page(html)
        assert (status, page.name, page.code) == (400, "error", 50011), uri
        assert "Location" not in headers
    app.redirects.clear()
    _, html, _ = await get(tenant, link(tenant, app, redirect_uri=None))
    assert read_page(html).code == 900971


async def test_the_portal_takes_https_and_loopback_only(app: App) -> None:
    """A redirect that could carry a code in the clear, or run as a script, is not registered."""
    for uri in ("http://mailbridge.example/", "javascript:alert(1)", "nothing", "http://", ""):
        with pytest.raises(ValueError, match="redirect URI"):
            app.add_redirect(uri)


async def test_what_is_wrong_with_the_request_goes_to_the_app_with_its_state(
    tenant: Tenant, app: App
) -> None:
    """Response type, mode, prompt, PKCE, scope and tenant are told by redirect, not by a page."""
    found = {}
    mistakes: dict[str, dict[str, str | None]] = {
        "no response type": {"response_type": None},
        "token": {"response_type": "id_token token"},
        "mode": {"response_mode": "web_message"},
        "prompt": {"prompt": "maybe"},
        "challenge": {"code_challenge": "short"},
        "method": {"code_challenge": "x" * 43, "code_challenge_method": "S512"},
        "no scope": {"scope": None},
        "silent": {"prompt": "none"},
    }
    for name, changes in mistakes.items():
        status, _, headers = await get(tenant, link(tenant, app, **changes))
        parts = urlsplit(headers["Location"])
        answer = {key: values[0] for key, values in parse_qs(parts.query).items()}
        assert (status, parts._replace(query="").geturl()) == (302, WEB)
        assert answer["state"] == "s"
        assert answer["error_uri"].startswith("https://login.microsoftonline.com/error?code=")
        found[name] = (answer["error"], answer["error_description"].partition(":")[0])
    assert found == {
        "no response type": ("invalid_request", "AADSTS900144"),
        "token": ("unsupported_response_type", "AADSTS700054"),
        "mode": ("invalid_request", "AADSTS90023"),
        "prompt": ("invalid_request", "AADSTS90023"),
        "challenge": ("invalid_request", "AADSTS50147"),
        "method": ("invalid_request", "AADSTS90023"),
        "no scope": ("invalid_request", "AADSTS900144"),
        "silent": ("login_required", "AADSTS50058"),
    }


async def test_an_app_that_cannot_be_trusted_with_an_answer_gets_none(
    tenant: Tenant, app: App
) -> None:
    """Unknown or disabled apps and unknown tenants end on a page."""
    disabled = tenant.add_app("off")
    disabled.add_redirect(WEB)
    disabled.enabled = False
    found = []
    for url in (
        link(tenant, app, client_id="11111111-2222-3333-4444-555555555555"),
        link(tenant, app, client_id=None),
        link(tenant, disabled),
        link(tenant, app).replace(tenant.directory.tenant_id, "elsewhere.example"),
    ):
        status, html, _ = await get(tenant, url)
        found.append((status, read_page(html).code))
    assert found == [(400, 700016), (400, 900144), (400, 7000112), (400, 90002)]


async def test_common_is_for_apps_of_several_tenants(tenant: Tenant, app: App, user: User) -> None:
    """A single-tenant app hears AADSTS50194 at /common; a multi-tenant one signs in there."""
    url = link(tenant, app).replace(tenant.directory.tenant_id, "common")
    _, _, headers = await get(tenant, url)
    assert "AADSTS50194" in headers["Location"]
    app.multi_tenant = True
    async with tenant.browser() as browser:
        assert "code" in (await browser.walk_authorize(url, user)).fields


async def test_the_request_may_come_by_post(tenant: Tenant, app: App) -> None:
    """OpenID Connect allows both verbs at the authorize endpoint."""
    parts = urlsplit(link(tenant, app))
    form = {key: values[0] for key, values in parse_qs(parts.query).items()}
    context = tenant.authority.client_context()
    url = parts._replace(query="").geturl()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form, ssl=context) as response,
    ):
        assert read_page(await response.text()).name == "account"


async def test_the_answer_keeps_the_query_of_the_redirect_uri(
    tenant: Tenant, app: App, user: User
) -> None:
    """An address with parameters keeps them, and one without a path gets its slash."""
    async with tenant.browser() as browser:
        for registered, start in (
            ("https://mailbridge.example/cb?x=1", "https://mailbridge.example/cb?x=1&code="),
            ("https://bare.example", "https://bare.example/?code="),
        ):
            app.add_redirect(registered)
            landing = await browser.walk_authorize(link(tenant, app, redirect_uri=registered), user)
            assert landing.url.startswith(start)


async def test_an_unknown_name_is_asked_for_again(tenant: Tenant, app: App) -> None:
    """A typo in the account name stays on the page, with the name to be corrected."""
    stranger = User(upn="typo@feuerwehr.example")
    async with tenant.browser() as browser:
        with pytest.raises(PageRefusedError) as refused:
            await browser.walk_authorize(link(tenant, app), stranger)
    assert (refused.value.page, refused.value.code) == ("account", 50034)


async def test_a_walk_presses_only_what_is_there(tenant: Tenant, app: App, user: User) -> None:
    """The walker is no back door: a page without a Cancel button cannot be cancelled."""
    async with tenant.browser() as browser:
        with pytest.raises(LookupError, match="cancel"):
            await browser.approve_device("CODE", user, cancel_at="device")
