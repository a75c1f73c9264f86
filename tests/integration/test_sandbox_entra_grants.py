"""People at the sandbox's Entra: browser, device, refresh, password and consent, by msal."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import jwt
import msal
import pytest

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_walker import PageRefusedError
from mailbridge.sandbox.tenant import Tenant
from tests.conftest import Clock
from tests.servers.entra import IMAP, LOOPBACK, POP, SMTP, UPN, Desk, told
from tests.servers.sandbox_client import connect, credential, pop3_answer, signing_key

WEB = "https://mailbridge.example/oauth/callback"
GRAPH_IMAP = "https://graph.microsoft.com/IMAP.AccessAsUser.All"
GRAPH_MAIL = "https://graph.microsoft.com/Mail.Read"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
OFFLINE = f"{IMAP} offline_access openid profile"


@pytest.fixture
async def desk(clock: Clock) -> AsyncIterator[Desk]:
    clock.set(datetime.now(UTC))
    async with Tenant.start(key=signing_key(), now=clock) as tenant, Desk.open(tenant) as desk:
        yield desk


@pytest.fixture
def user(desk: Desk) -> User:
    return desk.tenant.add_user(UPN, name="Leitstelle")


@pytest.fixture
def app(desk: Desk) -> App:
    """Give a public client: no secret, a redirect to loopback, public flows allowed."""
    app = desk.tenant.add_app("desktop-app")
    app.secrets.clear()
    app.add_redirect("http://localhost/callback", "public")
    app.public_flows = True
    return app


@pytest.fixture
def web(desk: Desk) -> App:
    """Give a confidential client: a secret, and a redirect to a server."""
    app = desk.tenant.add_app("web-app")
    app.add_redirect(WEB)
    return app


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# --- authorization code -----------------------------------------------------------------------


async def test_a_public_client_signs_somebody_in_by_browser(
    desk: Desk, app: App, user: User
) -> None:
    """Account, password, and the code is worth tokens that say who it was and for what."""
    client = await desk.public(app)
    flow, landing = await desk.walk(client, user, IMAP, POP, SMTP)
    assert landing.pages == ("account", "password", "form_post")
    assert (landing.method, landing.url) == ("POST", LOOPBACK)
    assert landing.fields["state"] == flow["state"]
    answer = await desk.do(client.acquire_token_by_auth_code_flow, flow, landing.fields)

    claims = claims_of(answer["access_token"])
    assert claims["aud"] == "https://outlook.office.com"
    scopes = {"IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send"}
    assert set(claims["scp"].split()) == scopes
    assert (claims["upn"], claims["oid"]) == (UPN, user.object_id)
    assert (claims["appidacr"], claims["amr"]) == ("0", ["pwd"])
    assert set(answer["scope"].split()) == {IMAP, POP, SMTP}
    assert answer["refresh_token"]
    identity = answer["id_token_claims"]
    assert identity["preferred_username"] == UPN
    assert identity["oid"] == user.object_id
    assert identity["tid"] == desk.tenant.directory.tenant_id
    assert identity["iss"] == f"{desk.tenant.entra.authority}/v2.0"
    (account,) = client.get_accounts()
    assert account["username"] == UPN
    assert account["home_account_id"] == f"{user.object_id}.{desk.tenant.directory.tenant_id}"


async def test_the_token_opens_the_mailbox_by_imap_and_by_pop3(
    desk: Desk, app: App, user: User
) -> None:
    """What the browser flow gives is what the mail servers take."""
    desk.tenant.add_mailbox(UPN)
    answer = await desk.sign_in(await desk.public(app), user, IMAP, POP)
    given = credential(answer["access_token"], UPN)
    async with connect(desk.tenant) as raw:
        await raw.line()
        assert await raw.do(f"L AUTHENTICATE XOAUTH2 {given}") == ["L OK AUTHENTICATE completed."]
    assert await pop3_answer(desk.tenant, given) == "+OK User successfully authenticated."


async def test_a_confidential_client_redeems_with_its_secret(
    desk: Desk, web: App, user: User
) -> None:
    """The same walk with a secret, and with each way of taking the answer back."""
    for mode in ("form_post", "query", "fragment"):
        client = await desk.confidential(web)
        flow, landing = await desk.walk(
            client, user, redirect_uri=WEB, response_mode=mode, login_hint=UPN
        )
        assert landing.pages[0] == "password"
        assert landing.method == ("POST" if mode == "form_post" else "GET")
        parts = urlsplit(landing.url)
        assert bool(parts.fragment) == (mode == "fragment")
        assert bool(parts.query) == (mode == "query")
        answer = await desk.do(client.acquire_token_by_auth_code_flow, flow, landing.fields)
        assert claims_of(answer["access_token"])["appidacr"] == "1"


async def test_the_answer_arrives_at_a_listener_on_any_port(
    desk: Desk, app: App, user: User
) -> None:
    """A program may listen on any port of loopback; the browser brings it the code there."""
    came: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/callback"
        app.add_redirect("http://127.0.0.1/callback", "public")
        client = await desk.public(app)
        _, landing = await desk.walk(client, user, redirect_uri=uri, response_mode="query")
        assert await landing.deliver() == (200, "done")
    assert came[0].startswith(b"GET /callback?code=1.A")


async def test_a_second_factor_is_asked_for_and_shows_in_the_token(
    desk: Desk, app: App, user: User
) -> None:
    """With MFA there is one page more; a wrong code is told on it; amr says mfa."""
    user.mfa = "required"
    client = await desk.public(app)
    with pytest.raises(PageRefusedError) as refused:
        await desk.walk(client, user, mfa_code="000000x")
    assert (refused.value.page, refused.value.code) == ("mfa", 500121)
    flow, landing = await desk.walk(client, user)
    assert landing.pages == ("account", "password", "mfa", "form_post")
    answer = await desk.do(client.acquire_token_by_auth_code_flow, flow, landing.fields)
    assert claims_of(answer["access_token"])["amr"] == ["pwd", "mfa"]


async def test_somebody_without_a_second_factor_sets_one_up(
    desk: Desk, app: App, user: User
) -> None:
    """Enrollment is a page of its own, once; afterwards the code is asked for."""
    user.mfa = "enroll"
    client = await desk.public(app)
    _, landing = await desk.walk(client, user)
    assert landing.pages == ("account", "password", "enroll", "form_post")
    _, landing = await desk.walk(client, user)
    assert landing.pages == ("account", "password", "mfa", "form_post")


async def test_consent_is_asked_once_and_lists_what_the_app_wants(
    desk: Desk, app: App, user: User
) -> None:
    """Without admin consent a person sees the scopes, accepts, and is not asked again."""
    app.consented = False
    client = await desk.public(app)
    flow = client.initiate_auth_code_flow(
        [IMAP, SMTP], redirect_uri=LOOPBACK, response_mode="form_post"
    )
    async with desk.tenant.browser() as browser:
        landing = await browser.walk_authorize(flow["auth_uri"], user)
        assert landing.pages == ("account", "password", "consent", "form_post")
        assert set(browser.scopes) == {"IMAP.AccessAsUser.All", "SMTP.Send", "offline_access"}
    answer = await desk.do(client.acquire_token_by_auth_code_flow, flow, landing.fields)
    assert "access_token" in answer
    _, again = await desk.walk(client, user, IMAP, SMTP)
    assert "consent" not in again.pages
    _, more = await desk.walk(client, user, POP)
    assert "consent" in more.pages
    _, asked = await desk.walk(client, user, prompt="consent")
    assert "consent" in asked.pages


async def test_an_administrator_may_consent_for_everybody(desk: Desk, app: App, user: User) -> None:
    """The box on the consent page spares all others the question."""
    app.consented = False
    admin = desk.tenant.add_user("admin@feuerwehr.example", admin=True)
    client = await desk.public(app)
    await desk.walk(client, admin, organization=True)
    _, landing = await desk.walk(client, user)
    assert "consent" not in landing.pages


async def test_cancel_is_told_to_the_app_with_its_state(desk: Desk, app: App, user: User) -> None:
    """Cancel at consent, or before, comes back as access_denied; msal gives the error."""
    app.consented = False
    client = await desk.public(app)
    flow, landing = await desk.walk(client, user, accept=False)
    assert landing.fields["error"] == "access_denied"
    assert landing.fields["error_description"].startswith(
        "AADSTS65004: User declined to consent to access the app.\r\nTrace ID: "
    )
    answer = await desk.do(client.acquire_token_by_auth_code_flow, flow, landing.fields)
    assert answer["error"] == "access_denied"
    for page in ("account", "password"):
        flow, landing = await desk.walk(client, user, cancel_at=page)
        assert landing.fields == {
            "error": "access_denied",
            "error_subcode": "cancel",
            "state": flow["state"],
        }


async def test_where_only_administrators_consent_the_app_hears_so(
    desk: Desk, app: App, user: User
) -> None:
    """With user consent off, a person gets the approval page, and the app AADSTS90094."""
    app.consented, desk.tenant.directory.user_consent = False, False
    client = await desk.public(app)
    _, landing = await desk.walk(client, user)
    assert landing.pages[-2:] == ("admin", "form_post")
    assert landing.fields["error"] == "access_denied"
    assert (
        "AADSTS90094: The grant requires admin permission." in (landing.fields["error_description"])
    )


async def test_policies_refuse_in_the_browser_and_the_app_hears_which(
    desk: Desk, app: App, user: User
) -> None:
    """Conditional Access, disabled and foreign accounts, missing assignment: each has its code."""
    client = await desk.public(app)
    found = {}
    for name, owner, field, value in (
        ("Conditional Access", user, "blocked", True),
        ("of the app", app, "blocked", True),
        ("disabled", user, "enabled", False),
        ("not assigned", app, "assignment_required", True),
        ("foreign", user, "foreign", "live.com"),
    ):
        before = getattr(owner, field)
        setattr(owner, field, value)
        _, landing = await desk.walk(client, user)
        setattr(owner, field, before)
        found[name] = (
            landing.fields["error"],
            landing.fields["error_description"].partition(":")[0],
        )
    assert found == {
        "Conditional Access": ("access_denied", "AADSTS53003"),
        "of the app": ("access_denied", "AADSTS53003"),
        "disabled": ("access_denied", "AADSTS50057"),
        "not assigned": ("access_denied", "AADSTS50105"),
        "foreign": ("access_denied", "AADSTS50020"),
    }
    app.assignment_required, app.assigned = True, {user.object_id}
    assert "access_token" in await desk.sign_in(client, user)


async def test_a_policy_can_be_named_and_can_keep_the_app_in_the_dark(
    desk: Desk, app: App, user: User
) -> None:
    """The fault gives any refusal; ``kept`` shows it on the page and sends no redirect."""
    client = await desk.public(app)
    desk.tenant.faults.add("sign_in.refused", times=1, mailbox=UPN)
    _, landing = await desk.walk(client, user)
    assert "AADSTS53000" in landing.fields["error_description"]
    desk.tenant.faults.add("sign_in.refused", times=1, code=53003, text="Blocked.", kept=True)
    with pytest.raises(PageRefusedError, match="AADSTS53003") as refused:
        await desk.walk(client, user)
    assert refused.value.page == "error"
    assert "access_token" in await desk.sign_in(client, user)


async def test_a_browser_that_has_signed_in_before_is_not_asked_again(
    desk: Desk, app: App, user: User
) -> None:
    """One account needs no page; select_account shows it to be picked; login wants the password."""
    other = desk.tenant.add_user("other@feuerwehr.example")
    client = await desk.public(app)

    def url(**changes: str) -> str:
        flow = client.initiate_auth_code_flow(
            [IMAP], redirect_uri=LOOPBACK, response_mode="form_post", **changes
        )
        return str(flow["auth_uri"])

    async with desk.tenant.browser() as browser:
        for prompt, person, pages in (
            ("", user, ["account", "password", "form_post"]),
            ("", user, ["form_post"]),
            ("none", user, ["form_post"]),
            ("login", user, ["account", "password", "form_post"]),
            ("select_account", user, ["picker", "form_post"]),
            ("select_account", other, ["picker", "account", "password", "form_post"]),
            ("select_account", other, ["picker", "form_post"]),
        ):
            await browser.walk_authorize(url(**({"prompt": prompt} if prompt else {})), person)
            assert browser.seen == pages, prompt
        await browser.walk_authorize(url(login_hint=UPN), user)
        assert browser.seen == ["form_post"]
        user.revoke_sessions(at=desk.tenant.entra.state.now())
        await browser.walk_authorize(url(login_hint=UPN), user)
        assert browser.seen == ["password", "form_post"]


async def test_a_silent_request_is_answered_without_a_page(
    desk: Desk, app: App, user: User
) -> None:
    """prompt=none says login_required, interaction_required or the missing consent."""
    client = await desk.public(app)
    _, landing = await desk.walk(client, user, prompt="none", response_mode="query")
    assert (landing.pages, landing.fields["error"]) == ((), "login_required")
    assert landing.fields["error_description"].startswith("AADSTS50058")


async def test_wrong_passwords_lock_the_account_for_a_while(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """Ten in a row, by browser or without, and for a minute the right one is refused too."""
    client = await desk.public(app)
    with pytest.raises(PageRefusedError) as refused:
        await desk.walk(client, user, password="wrong")
    assert (refused.value.page, refused.value.code) == ("password", 50126)
    form = {"client_id": app.client_id, "grant_type": "password", "scope": OFFLINE}
    codes = []
    for password in [*["wrong"] * 9, user.password]:
        _, body = await desk.post({**form, "username": UPN, "password": password})
        codes.append(body["error_codes"][0])
    assert codes == [50126] * 9 + [50053]
    with pytest.raises(PageRefusedError) as refused:
        await desk.walk(client, user)
    assert refused.value.code == 50053
    clock.advance(61)
    assert "access_token" in await desk.sign_in(client, user)


async def test_a_code_is_good_once_for_ten_minutes_with_its_verifier(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """Replay, age, PKCE, redirect URI, tenant and truncation: each is refused by its own code."""
    client = await desk.public(app)
    app.multi_tenant = True

    async def redeem(tenant: str = "", **changes: str) -> tuple[str, int, str | None]:
        flow, landing = await desk.walk(client, user)
        form = {
            "client_id": app.client_id,
            "grant_type": "authorization_code",
            "code": landing.fields["code"],
            "redirect_uri": LOOPBACK,
            "code_verifier": flow["code_verifier"],
            "scope": OFFLINE,
        }
        if changes.pop("wait", ""):
            clock.advance(600)
        form |= changes
        if form["code"] == "short":
            form["code"] = landing.fields["code"][:-3]
        status, body = await desk.post(form, tenant=tenant)
        if status == 200:
            status, body = await desk.post(form, tenant=tenant)
        assert status == 400
        return told(body)

    assert await redeem() == ("invalid_grant", 54005, None)
    assert await redeem(wait="yes") == ("invalid_grant", 70008, None)
    assert await redeem(code_verifier="x" * 43) == ("invalid_grant", 501481, None)
    assert await redeem(code_verifier="") == ("invalid_grant", 501481, None)
    other = "http://localhost:5001/callback"
    assert await redeem(redirect_uri=other) == ("invalid_grant", 500112, None)
    assert await redeem(tenant="common") == ("invalid_grant", 700005, None)
    assert await redeem(code="short") == ("invalid_grant", 9002313, None)
    assert await redeem(code="") == ("invalid_request", 900144, None)


async def test_a_refused_redemption_does_not_use_the_code_up(
    desk: Desk, app: App, user: User
) -> None:
    """After a wrong verifier the right one still gets its tokens."""
    client = await desk.public(app)
    flow, landing = await desk.walk(client, user)
    form = {
        "client_id": app.client_id,
        "grant_type": "authorization_code",
        "code": landing.fields["code"],
        "scope": OFFLINE,
    }
    assert (await desk.post({**form, "code_verifier": "x" * 43}))[0] == 400
    assert (await desk.post({**form, "code_verifier": flow["code_verifier"]}))[0] == 200


async def test_platform_and_credential_have_to_fit(
    desk: Desk, app: App, web: App, user: User
) -> None:
    """A web redirect needs a secret, a desktop one forbids it, a single-page one wants Origin."""
    confidential, public = await desk.confidential(web), await desk.public(web)
    flow, landing = await desk.walk(confidential, user, redirect_uri=WEB)
    answer = await desk.do(public.acquire_token_by_auth_code_flow, flow, landing.fields)
    assert told(answer) == ("invalid_client", 7000218, None)

    app.add_secret()
    client = await desk.confidential(app)
    answer = await desk.sign_in(client, user)
    assert told(answer) == ("invalid_client", 700025, None)

    spa = desk.tenant.add_app("spa")
    spa.secrets.clear()
    page = spa.add_redirect("https://spa.example/", "spa")
    client = await desk.public(spa)
    answer = await desk.sign_in(client, user, redirect_uri=page)
    assert told(answer) == ("invalid_request", 9002327, None)

    flow, landing = await desk.walk(client, user, redirect_uri=page)
    form = {
        "client_id": spa.client_id,
        "grant_type": "authorization_code",
        "code": landing.fields["code"],
        "code_verifier": flow["code_verifier"],
        "scope": OFFLINE,
    }
    status, body = await desk.post(form, headers={"Origin": "https://spa.example"})
    assert status == 200
    assert body["refresh_token"]


async def test_a_single_page_apps_code_needs_pkce_and_others_no_origin(
    desk: Desk, app: App, user: User
) -> None:
    """What people read when they registered their server's address as a single-page app."""
    uri = app.add_redirect("https://mistaken.example/callback", "spa")
    found = []
    for redirect, origin in ((uri, ""), (LOOPBACK, "https://mistaken.example")):
        query = {
            "client_id": app.client_id,
            "response_type": "code",
            "redirect_uri": redirect,
            "scope": OFFLINE,
        }
        url = f"{desk.tenant.entra.authority}/oauth2/v2.0/authorize?{urlencode(query)}"
        async with desk.tenant.browser() as browser:
            landing = await browser.walk_authorize(url, user)
        form = {
            "client_id": app.client_id,
            "grant_type": "authorization_code",
            "code": landing.fields["code"],
            "scope": OFFLINE,
        }
        _, body = await desk.post(form, headers={"Origin": origin} if origin else {})
        found.append(told(body)[:2])
    assert found == [("invalid_request", 9002325), ("invalid_request", 9002326)]


