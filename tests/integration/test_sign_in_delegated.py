"""Tokens for people by refresh tokens that rotate, against the sandbox's Entra."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from mailbridge.errors import SignInRejected, StoreFull, TemporaryError
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.delegated import DelegatedSignIn
from mailbridge.store.sealing import ring
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.servers.sign_in_desk import LOGIN, LOOPBACK, WEB, Desk

ADDRESS = "alarm@feuerwehr.example"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey, clock: Clock) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key, now=clock) as running:
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


@pytest.fixture
async def sign_in(desk: Desk, app: App, user: User) -> AsyncIterator[DelegatedSignIn]:
    """Give a sign-in of somebody who has consented."""
    await desk.consent(app, user)
    made = desk.delegated(app, user)
    yield made
    await made.close()


async def test_a_token_opens_the_persons_mailbox(
    desk: Desk, sign_in: DelegatedSignIn, app: App
) -> None:
    """The token is for Exchange, of the person, with what the protocol needs and no more."""
    token = await sign_in.token()
    again = await sign_in.token()

    said = claims(token.value)
    assert (said["upn"], said["scp"]) == (ADDRESS, "IMAP.AccessAsUser.All")
    assert said["aud"] == "https://outlook.office.com"
    assert again == token
    assert desk.asked("refresh_token") == 1
    assert sign_in.standing().state == "ok"
    assert sign_in.standing().account == ADDRESS


async def test_the_rotated_token_is_committed_before_the_access_token_is_used(
    desk: Desk, sign_in: DelegatedSignIn
) -> None:
    """While the commit is under way, nobody has the access token that came with it."""
    before = desk.grants.saved[-1]
    committing, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        committing.set()
        await go_on.wait()

    desk.grants.hold = hold
    waiting = asyncio.create_task(sign_in.token())
    await asyncio.wait_for(committing.wait(), 10)
    await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    await waiting

    after = desk.grants.saved[-1]
    assert after.refresh_token != before.refresh_token
    assert after.former == before.refresh_token
    assert (after.granted_at, after.object_id) == (before.granted_at, before.object_id)


async def test_no_access_token_is_handed_out_while_the_grant_cannot_be_saved(
    desk: Desk, sign_in: DelegatedSignIn, clock: Clock, tenant: Tenant
) -> None:
    """With a full disk there is no token; once there is room, the same rotated token is kept.

    A server that takes a refresh token but once would refuse the one in the store by then.
    """
    tenant.directory.revoke_on_reuse = True
    desk.grants.error = StoreFull("the disk is full")
    with pytest.raises(StoreFull):
        await sign_in.token()
    clock.advance(6)
    with pytest.raises(StoreFull):
        await sign_in.token()

    desk.grants.error = None
    clock.advance(6)
    token = await sign_in.token()
    clock.advance(3500)
    later = await sign_in.token()

    assert later.value != token.value
    assert desk.asked("refresh_token") == 2


async def test_a_crash_before_the_commit_leaves_a_token_that_is_taken(
    desk: Desk, sign_in: DelegatedSignIn, app: App, user: User
) -> None:
    """Entra has replaced the refresh token and nobody has written the new one: sign-in goes on."""
    desk.grants.error = StoreFull("power cut")
    with pytest.raises(StoreFull):
        await sign_in.token()
    desk.grants.error = None

    assert (await desk.delegated(app, user).token()).value


async def test_an_answer_that_got_lost_costs_nothing(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, clock: Clock
) -> None:
    """Entra answered and the network failed: the next round succeeds, the grant stays."""
    tenant.faults.add("token.answer_lost", times=1)
    with pytest.raises(TemporaryError):
        await sign_in.token()
    assert sign_in.standing().state == "temporarily_unavailable"

    clock.advance(6)

    assert (await sign_in.token()).value


async def test_the_former_token_is_tried_when_the_current_one_is_at_fault(
    desk: Desk, app: App, user: User
) -> None:
    """What was written is not what Entra knows: the refresh token before it still signs in."""
    grant = await desk.consent(app, user)
    await desk.grants.save_grant(
        replace(grant, refresh_token="unknown", former=grant.refresh_token)
    )
    sign_in = desk.delegated(app, user)

    with structlog.testing.capture_logs() as logs:
        assert (await sign_in.token()).value

    assert "grant.former_used" in [entry["event"] for entry in logs]
    assert desk.grants.saved[-1].refresh_token not in ("unknown", grant.refresh_token)


async def test_the_former_token_is_not_shown_when_it_is_the_person_who_is_refused(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, user: User, clock: Clock
) -> None:
    """A refusal that is not about the token leaves the former one alone.

    A server that watches for reuse would end the whole grant for it.
    """
    await sign_in.token()
    clock.advance(3500)
    user.mfa = "required"

    with pytest.raises(SignInRejected):
        await sign_in.force_refresh()

    assert desk.asked("refresh_token") == 2


@pytest.mark.parametrize(
    "fault", ["token.500", "token.503", "token.429", "token.drop", "token.wrong_body"]
)
async def test_trouble_on_the_way_never_drops_a_grant(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, clock: Clock, fault: str
) -> None:
    """Outages, throttling and networks are temporary, and the same grant signs in afterwards."""
    tenant.faults.add(fault, times=1)
    with pytest.raises(TemporaryError):
        await sign_in.token()
    assert sign_in.standing().state == "temporarily_unavailable"

    clock.advance(61)

    assert (await sign_in.token()).value
    assert len(desk.grants.rows) == 1


@pytest.mark.parametrize("number", [90001, 90033, 50196, 99999999])
async def test_an_error_that_may_pass_is_no_lost_consent(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, number: int
) -> None:
    """Even as `invalid_grant`, only the numbers that mean it ask for the person."""
    tenant.faults.add(
        "token.error", times=1, code=number, status=400, error="invalid_grant", text="Later."
    )

    with pytest.raises(TemporaryError):
        await sign_in.token()


async def test_what_ends_a_grant_is_told_in_plain_words_with_the_command(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, user: User, clock: Clock
) -> None:
    """Revoked sessions: the reason, Entra's code, and what to type; the grant itself stays."""
    user.revoke_sessions(at=clock.advance(1))

    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()

    standing = sign_in.standing()
    assert (standing.state, standing.code) == ("needs_consent", "AADSTS50173")
    assert "sessions were revoked" in str(caught.value)
    assert f"`{LOGIN}`" in standing.fix
    assert len(desk.grants.rows) == 1


