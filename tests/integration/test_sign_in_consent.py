"""How people consent: in a browser with a redirect, and on another device with a code."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from mailbridge.errors import MailbridgeError, SignInRejected, TemporaryError, Unavailable
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.account import Protocol
from mailbridge.sign_in.consent_url import consent_links
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.entra_people import PEOPLE, person_state
from tests.conftest import Clock
from tests.servers.sign_in_desk import DELEGATED, LOGIN, LOOPBACK, WEB, Desk

ADDRESS = "alarm@feuerwehr.example"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as running:
        running.entra.state.device_interval = 1
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def desk(tenant: Tenant, pool: ThreadPoolExecutor, clock: Clock) -> Desk:
    return Desk(tenant, pool, clock)


@pytest.fixture
def user(tenant: Tenant) -> User:
    return tenant.add_user(ADDRESS)


@pytest.fixture
def app(tenant: Tenant) -> App:
    """Give a public client: no secret, a loopback redirect."""
    app = tenant.directory.add(App(name="desktop", public_flows=True))
    app.add_redirect(LOOPBACK, "public")
    return app


@pytest.mark.parametrize("mode", ["query", "form_post"])
async def test_a_browser_brings_a_complete_grant(
    desk: Desk, tenant: Tenant, app: App, user: User, mode: str
) -> None:
    """Consent page, redirect, and a grant with everything in it, by either response mode."""
    app.consented = False
    flow = desk.browser_flow(app, ADDRESS, ["imap", "smtp"], response_mode=mode)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)
        asked = browser.scopes

    grant = await flow.finish(landing.fields)

    assert landing.method == ("POST" if mode == "form_post" else "GET")
    assert {"IMAP.AccessAsUser.All", "SMTP.Send", "offline_access"} <= set(asked)
    assert (grant.app, grant.account) == ("desktop", ADDRESS)
    assert (grant.object_id, grant.tenant_id) == (user.object_id, tenant.directory.tenant_id)
    assert set(grant.scopes) == {f"{DELEGATED}/IMAP.AccessAsUser.All", f"{DELEGATED}/SMTP.Send"}
    assert grant.granted_at == grant.refreshed_at == desk.now()
    await desk.grants.save_grant(grant)
    assert (await desk.delegated(app, user, ["imap", "smtp"]).token()).value


async def test_the_link_carries_state_pkce_and_the_account(desk: Desk, app: App) -> None:
    """The address is a hint, the person still chooses, and no other resource is asked for."""
    flow = desk.browser_flow(app, ADDRESS, ["imap", "pop3", "smtp"])

    query = parse_qs(urlsplit(await flow.start(LOOPBACK)).query)

    assert query["state"] == [flow.state]
    assert len(base64.urlsafe_b64decode(flow.state + "=")) == 32  # bytes: 256 bits
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    assert query["nonce"][0]
    assert query["login_hint"] == [ADDRESS]
    assert query["prompt"] == ["select_account"]
    assert query["response_mode"] == ["query"]
    assert set(query["scope"][0].split()) == {
        f"{DELEGATED}/IMAP.AccessAsUser.All",
        f"{DELEGATED}/POP.AccessAsUser.All",
        f"{DELEGATED}/SMTP.Send",
        *("openid", "profile", "offline_access"),
    }


async def test_an_answer_with_another_state_is_refused_and_costs_nothing(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """A stranger's answer neither signs in nor ends the sign-in that is under way."""
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)
    for state in ("", "of-somebody-else"):
        with pytest.raises(SignInRejected) as caught:
            await flow.finish({**landing.fields, "state": state})
        assert caught.value.code == "sign_in.state"
    assert desk.asked("authorization_code") == 0

    assert (await flow.finish(landing.fields)).account == ADDRESS


