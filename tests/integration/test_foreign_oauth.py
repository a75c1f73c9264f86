"""Signing in at an OAuth server that nobody here wrote, and using its tokens at Dovecot.

oidc-provider knows neither Exchange nor Entra's numbers. Its refresh tokens are good for one
time; the mail server asks it about each token, so that what it revokes is refused at once.
"""

from __future__ import annotations

import asyncio
import functools
import imaplib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from mailbridge.errors import SignInRejected
from mailbridge.model import AccessToken
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.sign_in.account import Account, Protocol
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.consent import AuthCodeFlow, DeviceFlow
from mailbridge.sign_in.credentials import Certificate, ClientSecret, Credential
from mailbridge.sign_in.delegated import DelegatedSignIn
from mailbridge.sign_in.registration import Registration
from tests.servers.dovecot import Dovecot
from tests.servers.oidc_provider import DEVICE_GRANT, SCOPES, TENANT, Client, OidcProvider, Person
from tests.servers.sign_in_desk import DELEGATED, LOGIN, LOOPBACK, SCOPE, WEB, Grants

ADDRESS = "alice@contoso.test"
OTHER = "bob@contoso.test"

WITH_SECRET = Client(client_id="with-secret", secret="foreign-secret-2", redirects=(WEB,))
PUBLIC = Client(client_id="public", redirects=(LOOPBACK,))
#: registered without permission to send
READS_ONLY = Client(client_id="reads-only", redirects=(LOOPBACK,), scopes=SCOPES[:3])


@dataclass
class Desk:
    """Makes sign-ins at one server."""

    server: OidcProvider
    pool: ThreadPoolExecutor
    grants: Grants = field(default_factory=Grants)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def run(self, function: Any, *args: Any) -> Any:
        """Run a blocking function in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self.pool, functools.partial(function, *args))

    def registration(self, client: Client, *credentials: Credential) -> Registration:
        if not credentials and client.secret:
            credentials = (ClientSecret(client.secret),)
        return Registration(
            name=client.client_id,
            authority_url=self.server.authority,
            client_id=client.client_id,
            credentials=credentials,
            ca=self.server.ca_file,
        )

    def application(self, client: Client, *credentials: Credential) -> ApplicationSignIn:
        app = self.registration(client, *credentials)
        return ApplicationSignIn(app=app, scope=SCOPE, now=self.now, run=self.run)

    def _people(self, client: Client, protocols: Sequence[Protocol]) -> dict[str, Any]:
        account = Account(
            app=client.client_id,
            address=ADDRESS,
            tenant_id=TENANT,
            resource=DELEGATED,
            protocols=tuple(protocols),
            login=LOGIN,
        )
        app = self.registration(client)
        return {"app": app, "account": account, "now": self.now, "run": self.run}

    def delegated(self, client: Client, protocols: Sequence[Protocol] = ("imap",)) -> Any:
        return DelegatedSignIn(**self._people(client, protocols), grants=self.grants)

    def device_flow(self, client: Client) -> DeviceFlow:
        return DeviceFlow(**self._people(client, ("imap",)))

    async def browser(
        self,
        client: Client,
        who: str = ADDRESS,
        protocols: Sequence[Protocol] = ("imap",),
        *,
        cancel: bool = False,
    ) -> None:
        """Let somebody sign in in a browser, and keep the grant."""
        flow = AuthCodeFlow(**self._people(client, protocols))
        # This server gives offline access only to who is asked each time (OIDC Core, 11).
        url = await flow.start(client.redirects[0], prompt="consent")
        walk = functools.partial(Person(self.server, who).walk, cancel=cancel)
        answer = await asyncio.to_thread(walk, url, client.redirects[0])
        await self.grants.save_grant(await flow.finish(answer))


@pytest.fixture(scope="module")
def keys() -> list[rsa.RSAPrivateKey]:
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


@pytest.fixture(scope="module")
def with_key(keys: list[rsa.RSAPrivateKey]) -> Client:
    """Give a client whose proof is a certificate."""
    jwk = RSAAlgorithm.to_jwk(keys[0].public_key(), as_dict=True)
    return Client(client_id="with-key", jwk=jwk, redirects=(WEB,))


@pytest.fixture(scope="module")
def server(with_key: Client) -> Iterator[OidcProvider]:
    with OidcProvider([WITH_SECRET, PUBLIC, READS_ONLY, with_key]) as running:
        yield running


@pytest.fixture(scope="module")
def mail_server(server: OidcProvider) -> Iterator[Dovecot]:
    """Give a Dovecot that asks the OAuth server about each token."""
    with Dovecot(server.introspection) as running:
        yield running


@pytest.fixture
def desk(server: OidcProvider) -> Iterator[Desk]:
    with ThreadPoolExecutor(4) as pool:
        yield Desk(server, pool)


def made(key: rsa.RSAPrivateKey) -> bytes:
    """Return a certificate and its key as a file holds them."""
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = ClientCertificate.generate(start=start, key=key)
    return certificate.key_pem() + certificate.certificate_pem


async def opens(mail_server: Dovecot, address: str, token: AccessToken) -> bool:
    """Tell whether a token opens somebody's mailbox by IMAP."""

    def login() -> bool:
        try:
            mail_server.login(address, token.value).logout()
        except imaplib.IMAP4.error as refusal:
            if "AUTHENTICATIONFAILED" not in str(refusal):
                raise
            return False
        return True

    return await asyncio.to_thread(login)