async def test_ninety_days_without_use_end_a_grant(
    desk: Desk, sign_in: DelegatedSignIn, clock: Clock
) -> None:
    """AADSTS700082 is told as what it is."""
    clock.advance(timedelta(days=91).total_seconds())

    with pytest.raises(SignInRejected, match="not used for 90 days"):
        await sign_in.token()

    assert sign_in.standing().state == "needs_consent"


async def test_a_grant_that_lies_unused_is_kept_alive(
    desk: Desk, sign_in: DelegatedSignIn, clock: Clock
) -> None:
    """Used once a week, it outlives the 90 days; within the week nothing is asked."""
    await sign_in.token()
    for _ in range(20):
        clock.advance(timedelta(days=7).total_seconds())
        await sign_in.keep_alive()
        await sign_in.keep_alive()

    assert desk.asked("refresh_token") == 21
    assert (await sign_in.token()).value


async def test_a_second_factor_that_came_later_asks_for_the_person(
    desk: Desk, sign_in: DelegatedSignIn, user: User
) -> None:
    """It worked for a year and stopped when a policy was switched on: say so."""
    user.mfa = "required"

    with pytest.raises(SignInRejected, match="second factor"):
        await sign_in.token()

    assert sign_in.standing().state == "needs_consent"


async def test_a_new_consent_is_used_at_once(
    desk: Desk, sign_in: DelegatedSignIn, app: App, user: User, clock: Clock
) -> None:
    """After a refusal nobody waits for a pause to end once the person has signed in again."""
    user.revoke_sessions(at=clock.advance(1))
    with pytest.raises(SignInRejected):
        await sign_in.token()
    with pytest.raises(SignInRejected):
        await sign_in.token()
    assert desk.asked("refresh_token") == 1

    clock.advance(1)
    await desk.consent(app, user)

    assert (await sign_in.token()).value
    assert sign_in.standing().state == "ok"


async def test_adopting_a_grant_saves_it_first(
    desk: Desk, app: App, user: User, clock: Clock
) -> None:
    """A login within the daemon is durable before it is used, and ends the wait for consent."""
    sign_in = desk.delegated(app, user)
    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()
    assert (caught.value.code, sign_in.standing().state) == ("sign_in.no_grant", "needs_consent")
    grant = await desk.consent(app, user)
    desk.grants.rows.clear()

    await sign_in.adopt(grant)

    assert desk.grants.saved[-1] == grant
    assert (await sign_in.token()).value


