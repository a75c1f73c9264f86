"""Secrets that change, certificates, federated tokens, managed identities, passwords."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from mailbridge.errors import MailbridgeError, SignInRejected, Throttled, Unavailable
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.credentials import Certificate, ClientSecret, FederatedToken
from mailbridge.sign_in.managed_identity import ManagedIdentity
from tests.conftest import Clock
from tests.servers.sign_in_desk import SCOPE, Desk

PASSPHRASE = "canary-passphrase-do-not-show"
SUBJECT = "system:serviceaccount:alarm:mailbridge"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="module")
def keys() -> list[rsa.RSAPrivateKey]:
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as running:
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def now() -> datetime:
    """Return the real time: msal dates its assertions by it."""
    return datetime.now(UTC)


@pytest.fixture
def desk(tenant: Tenant, pool: ThreadPoolExecutor, clock: Clock) -> Desk:
    clock.set(now())
    return Desk(tenant, pool, clock)


# --- client secrets ---------------------------------------------------------------------------


async def test_a_secret_that_changes_in_its_file_needs_no_restart(
    desk: Desk, tenant: Tenant, tmp_path: Path, clock: Clock
) -> None:
    """The next request reads it again; the log says that another one is in use."""
    app = tenant.add_app(secret="first~secret-value")
    place = tmp_path / "secret"
    place.write_text("first~secret-value")
    secret = ClientSecret("first~secret-value", again=place.read_text)
    sign_in = desk.application(app, secret)
    await sign_in.token()

    place.write_text("second~secret-value")
    app.secrets.clear()
    app.add_secret("second~secret-value")
    clock.advance(3500)
    with structlog.testing.capture_logs() as logs:
        await sign_in.token()

    assert [entry["event"] for entry in logs].count("credential.in_use") == 1
    assert [request.status for request in tenant.entra.requests] == [200, 200]


async def test_the_former_secret_is_used_until_entra_takes_the_new_one(
    desk: Desk, tenant: Tenant, tmp_path: Path
) -> None:
    """After a reload the new one is tried at once, and a wrong one breaks nothing."""
    app = tenant.add_app(secret="good~secret-value")
    place = tmp_path / "secret"
    place.write_text("good~secret-value")
    sign_in = desk.application(app, ClientSecret("good~secret-value", again=place.read_text))
    first = await sign_in.token()

    place.write_text("not~yet-registered")
    await sign_in.reload()
    with structlog.testing.capture_logs() as logs:
        second = await sign_in.token()
    app.add_secret("not~yet-registered")
    await sign_in.reload()
    await sign_in.token()
    standing = sign_in.standing()
    app.secrets.pop(0)
    await sign_in.reload()
    await sign_in.token()

    assert second != first
    told = [entry["credential"] for entry in logs if entry["event"] == "credential.in_use"]
    assert told == ["client secret, as it was before it changed"]
    assert standing.credential == "client secret"
    assert [request.status for request in tenant.entra.requests] == [200, 401, 200, 200, 200]


async def test_a_secret_that_cannot_be_read_for_a_moment_is_still_known(
    desk: Desk, tenant: Tenant, clock: Clock
) -> None:
    """A file that is being replaced is no lost secret."""
    app = tenant.add_app()
    sign_in = desk.application(app, ClientSecret(app.secret, again=lambda: None))

    await sign_in.token()
    clock.advance(3500)

    assert (await sign_in.token()).value


async def test_a_bad_secret_leaves_the_token_in_hand_alone(
    desk: Desk, tenant: Tenant, clock: Clock
) -> None:
    """While the old token lives, mail goes on, and the standing already says what is wrong."""
    app = tenant.add_app()
    sign_in = desk.application(app)
    first = await sign_in.token()
    app.secrets.clear()
    clock.advance(3100)

    assert await sign_in.token() == first
    assert sign_in.standing().state == "rejected"
    assert sign_in.standing().code == "AADSTS7000215"
    clock.advance(440)
    with pytest.raises(SignInRejected):
        await sign_in.token()


async def test_an_expired_secret_is_told_as_that(desk: Desk, tenant: Tenant) -> None:
    """Its own state, and the configured day is foreseen."""
    app = tenant.add_app(secret_expires_at=now() - timedelta(days=1))
    ends = now() + timedelta(days=20)
    sign_in = desk.application(app, ClientSecret(app.secret, expires_at=ends))
    with pytest.raises(SignInRejected):
        await sign_in.token()

    standing = sign_in.standing()
    assert (standing.state, standing.code) == ("secret_expired", "AADSTS7000222")
    assert [(one.kind, one.expires_at) for one in standing.expiries] == [("client_secret", ends)]


async def test_a_token_without_the_roles_it_needs_is_told_as_missing_consent(
    desk: Desk, tenant: Tenant
) -> None:
    """Entra issues it without an error; the mailbox would only say that it is refused."""
    app = tenant.add_app(consented=False)
    sign_in = desk.application(app, roles=["IMAP.AccessAsApp"])

    await sign_in.token()
    before = sign_in.standing()
    app.consented = True
    await sign_in.reload()
    await sign_in.token()

    assert (before.state, before.code) == ("needs_admin_consent", "sign_in.roles_missing")
    assert "IMAP.AccessAsApp" in before.cause
    assert "consent-url alarm-app" in before.fix
    assert sign_in.standing().state == "ok"


# --- certificates -----------------------------------------------------------------------------


def _certified(tenant: Tenant, *certificates: ClientCertificate) -> App:
    app = tenant.directory.add(App(name="alarm-app"))
    for certificate in certificates:
        app.add_certificate(certificate.certificate_pem)
    return app


def _from_file(path: Path, passphrase: str = "") -> Certificate:
    return Certificate(path=path, passphrase=lambda: passphrase, now=now)


@pytest.mark.parametrize("form", ["pem", "pem-encrypted", "pem-key-last", "pfx", "pfx-encrypted"])
async def test_a_certificate_signs_in_from_every_kind_of_file(
    desk: Desk, tenant: Tenant, tmp_path: Path, keys: list[rsa.RSAPrivateKey], form: str
) -> None:
    """PEM in any order and PFX, with a passphrase or without."""
    made = ClientCertificate.generate(start=now() - timedelta(hours=1), days=100, key=keys[0])
    passphrase = PASSPHRASE if "encrypted" in form else None
    content = {
        "pem": made.key_pem(passphrase) + made.certificate_pem,
        "pem-key-last": made.certificate_pem + made.key_pem(passphrase),
        "pfx": made.pfx(passphrase),
    }[form.removesuffix("-encrypted")]
    path = tmp_path / "app.pem"
    path.write_bytes(content)
    sign_in = desk.application(_certified(tenant, made), _from_file(path, passphrase or ""))

    token = await sign_in.token()

    assert claims(token.value)["appidacr"] == "2"
    standing = sign_in.standing()
    assert standing.credential == f"certificate {made.thumbprint}"
    (expiry,) = standing.expiries
    assert (expiry.kind, expiry.expires_at) == (
        "certificate",
        made.certificate.not_valid_after_utc,
    )


async def test_a_certificate_that_changes_in_its_file_needs_no_restart(
    desk: Desk, tenant: Tenant, tmp_path: Path, keys: list[rsa.RSAPrivateKey]
) -> None:
    """The new one is tried first, and the former one while Entra does not know the new one."""
    old, new = (ClientCertificate.generate(start=now(), key=one) for one in keys)
    app = _certified(tenant, old)
    path = tmp_path / "app.pem"
    path.write_bytes(old.key_pem() + old.certificate_pem)
    sign_in = desk.application(app, _from_file(path))
    await sign_in.token()

    path.write_bytes(new.key_pem() + new.certificate_pem)
    await sign_in.reload()
    await sign_in.token()
    before = sign_in.standing().credential
    app.add_certificate(new.certificate_pem)
    await sign_in.reload()
    await sign_in.token()

    assert before == f"certificate {old.thumbprint}, as it was before it changed"
    assert sign_in.standing().credential == f"certificate {new.thumbprint}"
    assert [request.status for request in tenant.entra.requests] == [200, 401, 200, 200]


async def test_a_certificate_file_in_the_midst_of_being_written_breaks_nothing(
    desk: Desk, tenant: Tenant, tmp_path: Path, keys: list[rsa.RSAPrivateKey]
) -> None:
    """Half a file, or none: what Entra took last signs in."""
    made = ClientCertificate.generate(start=now(), key=keys[0])
    path = tmp_path / "app.pem"
    whole = made.key_pem() + made.certificate_pem
    path.write_bytes(whole)
    sign_in = desk.application(_certified(tenant, made), _from_file(path))
    await sign_in.token()

    for content in (whole[:700], b""):
        path.write_bytes(content)
        await sign_in.reload()
        await sign_in.token()
        assert sign_in.standing().state == "ok"
    path.unlink()
    await sign_in.reload()
    await sign_in.token()

    assert sign_in.refreshes == 4


@pytest.mark.parametrize(
    ("start", "state"),
    [(-400, "secret_expired"), (2, "rejected")],
    ids=["expired", "not_yet_valid"],
)
async def test_a_certificate_out_of_its_time_is_not_shown_to_entra(  # noqa: PLR0913, PLR0917 - a table's columns
    desk: Desk,
    tenant: Tenant,
    tmp_path: Path,
    keys: list[rsa.RSAPrivateKey],
    start: int,
    state: str,
) -> None:
    """Expired, or not good yet: the file, the day, and what to do."""
    begins = now() + timedelta(days=start)
    made = ClientCertificate.generate(start=begins, days=365, key=keys[0])
    path = tmp_path / "app.pem"
    path.write_bytes(made.key_pem() + made.certificate_pem)
    sign_in = desk.application(_certified(tenant, made), _from_file(path))

    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()

    assert caught.value.code.startswith("certificate.")
    assert str(path) in str(caught.value)
    assert caught.value.fix
    assert len(tenant.entra.requests) == 0
    assert sign_in.standing().state == state


async def test_a_certificate_that_nobody_uploaded_needs_a_person(
    desk: Desk, tenant: Tenant, tmp_path: Path, keys: list[rsa.RSAPrivateKey]
) -> None:
    """AADSTS700027, and where to upload it."""
    made = ClientCertificate.generate(start=now(), key=keys[0])
    path = tmp_path / "app.pem"
    path.write_bytes(made.pfx())

    with pytest.raises(SignInRejected) as caught:
        await desk.application(_certified(tenant), _from_file(path)).token()

    assert caught.value.code == "AADSTS700027"
    assert "upload the public part" in caught.value.fix


async def test_nothing_of_a_certificate_is_shown_anywhere(
    desk: Desk,
    tenant: Tenant,
    tmp_path: Path,
    keys: list[rsa.RSAPrivateKey],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither key nor passphrase, in logs at debug, errors and reprs."""
    caplog.set_level(logging.DEBUG)
    made = ClientCertificate.generate(start=now(), key=keys[0])
    path = tmp_path / "app.pem"
    path.write_bytes(made.key_pem(PASSPHRASE) + made.certificate_pem)
    credential = _from_file(path, PASSPHRASE)
    shown: list[object] = [credential, credential.proof()]
    with structlog.testing.capture_logs() as logs:
        sign_in = desk.application(_certified(tenant, made), credential)
        shown += [await sign_in.token(), sign_in.standing(), vars(sign_in)]
        wrong = desk.application(_certified(tenant, made), _from_file(path, "x" + PASSPHRASE))
        with pytest.raises(SignInRejected) as caught:
            await wrong.token()
        shown += [caught.value, str(caught.value), caught.value.__context__]
    text = "\n".join([*map(repr, shown), *map(repr, logs), caplog.text])

    assert PASSPHRASE not in text
    for line in made.key_pem().decode().splitlines()[1:-1]:
        assert line not in text