async def test_an_app_signs_in_by_its_secret(desk: Desk, mail_server: Dovecot) -> None:
    """Client credentials: one opaque token opens every mailbox that the app was given."""
    sign_in = desk.application(WITH_SECRET)

    token = await sign_in.token()

    assert token.value.count(".") == 0
    assert await opens(mail_server, ADDRESS, token)
    assert await opens(mail_server, OTHER, token)
    assert not await opens(mail_server, f"ungranted{ADDRESS[5:]}", token)
    assert sign_in.standing().state == "ok"


async def test_an_app_signs_in_by_its_certificate(
    desk: Desk,
    mail_server: Dovecot,
    with_key: Client,
    keys: list[rsa.RSAPrivateKey],
    tmp_path: Path,
) -> None:
    """What msal signs is what a server by the book takes (RFC 7523)."""
    path = tmp_path / "app.pem"
    path.write_bytes(made(keys[0]))
    sign_in = desk.application(with_key, Certificate(path=path, passphrase=str, now=desk.now))

    assert await opens(mail_server, ADDRESS, await sign_in.token())


async def test_another_key_than_the_registered_one_is_refused(
    desk: Desk, with_key: Client, keys: list[rsa.RSAPrivateKey], tmp_path: Path
) -> None:
    """A refusal without a number is one that needs a person, as it is by RFC 6749, 5.2."""
    path = tmp_path / "app.pem"
    path.write_bytes(made(keys[1]))
    sign_in = desk.application(with_key, Certificate(path=path, passphrase=str, now=desk.now))

    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()

    assert caught.value.code == "entra.invalid_client"


async def test_a_wrong_secret_is_told_and_not_shown(desk: Desk) -> None:
    """The state is that of a refusal, and neither error nor standing holds the secret."""
    sign_in = desk.application(WITH_SECRET, ClientSecret("canary-wrong-secret"))

    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()

    standing = sign_in.standing()
    assert (standing.state, standing.code) == ("rejected", "entra.invalid_client")
    assert "canary" not in f"{caught.value} {standing}"


async def test_the_old_secret_is_used_while_the_new_one_is_not_taken(desk: Desk) -> None:
    """[new, old] works without Entra's numbers too."""
    sign_in = desk.application(
        WITH_SECRET, ClientSecret("not-yet-known"), ClientSecret(WITH_SECRET.secret)
    )

    await sign_in.token()

    assert sign_in.standing().credential == "client secret 2 of 2"


@pytest.mark.parametrize("client", [PUBLIC, WITH_SECRET], ids=["public", "confidential"])
async def test_a_person_signs_in_in_a_browser(
    desk: Desk, mail_server: Dovecot, client: Client
) -> None:
    """Authorization code and PKCE, by a loopback or a web address: the own mailbox opens."""
    await desk.browser(client)
    token = await desk.delegated(client).token()

    assert await opens(mail_server, ADDRESS, token)
    assert not await opens(mail_server, OTHER, token)
    grant = desk.grants.saved[0]
    assert (grant.account, grant.former) == (ADDRESS, None)
    assert "https://outlook.office.com/IMAP.AccessAsUser.All" in grant.scopes


