"""The sandbox's IMAP server on the wire: greeting, sign-in, folders, pushes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import imapclient
import pytest
from imapclient.exceptions import IMAPClientError, LoginError

from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from tests.conftest import Clock
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    app_of,
    connect,
    credential,
    imap,
    signed_in,
    signing_key,
    token_of,
)

BEFORE = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE NAMESPACE "
    "LITERAL+"
)
AFTER = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CLIENTACCESSRULES "
    "CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE CHILDREN IDLE NAMESPACE LITERAL+"
)


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        yield running


@pytest.fixture
def box(tenant: Tenant) -> Mailbox:
    app = tenant.add_app()
    mailbox = tenant.add_mailbox(ADDRESS)
    tenant.grant(app, mailbox)
    return mailbox


async def test_the_classic_front_end_greets_and_lists_as_exchange_does(
    tenant: Tenant, box: Mailbox
) -> None:
    """Greeting, both capability lists, ID and NAMESPACE are the recorded ones."""
    async with connect(tenant) as raw:
        greeting = await raw.line()
        start = "* OK The Microsoft Exchange IMAP4 service is ready. ["
        assert greeting.startswith(start)
        backend = base64.b64decode(greeting.removeprefix(start).removesuffix("]"))
        assert backend.decode("utf-16-le") == "FR0P281CA0041.DEUP281.PROD.OUTLOOK.COM"
        assert await raw.do("A1 CAPABILITY") == [
            f"* CAPABILITY {BEFORE}",
            "A1 OK CAPABILITY completed.",
        ]
        raw.send("A2 AUTHENTICATE XOAUTH2")
        assert (await raw.line()).strip() == "+"
        raw.send(credential(token_of(tenant)))
        assert await raw.line() == "A2 OK AUTHENTICATE completed."
        assert (await raw.do("A3 CAPABILITY"))[0] == f"* CAPABILITY {AFTER}"
        assert await raw.do('A4 ID ("name" "x")') == [
            '* ID ("name" "Microsoft.Exchange.Imap4.Imap4Server" "version" "15.20")',
            "A4 OK ID completed",
        ]
        assert (await raw.do("A5 NAMESPACE"))[0] == '* NAMESPACE (("" "/")) NIL NIL'
        assert await raw.do("A6 LOGOUT") == [
            "* BYE Microsoft Exchange Server IMAP4 server signing off.",
            "A6 OK LOGOUT completed.",
        ]
        assert await raw.rest() == b""


async def test_a_token_is_refused_for_every_reason_that_exchange_has(
    tenant: Tenant, box: Mailbox
) -> None:
    """A bad token is answered NO at once, without a challenge, whatever is wrong with it."""
    app = app_of(tenant)
    other = SigningKey.generate()
    good = token_of(tenant)
    tokens = {"truncated": good[:-8], "no token": "x"}
    tokens["graph"] = tenant.tokens.app_token(app, audience="https://graph.microsoft.com")
    tokens["consent link"] = tenant.tokens.app_token(app, audience="https://ps.outlook.com")
    app.lifetime = -1
    tokens["expired"] = token_of(tenant)
    app.lifetime, app.consented = 3599, False
    tokens["no consent"] = token_of(tenant)
    app.consented, app.roles = True, ("SMTP.SendAsApp",)
    tokens["other role"] = token_of(tenant)
    async with Tenant.start(key=other, directory=tenant.directory) as forger:
        tokens["forged"] = token_of(forger)
    answers = {}
    for name, token in tokens.items():
        async with connect(tenant) as raw:
            await raw.line()
            answers[name] = await raw.do(f"A AUTHENTICATE XOAUTH2 {credential(token)}")
    assert answers == {name: ["A NO AUTHENTICATE failed."] for name in tokens}
    assert tenant.imap.refusals == len(tokens)
    app.registered = False
    async with connect(tenant) as raw:
        await raw.line()
        assert await raw.do(f"A AUTHENTICATE XOAUTH2 {credential(good)}") == [
            "A NO AUTHENTICATE failed."
        ]


@pytest.mark.parametrize("reason", ["no permission", "imap off", "no such mailbox", "fault"])
async def test_a_mailbox_is_refused_after_the_token_was_taken(
    tenant: Tenant, box: Mailbox, reason: str
) -> None:
    """Sign-in says OK; the first real command then says that nothing is connected."""
    address = ADDRESS
    if reason == "no permission":
        tenant.revoke(app_of(tenant), box)
    elif reason == "imap off":
        box.imap_enabled = False
    elif reason == "no such mailbox":
        address = "nobody@feuerwehr.example"
    else:
        tenant.faults.add("imap.not_connected", times=1, mailbox=ADDRESS)
    async with connect(tenant) as raw:
        await raw.line()
        blob = credential(token_of(tenant), address)
        assert await raw.do(f"A AUTHENTICATE XOAUTH2 {blob}") == ["A OK AUTHENTICATE completed."]
        assert await raw.do("B SELECT INBOX") == ["B BAD User is authenticated but not connected."]
        await raw.do("C LIST x x")
        raw.send("D NAMESPACE")
        assert await raw.rest() == (
            b"D BAD User is authenticated but not connected.\r\n* BYE Connection closed. 14\r\n"
        )


async def test_passwords_and_commands_out_of_order_are_refused(
    tenant: Tenant, box: Mailbox
) -> None:
    """Basic authentication is gone, and three BAD before sign-in end the connection."""
    async with connect(tenant) as raw:
        await raw.line()
        assert await raw.do("A LOGIN user secret") == ["A NO LOGIN failed."]
        assert await raw.do("B AUTHENTICATE PLAIN AGEAYg==") == ["B NO AUTHENTICATE failed."]
        assert await raw.do("C SELECT INBOX") == ["C BAD Command received in Invalid state."]
        assert await raw.do("D FROBNICATE") == ["D BAD Command Error. 10"]
        raw.send('E LIST "" "unended')
        assert await raw.rest() == (
            b"E BAD Command Argument Error. 12\r\n* BYE Connection closed. 14\r\n"
        )
    assert "secret" not in repr(tenant.imap.commands)


async def test_a_refusal_can_come_with_a_challenge(tenant: Tenant, box: Mailbox) -> None:
    """Switched on, a JSON challenge precedes the NO, and imapclient's callback sees it."""
    tenant.faults.add("imap.challenge_on_failure")
    tenant.faults.add("imap.auth_failed", times=1)
    seen: list[bytes] = []
    token, context = token_of(tenant), tenant.authority.client_context()

    def answer(challenge: bytes) -> str:
        seen.append(challenge)
        return f"user={ADDRESS}\x01auth=Bearer {token}\x01\x01" if len(seen) == 1 else ""

    def run() -> None:
        client = imapclient.IMAPClient("localhost", tenant.imap.port, ssl_context=context)
        try:
            with pytest.raises(LoginError, match=r"AUTHENTICATE failed\."):
                client.sasl_login("XOAUTH2", answer)
        finally:
            client.shutdown()

    await asyncio.to_thread(run)
    assert b'"status":"400"' in seen[1]