# --- federated credentials --------------------------------------------------------------------


@pytest.fixture
def cluster(tenant: Tenant) -> Issuer:
    return tenant.entra.trust(Issuer(url="https://kubernetes.example", now=now))


@pytest.fixture
def federated(tenant: Tenant, cluster: Issuer) -> App:
    app = tenant.directory.add(App(name="alarm-app"))
    app.add_federated(cluster.url, SUBJECT)
    return app


async def test_a_federated_token_is_read_again_for_each_request(
    desk: Desk, tenant: Tenant, federated: App, cluster: Issuer, tmp_path: Path
) -> None:
    """Kubernetes replaces the file within the hour; what stands there now is presented."""
    path = tmp_path / "token"
    path.write_text(cluster.token(SUBJECT) + "\n")
    sign_in = desk.application(federated, FederatedToken(path=path, now=now))
    first = await sign_in.token()

    path.write_text(cluster.token("somebody-else"))
    await sign_in.reload()
    held = await sign_in.token()
    code = sign_in.standing().code
    path.write_text(cluster.token(SUBJECT))
    await sign_in.reload()
    second = await sign_in.token()

    assert claims(first.value)["appidacr"] == "2"
    assert held == first
    assert code == "AADSTS700213"
    assert second != first
    assert tenant.entra.discoveries == 2
    assert sign_in.standing().credential == f"token in {path}"


