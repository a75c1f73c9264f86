"""Application access at the sandbox's Entra: secrets, certificates, federated tokens."""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mailbridge.sandbox.directory import App
from mailbridge.sandbox.entra_certificates import ClientCertificate, x5t, x5t_s256
from mailbridge.sandbox.entra_clients import ASSERTION
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from tests.conftest import Clock
from tests.servers.entra import APP_ONLY, Desk, told
from tests.servers.sandbox_client import signing_key

SUBJECT = "system:serviceaccount:alarm:mailbridge"


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def issuer_key(name: str) -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def desk(clock: Clock) -> AsyncIterator[Desk]:
    clock.set(datetime.now(UTC))
    async with Tenant.start(key=signing_key(), now=clock) as tenant, Desk.open(tenant) as desk:
        yield desk


@pytest.fixture
def app(desk: Desk) -> App:
    app = desk.tenant.add_app()
    app.secrets.clear()
    return app


@pytest.fixture
def certificate(app: App, clock: Clock) -> ClientCertificate:
    made = ClientCertificate.generate(start=clock() - timedelta(days=1), key=rsa_key("app"))
    app.add_certificate(made.certificate_pem)
    return made


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


class Assertions:
    """Makes assertions by hand, right ones and wrong ones."""

    def __init__(self, desk: Desk, app: App, certificate: ClientCertificate) -> None:
        self.desk, self.app, self.certificate = desk, app, certificate

    def make(self, *, headers: dict[str, str] | None = None, **changes: Any) -> str:
        """Return an assertion; a claim that is changed to ``None`` is left out."""
        moment = int(self.desk.tenant.entra.state.now().timestamp())
        claims = {
            "aud": f"{self.desk.tenant.entra.authority}/oauth2/v2.0/token",
            "iss": self.app.client_id,
            "sub": self.app.client_id,
            "jti": str(uuid.uuid4()),
            "nbf": moment,
            "iat": moment,
            "exp": moment + 600,
            **changes,
        }
        return jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            self.certificate.key,
            "PS256",
            headers=headers or {"x5t#S256": x5t_s256(self.certificate.certificate)},
        )

    async def present(self, assertion: str, **changes: str) -> tuple[int, dict[str, Any]]:
        """Ask for an app-only token with it."""
        form = {
            "client_id": self.app.client_id,
            "grant_type": "client_credentials",
            "scope": APP_ONLY,
            "client_assertion": assertion,
            "client_assertion_type": ASSERTION,
        }
        return await self.desk.post({**form, **changes})

    async def refused(self, assertion: str, **changes: str) -> tuple[int, str, int]:
        """Return status, error and code of the refusal."""
        status, body = await self.present(assertion, **changes)
        return status, body["error"], body["error_codes"][0]


@pytest.fixture
def assertions(desk: Desk, app: App, certificate: ClientCertificate) -> Assertions:
    return Assertions(desk, app, certificate)


# --- certificates -----------------------------------------------------------------------------


async def test_msal_signs_in_with_a_certificate_in_every_form_it_knows(
    desk: Desk, app: App, certificate: ClientCertificate, tmp_path: Path
) -> None:
    """PEM with the certificate, PEM with a thumbprint, encrypted PEM, and PFX are all taken."""
    pfx = tmp_path / "app.pfx"
    pfx.write_bytes(certificate.pfx("pfx-pass"))
    public = certificate.certificate_pem.decode()
    credentials = {
        "PS256": {"private_key": certificate.key_pem().decode(), "public_certificate": public},
        "RS256": {
            "private_key": certificate.key_pem().decode(),
            "thumbprint": certificate.thumbprint,
        },
        "passphrase": {
            "private_key": certificate.key_pem("pem-pass").decode(),
            "public_certificate": public,
            "passphrase": "pem-pass",
        },
        "PFX": {"private_key_pfx_path": str(pfx), "passphrase": "pfx-pass"},
    }
    for name, credential in credentials.items():
        client = await desk.confidential(app, credential)
        answer = await desk.do(client.acquire_token_for_client, [APP_ONLY])
        assert "access_token" in answer, (name, answer)
        assert claims_of(answer["access_token"])["appidacr"] == "2"
    assert desk.tenant.entra.asked == {"client_credentials": 4}


