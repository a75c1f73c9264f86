"""Managed identities in the sandbox: what a virtual machine and an App Service offer."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import msal
import pytest
import requests

from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from tests.servers.entra import APP_ONLY, Desk, told
from tests.servers.sandbox_client import connect, credential, signing_key

EXCHANGE = "https://outlook.office365.com"
BOX = "alarm@feuerwehr.example"
AZURE = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT")


@pytest.fixture
async def tenant(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tenant]:
    for name in AZURE:
        monkeypatch.delenv(name, raising=False)
    async with Tenant.start(key=signing_key()) as running:
        yield running


@pytest.fixture
def machine(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """Give a tenant whose identities are reached as on a virtual machine."""
    monkeypatch.setenv(*tenant.identities.machine)
    return tenant


@pytest.fixture
def service(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """Give a tenant whose identities are reached as in an App Service."""
    for pair in tenant.identities.app_service:
        monkeypatch.setenv(*pair)
    return tenant


def _acquire(identity: Any, resource: str) -> dict[str, Any]:
    with requests.Session() as session, warnings.catch_warnings():
        session.trust_env = False
        client = msal.ManagedIdentityClient(identity, http_client=session)
        answer: dict[str, Any] = client.acquire_token_for_client(resource=resource)
        return answer


async def acquire(app: App | None = None, resource: str = EXCHANGE, **named: str) -> dict[str, Any]:
    """Ask for a token as the system's identity, or as one that the user has assigned."""
    if app is not None:
        named = {"client_id": app.client_id}
    identity = (
        msal.UserAssignedManagedIdentity(**named) if named else msal.SystemAssignedManagedIdentity()
    )
    return await asyncio.to_thread(_acquire, identity, resource)


async def ask(
    tenant: Tenant, path: str, headers: dict[str, str] | None = None, /, **query: str
) -> tuple[int, dict[str, Any], str | None]:
    """Send a request by hand; returns status, JSON and Retry-After."""
    url = f"http://127.0.0.1:{tenant.identities.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=query, headers=headers) as response,
    ):
        return response.status, await response.json(), response.headers.get("Retry-After")


IMDS = "/metadata/identity/oauth2/token"
MSI = "/msi/token"


@pytest.mark.parametrize("place", ["machine", "service"])
async def test_msal_gets_tokens_for_the_machines_and_for_assigned_identities(
    place: str, request: pytest.FixtureRequest, tenant: Tenant
) -> None:
    """Each identity has a token of its own, with the roles that it was given, for Exchange."""
    request.getfixturevalue(place)
    system = tenant.add_identity("vm")
    assigned = tenant.add_identity("shared", assigned="user")
    for answer, app in ((await acquire(), system), (await acquire(assigned), assigned)):
        claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
        assert (claims["appid"], claims["oid"]) == (app.client_id, app.object_id)
        assert (claims["aud"], claims["appidacr"]) == (EXCHANGE, "2")
        assert claims["roles"] == list(app.roles)
        assert answer["token_type"] == "Bearer"
        assert 3500 < answer["expires_in"] <= 3599
    by_object = await acquire(object_id=assigned.object_id)
    claims = jwt.decode(by_object["access_token"], options={"verify_signature": False})
    assert claims["appid"] == assigned.client_id
    assert (tenant.identities.asked, tenant.identities.answered) == (3, 3)


async def test_the_token_opens_a_mailbox_that_was_granted(machine: Tenant) -> None:
    """Exchange treats a managed identity like any service principal."""
    identity = machine.add_identity()
    machine.grant(identity, machine.add_mailbox(BOX))
    answer = await acquire()
    async with connect(machine) as raw:
        await raw.line()
        sent = f"L AUTHENTICATE XOAUTH2 {credential(answer['access_token'], BOX)}"
        assert await raw.do(sent) == ["L OK AUTHENTICATE completed."]
        assert (await raw.do("A EXAMINE INBOX"))[-1] == "A OK [READ-ONLY] EXAMINE completed."