async def test_a_federated_token_that_is_not_there_is_waited_for(
    desk: Desk, tenant: Tenant, federated: App, cluster: Issuer, tmp_path: Path
) -> None:
    """Missing, empty, ended: temporary, with the file and the reason, and nothing is sent."""
    path = tmp_path / "token"
    said = {}
    for content in (None, " \n", cluster.token(SUBJECT, lifetime=-10), "\x00\xff"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(Unavailable) as caught:
            await desk.application(federated, FederatedToken(path=path, now=now)).token()
        said[caught.value.code] = str(caught.value)
        assert str(path) in str(caught.value)

    assert set(said) == {"federated.unreadable", "federated.ended"}
    assert len(tenant.entra.requests) == 0


async def test_a_token_of_entra_is_no_federated_credential(
    desk: Desk, tenant: Tenant, federated: App, tmp_path: Path
) -> None:
    """AADSTS700222 is told with the way out; the token is shown nowhere."""
    path = tmp_path / "token"
    own = tenant.tokens.app_token(federated, audience="https://outlook.office365.com")
    path.write_text(own)
    sign_in = desk.application(federated, FederatedToken(path=path, now=now))

    with pytest.raises(SignInRejected) as caught:
        await sign_in.token()

    assert caught.value.code == "AADSTS700222"
    assert "managed_identity" in caught.value.fix
    assert own not in repr([caught.value, str(caught.value), sign_in, vars(sign_in)])


# --- managed identities -----------------------------------------------------------------------


def _managed(desk: Desk, identity: str = "system") -> ApplicationSignIn:
    return ApplicationSignIn(
        app=ManagedIdentity(name="alarm-app", identity=identity),
        scope=SCOPE,
        now=desk.now,
        run=desk.run,
    )


@pytest.fixture(params=["machine", "app_service"])
def platform(
    request: pytest.FixtureRequest, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Set the environment of a platform; a proxy in it must not matter."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    endpoints = tenant.identities
    pairs = [endpoints.machine] if request.param == "machine" else endpoints.app_service
    for name, value in pairs:
        monkeypatch.setenv(name, value)
    return str(request.param)


async def test_a_managed_identity_needs_no_credential(
    desk: Desk, tenant: Tenant, platform: str
) -> None:
    """The machine's own and a user-assigned one, each asked by its name, without a proxy."""
    own = tenant.add_identity("vm")
    shared = tenant.add_identity("shared", assigned="user")

    for identity, app, told in (
        ("system", own, "managed identity of the machine"),
        (shared.client_id, shared, f"managed identity {shared.client_id}"),
    ):
        sign_in = _managed(desk, identity)
        token = await sign_in.token()
        assert claims(token.value)["appid"] == app.client_id
        assert claims(token.value)["roles"] == list(app.roles)
        assert sign_in.standing().credential == told
        assert sign_in.standing().expiries == ()
    assert tenant.identities.answered == 2
    assert len(tenant.entra.requests) == 0


async def test_an_identity_that_the_machine_does_not_have_needs_a_person(
    desk: Desk, tenant: Tenant, platform: str
) -> None:
    """Neither the system's nor a named one."""
    sign_in = _managed(desk, "11111111-2222-3333-4444-555555555555")

    if platform == "machine":
        with pytest.raises(SignInRejected) as caught:
            await sign_in.token()
        assert caught.value.code == "managed_identity.unknown"
        assert "Identity > On" in caught.value.fix
        return
    with pytest.raises(MailbridgeError, match="No User Assigned"):
        await sign_in.token()


@pytest.mark.parametrize(
    ("fault", "kind"), [("identity.429", Throttled), ("identity.500", Unavailable)]
)
async def test_a_platform_in_trouble_is_temporary(
    desk: Desk, tenant: Tenant, platform: str, fault: str, kind: type[MailbridgeError]
) -> None:
    """Throttling is obeyed, and an outage is sat out."""
    tenant.add_identity("vm")
    tenant.faults.add(fault, times=1)

    with pytest.raises(kind):
        await _managed(desk).token()
    assert (await _managed(desk).token()).value


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://metadata.example",
        "http://10.0.0.1",
        "https://169.254.169.254",
        "http://169.254.169.254.example",
        "http://[2001:db8::1]",
    ],
)
async def test_an_endpoint_elsewhere_is_never_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """An environment variable cannot lead the request for an identity to another machine."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint)

    with pytest.raises(SignInRejected, match="neither on this machine nor link-local") as caught:
        await _managed(desk).token()

    assert caught.value.code == "managed_identity.far"
    assert "AZURE_POD_IDENTITY_AUTHORITY_HOST" in caught.value.fix


async def test_a_machine_without_a_platform_is_told_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers where the identity should be; that is said, and asked about Azure."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")

    with pytest.raises(Unavailable) as caught:
        await _managed(desk).token()

    assert caught.value.code == "managed_identity.unreachable"
    assert "Azure" in caught.value.fix


# --- passwords --------------------------------------------------------------------------------


@pytest.fixture
def user(tenant: Tenant) -> User:
    return tenant.add_user("alarm@feuerwehr.example")


@pytest.fixture(params=["public", "confidential"])
def either(request: pytest.FixtureRequest, tenant: Tenant) -> App:
    """Give an app of each kind of client."""
    if request.param == "confidential":
        return tenant.add_app("web")
    return tenant.directory.add(App(name="desktop", public_flows=True))


async def test_a_password_gives_a_token_of_its_owner(
    desk: Desk, tenant: Tenant, either: App, user: User
) -> None:
    """Name and password, by a public and by a confidential client."""
    sign_in = desk.password(either, user)

    token = await sign_in.token()

    assert claims(token.value)["upn"] == user.upn
    assert claims(token.value)["scp"] == "IMAP.AccessAsUser.All"
    assert [request.grant for request in tenant.entra.requests] == ["password"]
    assert (sign_in.standing().state, sign_in.standing().credential) == ("ok", "password")


async def test_a_password_goes_to_entra_alone(
    desk: Desk, tenant: Tenant, either: App, user: User
) -> None:
    """Not to the AD FS that a federated account's realm would name; told in plain words."""
    user.federated = True

    with pytest.raises(SignInRejected) as caught:
        await desk.password(either, user).token()

    assert caught.value.code == "AADSTS50126"
    assert "AD FS" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mfa": "required"}, r"second factor.*AADSTS50076"),
        ({"mfa": "enroll"}, r"second factor.*AADSTS50079"),
        ({"blocked": True}, r"Conditional Access.*AADSTS53003"),
        ({"enabled": False}, r"shared mailbox.*AADSTS50057"),
        ({"password_expired": True}, r"expired.*AADSTS50055"),
    ],
)
async def test_what_ends_passwords_is_explained(
    desk: Desk, either: App, user: User, change: dict[str, object], told: str
) -> None:
    """Second factors and policies are what a password cannot answer."""
    for name, value in change.items():
        setattr(user, name, value)
    sign_in = desk.password(either, user)

    with pytest.raises(SignInRejected, match=told) as caught:
        await sign_in.token()

    assert caught.value.fix
    assert sign_in.standing().state == "rejected"