async def test_a_session_ends_with_its_token(tenant: Tenant, box: Mailbox) -> None:
    """When the access token expires the server says so and hangs up, in the middle of IDLE."""
    app_of(tenant).lifetime = 1
    async with signed_in(tenant) as raw:
        raw.send("A IDLE")
        assert await raw.rest() == (
            b"+ IDLE accepted, awaiting DONE command.\r\n"
            b"* BYE Session invalidated - AccessTokenExpired\r\n"
        )


async def test_a_clock_that_is_moved_ends_sessions_too(clock: Clock) -> None:
    """Token times follow the tenant's own clock, so that tests need not wait."""
    async with Tenant.start(key=signing_key(), now=clock) as tenant:
        tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS))
        async with signed_in(tenant) as raw:
            assert (await raw.do("A NOOP"))[-1] == "A OK NOOP completed."
            clock.advance(3600)
            raw.send("B NOOP")
            assert await raw.rest() == b"* BYE Session invalidated - AccessTokenExpired\r\n"


async def test_the_new_front_end_breaks_clients_that_enable_rev2(
    tenant: Tenant, box: Mailbox
) -> None:
    """Greeting and lists differ; after ENABLE IMAP4rev2, SEARCH and LSUB change for the worse."""
    tenant.faults.add("imap.new_front_end")
    box.deliver(MAIL)
    async with connect(tenant) as raw:
        greeting = await raw.line()
        assert greeting.startswith("* OK Microsoft Exchange IMAP4 service ready. ")
        assert "(tcpproxy/15.21.0406.000 BACKENDAUTHENTICATE)" in greeting
        assert "LOGINDISABLED" in (await raw.do("A CAPABILITY"))[0]
        await raw.do(f"B AUTHENTICATE XOAUTH2 {credential(token_of(tenant))}")
        assert "ENABLE IMAP4rev2" in (await raw.do("C CAPABILITY"))[0]
        await raw.do("D SELECT INBOX")
        assert (await raw.do("E UID SEARCH UNSEEN"))[0] == "* SEARCH 1"
        assert (await raw.do("F ENABLE IMAP4rev2"))[0] == "* ENABLED IMAP4rev2"
        assert (await raw.do("G UID SEARCH UNSEEN"))[0] == '* ESEARCH (TAG "G") UID ALL 1'
        assert (await raw.do('H LSUB "" "*"'))[0].startswith("H BAD")