async def test_an_identity_has_no_credential_at_the_token_endpoint(tenant: Tenant) -> None:
    """Its client id is no app registration that anybody could sign in with."""
    identity = tenant.add_identity()
    form = {
        "client_id": identity.client_id,
        "client_secret": "x",
        "grant_type": "client_credentials",
        "scope": APP_ONLY,
    }
    async with Desk.open(tenant) as desk:
        _, body = await desk.post(form)
    assert told(body) == ("unauthorized_client", 700016, None)


async def test_an_identity_that_is_not_there_is_a_400(tenant: Tenant) -> None:
    """No system identity, an unknown id, a disabled one: the two endpoints have their words."""
    header = {"X-IDENTITY-HEADER": tenant.identities.header}
    assigned = tenant.add_identity("shared", assigned="user")
    query = {"api-version": "2018-02-01", "resource": EXCHANGE}
    absent = {"error": "invalid_request", "error_description": "Identity not found"}
    words = (
        "No User Assigned or Delegated Managed Identity found for specified "
        "ClientId/ResourceId/PrincipalId."
    )
    unknown = {**query, "client_id": "11111111-2222-3333-4444-555555555555"}
    for asked in (query, unknown):
        answer = await ask(tenant, IMDS, {"Metadata": "true"}, **asked)
        assert answer == (400, absent, None)
        answer = await ask(tenant, MSI, header, **asked)
        assert answer == (400, {"statusCode": 400, "message": words}, None)
    assigned.enabled = False
    status, body, _ = await ask(
        tenant, IMDS, {"Metadata": "true"}, **query, client_id=assigned.client_id
    )
    assert (status, body) == (400, absent)


async def test_requests_that_no_library_sends_are_refused(tenant: Tenant) -> None:
    """Without the headers nobody gets a token: they are what keeps tricked web servers out."""
    tenant.add_identity()
    version = {"api-version": "2018-02-01"}
    query = {**version, "resource": EXCHANGE}
    metadata = {"Metadata": "true"}
    refused = [
        await ask(tenant, IMDS, **query),
        await ask(tenant, IMDS, {**metadata, "X-Forwarded-For": "10.0.0.1"}, **query),
        await ask(tenant, IMDS, metadata, resource=EXCHANGE),
        await ask(tenant, IMDS, metadata, **version),
    ]
    assert [(status, body["error"]) for status, body, _ in refused] == [
        (400, "invalid_request")
    ] * 4
    status, body, _ = await ask(tenant, MSI, {"X-IDENTITY-HEADER": "guess"}, **query)
    assert (status, body["statusCode"]) == (401, 401)
    assert tenant.identities.answered == 0


async def test_an_unknown_resource_is_told_differently_by_each_endpoint(tenant: Tenant) -> None:
    """IMDS gives Entra's sentence with 400, the App Service a 500."""
    tenant.add_identity()
    query = {"api-version": "2018-02-01", "resource": "https://outlook.office.com365"}
    status, body, _ = await ask(tenant, IMDS, {"Metadata": "true"}, **query)
    assert (status, body["error"]) == (400, "invalid_resource")
    assert body["error_description"].startswith("AADSTS500011: The resource principal named ")
    header = {"X-IDENTITY-HEADER": tenant.identities.header}
    status, body, _ = await ask(tenant, MSI, header, **query)
    assert (status, body["statusCode"]) == (500, 500)


async def test_throttling_and_outages_come_when_armed(machine: Tenant) -> None:
    """429 with Retry-After, 500, and no answer at all; then it works again."""
    machine.add_identity()
    query = {"api-version": "2018-02-01", "resource": EXCHANGE}
    metadata = {"Metadata": "true"}
    machine.faults.add("identity.429", times=1, retry_after=3)
    status, body, pause = await ask(machine, IMDS, metadata, **query)
    assert (status, body["error"], pause) == (429, "too_many_requests", "3")
    machine.faults.add("identity.500", times=1)
    status, body, _ = await ask(machine, IMDS, metadata, **query)
    assert (status, body["error"]) == (500, "unknown")
    machine.faults.add("identity.hang", times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(machine, IMDS, metadata, **query)
    assert "access_token" in await acquire()
    assert machine.faults.fired == {"identity.429": 1, "identity.500": 1, "identity.hang": 1}