# --- scopes -----------------------------------------------------------------------------------


async def test_a_graph_form_of_the_scope_gives_a_token_that_exchange_refuses(
    desk: Desk, app: App, user: User
) -> None:
    """The portal lists IMAP under Graph; asked for in that form, no mailbox opens."""
    desk.tenant.add_mailbox(UPN)
    answer = await desk.sign_in(await desk.public(app), user, GRAPH_IMAP)
    assert claims_of(answer["access_token"])["aud"] == "https://graph.microsoft.com"
    async with connect(desk.tenant) as raw:
        await raw.line()
        given = credential(answer["access_token"], UPN)
        assert await raw.do(f"L AUTHENTICATE XOAUTH2 {given}") == ["L NO AUTHENTICATE failed."]


async def test_the_audience_follows_the_resource(desk: Desk, app: App, user: User) -> None:
    """office.com and office365.com are both Exchange, and each token says which was asked."""
    client = await desk.public(app)
    for host in ("https://outlook.office.com", "https://outlook.office365.com"):
        answer = await desk.sign_in(client, user, f"{host}/IMAP.AccessAsUser.All")
        assert claims_of(answer["access_token"])["aud"] == host
        assert answer["scope"] == f"{host}/IMAP.AccessAsUser.All"
        assert desk.tenant.tokens.check(answer["access_token"]) is not None