async def test_a_login_during_a_refresh_is_not_overwritten(
    desk: Desk, sign_in: DelegatedSignIn, app: App, user: User, tenant: Tenant
) -> None:
    """The person's newer grant stands, though an older refresh is written after it."""
    tenant.faults.add("token.hang", times=1, seconds=0.3)
    waiting = asyncio.create_task(sign_in.token())
    while not tenant.faults.fired["token.hang"]:
        await asyncio.sleep(0.01)
    newer = replace(desk.grants.saved[-1], refresh_token="from-the-login", former=None)

    await sign_in.adopt(newer)
    await waiting

    assert desk.grants.rows["desktop", ADDRESS].refresh_token == "from-the-login"


async def test_a_logout_takes_the_token_in_hand_along(desk: Desk, sign_in: DelegatedSignIn) -> None:
    """What was removed is gone, at once."""
    await sign_in.token()

    assert await sign_in.forget()
    assert not await sign_in.forget()

    with pytest.raises(SignInRejected, match="has not signed in"):
        await sign_in.token()
    assert desk.grants.rows == {}


async def test_a_logout_during_a_refresh_stays_a_logout(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant
) -> None:
    """What another process has removed meanwhile is not written again, and gives no token."""
    tenant.faults.add("token.hang", times=1, seconds=0.3)
    waiting = asyncio.create_task(sign_in.token())
    while not tenant.faults.fired["token.hang"]:
        await asyncio.sleep(0.01)

    desk.grants.rows.clear()

    with pytest.raises(SignInRejected, match="has not signed in"):
        await waiting
    assert desk.grants.rows == {}


async def test_many_callers_share_one_refresh(desk: Desk, sign_in: DelegatedSignIn) -> None:
    """Two refreshes at once would use one refresh token twice."""
    tokens = await asyncio.gather(*(sign_in.token() for _ in range(50)))

    assert len({token.value for token in tokens}) == 1
    assert desk.asked("refresh_token") == 1
    assert len(desk.grants.saved) == 2


async def test_one_account_that_hangs_delays_no_other(
    desk: Desk, sign_in: DelegatedSignIn, app: App, tenant: Tenant
) -> None:
    """While Entra does not answer for one person, another one's token comes."""
    other = tenant.add_user("other@feuerwehr.example")
    await desk.consent(app, other)
    tenant.faults.add("token.hang", times=1, seconds=30)
    hanging = asyncio.create_task(sign_in.token())
    while not tenant.faults.fired["token.hang"]:
        await asyncio.sleep(0.01)

    token = await desk.delegated(app, other).token()

    assert claims(token.value)["upn"] == other.upn
    assert not hanging.done()
    tenant.faults.clear()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_stopping_lets_a_refresh_commit_what_it_got(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant
) -> None:
    """A daemon that ends while Entra answers does not throw the rotated token away."""
    tenant.directory.revoke_on_reuse = True
    tenant.faults.add("token.hang", times=1, seconds=0.3)
    waiting = asyncio.create_task(sign_in.token())
    while not tenant.faults.fired["token.hang"]:
        await asyncio.sleep(0.01)

    await sign_in.close()

    assert len(desk.grants.saved) == 2
    assert (await waiting).value


async def test_a_permission_that_was_added_later_stops_nothing(
    desk: Desk, app: App, user: User
) -> None:
    """Fetching goes on with what was granted; the standing says what is missing and how to get it.

    Once the person, or an administrator, has consented, it is there without further ado.
    """
    app.consented = False
    await desk.consent(app, user, ["imap"])
    sign_in = desk.delegated(app, user, ["imap", "smtp"])

    token = await sign_in.token()
    standing = sign_in.standing()
    app.consented = True
    await sign_in.reload()
    later = await sign_in.token()

    assert claims(token.value)["scp"] == "IMAP.AccessAsUser.All"
    assert (standing.state, standing.code) == ("needs_consent", "sign_in.incomplete")
    assert "SMTP.Send" in standing.cause
    assert set(claims(later.value)["scp"].split()) == {"IMAP.AccessAsUser.All", "SMTP.Send"}
    assert sign_in.standing().state == "ok"


async def test_consent_that_was_taken_away_asks_for_it(
    desk: Desk, sign_in: DelegatedSignIn, app: App
) -> None:
    """AADSTS65001 is consent that is missing, not an outage."""
    app.consented = False

    with pytest.raises(SignInRejected, match="consented"):
        await sign_in.token()

    assert sign_in.standing().state == "needs_consent"