async def test_security_defaults_refuse_passwords(
    desk: Desk, tenant: Tenant, either: App, user: User
) -> None:
    """AADSTS530035, and application access as the way out."""
    tenant.directory.security_defaults = True

    with pytest.raises(SignInRejected, match="security defaults") as caught:
        await desk.password(either, user).token()

    assert "application access" in caught.value.fix


async def test_a_wrong_password_is_not_repeated_until_the_account_is_locked(
    desk: Desk, either: App, user: User, clock: Clock, tmp_path: Path
) -> None:
    """A quarter of an hour between two tries; a changed password is tried at once."""
    place = tmp_path / "password"
    place.write_text("wrong-password")
    secret = ClientSecret("wrong-password", again=place.read_text)
    sign_in = desk.password(either, user, secret)
    for _ in range(10):
        with pytest.raises(SignInRejected):
            await sign_in.token()
        clock.advance(80)
    assert desk.asked("password") == 1

    place.write_text(user.password)

    assert (await sign_in.token()).value


async def test_a_locked_account_is_left_alone(desk: Desk, either: App, user: User) -> None:
    """AADSTS50053 passes, if nobody goes on trying."""
    user.locked_until = now() + timedelta(minutes=20)
    sign_in = desk.password(either, user)

    for _ in range(3):
        with pytest.raises(Throttled) as caught:
            await sign_in.token()

    assert caught.value.retry_after > 900
    assert desk.asked("password") == 1
    assert sign_in.standing().state == "temporarily_unavailable"


async def test_no_password_is_shown_anywhere(
    desk: Desk, tenant: Tenant, either: App, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in logs at debug, nor in errors and reprs, even if Entra repeated it."""
    caplog.set_level(logging.DEBUG)
    user.password = "canary-password-do-not-show"
    tenant.faults.add("token.error", times=1, code=50126, text=f"Wrong: {user.password}")
    sign_in = desk.password(either, user)
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(SignInRejected) as caught:
            await sign_in.token()
        shown: list[object] = [caught.value, str(caught.value), caught.value.__context__]
        shown += [vars(sign_in), sign_in.standing()]
        tenant.faults.add("token.error", times=1, code=1, text=f"Wrong: {user.password}")
        again = desk.password(either, user)
        with pytest.raises(MailbridgeError) as other:
            await again.token()
        shown += [str(other.value), await desk.password(either, user).token()]
    text = "\n".join([*map(repr, shown), *map(repr, logs), caplog.text])

    assert user.password not in text