async def test_default_asks_for_what_the_registration_lists(
    desk: Desk, app: App, user: User
) -> None:
    """``/.default`` of somebody who signs in gives the delegated permissions of the app."""
    app.scopes = ("IMAP.AccessAsUser.All", "SMTP.Send")
    answer = await desk.sign_in(await desk.public(app), user, "https://outlook.office.com/.default")
    assert claims_of(answer["access_token"])["scp"] == "IMAP.AccessAsUser.All SMTP.Send"


async def test_several_resources_can_be_consented_to_and_not_redeemed_at_once(
    desk: Desk, app: App, user: User
) -> None:
    """Authorize takes them; the code is for one (28000, or 28003 when none is named)."""
    app.admin_scopes.add("Mail.Read")
    client = await desk.public(app)
    flow, landing = await desk.walk(client, user, IMAP, GRAPH_MAIL)
    form = {
        "client_id": app.client_id,
        "grant_type": "authorization_code",
        "code": landing.fields["code"],
        "code_verifier": flow["code_verifier"],
    }
    both = f"{IMAP} {GRAPH_MAIL} offline_access"
    _, body = await desk.post({**form, "scope": both})
    assert told(body) == ("invalid_scope", 28000, None)
    assert f"Scope {both} is not valid." in body["error_description"]
    _, body = await desk.post(form)
    assert told(body) == ("invalid_request", 28003, None)
    status, body = await desk.post({**form, "scope": f"{IMAP} offline_access"})
    assert (status, body["scope"]) == (200, IMAP)

    found = []
    for scope in (GRAPH_MAIL, both):
        _, body = await desk.refresh(app, body["refresh_token"], scope=scope)
        found.append(claims_of(body["access_token"])["aud"])
    assert found == ["https://graph.microsoft.com", "https://outlook.office.com"]


