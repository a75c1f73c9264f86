"""The sandbox's Entra answers MSAL and plain HTTP as the real one does."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msal
import pytest
import requests

from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.entra_clients import add_basic
from mailbridge.sandbox.entra_grants import TokenCall
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey

SCOPE = "https://outlook.office365.com/.default"


@functools.cache
def signing_key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        yield running


def _acquire(
    tenant: Tenant, client_id: str, secret: str, scope: str, authority: str | None
) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(tenant.ca_file)
        app = msal.ConfidentialClientApplication(
            client_id,
            client_credential=secret,
            authority=authority or tenant.entra.authority,
            instance_discovery=False,
            http_client=session,
        )
        result: dict[str, Any] = app.acquire_token_for_client([scope])
        return result


async def acquire(  # noqa: PLR0913 - what a test may get wrong on purpose, by name
    tenant: Tenant,
    app: App,
    *,
    client_id: str | None = None,
    secret: str | None = None,
    scope: str = SCOPE,
    authority: str | None = None,
) -> dict[str, Any]:
    """Ask for a token through a fresh MSAL app, whose cache of errors is empty."""
    return await asyncio.to_thread(
        _acquire, tenant, client_id or app.client_id, secret or app.secret, scope, authority
    )


async def post(
    tenant: Tenant,
    form: dict[str, str],
    *,
    path: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, dict[str, str]]:
    """Post to the token endpoint; give status, JSON (or text) and headers."""
    url = f"{tenant.entra.base_url}/{path or tenant.directory.tenant_id}/oauth2/v2.0/token"
    context = tenant.authority.client_context()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form, headers=headers, ssl=context) as response,
    ):
        body = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(body) if is_json else body, dict(response.headers)


def form_of(app: App, **changes: str) -> dict[str, str]:
    return {
        "client_id": app.client_id,
        "client_secret": app.secret,
        "grant_type": "client_credentials",
        "scope": SCOPE,
        **changes,
    }


async def test_msal_gets_an_app_only_token_with_exchange_claims(tenant: Tenant) -> None:
    """A registered app gets a v1 token that is flat enough for a server which checks it itself."""
    app = tenant.add_app("alarm-app", lifetime=3599)
    result = await acquire(tenant, app)
    assert result["expires_in"] == 3599
    assert result["token_source"] == "identity_provider"
    header = jwt.get_unverified_header(result["access_token"])
    assert header == {"alg": "RS256", "kid": tenant.tokens.key.kid, "typ": "JWT"}
    claims = jwt.decode(
        result["access_token"],
        tenant.tokens.key.public_pem,
        algorithms=["RS256"],
        audience="https://outlook.office365.com",
    )
    assert claims["aud"] == "https://outlook.office365.com"
    assert claims["roles"] == ["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"]
    assert (claims["appid"], claims["oid"]) == (app.client_id, app.object_id)
    assert (claims["idtyp"], claims["ver"]) == ("app", "1.0")
    assert claims["tid"] == tenant.directory.tenant_id
    assert claims["iat"] == claims["nbf"]
    assert claims["exp"] - claims["iat"] == 3899
    assert "azp" not in claims
    assert None not in claims.values()


async def test_missing_consent_gives_a_token_without_roles(tenant: Tenant) -> None:
    """Without admin consent Entra still issues a token; only its roles claim is missing."""
    app = tenant.add_app(consented=False)
    result = await acquire(tenant, app)
    claims = jwt.decode(result["access_token"], options={"verify_signature": False})
    assert "roles" not in claims


async def test_a_graph_token_has_no_mail_roles(tenant: Tenant) -> None:
    """A token for another resource carries its audience and no Exchange roles."""
    app = tenant.add_app()
    result = await acquire(tenant, app, scope="https://graph.microsoft.com/.default")
    claims = jwt.decode(result["access_token"], options={"verify_signature": False})
    assert claims["aud"] == "https://graph.microsoft.com"
    assert "roles" not in claims


async def test_audience_lifetime_and_size_follow_the_app(tenant: Tenant) -> None:
    """Tests can have short-lived, fat tokens for another audience."""
    app = tenant.add_app(lifetime=2, audience="https://outlook.office.com")
    app.padding = 3000
    result = await acquire(tenant, app)
    claims = jwt.decode(result["access_token"], options={"verify_signature": False})
    assert claims["aud"] == "https://outlook.office.com"
    assert result["expires_in"] == 2
    assert len(result["access_token"]) > 4000


async def test_msal_reports_the_real_code_of_each_mistake(tenant: Tenant) -> None:
    """Each way to misconfigure an app ends in Entra's own code and error name."""
    app = tenant.add_app()
    stale = tenant.add_app("old", secret_expires_at=datetime.now(UTC) - timedelta(days=1))
    disabled = tenant.add_app("off")
    disabled.enabled = False
    found = {}
    for name, call in {
        "wrong secret": acquire(tenant, app, secret="not-it"),
        "expired secret": acquire(tenant, stale),
        "unknown app": acquire(tenant, app, client_id=str(uuid.uuid4())),
        "disabled app": acquire(tenant, disabled),
        "delegated scope": acquire(
            tenant, app, scope="https://outlook.office.com/IMAP.AccessAsUser.All"
        ),
        "unknown resource": acquire(tenant, app, scope="https://outlook.office.com365/.default"),
    }.items():
        result = await call
        found[name] = (result["error"], result["error_codes"])
    assert found == {
        "wrong secret": ("invalid_client", [7000215]),
        "expired secret": ("invalid_client", [7000222]),
        "unknown app": ("unauthorized_client", [700016]),
        "disabled app": ("unauthorized_client", [7000112]),
        "delegated scope": ("invalid_scope", [1002012]),
        "unknown resource": ("invalid_resource", [500011]),
    }
    assert [request.code for request in tenant.entra.requests] == [
        7000215,
        7000222,
        700016,
        7000112,
        1002012,
        500011,
    ]