async def test_folders_are_listed_with_special_uses_in_the_mailbox_language(
    tenant: Tenant,
) -> None:
    """German default folders come in modified UTF-7, with attributes nobody asked for."""
    tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS, language="de"))
    async with signed_in(tenant, select=False) as raw:
        lines = await raw.do('A LIST "" "*"')
        assert lines == [
            '* LIST (\\HasNoChildren) "/" Archiv',
            '* LIST (\\HasNoChildren) "/" Aufgaben',
            '* LIST (\\HasNoChildren \\Drafts) "/" "Entw&APw-rfe"',
            '* LIST (\\HasNoChildren \\Trash) "/" "Gel&APY-schte Elemente"',
            '* LIST (\\HasNoChildren \\Sent) "/" "Gesendete Elemente"',
            '* LIST (\\Marked \\HasNoChildren) "/" INBOX',
            '* LIST (\\HasNoChildren) "/" Journal',
            '* LIST (\\HasNoChildren \\Junk) "/" Junk-E-Mail',
            '* LIST (\\HasNoChildren) "/" Kalender',
            '* LIST (\\HasNoChildren) "/" Kontakte',
            '* LIST (\\HasNoChildren) "/" Notizen',
            "A OK LIST completed.",
        ]
        assert (await raw.do('B SELECT "Entw&APw-rfe"'))[
            -1
        ] == "B OK [READ-WRITE] SELECT completed."
        assert await raw.do('C LIST "" ""') == [
            '* LIST (\\Noselect) "/" ""',
            "C OK LIST completed.",
        ]
        assert (await raw.do("D SELECT Nirgends"))[-1] == "D NO Nirgends doesn't exist."
        assert (await raw.do("E NOOP"))[-1] == "E OK NOOP completed."
        assert (await raw.do("F CHECK"))[-1] == "F BAD Command received in Invalid state."
    tenant.mailbox(ADDRESS).localise("en")
    assert tenant.mailbox(ADDRESS).find("Drafts") is not None
    assert tenant.mailbox(ADDRESS).find("Entwürfe") is None


async def test_select_and_status_tell_what_exchange_tells(tenant: Tenant, box: Mailbox) -> None:
    """The SELECT block has the recorded lines in the recorded order, and no custom keywords."""
    box.deliver(MAIL)
    box.deliver(MAIL, flags=["\\Seen", "Processed"])
    inbox = box.folder("inbox")
    flags = "(\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent)"
    async with signed_in(tenant, select=False) as raw:
        assert await raw.do("A SELECT INBOX") == [
            "* 2 EXISTS",
            "* 0 RECENT",
            f"* FLAGS {flags}",
            f"* OK [PERMANENTFLAGS {flags}] Permanent flags",
            f"* OK [UIDVALIDITY {inbox.uidvalidity}] UIDVALIDITY value",
            "* OK [UIDNEXT 3] The next unique identifier value",
            "A OK [READ-WRITE] SELECT completed.",
        ]
        assert (await raw.do("B EXAMINE inbox"))[-1] == "B OK [READ-ONLY] EXAMINE completed."
        assert (await raw.do("C UID STORE 1 +FLAGS (\\Seen)"))[-1].startswith("C NO")
        assert (await raw.do("D STATUS INBOX (MESSAGES UNSEEN UIDNEXT)"))[0] == (
            "* STATUS INBOX (MESSAGES 2 UNSEEN 1 UIDNEXT 3)"
        )
    assert box.folder().flags(2) == {"\\Seen"}