async def test_two_certificates_work_while_rotating(
    desk: Desk, app: App, assertions: Assertions, clock: Clock
) -> None:
    """Until the old certificate is taken away, either signs in."""
    other = ClientCertificate.generate(start=clock(), key=rsa_key("other"))
    app.add_certificate(other.certificate_pem)
    assert (await assertions.present(assertions.make()))[0] == 200
    second = Assertions(desk, app, other)
    assert (await second.present(second.make()))[0] == 200
    app.certificates.pop(0)
    assert await assertions.refused(assertions.make()) == (401, "invalid_client", 700027)


async def test_one_assertion_may_be_presented_again(assertions: Assertions) -> None:
    """Msal keeps an assertion for nine minutes, so its second use is no replay."""
    assertion = assertions.make()
    assert [(await assertions.present(assertion))[0] for _ in range(2)] == [200, 200]


async def test_a_certificate_is_refused_for_what_is_wrong_with_it(
    desk: Desk, app: App, assertions: Assertions, clock: Clock
) -> None:
    """Unregistered, expired and mismatched certificates have one code and their own reasons."""
    stranger = ClientCertificate.generate(start=clock(), key=rsa_key("other"))
    foreign = Assertions(desk, app, stranger)
    _, body = await foreign.present(foreign.make())
    assert told(body) == ("invalid_client", 700027, None)
    shown = stranger.certificate.fingerprint(
        stranger.certificate.signature_hash_algorithm or pytest.fail("no hash")
    )
    assert (
        "[Reason - The key was not found., Thumbprint of key used by client: "
        in (body["error_description"])
    )
    assert shown.hex().upper() in body["error_description"]

    own = {"x5t#S256": x5t_s256(assertions.certificate.certificate)}
    _, body = await foreign.present(foreign.make(headers=own))
    assert "use of the key to verify the signature failed" in body["error_description"]

    clock.advance(400 * 86_400)
    _, body = await assertions.present(assertions.make())
    assert told(body) == ("invalid_client", 700027, None)
    assert "[Reason - The key used is expired., Thumbprint of key" in body["error_description"]
    assert "Found key 'Start=" in body["error_description"]

    app.certificates.clear()
    _, body = await assertions.present(assertions.make())
    assert told(body) == ("invalid_client", 700027, None)
    assert f"is not registered on application '{app.client_id}'" in body["error_description"]


async def test_an_sha1_thumbprint_finds_the_certificate_too(assertions: Assertions) -> None:
    """The older header x5t, which msal sends with RS256, is as good as x5t#S256."""
    header = {"x5t": x5t(assertions.certificate.certificate)}
    assert (await assertions.present(assertions.make(headers=header)))[0] == 200