async def test_error_bodies_are_entras_to_the_last_field(tenant: Tenant) -> None:
    """An error has trace id, timestamp, URI, and the correlation id that the client sent."""
    app = tenant.add_app()
    correlation = str(uuid.uuid4())
    status, body, headers = await post(
        tenant, form_of(app, client_secret="wrong"), headers={"client-request-id": correlation}
    )
    assert status == 401
    assert headers["Cache-Control"] == "no-store, no-cache"
    assert uuid.UUID(headers["x-ms-request-id"])
    assert body["correlation_id"] == correlation
    assert body["error_uri"] == "https://login.microsoftonline.com/error?code=7000215"
    assert body["error_description"] == (
        "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the "
        "request is the client secret value, not the client secret ID, for a secret added to "
        f"app '{app.client_id}'.\r\nTrace ID: {body['trace_id']}"
        f"\r\nCorrelation ID: {correlation}\r\nTimestamp: {body['timestamp']}"
    )
    assert datetime.strptime(body["timestamp"], "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC)


async def test_malformed_requests_are_refused_as_entra_does(tenant: Tenant) -> None:
    """What no library sends, but a person with curl does, gets its code too."""
    app = tenant.add_app()
    without = {key: value for key, value in form_of(app).items() if key != "client_secret"}
    cases = {
        "no grant": {"client_id": app.client_id},
        "no client": {"grant_type": "client_credentials"},
        "unknown grant": form_of(app, grant_type="magic"),
        "no credential": without,
        "no scope": form_of(app, scope=""),
        "two scopes": form_of(app, scope=f"{SCOPE} https://graph.microsoft.com/.default"),
    }
    found = {}
    for name, form in cases.items():
        status, body, _ = await post(tenant, form)
        found[name] = (status, body["error"], body["error_codes"][0])
    assert found == {
        "no grant": (400, "invalid_request", 900144),
        "no client": (400, "invalid_request", 900144),
        "unknown grant": (400, "unsupported_grant_type", 70003),
        "no credential": (401, "invalid_client", 7000216),
        "no scope": (400, "invalid_request", 900144),
        "two scopes": (400, "invalid_scope", 70011),
    }


async def test_the_secret_may_come_by_basic_authentication(tenant: Tenant) -> None:
    """Client id and secret in the Authorization header are as good as in the body."""
    app = tenant.add_app(secret="with-reserved")
    form = {"grant_type": "client_credentials", "scope": SCOPE}
    blob = base64.b64encode(f"{app.client_id}:with-reserved".encode()).decode()
    status, body, _ = await post(tenant, form, headers={"Authorization": f"Basic {blob}"})
    assert status == 200
    assert body["token_type"] == "Bearer"


async def test_both_secrets_work_while_rotating(tenant: Tenant) -> None:
    """Until the old secret is deleted or expires, the app may use either."""
    app = tenant.add_app(secret="first")
    app.add_secret("second")
    for secret in ("first", "second"):
        assert "access_token" in await acquire(tenant, app, secret=secret)


async def test_unknown_tenants_are_refused_at_discovery_and_at_the_token_endpoint(
    tenant: Tenant,
) -> None:
    """The same code comes under two error names; MSAL hides it behind a ValueError."""
    app = tenant.add_app()
    unknown = str(uuid.uuid4())
    with pytest.raises(ValueError, match="authority"):
        await acquire(tenant, app, authority=f"{tenant.entra.base_url}/{unknown}")
    status, body, _ = await post(tenant, form_of(app), path=unknown)
    assert (status, body["error"], body["error_codes"]) == (400, "invalid_request", [90002])
    context = tenant.authority.client_context()
    url = f"{tenant.entra.base_url}/{unknown}/v2.0/.well-known/openid-configuration"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        document = await response.json()
    assert (response.status, document["error"]) == (400, "invalid_tenant")
    status, body, _ = await post(tenant, form_of(app), path="not%20a%20tenant")
    assert body["error_codes"] == [900023]
    status, body, _ = await post(tenant, form_of(app), path="common")
    assert (status, body["error_codes"]) == (400, [50059])


async def test_discovery_answers_by_guid_by_domain_and_for_common(tenant: Tenant) -> None:
    """A domain leads to the GUID's URLs; common keeps its name and a literal placeholder."""
    base = tenant.entra.base_url
    guid = tenant.directory.tenant_id
    context = tenant.authority.client_context()
    documents = {}
    async with aiohttp.ClientSession() as session:
        for name in (guid, "Feuerwehr.example", "common"):
            url = f"{base}/{name}/v2.0/.well-known/openid-configuration"
            async with session.get(url, ssl=context) as response:
                documents[name] = await response.json()
        async with session.get(documents[guid]["jwks_uri"], ssl=context) as response:
            keys = await response.json()
        instance = f"{base}/common/discovery/instance?api-version=1.1&authorization_endpoint="
        async with session.get(f"{instance}{base}/x/authorize", ssl=context) as response:
            known = await response.json()
        async with session.get(f"{instance}https://evil.example/x", ssl=context) as response:
            unknown = await response.json()
    assert documents[guid] == documents["Feuerwehr.example"]
    assert documents[guid]["token_endpoint"] == f"{base}/{guid}/oauth2/v2.0/token"
    assert documents[guid]["issuer"] == f"{base}/{guid}/v2.0"
    assert documents["common"]["issuer"] == f"{base}/{{tenantid}}/v2.0"
    assert tenant.entra.discoveries == 3
    assert [key["kid"] for key in keys["keys"]] == [tenant.tokens.key.kid]
    token = tenant.tokens.app_token(tenant.add_app(), audience="https://outlook.office.com")
    key = jwt.PyJWK(keys["keys"][0])
    assert jwt.decode(token, key, algorithms=["RS256"], audience="https://outlook.office.com")
    assert known["tenant_discovery_endpoint"].startswith(base)
    assert unknown["error"] == "invalid_instance"


async def test_token_faults_strike_as_often_as_told(tenant: Tenant) -> None:
    """Throttling, broken backends and foreign pages come when armed, and then stop."""
    app = tenant.add_app()
    tenant.faults.add("token.429", times=1, retry_after=7)
    tenant.faults.add("token.503", times=1, client_id=app.client_id)
    tenant.faults.add("token.500", times=1)
    tenant.faults.add("token.wrong_body", times=1)
    tenant.faults.add("token.error", times=1, code=50196, error="invalid_grant", text="Loop.")
    answers = [await post(tenant, form_of(app)) for _ in range(6)]
    assert [answer[0] for answer in answers] == [429, 500, 503, 200, 400, 200]
    assert answers[0][1]["error"] == "temporarily_unavailable"
    assert answers[0][2]["Retry-After"] == "7"
    assert "<html>" in answers[3][1]
    assert answers[4][1]["error_codes"] == [50196]
    assert "access_token" in answers[5][1]
    assert tenant.faults.fired == {
        "token.429": 1,
        "token.503": 1,
        "token.500": 1,
        "token.wrong_body": 1,
        "token.error": 1,
    }


async def test_a_hanging_or_dropping_token_endpoint_can_be_left(tenant: Tenant) -> None:
    """A request that hangs ends with the client's patience, and stopping does not wait for it."""
    app = tenant.add_app()
    tenant.faults.add("token.hang", times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await post(tenant, form_of(app))
    tenant.faults.add("token.drop", times=1)
    with pytest.raises(aiohttp.ClientError):
        await post(tenant, form_of(app))
    status, _, _ = await post(tenant, form_of(app))
    assert status == 200


async def test_another_grant_can_be_added(tenant: Tenant) -> None:
    """The table of grants is open: a new grant gets the authenticated app."""
    app = tenant.add_app()

    async def echo(call: TokenCall) -> dict[str, Any]:
        return {"name": call.app.name, "given": call.form["x"]}

    tenant.entra.grants["urn:test:echo"] = echo
    _, body, _ = await post(tenant, form_of(app, grant_type="urn:test:echo", x="1"))
    assert body == {"name": "alarm-app", "given": "1"}


async def test_a_fault_with_a_wrong_name_or_option_is_refused(tenant: Tenant) -> None:
    """A typing error in a test's script is an error, not a fault that never strikes."""
    with pytest.raises(ValueError, match=r"no fault is called 'imap\.slwo'"):
        tenant.faults.add("imap.slwo")
    with pytest.raises(ValueError, match="no option secnds"):
        tenant.faults.add("token.hang", secnds=3)


async def test_no_secret_shows_in_a_repr(tenant: Tenant) -> None:
    """Neither an app nor the log of requests repeats a credential."""
    app = tenant.add_app(secret="top-secret-value")
    await post(tenant, form_of(app))
    assert "top-secret-value" not in repr(app) + repr(tenant.entra.requests)


def test_openssl_accepts_the_certificates_in_strict_mode(tmp_path: Path) -> None:
    """The extensions satisfy OpenSSL's strict X.509 checks, which Python 3.13 makes the default."""
    authority = Authority()
    ca = authority.write(tmp_path)
    certificate, _ = authority.issue()
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certificate)
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CAfile"]
    for names in (["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"]):
        run = subprocess.run(
            [*verify, "-no-CApath", "-CAfile", str(ca), *names, str(leaf)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr


async def test_tls_is_verified_strictly_and_never_below_1_2(tenant: Tenant) -> None:
    """A strict client connects; one that trusts another CA, or is stuck at TLS 1.1, does not."""
    strict = tenant.authority.client_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("localhost", "127.0.0.1"):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", tenant.imap.port, ssl=strict, server_hostname=host
        )
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1",
            tenant.imap.port,
            ssl=Authority().client_context(),
            server_hostname="localhost",
        )
    assert tenant.authority.server_context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_basic_credentials_that_are_no_base64_are_ignored() -> None:
    """A broken Authorization header leaves the form as it is, so the answer is about the form."""
    form: dict[str, str] = {}
    add_basic(form, "Basic !!!")
    add_basic(form, "Bearer " + base64.b64encode(b"a:b").decode())
    assert form == {}
    add_basic(form, "Basic " + base64.b64encode(b"id:p%2Bw+d").decode())
    assert form == {"client_id": "id", "client_secret": "p+w d"}