async def test_mistaken_scopes_are_told_to_the_app(desk: Desk, app: App, user: User) -> None:
    """An unknown permission, an unknown resource, and .default among others."""
    client = await desk.public(app)
    found = {}
    for name, scopes in {
        "typo": ["https://outlook.office.com/IMAP.AccessAsUsers.All"],
        "app role": ["https://outlook.office.com/IMAP.AccessAsApp"],
        "comma": [f"{IMAP},{SMTP}"],
        "resource": ["https://outlook.office.com365/IMAP.AccessAsUser.All"],
        "default and more": [IMAP, "https://outlook.office.com/.default"],
    }.items():
        _, landing = await desk.walk(client, user, *scopes)
        assert landing.pages == ("form_post",)
        found[name] = (
            landing.fields["error"],
            landing.fields["error_description"].partition(":")[0],
        )
    assert found == {
        "typo": ("invalid_client", "AADSTS650053"),
        "app role": ("invalid_client", "AADSTS650053"),
        "comma": ("invalid_resource", "AADSTS500011"),
        "resource": ("invalid_resource", "AADSTS500011"),
        "default and more": ("invalid_scope", "AADSTS70011"),
    }


async def test_a_scope_can_be_withheld(desk: Desk, app: App, user: User) -> None:
    """A grant may come without a protocol, or without a refresh token, though asked for both."""
    app.withheld = ("SMTP.Send", "offline_access")
    answer = await desk.sign_in(await desk.public(app), user, IMAP, SMTP)
    assert answer["scope"] == IMAP
    assert claims_of(answer["access_token"])["scp"] == "IMAP.AccessAsUser.All"
    assert "refresh_token" not in answer


# --- refresh tokens ---------------------------------------------------------------------------


async def grant_of(desk: Desk, app: App, user: User, scope: str = OFFLINE) -> dict[str, Any]:
    """Return the tokens that a browser sign-in gives, without msal."""
    redirect = app.redirects[0].uri
    query = {
        "client_id": app.client_id,
        "response_type": "code",
        "redirect_uri": redirect,
        "scope": scope,
        "login_hint": user.upn,
    }
    url = f"{desk.tenant.entra.authority}/oauth2/v2.0/authorize?{urlencode(query)}"
    async with desk.tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)
    form = {
        "client_id": app.client_id,
        "grant_type": "authorization_code",
        "code": landing.fields["code"],
    }
    if app.secrets:
        form["client_secret"] = app.secret
    status, body = await desk.post(form)
    assert status == 200, body
    return body


async def test_msal_refreshes_silently_and_keeps_the_rotated_token(
    desk: Desk, app: App, user: User
) -> None:
    """Each refresh gives another refresh token, which msal puts into its cache."""
    app.lifetime = 60
    client = await desk.public(app)
    first = await desk.sign_in(client, user)
    (account,) = client.get_accounts()
    second = await desk.do(client.acquire_token_silent, [IMAP], account)
    assert second["token_source"] == "identity_provider"
    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] not in {"", first["refresh_token"]}
    assert desk.tenant.entra.asked == {"authorization_code": 1, "refresh_token": 1}


async def test_the_old_refresh_token_stays_good_unless_reuse_revokes(
    desk: Desk, app: App, user: User
) -> None:
    """Entra lets a replaced token live; the stricter kind of server ends the whole family."""
    first = (await grant_of(desk, app, user))["refresh_token"]
    status, body = await desk.refresh(app, first)
    second = body["refresh_token"]
    assert status == 200
    assert (await desk.refresh(app, first))[0] == 200
    desk.tenant.directory.revoke_on_reuse = True
    status, body = await desk.refresh(app, second)
    newest = body["refresh_token"]
    assert status == 200
    for token in (second, newest, first):
        status, body = await desk.refresh(app, token)
        assert (status, told(body)) == (400, ("invalid_grant", 70000, "bad_token"))
    apart = (await grant_of(desk, app, user))["refresh_token"]
    assert (await desk.refresh(app, apart))[0] == 200


