"""Application sign-in against the sandbox's Entra: a real HTTPS server with Entra's answers."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from mailbridge.errors import (
    MailbridgeError,
    SignInRejected,
    TemporaryError,
    Throttled,
    Unavailable,
)
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.registration import Registration
from tests.conftest import Clock

SCOPE = "https://outlook.office365.com/.default"
CANARY = "canary~8Q~do-not-show-me-anywhere-000"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as running:
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


class Desk:
    """Makes sign-ins for one tenant."""

    def __init__(self, tenant: Tenant, pool: ThreadPoolExecutor, clock: Clock) -> None:
        self.tenant, self.clock = tenant, clock
        self._pool = pool

    def run(self, function: Any, *args: Any) -> Any:
        """Run a blocking function in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, functools.partial(function, *args))

    def sign_in(self, app: App, *secrets: str, **changed: Any) -> ApplicationSignIn:
        """Return a sign-in of the app, with its own secret if no other is given."""
        scope = changed.pop("scope", SCOPE)
        settings: dict[str, Any] = {
            "name": "alarm-app",
            "authority_url": self.tenant.entra.authority,
            "client_id": app.client_id,
            "credentials": [ClientSecret(one) for one in secrets or (app.secret,)],
            "ca": self.tenant.ca_file,
        }
        registration = Registration(**{**settings, **changed})
        return ApplicationSignIn(app=registration, scope=scope, now=self.clock, run=self.run)

    @property
    def asked(self) -> int:
        """How many token requests Entra has answered."""
        return len(self.tenant.entra.requests)


@pytest.fixture
def desk(tenant: Tenant, pool: ThreadPoolExecutor, clock: Clock) -> Desk:
    return Desk(tenant, pool, clock)


@pytest.fixture
def app(tenant: Tenant) -> App:
    return tenant.add_app(secret=CANARY)


async def test_a_token_for_exchange_is_acquired_and_kept(desk: Desk, app: App) -> None:
    """One request gives a token with the app's roles, and further callers get the same one."""
    sign_in = desk.sign_in(app)

    token = await sign_in.token()
    again = await sign_in.token()

    assert claims(token.value)["roles"] == list(app.roles)
    assert claims(token.value)["aud"] == "https://outlook.office365.com"
    assert token.expires_at == desk.clock() + timedelta(seconds=app.lifetime)
    assert again == token
    assert (desk.asked, sign_in.refreshes, sign_in.secret_index) == (1, 1, 0)


async def test_a_hundred_mailboxes_share_one_request(desk: Desk, app: App) -> None:
    """However many sessions open at once, one refresh is in flight for the app."""
    sign_in = desk.sign_in(app)

    tokens = await asyncio.gather(*(sign_in.token() for _ in range(100)))

    assert len({token.value for token in tokens}) == 1
    assert (desk.asked, desk.tenant.entra.discoveries) == (1, 1)


async def test_a_caller_who_gives_up_does_not_take_the_others_along(desk: Desk, app: App) -> None:
    """A cancelled waiter leaves the shared refresh alone, even the one who began it."""
    desk.tenant.faults.add("token.hang", times=1, seconds=0.3)
    sign_in = desk.sign_in(app)
    first = asyncio.create_task(sign_in.token())
    second = asyncio.create_task(sign_in.token())
    await asyncio.sleep(0.05)

    first.cancel()
    token = await second

    assert first.cancelled()
    assert token.value
    assert desk.asked == 1


async def test_a_token_is_replaced_before_it_ends(desk: Desk, app: App) -> None:
    """With ten minutes left the next token is fetched; until then the old one is good."""
    sign_in = desk.sign_in(app)
    first = await sign_in.token()

    desk.clock.advance(app.lifetime - 601)
    assert await sign_in.token() == first
    desk.clock.advance(2)
    second = await sign_in.token()

    assert second.value != first.value
    assert second.expires_at > first.expires_at
    assert desk.asked == 2


async def test_a_short_lived_token_is_not_fetched_on_every_call(desk: Desk, app: App) -> None:
    """Where tokens live five minutes, four fifths of that time are used."""
    app.lifetime = 300
    sign_in = desk.sign_in(app)
    first = await sign_in.token()

    desk.clock.advance(239)
    assert await sign_in.token() == first
    desk.clock.advance(2)
    assert await sign_in.token() != first


@pytest.mark.parametrize("fault", ["token.500", "token.503", "token.drop", "token.wrong_body"])
async def test_an_outage_is_bridged_by_the_old_token(desk: Desk, app: App, fault: str) -> None:
    """While a refresh fails for now, the ageing token is served until its last minute."""
    sign_in = desk.sign_in(app)
    first = await sign_in.token()
    desk.clock.advance(app.lifetime - 300)
    desk.tenant.faults.add(fault)

    assert await sign_in.token() == first
    desk.clock.advance(245)
    with pytest.raises(TemporaryError):
        await sign_in.token()
    assert sign_in.failures == 2

    desk.tenant.faults.clear()
    desk.clock.advance(10)
    assert (await sign_in.token()).value != first.value