async def test_an_assertion_holds_for_this_app_this_place_and_ten_minutes(
    desk: Desk, app: App, assertions: Assertions, clock: Clock
) -> None:
    """Audience, issuer, subject, id and times are each judged, with Entra's code for each."""
    other = desk.tenant.add_app("other")
    moment = int(clock().timestamp())
    base = desk.tenant.entra.base_url
    found = {
        "audience": await assertions.refused(assertions.make(aud="https://elsewhere.example")),
        "another app": await assertions.refused(
            assertions.make(iss=other.client_id, sub=other.client_id)
        ),
        "about another app": await assertions.refused(assertions.make(sub=other.client_id)),
        "no id": await assertions.refused(assertions.make(jti=None)),
        "no JWT": await assertions.refused("not-a-jwt"),
        "no type": await assertions.refused(assertions.make(), client_assertion_type=""),
        "expired": await assertions.refused(
            assertions.make(nbf=moment - 1200, iat=moment - 1200, exp=moment - 600)
        ),
        "from the future": await assertions.refused(
            assertions.make(nbf=moment + 600, iat=moment + 600, exp=moment + 900)
        ),
        "eleven minutes": await assertions.refused(assertions.make(exp=moment + 660)),
        "no end": await assertions.refused(assertions.make(exp=None)),
        "absurd": await assertions.refused(assertions.make(exp=1e300)),
    }
    assert found == {
        "audience": (401, "invalid_client", 700023),
        "another app": (401, "invalid_client", 700021),
        "about another app": (401, "invalid_client", 700021),
        "no id": (401, "invalid_client", 50027),
        "no JWT": (401, "invalid_client", 50027),
        "no type": (400, "invalid_request", 90014),
        "expired": (401, "invalid_client", 700024),
        "from the future": (401, "invalid_client", 700024),
        "eleven minutes": (401, "invalid_client", 700024),
        "no end": (401, "invalid_client", 700024),
        "absurd": (401, "invalid_client", 50027),
    }
    places = [f"{base}/{name}/oauth2/v2.0/token" for name in desk.tenant.directory.names]
    for place in [*places, f"{desk.tenant.entra.authority}/v2.0"]:
        assert (await assertions.present(assertions.make(aud=place)))[0] == 200, place
    clock_off = assertions.make(nbf=moment + 240, iat=moment + 240, exp=moment + 840)
    assert (await assertions.present(clock_off))[0] == 200


async def test_only_rsa_certificates_can_be_uploaded(desk: Desk, app: App) -> None:
    """A certificate that Entra could not verify with is refused at once."""
    with pytest.raises(ValueError, match="RSA"):
        app.add_certificate(desk.tenant.authority.pem)


async def test_a_private_key_is_in_no_repr(app: App, certificate: ClientCertificate) -> None:
    """Neither the certificate's repr nor the app's shows key material."""
    app.add_secret("canary-secret-value")
    text = repr(app) + repr(certificate)
    assert "canary-secret-value" not in text
    assert "RSAPrivateKey" not in text


# --- federated credentials --------------------------------------------------------------------


@pytest.fixture
def cluster(desk: Desk, app: App, clock: Clock) -> Issuer:
    made = Issuer(url="https://kubernetes.example/", now=clock, keys=[issuer_key("cluster")])
    app.add_federated(made.url, SUBJECT)
    return desk.tenant.entra.trust(made)


async def test_msal_signs_in_with_a_federated_token(desk: Desk, app: App, cluster: Issuer) -> None:
    """A service account's token stands for a secret, and the issuer may rotate its keys."""
    for key in ("cluster", "rotated"):
        if key == "rotated":
            cluster.keys.append(issuer_key(key))
        client = await desk.confidential(app, {"client_assertion": lambda: cluster.token(SUBJECT)})
        answer = await desk.do(client.acquire_token_for_client, [APP_ONLY])
        claims = claims_of(answer["access_token"])
        assert (claims["appidacr"], claims["roles"]) == ("2", list(app.roles))


async def test_a_federated_token_is_refused_for_what_does_not_fit(
    desk: Desk, app: App, cluster: Issuer, clock: Clock
) -> None:
    """Issuer, subject, audience, their combination, key and age have codes of their own."""
    present = Assertions(
        desk, app, ClientCertificate.generate(start=clock(), key=rsa_key("app"))
    ).refused
    elsewhere = Issuer(url="https://other.example", now=clock, keys=[issuer_key("cluster")])
    app.add_federated(cluster.url, "system:serviceaccount:alarm:second", "api://other")
    own = desk.tenant.tokens.app_token(app, audience="https://outlook.office365.com")
    bare = desk.tenant.add_app("bare")
    found = {
        "issuer": await present(elsewhere.token(SUBJECT)),
        "subject": await present(cluster.token("system:serviceaccount:alarm:typo")),
        "case": await present(cluster.token(SUBJECT.upper())),
        "audience": await present(cluster.token(SUBJECT, audience="api://typo")),
        "mixed": await present(cluster.token(SUBJECT, audience="api://other")),
        "unpublished key": await present(cluster.token(SUBJECT, key=issuer_key("thief"))),
        "Entra's own": await present(own),
        "nothing configured": await present(cluster.token(SUBJECT), client_id=bare.client_id),
    }
    old = cluster.token(SUBJECT)
    clock.advance(2 * 3600)
    found["expired"] = await present(old)
    assert {name: code for name, (_, _, code) in found.items()} == {
        "issuer": 700211,
        "subject": 700213,
        "case": 7002138,
        "audience": 700212,
        "mixed": 70021,
        "unpublished key": 50013,
        "Entra's own": 700222,
        "nothing configured": 70025,
        "expired": 700024,
    }
    assert {(status, error) for status, error, _ in found.values()} == {(401, "invalid_client")}