async def test_a_confidential_client_shows_its_secret(
    desk: Desk, tenant: Tenant, user: User
) -> None:
    """A grant that came through a Web redirect is refreshed with the app's credential."""
    app = tenant.add_app("web")
    app.add_redirect(WEB)
    await desk.consent(app, user, redirect=WEB)
    sign_in = desk.delegated(app, user)

    token = await sign_in.token()

    assert claims(token.value)["appidacr"] == "1"
    assert sign_in.standing().credential == "client secret"


async def test_an_app_with_a_secret_can_have_a_loopback_redirect(
    desk: Desk, tenant: Tenant, user: User
) -> None:
    """Entra refuses the secret there (AADSTS700025); then it is left out, and from then on."""
    app = tenant.add_app("both")
    app.add_redirect(LOOPBACK, "public")
    await desk.consent(app, user, redirect=LOOPBACK)
    sign_in = desk.delegated(app, user)

    await sign_in.token()
    before = desk.asked("refresh_token")
    await sign_in.reload()
    await sign_in.token()

    assert before == 2
    assert desk.asked("refresh_token") == 3


async def test_the_grant_of_another_account_is_refused(
    desk: Desk, app: App, user: User, tenant: Tenant
) -> None:
    """A refresh that answers with somebody else's token gives no token."""
    other = tenant.add_user("chief@feuerwehr.example")
    grant = await desk.consent(app, other)
    await desk.grants.save_grant(replace(grant, account=ADDRESS, object_id=user.object_id))

    with pytest.raises(SignInRejected, match=r"chief@\S+ has signed in"):
        await desk.delegated(app, user).token()


async def test_a_renamed_account_stays_the_same_one(
    desk: Desk, sign_in: DelegatedSignIn, user: User
) -> None:
    """The object id tells an account, not the name that it had when it consented."""
    user.upn = "alarm@brigade.example"

    assert (await sign_in.token()).value


async def test_the_end_of_a_grant_is_foreseen(
    desk: Desk, sign_in: DelegatedSignIn, clock: Clock
) -> None:
    """90 days from its last use on, with the command that renews it."""
    used_at = clock()
    await sign_in.token()

    (expiry,) = sign_in.standing().expiries
    assert (expiry.kind, expiry.expires_at) == ("refresh_token", used_at + timedelta(days=90))
    assert LOGIN in expiry.fix


async def test_no_token_of_a_person_is_shown_anywhere(
    desk: Desk, sign_in: DelegatedSignIn, tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither logs (all libraries at debug), nor errors, nor reprs show a token."""
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    with structlog.testing.capture_logs() as logs:
        token = await sign_in.token()
        current = desk.grants.saved[-1].refresh_token
        text = f"The token {current} is no good."
        tenant.faults.add("token.error", times=2, code=700082, error="invalid_grant", text=text)
        with pytest.raises(SignInRejected) as caught:
            await sign_in.force_refresh()
        shown += [caught.value, str(caught.value), vars(caught.value), vars(sign_in)]
        shown += [sign_in.standing(), desk.grants.saved[-1], caught.value.__context__]
    text = "\n".join([*map(repr, shown), *map(repr, logs), caplog.text])

    for secret in (token.value, current, desk.grants.saved[-1].refresh_token):
        assert secret not in text


async def test_a_sign_in_outlives_restarts_in_the_real_store(
    desk: Desk, app: App, user: User, tmp_path: Path, clock: Clock
) -> None:
    """Encrypted in SQLite, each daemon goes on with what the one before it has committed."""
    tenant = desk.tenant
    tenant.directory.revoke_on_reuse = True
    grant = await desk.consent(app, user)
    url = f"sqlite:///{tmp_path}/mailbridge.db"
    keys = ring([base64.b64encode(bytes(range(32))).decode()])
    for number in range(4):
        store = await Store.open(url, now=clock, keys=keys)
        try:
            sign_in = DelegatedSignIn(
                app=desk.registration(app),
                account=desk.account(app, ADDRESS),
                grants=store.grants,
                now=clock,
                run=desk.run,
            )
            if number == 0:
                await sign_in.adopt(grant)
            assert (await sign_in.token()).value
            await sign_in.close()
        finally:
            await store.close()

    assert desk.asked("refresh_token") == 4
    content = await asyncio.to_thread(_bytes_below, tmp_path)
    for token in tenant.entra.state.ledger.refresh_tokens:
        assert token.encode() not in content


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())