async def test_an_answer_that_is_lost_has_rotated_the_token(
    desk: Desk, app: App, user: User
) -> None:
    """The grant was made; with strict rotation the old token is spent all the same."""
    desk.tenant.directory.revoke_on_reuse = True
    token = (await grant_of(desk, app, user))["refresh_token"]
    desk.tenant.faults.add("token.answer_lost", times=1, command="refresh_token")
    with pytest.raises(aiohttp.ClientError):
        await desk.refresh(app, token)
    assert told((await desk.refresh(app, token))[1]) == ("invalid_grant", 70000, "bad_token")


async def test_without_offline_access_there_is_nothing_to_refresh(
    desk: Desk, app: App, user: User
) -> None:
    """Neither a refresh token nor an id token comes unasked."""
    answer = await grant_of(desk, app, user, IMAP)
    assert "refresh_token" not in answer
    assert "id_token" not in answer
    assert "client_info" not in answer
    assert answer["token_type"] == "Bearer"


async def test_ninety_days_unused_end_a_refresh_token(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """Every use begins the ninety days anew; the refusal says when it was issued."""
    token = (await grant_of(desk, app, user))["refresh_token"]
    for _ in range(3):
        clock.advance(89 * 86_400)
        _, body = await desk.refresh(app, token)
        token = body["refresh_token"]
    issued = clock()
    clock.advance(90 * 86_400)
    _, body = await desk.refresh(app, token)
    assert told(body) == ("invalid_grant", 700082, None)
    assert f"{issued:%Y-%m-%dT%H:%M:%S}." in body["error_description"]
    assert "and was inactive for 90.00:00:00." in body["error_description"]


async def test_password_changes_and_revocation_end_what_they_should(
    desk: Desk, app: App, web: App, user: User, clock: Clock
) -> None:
    """A changed password ends public clients' grants, a reset everybody's, revocation all."""

    async def after(happens: str) -> list[tuple[str, int, str | None] | None]:
        tokens = [(one, (await grant_of(desk, one, user))["refresh_token"]) for one in (app, web)]
        clock.advance(60)
        if happens == "changed":
            user.change_password("new-password", at=clock())
        elif happens == "reset":
            user.reset_password("newer-password", at=clock())
        else:
            user.revoke_sessions(at=clock())
        clock.advance(60)
        answers = [await desk.refresh(one, token) for one, token in tokens]
        return [None if status == 200 else told(body) for status, body in answers]

    assert await after("changed") == [("invalid_grant", 50173, "bad_token"), None]
    assert await after("reset") == [("invalid_grant", 50133, "bad_token")] * 2
    assert await after("revoked") == [("invalid_grant", 50173, "bad_token")] * 2
    assert await after("changed again") == [("invalid_grant", 50173, "bad_token")] * 2
    fresh = (await grant_of(desk, app, user))["refresh_token"]
    assert (await desk.refresh(app, fresh))[0] == 200


async def test_what_happens_to_the_person_or_the_app_shows_at_the_next_refresh(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """MFA switched on, an account disabled, a policy, consent withdrawn, sign-in frequency."""
    token = (await grant_of(desk, app, user))["refresh_token"]
    found: dict[str, Any] = {}

    async def refused(name: str) -> dict[str, Any]:
        _, body = await desk.refresh(app, token)
        found[name] = told(body)
        return body

    user.mfa = "required"
    body = await refused("mfa")
    assert json.loads(body["claims"])["access_token"]["capolids"]["essential"] is True
    user.mfa = "enroll"
    await refused("enroll")
    user.mfa, user.enabled = "", False
    await refused("disabled")
    user.enabled, user.blocked = True, True
    body = await refused("blocked")
    assert "capolids" in body["claims"]
    user.blocked, app.consented = False, False
    await refused("consent")
    app.consented = True
    desk.tenant.directory.sign_in_frequency = timedelta(hours=10)
    clock.advance(36_000)
    body = await refused("frequency")
    assert "maximum allowed lifetime for this request is 36000." in body["error_description"]
    assert found == {
        "mfa": ("invalid_grant", 50076, "basic_action"),
        "enroll": ("interaction_required", 50079, "basic_action"),
        "disabled": ("invalid_grant", 50057, None),
        "blocked": ("invalid_grant", 53003, "message_only"),
        "consent": ("invalid_grant", 65001, "consent_required"),
        "frequency": ("invalid_grant", 70043, "token_expired"),
    }
    desk.tenant.directory.sign_in_frequency = None
    assert (await desk.refresh(app, token))[0] == 200


async def test_a_refresh_token_belongs_to_its_app_and_its_kind_of_client(
    desk: Desk, app: App, web: App, user: User
) -> None:
    """Another app's, one cut short, without the secret, or with one too many: all refused."""
    token = (await grant_of(desk, web, user))["refresh_token"]
    public = (await grant_of(desk, app, user))["refresh_token"]
    web_secret = web.secret
    found = {
        "another app": (await desk.refresh(app, token))[1],
        "cut short": (await desk.refresh(web, token[:-1]))[1],
        "no secret": (await desk.refresh(web, token, client_secret=""))[1],
        "wrong secret": (await desk.refresh(web, token, client_secret="wrong"))[1],
        "none": (await desk.refresh(web, ""))[1],
    }
    app.add_secret(web_secret)
    found["needless secret"] = (await desk.refresh(app, public))[1]
    assert {name: told(body)[:2] for name, body in found.items()} == {
        "another app": ("invalid_grant", 70000),
        "cut short": ("invalid_grant", 9002313),
        "no secret": ("invalid_client", 7000218),
        "wrong secret": ("invalid_client", 7000215),
        "none": ("invalid_request", 900144),
        "needless secret": ("invalid_client", 700025),
    }
    assert found["another app"]["suberror"] == "client_mismatch"
    assert (await desk.refresh(web, token))[0] == 200


async def test_a_single_page_apps_refresh_token_lives_a_day(
    desk: Desk, user: User, clock: Clock
) -> None:
    """Refreshing does not prolong it; the code points at the platform."""
    spa = desk.tenant.add_app("spa")
    spa.secrets.clear()
    page = spa.add_redirect("https://spa.example/", "spa")
    client = await desk.public(spa)
    flow, landing = await desk.walk(client, user, redirect_uri=page)
    form = {
        "client_id": spa.client_id,
        "grant_type": "authorization_code",
        "code": landing.fields["code"],
        "code_verifier": flow["code_verifier"],
        "scope": OFFLINE,
    }
    _, body = await desk.post(form, headers={"Origin": "https://spa.example"})
    for hours in (12, 11):
        clock.advance(hours * 3600)
        _, body = await desk.refresh(spa, body["refresh_token"])
    clock.advance(3600)
    _, body = await desk.refresh(spa, body["refresh_token"])
    assert told(body) == ("invalid_grant", 700084, None)


# --- device code ------------------------------------------------------------------------------


async def poll(desk: Desk, client: Any, flow: dict[str, Any]) -> dict[str, Any]:
    """Ask once whether somebody has typed in the code, without waiting in between."""
    flow["latest_attempt_at"] = 0
    answer: dict[str, Any] = await desk.do(
        client.acquire_token_by_device_flow, flow, exit_condition=lambda _flow: True
    )
    return answer


async def test_a_device_waits_for_somebody_to_type_in_its_code(
    desk: Desk, app: App, user: User
) -> None:
    """Pending, then tokens; the code works once, on the page and at the endpoint."""
    client = await desk.public(app)
    flow = await desk.do(client.initiate_device_flow, [IMAP])
    assert flow["verification_uri"] == f"{desk.tenant.entra.base_url}/devicelogin"
    assert (flow["expires_in"], flow["interval"]) == (900, 5)
    assert flow["user_code"] in flow["message"]
    assert "verification_uri_complete" not in flow
    answer = await poll(desk, client, flow)
    assert told(answer) == ("authorization_pending", 70016, None)

    async with desk.tenant.browser() as browser:
        typed = flow["user_code"].lower()
        assert await browser.approve_device(f" {typed[:4]}-{typed[4:]} ", user) == "done"
        assert browser.seen == ["device", "account", "password", "confirm", "done"]
        with pytest.raises(PageRefusedError) as refused:
            await browser.approve_device(flow["user_code"], user)
        assert (refused.value.page, refused.value.code) == ("device", 70018)

    answer = await poll(desk, client, flow)
    assert answer["id_token_claims"]["preferred_username"] == UPN
    assert claims_of(answer["access_token"])["scp"] == "IMAP.AccessAsUser.All"
    (account,) = client.get_accounts()
    assert account["username"] == UPN
    assert told(await poll(desk, client, flow)) == ("bad_verification_code", 70018, None)
    status, _ = await desk.refresh(app, answer["refresh_token"])
    assert status == 200


async def test_a_device_learns_what_became_of_its_code(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """Declined at any page, expired, unknown, or told to slow down."""
    client = await desk.public(app)
    for cancel_at, accept in (("password", True), ("", False)):
        flow = await desk.do(client.initiate_device_flow, [IMAP])
        async with desk.tenant.browser() as browser:
            last = await browser.approve_device(
                flow["user_code"], user, accept=accept, cancel_at=cancel_at
            )
        assert last == "declined"
        answer = await poll(desk, client, flow)
        assert answer["error"] == "authorization_declined"

    flow = await desk.do(client.initiate_device_flow, [IMAP])
    desk.tenant.faults.add("device.slow_down", times=1)
    assert (await poll(desk, client, flow))["error"] == "slow_down"
    clock.advance(900)
    assert told(await poll(desk, client, flow)) == ("expired_token", 70020, None)
    async with desk.tenant.browser() as browser:
        with pytest.raises(PageRefusedError, match="70018"):
            await browser.approve_device(flow["user_code"], user)
    flow["device_code"] = "never-issued"
    assert told(await poll(desk, client, flow)) == ("bad_verification_code", 70018, None)


async def test_consent_is_asked_of_devices_too_and_can_be_declined(
    desk: Desk, app: App, user: User
) -> None:
    """Cancel on the consent page is what the device hears as declined."""
    app.consented = False
    client = await desk.public(app)
    flow = await desk.do(client.initiate_device_flow, [IMAP])
    async with desk.tenant.browser() as browser:
        last = await browser.approve_device(flow["user_code"], user, cancel_at="consent")
        assert browser.seen[-2:] == ["consent", "declined"] == ["consent", last]
    assert (await poll(desk, client, flow))["error"] == "authorization_declined"
    flow = await desk.do(client.initiate_device_flow, [IMAP])
    async with desk.tenant.browser() as browser:
        assert await browser.approve_device(flow["user_code"], user) == "done"
        assert browser.seen[-2:] == ["consent", "done"]
    assert "access_token" in await poll(desk, client, flow)


async def test_security_defaults_forbid_devices_and_allow_browsers(
    desk: Desk, app: App, user: User
) -> None:
    """AADSTS530035 stands on the page, and is what the device hears."""
    desk.tenant.directory.security_defaults = True
    client = await desk.public(app)
    flow = await desk.do(client.initiate_device_flow, [IMAP])
    async with desk.tenant.browser() as browser:
        with pytest.raises(PageRefusedError) as refused:
            await browser.approve_device(flow["user_code"], user)
    assert (refused.value.page, refused.value.code) == ("error", 530035)
    assert told(await poll(desk, client, flow)) == ("access_denied", 530035, None)
    assert "access_token" in await desk.sign_in(client, user)


async def test_public_flows_have_to_be_allowed(desk: Desk, app: App, user: User) -> None:
    """The code is handed out; that the app may not do this is told by the first poll."""
    app.public_flows = False
    client = await desk.public(app)
    flow = await desk.do(client.initiate_device_flow, [IMAP])
    assert told(await poll(desk, client, flow)) == ("invalid_client", 7000218, None)
    form = {"client_id": app.client_id, "grant_type": "password", "scope": IMAP}
    _, answer = await desk.post({**form, "username": UPN, "password": user.password})
    assert told(answer) == ("invalid_client", 7000218, None)


async def test_a_device_cannot_begin_with_nonsense(desk: Desk, app: App) -> None:
    """Missing fields, unknown apps, several resources and foreign tenants are refused at once."""
    form = {"client_id": app.client_id, "scope": IMAP}
    found = {}
    for name, changes, tenant in (
        ("no scope", {"scope": ""}, ""),
        ("no client", {"client_id": ""}, ""),
        ("unknown app", {"client_id": "11111111-2222-3333-4444-555555555555"}, ""),
        ("two resources", {"scope": f"{IMAP} {GRAPH_MAIL}"}, ""),
        ("single tenant", {}, "common"),
        ("no tenant", {}, "elsewhere.example"),
    ):
        _, body = await desk.post({**form, **changes}, endpoint="devicecode", tenant=tenant)
        found[name] = told(body)[:2]
    assert found == {
        "no scope": ("invalid_request", 900144),
        "no client": ("invalid_request", 900144),
        "unknown app": ("unauthorized_client", 700016),
        "two resources": ("invalid_scope", 28000),
        "single tenant": ("invalid_request", 50194),
        "no tenant": ("invalid_request", 90002),
    }
    assert desk.tenant.entra.asked == {"devicecode": 6}


# --- passwords --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This API has been deprecated:DeprecationWarning")
async def test_msal_signs_in_with_a_password_through_the_realm(
    desk: Desk, app: App, web: App, user: User
) -> None:
    """A managed account works for public and confidential clients; the realm is asked first."""
    for client, acr in ((await desk.public(app), "0"), (await desk.confidential(web), "1")):
        answer = await desk.do(
            client.acquire_token_by_username_password, UPN, user.password, [IMAP, SMTP]
        )
        claims = claims_of(answer["access_token"])
        assert (claims["upn"], claims["amr"], claims["appidacr"]) == (UPN, ["pwd"], acr)
        assert answer["refresh_token"]
        (account,) = client.get_accounts()
        assert account["username"] == UPN


@pytest.mark.filterwarnings("ignore:This API has been deprecated:DeprecationWarning")
async def test_a_federated_account_is_sent_to_its_own_servers(
    desk: Desk, app: App, user: User
) -> None:
    """The realm says Federated; msal turns to the AD FS, which is not there."""
    user.federated = True
    client = await desk.public(app)
    with pytest.raises(msal.exceptions.MsalServiceError, match="404"):
        await desk.do(client.acquire_token_by_username_password, UPN, user.password, [IMAP])
    assert desk.tenant.entra.asked == {}


async def test_realms_tell_managed_federated_and_unknown_accounts_apart(
    desk: Desk, user: User
) -> None:
    """The domain decides, and for a federated account its own servers are named."""
    desk.tenant.add_user("old@feuerwehr.example").federated = True
    found = {}
    context = desk.tenant.authority.client_context()
    async with aiohttp.ClientSession() as session:
        for upn in (UPN, "old@feuerwehr.example", "somebody@outlook.example"):
            url = f"{desk.tenant.entra.base_url}/common/userrealm/{upn}?api-version=1.0"
            async with session.get(url, ssl=context) as response:
                found[upn] = await response.json()
    assert [realm["account_type"] for realm in found.values()] == [
        "Managed",
        "Federated",
        "Unknown",
    ]
    assert found[UPN]["domain_name"] == "feuerwehr.example"
    assert found["old@feuerwehr.example"]["federation_protocol"] == "WSTrust"


async def test_a_password_is_refused_for_each_of_its_reasons(
    desk: Desk, app: App, user: User
) -> None:
    """Wrong, unknown, disabled, expired, MFA, federated, foreign, blocked, no consent, defaults."""
    form = {
        "client_id": app.client_id,
        "grant_type": "password",
        "username": UPN,
        "password": user.password,
        "scope": OFFLINE,
    }
    found: dict[str, Any] = {}

    async def ask(name: str, tenant: str = "", **changes: str) -> None:
        status, body = await desk.post({**form, **changes}, tenant=tenant)
        assert status == 400, name
        found[name] = told(body)

    await ask("wrong", password="wrong")
    await ask("unknown", username="nobody@feuerwehr.example")
    await ask("no name", username="")
    await ask("no password", password="")
    await ask("two resources", scope=f"{IMAP} {GRAPH_MAIL}")
    await ask("/common", tenant="common")
    await ask("/consumers", tenant="consumers")
    await ask("/organizations", tenant="organizations")
    for field, value, usual in (
        ("enabled", False, True),
        ("password_expired", True, False),
        ("mfa", "required", ""),
        ("mfa", "enroll", ""),
        ("federated", True, False),
        ("foreign", "live.com", ""),
        ("blocked", True, False),
    ):
        setattr(user, field, value)
        await ask(f"{field} {value}")
        setattr(user, field, usual)
    desk.tenant.directory.security_defaults = True
    await ask("security defaults")
    desk.tenant.directory.security_defaults, app.consented = False, False
    await ask("consent")
    assert found == {
        "wrong": ("invalid_grant", 50126, None),
        "unknown": ("invalid_grant", 50034, "bad_token"),
        "no name": ("invalid_request", 900144, None),
        "no password": ("invalid_request", 900144, None),
        "two resources": ("invalid_scope", 28000, None),
        "/common": ("invalid_request", 9001023, None),
        "/consumers": ("invalid_request", 9001023, None),
        "/organizations": ("invalid_request", 50194, None),
        "enabled False": ("invalid_grant", 50057, None),
        "password_expired True": ("invalid_grant", 50055, "user_password_expired"),
        "mfa required": ("invalid_grant", 50076, "basic_action"),
        "mfa enroll": ("interaction_required", 50079, "basic_action"),
        "federated True": ("invalid_grant", 50126, None),
        "foreign live.com": ("invalid_grant", 50034, "bad_token"),
        "blocked True": ("invalid_grant", 53003, "message_only"),
        "security defaults": ("invalid_grant", 530035, None),
        "consent": ("invalid_grant", 65001, "consent_required"),
    }
    app.consented = app.multi_tenant = True
    status, _ = await desk.post(form, tenant="organizations")
    assert status == 200


# --- admin consent ----------------------------------------------------------------------------


def consent_link(desk: Desk, app: App, version: str, **changes: str) -> str:
    query = {"client_id": app.client_id, "redirect_uri": WEB, "state": "a b&c"}
    if version:
        query["scope"] = "https://outlook.office365.com/.default"
    tenant = changes.pop("tenant", desk.tenant.directory.tenant_id)
    place = f"{desk.tenant.entra.base_url}/{tenant}{version}/adminconsent"
    return f"{place}?{urlencode({**query, **changes})}"


@pytest.mark.parametrize("version", ["", "/v2.0"])
async def test_admin_consent_grants_the_apps_permissions(
    desk: Desk, web: App, version: str
) -> None:
    """Accept leads back with admin_consent=True, and from then on tokens have their roles."""
    admin = desk.tenant.add_user("admin@feuerwehr.example", admin=True)
    web.consented = web.installed = False
    async with desk.tenant.browser() as browser:
        landing = await browser.walk_admin_consent(consent_link(desk, web, version), admin)
        assert browser.seen == ["account", "password", "consent"]
        assert set(browser.scopes) == {*web.roles, *web.scopes}
    expected = {
        "admin_consent": "True",
        "tenant": desk.tenant.directory.tenant_id,
        "state": "a b&c",
    }
    if version:
        expected["scope"] = "https://outlook.office365.com/.default"
    assert landing.fields == expected
    assert landing.url.startswith(f"{WEB}?")
    client = await desk.confidential(web)
    answer = await desk.do(
        client.acquire_token_for_client, ["https://outlook.office365.com/.default"]
    )
    assert claims_of(answer["access_token"])["roles"] == list(web.roles)


async def test_admin_consent_can_be_cancelled_in_both_forms(desk: Desk, web: App) -> None:
    """Each form has its own words for it, and nothing is granted."""
    admin = desk.tenant.add_user("admin@feuerwehr.example", admin=True)
    web.consented = False
    async with desk.tenant.browser() as browser:
        first = await browser.walk_admin_consent(consent_link(desk, web, ""), admin, accept=False)
        second = await browser.walk_admin_consent(
            consent_link(desk, web, "/v2.0"), admin, accept=False
        )
    assert first.fields == {
        "error": "permission_denied",
        "error_description": "The admin canceled the request",
        "state": "a b&c",
    }
    assert second.fields["admin_consent"] == "True"
    assert second.fields["error"] == "consent_required"
    assert second.fields["error_description"].startswith(
        "AADSTS65004: The resource owner or authorization server denied the request.\r\nTrace ID"
    )
    assert second.fields["state"] == "a b&c"
    assert not web.consented


async def test_admin_consent_is_for_administrators_and_good_links(
    desk: Desk, web: App, user: User
) -> None:
    """Others get the approval page; a missing scope, /common in v2 and a wrong redirect a page."""
    web.consented = False
    async with desk.tenant.browser() as browser:
        landing = await browser.walk_admin_consent(consent_link(desk, web, "/v2.0"), user)
        assert browser.seen[-1] == "admin"
        assert landing.fields["error"] == "access_denied"
        assert "AADSTS90094" in landing.fields["error_description"]
        found = {}
        for name, changes in (
            ("no scope", {"scope": ""}),
            ("no client", {"client_id": ""}),
            ("/common", {"tenant": "common"}),
            ("redirect", {"redirect_uri": WEB + "/"}),
        ):
            with pytest.raises(PageRefusedError) as refused:
                await browser.walk_admin_consent(consent_link(desk, web, "/v2.0", **changes), user)
            found[name] = refused.value.code
    assert found == {"no scope": 900144, "no client": 900144, "/common": 90002, "redirect": 50011}
    assert not web.consented


async def test_admin_consent_can_be_for_named_scopes(desk: Desk, web: App, user: User) -> None:
    """Only what the link names is granted, to everybody."""
    admin = desk.tenant.add_user("admin@feuerwehr.example", admin=True)
    web.consented = False
    async with desk.tenant.browser() as browser:
        await browser.walk_admin_consent(consent_link(desk, web, "/v2.0", scope=IMAP), admin)
    assert (web.consented, web.admin_scopes) == (False, {"IMAP.AccessAsUser.All"})
    _, landing = await desk.walk(await desk.confidential(web), user, redirect_uri=WEB)
    assert "consent" not in landing.pages


# --- the log ----------------------------------------------------------------------------------


async def test_requests_are_counted_by_grant_and_hold_no_secret(
    desk: Desk, app: App, web: App, user: User
) -> None:
    """Codes, tokens, passwords and secrets are in no log, no repr and no count."""
    user.password = "canary-password"
    answer = await desk.sign_in(
        await desk.confidential(web), user, redirect_uri=WEB, response_mode="query"
    )
    await desk.refresh(web, answer["refresh_token"])
    form = {"client_id": app.client_id, "grant_type": "password", "scope": IMAP}
    await desk.post({**form, "username": UPN, "password": user.password})
    await desk.post({"client_id": app.client_id, "scope": IMAP}, endpoint="devicecode")
    assert desk.tenant.entra.asked == {
        "authorization_code": 1,
        "refresh_token": 1,
        "password": 1,
        "devicecode": 1,
    }
    assert [request.status for request in desk.tenant.entra.requests] == [200] * 4
    state = desk.tenant.entra.state
    shown = repr((desk.tenant.entra.requests, state, state.ledger.codes.values(), user, web))
    (code,) = state.ledger.codes
    (device,) = state.ledger.devices
    secret = [user.password, web.secret, code, device, answer["refresh_token"], user.mfa_code]
    assert [value for value in secret if value in shown] == []


async def test_faults_can_be_kept_to_one_grant(desk: Desk, app: App, user: User) -> None:
    """A refresh can be refused while the browser flow works."""
    desk.tenant.faults.add("token.error", command="refresh_token", times=1, code=700082)
    token = (await grant_of(desk, app, user))["refresh_token"]
    assert told((await desk.refresh(app, token))[1])[1] == 700082
    assert (await desk.refresh(app, token))[0] == 200


async def test_client_info_names_the_account(desk: Desk, app: App, user: User) -> None:
    """It comes when asked for, at both endpoints, and holds the ids of person and tenant."""
    query = {
        "client_id": app.client_id,
        "response_type": "code",
        "redirect_uri": LOOPBACK,
        "scope": OFFLINE,
        "client_info": "1",
    }
    url = f"{desk.tenant.entra.authority}/oauth2/v2.0/authorize?{urlencode(query)}"
    async with desk.tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)
    padded = landing.fields["client_info"] + "=="
    assert json.loads(base64.urlsafe_b64decode(padded)) == {
        "uid": user.object_id,
        "utid": desk.tenant.directory.tenant_id,
    }
