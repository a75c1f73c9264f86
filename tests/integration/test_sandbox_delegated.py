"""People who have signed in: their own mailbox, shared ones, and what their token must say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import jwt
import pytest

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    connect,
    credential,
    pop3_answer,
    signing_key,
)

UPN = "leitstelle@feuerwehr.example"
SIGNED_IN = "L OK AUTHENTICATE completed."
REFUSED = "L NO AUTHENTICATE failed."
OPENED = "A OK [READ-ONLY] EXAMINE completed."
NOT_CONNECTED = "A BAD User is authenticated but not connected."
POP3_OPENED = "+OK User successfully authenticated."
POP3_REFUSED = "-ERR Authentication failure: unknown user name or bad password."


@dataclass
class Bench:
    """A tenant with a user, the user's mailbox, and another mailbox that could be shared."""

    tenant: Tenant
    app: App
    user: User

    async def imap(self, token: str, address: str) -> list[str]:
        """Return the answers to signing in and, when that was taken, to opening INBOX."""
        async with connect(self.tenant) as raw:
            await raw.line()
            answers = await raw.do(f"L AUTHENTICATE XOAUTH2 {credential(token, address)}")
            if answers == [SIGNED_IN]:
                answers += (await raw.do("A EXAMINE INBOX"))[-1:]
            return answers

    async def pop3(self, token: str, address: str) -> str:
        """Return the answer to signing in."""
        return await pop3_answer(self.tenant, credential(token, address))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Tenant.start(key=signing_key()) as tenant:
        app, user = tenant.add_app(), tenant.add_user(UPN, name="Leitstelle")
        tenant.add_mailbox(UPN).deliver(MAIL)
        tenant.add_mailbox(ADDRESS)
        yield Bench(tenant, app, user)


async def test_a_user_opens_the_own_mailbox_and_those_that_were_shared(bench: Bench) -> None:
    """`user=` may name another mailbox than the token's owner, once FullAccess was given."""
    token = bench.tenant.tokens.user_token(bench.app, bench.user)
    assert await bench.imap(token, UPN.upper()) == [SIGNED_IN, OPENED]
    assert await bench.pop3(token, UPN) == POP3_OPENED
    assert await bench.imap(token, ADDRESS) == [SIGNED_IN, NOT_CONNECTED]
    assert await bench.pop3(token, ADDRESS) == POP3_REFUSED
    shared = bench.tenant.mailbox(ADDRESS)
    bench.tenant.grant(bench.user, shared)
    assert await bench.imap(token, ADDRESS) == [SIGNED_IN, OPENED]
    assert await bench.pop3(token, ADDRESS) == POP3_OPENED
    bench.tenant.revoke(bench.user, shared)
    assert await bench.imap(token, ADDRESS) == [SIGNED_IN, NOT_CONNECTED]


async def test_no_service_principal_is_needed_for_people(bench: Bench) -> None:
    """Neither roles nor a registration in Exchange count when somebody has signed in."""
    bench.app.registered, bench.app.roles, bench.app.secrets = False, (), []
    token = bench.tenant.tokens.user_token(bench.app, bench.user)
    assert await bench.imap(token, UPN) == [SIGNED_IN, OPENED]


async def test_each_protocol_asks_for_its_own_scope(bench: Bench) -> None:
    """IMAP's scope opens no POP3 and the other way round; a Graph token opens nothing."""
    mint = bench.tenant.tokens.user_token
    only_imap = mint(bench.app, bench.user, scopes=["IMAP.AccessAsUser.All", "User.Read"])
    assert await bench.imap(only_imap, UPN) == [SIGNED_IN, OPENED]
    assert await bench.pop3(only_imap, UPN) == POP3_REFUSED
    only_pop3 = mint(bench.app, bench.user, scopes=["POP.AccessAsUser.All"])
    assert await bench.imap(only_pop3, UPN) == [REFUSED]
    assert await bench.pop3(only_pop3, UPN) == POP3_OPENED
    for_graph = mint(bench.app, bench.user, audience="https://graph.microsoft.com")
    assert await bench.imap(for_graph, UPN) == [REFUSED]
    bench.app.lifetime = -1
    assert await bench.imap(mint(bench.app, bench.user), UPN) == [REFUSED]


async def test_an_app_and_a_person_do_not_borrow_each_others_rights(bench: Bench) -> None:
    """The app's permission is not the user's, and a person who left has none at all."""
    tokens, shared = bench.tenant.tokens, bench.tenant.mailbox(ADDRESS)
    bench.tenant.grant(bench.app, shared)
    token = tokens.user_token(bench.app, bench.user)
    assert await bench.imap(token, ADDRESS) == [SIGNED_IN, NOT_CONNECTED]
    app_only = tokens.app_token(bench.app, audience="https://outlook.office365.com")
    assert await bench.imap(app_only, ADDRESS) == [SIGNED_IN, OPENED]
    assert await bench.imap(app_only, UPN) == [SIGNED_IN, NOT_CONNECTED]
    del bench.tenant.directory.users[UPN]
    assert await bench.imap(token, UPN) == [REFUSED]


async def test_the_token_says_who_signed_in_and_the_session_knows(bench: Bench) -> None:
    """upn, oid and scp stand in the token, no roles; Exchange tells the person from the mailbox."""
    bench.tenant.grant(bench.user, bench.tenant.mailbox(ADDRESS))
    token = bench.tenant.tokens.user_token(bench.app, bench.user)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["upn"] == claims["unique_name"] == UPN
    assert claims["oid"] == bench.user.object_id
    assert claims["aud"] == "https://outlook.office.com"
    assert claims["scp"].split() == ["IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send"]
    assert not {"roles", "idtyp"} & claims.keys()
    found = bench.tenant.exchange.sign_in(
        credential(token, ADDRESS).encode(), role="SMTP.SendAsApp"
    )
    assert found is not None
    assert (found.address, found.upn) == (ADDRESS, UPN)
    assert bench.tenant.directory.find_user(UPN.upper()) is bench.user