async def test_a_forged_federated_token_under_a_published_key_id_is_refused(
    desk: Desk, app: App, cluster: Issuer, clock: Clock
) -> None:
    """The key id alone proves nothing; the signature has to hold."""
    forged = SigningKey(private=rsa_key("other"), kid=cluster.keys[0].kid)
    status, body = await Assertions(
        desk, app, ClientCertificate.generate(start=clock(), key=rsa_key("app"))
    ).present(cluster.token(SUBJECT, key=forged))
    assert (status, told(body)) == (401, ("invalid_client", 50013, None))
    assert "verify the signature failed" in body["error_description"]


async def test_the_sentences_name_what_was_presented(
    desk: Desk, app: App, cluster: Issuer, clock: Clock
) -> None:
    """Somebody who mistyped a subject reads the one that came."""
    present = Assertions(
        desk, app, ClientCertificate.generate(start=clock(), key=rsa_key("app"))
    ).present
    _, body = await present(cluster.token("repo:somebody/else"))
    assert "for presented assertion subject 'repo:somebody/else'." in body["error_description"]


# --- apps -------------------------------------------------------------------------------------


async def test_an_app_that_is_absent_or_blocked_gets_no_token(desk: Desk, app: App) -> None:
    """A missing enterprise app and Conditional Access for workloads have their own codes."""
    secret = app.add_secret()
    form = {
        "client_id": app.client_id,
        "client_secret": secret,
        "grant_type": "client_credentials",
        "scope": APP_ONLY,
    }
    app.installed = False
    status, body = await desk.post(form)
    assert (status, told(body)) == (401, ("invalid_client", 7000229, None))
    app.installed, app.blocked = True, True
    status, body = await desk.post(form)
    assert (status, told(body)) == (400, ("invalid_grant", 53003, "message_only"))


async def test_long_lived_tokens_say_when_to_refresh_them(desk: Desk, app: App) -> None:
    """``refresh_in`` comes with tokens of two hours and more, and msal heeds it."""
    form = {"client_id": app.client_id, "client_secret": app.add_secret(), "scope": APP_ONLY}
    found = {}
    for seconds in (3599, 7200, 86_399):
        app.lifetime = seconds
        _, body = await desk.post({**form, "grant_type": "client_credentials"})
        found[seconds] = (body["expires_in"], body["ext_expires_in"], body.get("refresh_in"))
    assert found == {
        3599: (3599, 3599, None),
        7200: (7200, 7200, 3600),
        86_399: (86_399, 86_399, 43_199),
    }
    client = await desk.confidential(app)
    answer = await desk.do(client.acquire_token_for_client, [APP_ONLY])
    assert answer["refresh_on"] > 0


async def test_another_clouds_tenant_takes_its_own_resource_only(desk: Desk, app: App) -> None:
    """A tenant of a national cloud knows that cloud's Exchange, and not the public one."""
    app.add_secret()
    desk.tenant.tokens.audiences = ("https://outlook.office365.us",)
    client = await desk.confidential(app)
    answer = await desk.do(
        client.acquire_token_for_client, ["https://outlook.office365.us/.default"]
    )
    assert claims_of(answer["access_token"])["roles"] == list(app.roles)
    assert desk.tenant.tokens.check(answer["access_token"]) is not None
    answer = await desk.do(client.acquire_token_for_client, [APP_ONLY])
    assert told(answer) == ("invalid_resource", 500011, None)