@pytest.mark.parametrize("client", [PUBLIC, WITH_SECRET], ids=["public", "confidential"])
async def test_refresh_tokens_rotate_and_each_is_used_once(desk: Desk, client: Client) -> None:
    """Five refreshes in a row by two processes after each other, at a server that forgives none."""
    await desk.browser(client)
    values = set()
    for _ in range(2):
        sign_in = desk.delegated(client)
        for _ in range(3):
            values.add((await sign_in.token()).value)
            await sign_in.reload()

    kept = desk.grants.saved
    assert len(values) == 6
    assert len({grant.refresh_token for grant in kept}) == 7
    assert [grant.former for grant in kept[1:]] == [grant.refresh_token for grant in kept[:-1]]


async def test_a_device_gets_what_a_person_approves(desk: Desk, mail_server: Dovecot) -> None:
    """Device code (RFC 8628): nothing before the person is done, then a grant that refreshes."""
    flow = desk.device_flow(PUBLIC)
    told = await flow.start()
    assert told.verification_uri.startswith(desk.server.base_url)
    await asyncio.to_thread(
        Person(desk.server, ADDRESS).enter, told.verification_uri, told.user_code
    )

    await desk.grants.save_grant(await flow.wait())

    assert await opens(mail_server, ADDRESS, await desk.delegated(PUBLIC).token())
    assert desk.server.asked(DEVICE_GRANT) >= 1


async def test_consent_that_is_declined_is_told_as_that(desk: Desk) -> None:
    """Without a number, `access_denied` still says that it was the person who said no."""
    with pytest.raises(SignInRejected) as caught:
        await desk.browser(PUBLIC, cancel=True)

    assert caught.value.code == "entra.access_denied"
    assert LOGIN in caught.value.fix
    assert desk.grants.saved == []


async def test_another_account_is_refused_by_name(desk: Desk) -> None:
    """Whoever signs in instead is named, and nothing is kept."""
    with pytest.raises(SignInRejected, match=OTHER) as caught:
        await desk.browser(PUBLIC, OTHER)

    assert caught.value.code == "sign_in.other_account"
    assert ADDRESS in str(caught.value)
    assert desk.grants.saved == []


async def test_a_scope_that_the_server_refuses_needs_a_person(desk: Desk) -> None:
    """`invalid_scope` is no outage: asking again would end the same way."""
    with pytest.raises(SignInRejected) as caught:
        await desk.browser(READS_ONLY, protocols=("imap", "smtp"))

    assert caught.value.code == "entra.invalid_scope"


async def test_a_second_use_of_a_refresh_token_ends_the_whole_grant(
    desk: Desk, mail_server: Dovecot
) -> None:
    """Somebody has a copy: the server ends all of it, and the mailbox says who has to sign in."""
    await desk.browser(PUBLIC)
    stolen = desk.grants.saved[-1]
    sign_in = desk.delegated(PUBLIC)
    token = await sign_in.token()
    assert await opens(mail_server, ADDRESS, token)

    thief = desk.delegated(PUBLIC)
    thief._grants = Grants()
    await thief._grants.save_grant(stolen)
    with pytest.raises(SignInRejected):
        await thief.token()

    assert not await opens(mail_server, ADDRESS, token)
    with pytest.raises(SignInRejected):
        await sign_in.force_refresh(token)
    standing = sign_in.standing()
    assert (standing.state, standing.code) == ("needs_consent", "entra.invalid_grant")
    assert f"`{LOGIN}`" in standing.fix
    assert len(desk.grants.rows) == 1


@pytest.mark.parametrize("client", [PUBLIC, WITH_SECRET], ids=["public", "confidential"])
async def test_revocation_asks_for_consent_and_a_new_login_goes_on(
    desk: Desk, mail_server: Dovecot, client: Client
) -> None:
    """What an administrator revokes is refused by the mail server, told, and can be given again."""
    await desk.browser(client)
    sign_in = desk.delegated(client)
    token = await sign_in.token()
    desk.server.revoke(client, desk.grants.saved[-1].refresh_token)

    assert not await opens(mail_server, ADDRESS, token)
    with pytest.raises(SignInRejected):
        await sign_in.force_refresh(token)
    assert sign_in.standing().state == "needs_consent"

    await desk.browser(client)
    await sign_in.adopt(desk.grants.saved[-1])
    assert await opens(mail_server, ADDRESS, await sign_in.token())
    assert sign_in.standing().state == "ok"