async def test_an_answer_is_good_for_one_time(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """A reload of the callback page, or two at once, redeems the code once."""
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    outcomes = await asyncio.gather(
        *(flow.finish(landing.fields) for _ in range(3)), return_exceptions=True
    )

    refused = [one for one in outcomes if isinstance(one, SignInRejected)]
    assert [one.code for one in refused] == ["sign_in.state"] * 2
    assert desk.asked("authorization_code") == 1


async def test_an_answer_after_ten_minutes_is_refused(
    desk: Desk, tenant: Tenant, app: App, user: User, clock: Clock
) -> None:
    """What lay around in a tab is not taken, even if Entra would."""
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    clock.advance(600)

    with pytest.raises(SignInRejected, match="ten minutes"):
        await flow.finish(landing.fields)
    assert desk.asked("authorization_code") == 0


async def test_another_account_is_refused_with_both_names(
    desk: Desk, tenant: Tenant, app: App
) -> None:
    """Who signs in by mistake as himself must not have his own mailbox fetched."""
    chief = tenant.add_user("chief@feuerwehr.example")
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, chief)

    with pytest.raises(SignInRejected) as caught:
        await flow.finish(landing.fields)

    assert caught.value.code == "sign_in.other_account"
    assert chief.upn in str(caught.value)
    assert ADDRESS in str(caught.value)
    assert "signed_in_as" in caught.value.fix


@pytest.mark.parametrize("address", [ADDRESS, ADDRESS.upper()])
async def test_the_case_of_an_address_makes_no_other_account(
    desk: Desk, tenant: Tenant, app: App, user: User, address: str
) -> None:
    """Entra writes names as the administrator did, and people as they like."""
    user.upn = "Alarm@Feuerwehr.Example"
    flow = desk.browser_flow(app, address)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    assert (await flow.finish(landing.fields)).account == address


@pytest.mark.parametrize("withheld", ["offline_access", "SMTP.Send"])
async def test_a_grant_that_lacks_something_is_refused(
    desk: Desk, tenant: Tenant, app: App, user: User, withheld: str
) -> None:
    """Without a refresh token, or with one protocol of two, it would stop soon."""
    app.withheld = (withheld,)
    flow = desk.browser_flow(app, ADDRESS, ["imap", "smtp"])
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    with pytest.raises(SignInRejected, match=withheld) as caught:
        await flow.finish(landing.fields)

    assert caught.value.code == "sign_in.incomplete"
    assert LOGIN in caught.value.fix