async def test_imapclient_manages_folders(tenant: Tenant, box: Mailbox) -> None:
    """Create, rename, subscribe and delete work, parents and umlauts included."""

    def work(client: imapclient.IMAPClient) -> None:
        client.create_folder("Einsätze/2026")
        client.rename_folder("Einsätze", "Alarme & mehr")
        names = [name for _, _, name in client.list_folders()]
        assert {"Alarme & mehr", "Alarme & mehr/2026"} < set(names)
        client.unsubscribe_folder("Alarme & mehr")
        subscribed = [name for _, _, name in client.list_sub_folders()]
        assert "Alarme & mehr" not in subscribed
        assert "Alarme & mehr/2026" in subscribed
        client.delete_folder("Alarme & mehr")
        with pytest.raises(IMAPClientError, match="Folder name is reserved"):
            client.create_folder("Files")
        with pytest.raises(IMAPClientError, match="default folder"):
            client.delete_folder("INBOX")

    await imap(tenant, work)
    assert box.find("Alarme & mehr/2026") is None


async def test_idle_pushes_what_happens_at_once(tenant: Tenant, box: Mailbox) -> None:
    """Arrivals, flags and deletions by others reach an idling session without a command."""
    box.deliver(MAIL)
    async with signed_in(tenant) as raw:
        raw.send("A IDLE")
        assert await raw.line() == "+ IDLE accepted, awaiting DONE command."
        box.deliver(MAIL)
        assert await raw.line() == "* 2 EXISTS"
        box.folder().set_flags(1, {"\\Seen"})
        assert await raw.line() == "* 1 FETCH (FLAGS (\\Seen))"
        box.folder().remove(1)
        assert await raw.line() == "* 1 EXPUNGE"
        assert await raw.line() == "* 1 EXISTS"
        raw.send("done")
        assert await raw.line() == "A OK IDLE completed."


async def test_sequence_numbers_hold_until_the_client_is_told(tenant: Tenant, box: Mailbox) -> None:
    """FETCH by number never sees an EXPUNGE; the next NOOP brings it."""
    for _ in range(3):
        box.deliver(MAIL)
    async with signed_in(tenant) as raw:
        box.folder().remove(1)
        assert await raw.do("A FETCH 1:3 UID") == [
            "* 2 FETCH (UID 2)",
            "* 3 FETCH (UID 3)",
            "A OK FETCH completed.",
        ]
        assert await raw.do("B NOOP") == ["* 1 EXPUNGE", "* 2 EXISTS", "B OK NOOP completed."]
        assert (await raw.do("C FETCH 1 UID"))[0] == "* 1 FETCH (UID 2)"


async def test_a_reset_of_uidvalidity_ends_sessions_and_renumbers(
    tenant: Tenant, box: Mailbox
) -> None:
    """After a move of the mailbox UIDVALIDITY differs, UIDs too, and old sessions are cut."""
    for _ in range(3):
        box.deliver(MAIL)
    box.folder().remove(2)
    before = box.folder().uidvalidity
    async with signed_in(tenant) as raw:
        box.folder().reset_uidvalidity(first_uid=101)
        raw.send("A NOOP")
        assert await raw.rest() == b"* BYE Connection closed. 14\r\n"
    assert box.folder().uidvalidity == before + 1
    assert box.folder().uids == [101, 102]
    assert box.deliver(MAIL) == 103


async def test_idle_time_out_says_goodbye(tenant: Tenant, box: Mailbox) -> None:
    """A session that says nothing for too long is closed with Exchange's own line."""
    tenant.imap.limits.idle_seconds = 0.1
    async with signed_in(tenant) as raw:
        assert await raw.rest() == b"* BYE Connection is closed. 13\r\n"