@pytest.mark.parametrize(
    ("fault", "options", "kind", "code"),
    [
        ("token.500", {}, Unavailable, "entra.http_500"),
        ("token.503", {}, Unavailable, "entra.http_503"),
        ("token.503", {"retry_after": 7}, Throttled, "entra.http_503"),
        ("token.429", {}, Throttled, "entra.http_429"),
        ("token.429", {"retry_after": 17}, Throttled, "entra.http_429"),
        ("token.drop", {}, Unavailable, "entra.connection"),
        ("token.wrong_body", {}, Unavailable, "entra.not_json"),
        ("discovery.503", {}, Unavailable, "entra.http_503"),
        ("discovery.wrong_body", {}, Unavailable, "entra.not_json"),
        ("token.error", {"code": 90033, "text": "A transient error."}, Unavailable, "AADSTS90033"),
        (
            "token.error",
            {"code": 99999999, "text": "Something nobody has seen."},
            Unavailable,
            "AADSTS99999999",
        ),
    ],
)
async def test_trouble_on_the_way_is_no_rejected_credential(  # noqa: PLR0913, PLR0917 - a table's columns
    desk: Desk,
    app: App,
    fault: str,
    options: dict[str, Any],
    kind: type[MailbridgeError],
    code: str,
) -> None:
    """Network faults, outages, throttling and unknown errors are all worth another try."""
    desk.tenant.faults.add(fault, **options)

    with pytest.raises(kind) as caught:
        await desk.sign_in(app).token()

    assert caught.value.code == code
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after == options.get("retry_after", 60)


async def test_an_unreachable_login_host_is_no_rejected_credential(desk: Desk, app: App) -> None:
    """A closed port, an unknown name and an untrusted certificate are each temporary."""
    closed = desk.sign_in(app, authority_url="https://localhost:1/tenant")
    unnamed = desk.sign_in(app, authority_url="https://login.invalid/tenant")
    foreign = desk.sign_in(app, ca=None)

    codes = []
    for sign_in in (closed, unnamed, foreign):
        with pytest.raises(Unavailable) as caught:
            await sign_in.token()
        codes.append(caught.value.code)

    assert codes == ["entra.connection", "entra.dns", "entra.tls"]