async def test_declined_consent_is_told_as_that(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """Cancel on the consent page, and on the first page."""
    app.consented = False
    said = []
    for walk in ({"accept": False}, {"cancel_at": "password"}):
        flow = desk.browser_flow(app, ADDRESS)
        url = await flow.start(LOOPBACK)
        async with tenant.browser() as browser:
            landing = await browser.walk_authorize(url, user, **walk)
        with pytest.raises(SignInRejected) as caught:
            await flow.finish(landing.fields)
        said.append(str(caught.value))

    assert "declined" in said[0]
    assert all(ADDRESS in text for text in said)


async def test_a_tenant_where_people_may_not_consent_needs_its_administrator(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """AADSTS90094 leads to the link for the administrator."""
    app.consented = False
    tenant.directory.user_consent = False
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    with pytest.raises(SignInRejected) as caught:
        await flow.finish(landing.fields)

    assert person_state(caught.value) == "needs_admin_consent"
    assert "consent-url desktop" in caught.value.fix


async def test_a_web_app_without_its_secret_is_told_where_the_redirect_belongs(
    desk: Desk, tenant: Tenant, user: User
) -> None:
    """AADSTS7000218: a public client whose redirect stands under Web."""
    app = tenant.directory.add(App(name="web"))
    app.add_redirect(WEB)
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(WEB)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)

    with pytest.raises(SignInRejected) as caught:
        await flow.finish(landing.fields)

    assert caught.value.code == "AADSTS7000218"
    assert "Allow public client flows" in caught.value.fix


async def test_an_outage_during_the_redemption_is_none_of_the_persons_fault(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """It is temporary, and said so; the code is spent."""
    flow = desk.browser_flow(app, ADDRESS)
    url = await flow.start(LOOPBACK)
    async with tenant.browser() as browser:
        landing = await browser.walk_authorize(url, user)
    tenant.faults.add("token.500", times=1)

    with pytest.raises(TemporaryError):
        await flow.finish(landing.fields)


async def test_an_unreachable_entra_is_told_before_anybody_is_sent_away(
    desk: Desk, tenant: Tenant, app: App
) -> None:
    """No link is shown that leads nowhere."""
    tenant.faults.add("discovery.503")

    with pytest.raises(Unavailable):
        await desk.browser_flow(app, ADDRESS).start(LOOPBACK)


async def test_who_has_to_consent_is_told_how(desk: Desk, app: App) -> None:
    """Whatever asks for a person names the command; where it takes an administrator, the link."""
    account = desk.account(app, ADDRESS)
    for number in PEOPLE:
        error = account.explain({"error": "x", "error_description": f"AADSTS{number}: No."})
        state = person_state(error)
        if state in {"needs_consent", "needs_admin_consent"}:
            assert LOGIN in error.fix, number
        if state == "needs_admin_consent":
            assert "mailbridge consent-url desktop" in error.fix, number


async def test_the_log_has_the_command_ready(desk: Desk, app: App, user: User) -> None:
    """Also where nothing is fetched, so that no parked mailbox says it."""
    sign_in = desk.delegated(app, user)
    with structlog.testing.capture_logs() as logs, pytest.raises(SignInRejected):
        await sign_in.token()

    [line] = [line for line in logs if line["event"] == "token.failed"]
    assert line["code"] == "sign_in.no_grant"
    assert LOGIN in line["fix"]
    assert LOGIN in sign_in.standing().fix


# --- devices ----------------------------------------------------------------------------------


async def test_a_device_code_brings_a_complete_grant(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """Over ssh, without any redirect: a code, and a grant like any other."""
    flow = desk.device_flow(app, ADDRESS)
    code = await flow.start()
    waiting = asyncio.create_task(flow.wait())
    async with tenant.browser() as browser:
        await browser.approve_device(code.user_code, user)

    grant = await waiting

    assert code.user_code in code.message
    assert code.verification_uri.endswith("/devicelogin")
    await desk.grants.save_grant(grant)
    assert (await desk.delegated(app, user).token()).value


async def test_a_device_waits_as_long_as_it_is_told(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """Not yet is no refusal, "slow down" is obeyed, and an outage in between is sat out."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        flow._flow["latest_attempt_at"] -= seconds  # type: ignore[index] # as if it had passed

    flow = desk.device_flow(app, ADDRESS, sleep=sleep)
    code = await flow.start()
    flow._flow["latest_attempt_at"] = 0.0  # type: ignore[index] # begun, and never polled
    assert await flow.poll() is None
    assert await flow.poll() is None
    assert desk.asked("urn:ietf:params:oauth:grant-type:device_code") == 1

    tenant.faults.add("device.slow_down", times=1)
    flow._flow["latest_attempt_at"] = 0.0  # type: ignore[index] # a second later
    assert await flow.poll() is None
    tenant.faults.add("token.500", times=1)
    async with tenant.browser() as browser:
        await browser.approve_device(code.user_code, user)
    grant = await flow.wait()

    assert grant.account == ADDRESS
    assert [round(seconds) for seconds in slept] == [6, 6]


async def test_a_declined_device_is_told_as_that(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """The person pressed Cancel; the code is spent."""
    flow = desk.device_flow(app, ADDRESS)
    code = await flow.start()
    async with tenant.browser() as browser:
        await browser.approve_device(code.user_code, user, accept=False)

    with pytest.raises(SignInRejected, match="declined"):
        await flow.wait()
    with pytest.raises(SignInRejected) as caught:
        await flow.poll()
    assert caught.value.code == "sign_in.state"


async def test_security_defaults_that_forbid_devices_are_explained(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """AADSTS530035: take the browser instead."""
    tenant.directory.security_defaults = True
    flow = desk.device_flow(app, ADDRESS)
    code = await flow.start()
    async with tenant.browser() as browser:
        with pytest.raises(Exception, match="530035"):
            await browser.approve_device(code.user_code, user)

    with pytest.raises(SignInRejected, match="security defaults") as caught:
        await flow.wait()

    assert caught.value.code == "AADSTS530035"
    assert "without --device" in caught.value.fix


async def test_an_app_that_is_not_public_says_so_at_the_first_poll(
    desk: Desk, tenant: Tenant, user: User
) -> None:
    """AADSTS7000218, with the switch that has to be set."""
    app = tenant.directory.add(App(name="closed"))
    flow = desk.device_flow(app, ADDRESS)
    await flow.start()

    with pytest.raises(SignInRejected) as caught:
        await flow.wait()

    assert caught.value.code == "AADSTS7000218"
    assert "Allow public client flows" in caught.value.fix


async def test_a_device_code_works_for_an_app_with_a_secret(
    desk: Desk, tenant: Tenant, user: User
) -> None:
    """Confidential clients, too, and what comes of it can be refreshed."""
    app = tenant.add_app("web")
    flow = desk.device_flow(app, ADDRESS)
    code = await flow.start()
    async with tenant.browser() as browser:
        await browser.approve_device(code.user_code, user)
    app.public_flows = True

    await desk.grants.save_grant(await flow.wait())

    assert (await desk.delegated(app, user).token()).value


async def test_a_device_code_works_whatever_has_become_of_the_secret(
    desk: Desk, tenant: Tenant, app: App, user: User
) -> None:
    """A public app to which a secret was configured that is none of its own."""
    tenant.entra.state.device_interval = 5
    flow = desk.device_flow(app, ADDRESS, credentials=[ClientSecret("stale~secret-value")])
    code = await flow.start()
    assert await flow.poll() is None
    flow._flow["latest_attempt_at"] = 0.0  # type: ignore[index] # five seconds later
    async with tenant.browser() as browser:
        await browser.approve_device(code.user_code, user)

    assert (await flow.wait()).account == ADDRESS


async def test_an_old_device_code_is_told_as_that(
    desk: Desk, tenant: Tenant, app: App, user: User, clock: Clock
) -> None:
    """Fifteen minutes, then another one is needed."""
    flow = desk.device_flow(app, ADDRESS)
    await flow.start()
    tenant.entra.state.ledger.devices.clear()

    with pytest.raises(MailbridgeError, match="15 minutes"):
        await flow.wait()


# --- administrators ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("application", "delegated"),
    [(["imap", "smtp"], []), (["smtp"], []), ([], ["pop3", "smtp"]), (["imap"], ["imap"])],
)
async def test_consent_links_grant_what_the_mailboxes_use(
    tenant: Tenant,
    application: list[Protocol],
    delegated: list[Protocol],
) -> None:
    """An administrator opens each link, presses Accept, and the app has its permissions."""
    admin = tenant.add_user("admin@feuerwehr.example", admin=True)
    app = tenant.add_app("fresh", consented=False)
    app.add_redirect(WEB)
    links = consent_links(
        authority_url=tenant.entra.authority,
        client_id=app.client_id,
        resource="https://outlook.office365.com",
        delegated_resource=DELEGATED,
        application=application,
        delegated=delegated,
        redirect_uri=WEB,
        state="s-1",
    )

    for link in links:
        async with tenant.browser() as browser:
            landing = await browser.walk_admin_consent(link.url, admin)
        assert landing.fields["admin_consent"] == "True"
        assert landing.fields["state"] == "s-1"

    assert app.consented is bool(application)
    assert {one.purpose for one in links} == {
        name for name, used in (("application", application), ("delegated", delegated)) if used
    }
    if delegated and not application:
        names = {"imap": "IMAP.AccessAsUser.All", "pop3": "POP.AccessAsUser.All"}
        wanted = {names.get(one, "SMTP.Send") for one in delegated}
        assert wanted <= app.admin_scopes


def test_consent_links_name_exchange_as_microsoft_wants_it() -> None:
    """IMAP and POP of multi-tenant apps go by another name, in the public cloud."""

    def scopes(authority: str, *application: Protocol) -> list[str]:
        links = consent_links(
            authority_url=authority,
            client_id="1",
            resource="https://outlook.office365.com",
            delegated_resource=DELEGATED,
            application=application,
            delegated=["imap"],
            redirect_uri=WEB,
        )
        return [parse_qs(urlsplit(one.url).query)["scope"][0] for one in links]

    public = "https://login.microsoftonline.com/contoso.example"
    own = f"{DELEGATED}/IMAP.AccessAsUser.All offline_access openid profile"
    assert scopes(public, "pop3") == ["https://ps.outlook.com/.default", own]
    assert scopes(public, "smtp") == ["https://outlook.office365.com/.default", own]
    assert scopes("https://login.microsoftonline.us/x", "imap") == [
        "https://outlook.office365.com/.default",
        own,
    ]