async def test_the_environment_does_not_change_what_is_trusted(
    desk: Desk, app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CA bundles and proxies named by environment variables are not used."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "empty.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    assert (await desk.sign_in(app).token()).value


async def test_a_wrong_secret_needs_a_person(desk: Desk, app: App) -> None:
    """Entra's code, its first line without trace ids, and what to do."""
    with pytest.raises(SignInRejected) as caught:
        await desk.sign_in(app, "wrong-secret").token()

    assert caught.value.code == "AADSTS7000215"
    assert str(caught.value).startswith("AADSTS7000215: Invalid client secret provided.")
    assert "Trace ID" not in str(caught.value)
    assert "its Value" in caught.value.fix


async def test_what_only_a_person_can_mend_is_rejected(desk: Desk, app: App) -> None:
    """An expired secret, an unknown app, an unknown tenant, a wrong scope, Conditional Access."""
    expired = desk.tenant.add_app("old", secret_expires_at=desk.clock() - timedelta(days=30))
    cases = {
        "AADSTS7000222": desk.sign_in(expired),
        "AADSTS700016": desk.sign_in(app, client_id="00000000-0000-0000-0000-000000000001"),
        "AADSTS90002": desk.sign_in(
            app,
            authority_url=f"{desk.tenant.entra.base_url}/99999999-0000-0000-0000-000000000000",
        ),
        "AADSTS1002012": desk.sign_in(app, scope="https://outlook.office365.com/IMAP.AccessAsApp"),
    }
    for code, sign_in in cases.items():
        with pytest.raises(SignInRejected) as caught:
            await sign_in.token()
        assert caught.value.code == code
        assert caught.value.fix

    desk.tenant.faults.add("token.error", code=53003)
    with pytest.raises(SignInRejected) as caught:
        await desk.sign_in(app).token()
    assert caught.value.code == "AADSTS53003"


async def test_an_app_without_a_credential_says_so(desk: Desk, app: App) -> None:
    """A public client cannot have application access; nothing is sent."""
    with pytest.raises(SignInRejected, match="no credential"):
        await desk.sign_in(app, credentials=()).token()

    assert desk.asked == 0


async def test_the_old_secret_is_used_while_the_new_one_is_not_good_yet(
    desk: Desk, app: App
) -> None:
    """During a rotation the newest secret is tried first, and the log says which one it was."""
    sign_in = desk.sign_in(app, "not-registered-yet", CANARY)

    with structlog.testing.capture_logs() as logs:
        token = await sign_in.token()
    app.add_secret("not-registered-yet")
    desk.clock.advance(3000)
    renewed = await sign_in.token()

    assert token.value != renewed.value
    assert [entry["secret_index"] for entry in logs if entry["event"] == "token.refreshed"] == [1]
    assert sign_in.secret_index == 0
    assert [request.status for request in desk.tenant.entra.requests] == [401, 200, 200]


async def test_two_wrong_secrets_are_reported_as_the_newest_one(desk: Desk, app: App) -> None:
    """When no secret is good, the error is that of the newest, and both were tried."""
    with pytest.raises(SignInRejected) as caught:
        await desk.sign_in(app, "new-wrong", "old-wrong").token()

    assert caught.value.code == "AADSTS7000215"
    assert desk.asked == 2


async def test_an_outage_is_not_taken_for_a_wrong_secret_during_rotation(
    desk: Desk, app: App
) -> None:
    """The second secret is tried after a rejection only, never after a network fault."""
    desk.tenant.faults.add("token.500", times=1)

    with pytest.raises(Unavailable):
        await desk.sign_in(app, CANARY, "old").token()

    assert desk.tenant.faults.fired["token.500"] == 1
    assert all(request.status != 401 for request in desk.tenant.entra.requests)


async def test_a_failing_app_is_not_asked_by_every_mailbox(desk: Desk, app: App) -> None:
    """After a refusal or a throttle the same answer is given for a while without a request."""
    sign_in = desk.sign_in(app, "wrong-secret")
    for _ in range(20):
        with pytest.raises(SignInRejected):
            await sign_in.token()
    assert desk.asked == 1

    desk.clock.advance(61)
    with pytest.raises(SignInRejected):
        await sign_in.token()
    assert desk.asked == 2

    desk.tenant.faults.add("token.429", retry_after=30)
    throttled = desk.sign_in(app)
    with pytest.raises(Throttled):
        await throttled.token()
    desk.clock.advance(10)
    with pytest.raises(Throttled) as caught:
        await throttled.token()
    assert caught.value.retry_after == 20
    assert desk.tenant.faults.fired["token.429"] == 1


async def test_a_mended_app_works_again_without_a_restart(desk: Desk, app: App) -> None:
    """The memory that msal has of a refusal (60 s) does not outlive ours."""
    desk.tenant.faults.add("token.error", times=1)
    sign_in = desk.sign_in(app)
    with pytest.raises(SignInRejected):
        await sign_in.token()

    desk.clock.advance(61)

    assert (await sign_in.token()).value


async def test_a_refused_token_is_replaced_once_a_minute(desk: Desk, app: App) -> None:
    """A mail server's refusal gives one fresh token, not a loop that Entra would block."""
    sign_in = desk.sign_in(app)
    first = await sign_in.token()

    second = await sign_in.force_refresh(first)
    assert second.value != first.value
    # Another mailbox that was refused with the first token gets the one that is there.
    assert await sign_in.force_refresh(first) == second
    assert await sign_in.force_refresh(second) == second
    assert desk.asked == 2

    desk.clock.advance(61)
    assert (await sign_in.force_refresh(second)).value != second.value
    assert desk.asked == 3


async def test_no_secret_and_no_token_is_shown_anywhere(
    desk: Desk, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither logs (all libraries at debug), nor errors with their causes, nor reprs show one."""
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    sign_in = desk.sign_in(app)
    with structlog.testing.capture_logs() as logs:
        token = await sign_in.token()
        shown += [token, sign_in, vars(sign_in)]
        desk.tenant.faults.add("token.error", times=1, text=f"The secret {CANARY} is wrong.")
        for fault in ("", "token.wrong_body", "token.500", "token.drop", "token.429"):
            if fault:
                desk.tenant.faults.add(fault, times=1)
            failing = desk.sign_in(app)
            with pytest.raises(MailbridgeError) as caught:
                await failing.token()
            shown += [*_chain(caught.value), failing, vars(failing)]
    text = "\n".join([*(repr(one) for one in shown), *(repr(one) for one in logs), caplog.text])

    assert CANARY not in text
    assert token.value not in text
    assert token.value.split(".")[2] not in text


def _chain(error: BaseException | None) -> list[object]:
    """Return the error, its causes and contexts, with everything that hangs on them."""
    seen: list[object] = []
    while error is not None:
        seen += [error, str(error), vars(error)]
        error = error.__cause__ or error.__context__
    return seen
