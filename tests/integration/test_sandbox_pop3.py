"""The sandbox's POP3 server on the wire: sign-in, the snapshot, and what it deletes when."""

from __future__ import annotations

import asyncio
import base64
import poplib
import re
from collections.abc import AsyncIterator

import pytest

from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    app_of,
    connect,
    credential,
    pop3,
    pop3_answer,
    poplib_session,
    signed_in,
    signing_key,
    token_of,
)

REFUSED = "-ERR Authentication failure: unknown user name or bad password."
LOGON_FAILURE = "-ERR Logon failure: unknown user name or bad password."
FATAL = "-ERR Protocol error. Connection is closed. 10"
UNKNOWN = "-ERR Protocol error. 19"
NOT_NOW = "-ERR Command is not valid in this state."


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


async def test_a_whole_session_reads_as_at_exchange(tenant: Tenant, box: Mailbox) -> None:
    """Greeting, CAPA, two-line sign-in, listings, RETR, DELE and QUIT are the recorded ones."""
    box.deliver(MAIL)
    box.deliver(b"Subject: two\n\n.dot\n..dots\nend")
    async with connect(tenant, port=tenant.pop3.port) as raw:
        greeting = await raw.line()
        start = "+OK The Microsoft Exchange POP3 service is ready. ["
        assert greeting.startswith(start)
        backend = base64.b64decode(greeting.removeprefix(start).removesuffix("]"))
        assert backend.decode("utf-16-le") == "FR0P281CA0041.DEUP281.PROD.OUTLOOK.COM"
        raw.send("CAPA")
        assert await raw.lines() == ["TOP", "UIDL", "SASL PLAIN XOAUTH2", "USER"]
        assert await raw.ask("AUTH XOAUTH2") == "+ "
        assert await raw.ask(credential(token_of(tenant))) == "+OK User successfully authenticated."
        raw.send("CAPA")
        assert await raw.lines() == ["TOP", "UIDL", "SASL PLAIN XOAUTH2", "USER"]
        assert await raw.ask("STAT") == f"+OK 2 {len(MAIL) + 35}"
        raw.send("LIST")
        assert await raw.lines() == [f"1 {len(MAIL)}", "2 35"]
        assert await raw.ask("LIST 2") == "+OK 2 35"
        raw.send("RETR 2")
        assert await raw.line() == "+OK 35"
        assert await raw.dotted() == ["Subject: two", "", "..dot", "...dots", "end"]
        raw.send("TOP 2 1")
        assert await raw.lines() == ["Subject: two", "", "..dot"]
        raw.send("TOP 1 0")
        assert await raw.lines() == ["From: a@ils.example", "Subject: Alarm", ""]
        assert await raw.ask("DELE 1") == "+OK"
        assert await raw.ask("NOOP") == "+OK"
        assert await raw.ask("QUIT") == "+OK Microsoft Exchange Server POP3 server signing off."
        assert await raw.rest() == b""
    assert box.folder().uids == [2]
    assert (tenant.pop3.connections, tenant.pop3.logins, tenant.pop3.deleted) == (1, 1, 1)


@pytest.mark.parametrize("stls", [False, True])
async def test_poplib_reads_over_both_kinds_of_tls(
    tenant: Tenant,
    box: Mailbox,
    stls: bool,  # noqa: FBT001 - a table
) -> None:
    """Implicit TLS and STLS lead to the same inbox, oldest mail first."""
    for number in range(5):
        box.deliver(b"Subject: %d\r\n\r\nx\r\n" % number)

    def work(client: poplib.POP3) -> list[bytes]:
        return [client.retr(number)[1][0] for number in range(1, 6)]

    subjects = await poplib_session(tenant, work, stls=stls)
    assert subjects == [b"Subject: %d" % number for number in range(5)]


async def test_nothing_but_stls_is_possible_in_the_clear(tenant: Tenant, box: Mailbox) -> None:
    """The plain port offers STLS, refuses to sign in, and drops what was sent along with STLS."""
    for sent, answer in (("STLS\r\nCAPA", b"+OK Begin TLS negotiation.\r\n"), ("QUIT", b"+OK M")):
        reader, writer = await asyncio.open_connection("127.0.0.1", tenant.pop3.stls_port)
        try:
            await reader.readline()
            writer.write(b"CAPA\r\nAUTH XOAUTH2\r\nUSER x\r\nPASS x\r\n")
            assert await reader.readuntil(b".\r\n") == b"+OK\r\nTOP\r\nUIDL\r\nSTLS\r\n.\r\n"
            for _ in range(3):
                assert await reader.readline() == NOT_NOW.encode() + b"\r\n"
            writer.write(sent.encode() + b"\r\n")
            async with asyncio.timeout(10):  # not as long as a handshake may take
                assert (await reader.read()).startswith(answer)
        finally:
            writer.transport.abort()
    assert tenant.pop3.logins == 0
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask("STLS") == NOT_NOW


@pytest.mark.parametrize("sent", ["AUTH XOAUTH2 dXNlcj1h", "NOOP " + "x" * 600])
async def test_one_line_sign_in_and_long_lines_end_the_connection(
    tenant: Tenant, box: Mailbox, sent: str
) -> None:
    """An initial response, or more than 512 bytes of anything but a credential, is fatal."""
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask(sent) == FATAL
        assert await raw.rest() == b""
    assert "dXNlcj1h" not in repr(tenant.pop3.commands)


async def test_long_tokens_fail_on_the_new_front_end_only(tenant: Tenant, box: Mailbox) -> None:
    """More than 4096 characters of token: fine for the classic front end, fatal for the new."""
    app_of(tenant).padding = 4000
    token = token_of(tenant)
    assert len(token) > 4096
    assert await pop3_answer(tenant, credential(token)) == "+OK User successfully authenticated."
    tenant.faults.add("pop3.new_front_end")
    assert await pop3_answer(tenant, credential(token)) == FATAL
    async with signed_in(tenant) as raw:
        assert (await raw.do("A NOOP"))[-1] == "A OK NOOP completed."
    app_of(tenant).padding = 0
    assert (await pop3_answer(tenant, credential(token_of(tenant)))).startswith("+OK")
    async with connect(tenant, port=tenant.pop3.port) as raw:
        assert (await raw.line()).startswith(
            "+OK Microsoft Exchange POP3 server ready (tcpproxy/15.20.9137.005). ["
        )


async def test_pop3_refuses_token_and_mailbox_with_the_same_words(
    tenant: Tenant, box: Mailbox
) -> None:
    """Wrong role, no consent, expired, POP off, no permission, no mailbox: the same text."""
    app = app_of(tenant)
    answers = {}
    app.roles = ("IMAP.AccessAsApp",)
    answers["other role"] = await pop3_answer(tenant, credential(token_of(tenant)))
    app.roles = ("POP.AccessAsApp",)
    assert (await pop3_answer(tenant, credential(token_of(tenant)))).startswith("+OK")
    app.consented = False
    answers["no consent"] = await pop3_answer(tenant, credential(token_of(tenant)))
    app.consented, app.lifetime = True, -1
    answers["expired"] = await pop3_answer(tenant, credential(token_of(tenant)))
    app.lifetime = 3599
    answers["no token"] = await pop3_answer(tenant, "eA==")
    answers["cancelled"] = await pop3_answer(tenant, "*")
    other = credential(token_of(tenant), "nobody@feuerwehr.example")
    answers["no mailbox"] = await pop3_answer(tenant, other)
    box.pop_enabled = False
    answers["POP off"] = await pop3_answer(tenant, credential(token_of(tenant)))
    box.pop_enabled = True
    tenant.revoke(app, box)
    answers["no permission"] = await pop3_answer(tenant, credential(token_of(tenant)))
    assert answers == dict.fromkeys(answers, REFUSED)
    assert tenant.pop3.refusals == len(answers)


async def test_passwords_and_commands_out_of_order_are_refused(
    tenant: Tenant, box: Mailbox
) -> None:
    """Basic authentication is gone; each misplaced or unknown command has its recorded answer."""
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask("USER alarm@feuerwehr.example") == "+OK"
        assert await raw.ask("PASS geheim") == LOGON_FAILURE
        assert await raw.ask("AUTH PLAIN") == "+ "
        assert await raw.ask("AGEAZ2VoZWlt") == LOGON_FAILURE
        raw.send("AUTH")
        assert await raw.lines() == ["PLAIN", "XOAUTH2"]
        assert await raw.ask("AUTH CRAM-MD5") == UNKNOWN
        assert await raw.ask("STAT") == NOT_NOW
        assert await raw.ask("a1 CAPABILITY geheim") == UNKNOWN
    assert "geheim" not in repr(tenant.pop3.commands).lower()
    async with pop3(tenant) as raw:
        assert await raw.ask("AUTH XOAUTH2") == NOT_NOW
        assert await raw.ask("RETR") == UNKNOWN
        assert await raw.ask("TOP 1 x") == UNKNOWN
        for bad in ("RETR 1", "DELE 0", "UIDL x", "LIST 9"):
            assert await raw.ask(bad) == "-ERR The specified message is out of range."


async def test_a_session_is_a_snapshot(tenant: Tenant, box: Mailbox) -> None:
    """New mail waits for the next sign-in; what others delete is listed but cannot be had."""
    box.deliver(MAIL)
    box.deliver(MAIL)
    async with pop3(tenant) as raw, pop3(tenant) as other:
        box.deliver(MAIL)
        box.folder().remove(1)
        assert await raw.ask("STAT") == f"+OK 2 {2 * len(MAIL)}"
        assert await raw.ask("RETR 1") == "-ERR The requested message is no longer available."
        assert await raw.ask("DELE 1") == "+OK"
        assert (await other.ask("STAT")).startswith("+OK 2 ")
        box.folder().reset_uidvalidity()
        assert (await raw.ask("QUIT")).startswith("+OK")
    async with pop3(tenant) as raw:
        assert await raw.ask("STAT") == f"+OK 2 {2 * len(MAIL)}"
    assert (box.folder().uids, tenant.pop3.deleted) == ([1, 2], 0)


async def test_only_quit_deletes(tenant: Tenant, box: Mailbox) -> None:
    """RSET takes marks away, a lost connection forgets them, marked mail is out of reach."""
    for _ in range(3):
        box.deliver(MAIL)
    async with pop3(tenant) as raw:
        assert await raw.ask("DELE 2") == "+OK"
        raw.send("UIDL")
        assert [line.split()[0] for line in await raw.lines()] == ["1", "3"]
        assert (await raw.ask("RETR 2")).startswith("-ERR")
        assert (await raw.ask("DELE 2")).startswith("-ERR")
        assert await raw.ask("RSET") == "+OK"
        assert (await raw.ask("STAT")).startswith("+OK 3 ")
        await raw.ask("DELE 1")
    async with pop3(tenant) as raw:
        assert (await raw.ask("STAT")).startswith("+OK 3 ")
    assert tenant.pop3.deleted == 0


async def test_uidls_are_opaque_unique_and_last(tenant: Tenant, box: Mailbox) -> None:
    """A UIDL stays when others come and go or the folder is renumbered, and changes in a move."""

    async def uidls() -> list[str]:
        async with pop3(tenant) as raw:
            raw.send("UIDL")
            lines = await raw.lines()
            assert await raw.ask("UIDL 1") == f"+OK {lines[0]}"
            return [line.split(" ", 1)[1] for line in lines]

    for _ in range(3):
        box.deliver(MAIL)
    before = await uidls()
    assert len(set(before)) == 3
    assert all(re.fullmatch(r"[\x21-\x7e]{1,70}", uidl) for uidl in before)
    box.folder().remove(1)
    box.folder().set_flags(2, {"\\Seen"})
    box.folder().reset_uidvalidity(first_uid=50)
    box.deliver(MAIL)
    after = await uidls()
    assert after[:2] == before[1:]
    assert after[2] not in before
    tenant.faults.add("pop3.uidl_changed", times=1)
    moved = await uidls()
    assert set(moved).isdisjoint(after)
    assert await uidls() == moved


async def test_both_protocols_show_one_inbox(tenant: Tenant, box: Mailbox) -> None:
    """A QUIT in POP3 is an EXPUNGE in IMAP."""
    box.deliver(MAIL)
    async with signed_in(tenant) as raw, pop3(tenant) as other:
        raw.send("A IDLE")
        assert (await raw.line()).startswith("+ ")
        await other.ask("DELE 1")
        await other.ask("QUIT")
        assert await raw.line() == "* 1 EXPUNGE"


async def test_long_lines_come_as_they_are(tenant: Tenant, box: Mailbox) -> None:
    """Lines far over 2,048 bytes are data: poplib stumbles over them, the bytes are right."""
    body = b"x" * 100_000
    box.deliver(b"Subject: long\r\n\r\n" + body + b"\r\n")
    async with pop3(tenant) as raw:
        raw.send("RETR 1")
        answer = await raw.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"+OK ")
        assert await raw.reader.readexactly(len(body) + 5) == body + b"\r\n.\r\n"
    with pytest.raises(poplib.error_proto, match="line too long"):
        await poplib_session(tenant, lambda client: client.retr(1), stls=False)


async def test_commands_are_logged_and_counted(tenant: Tenant, box: Mailbox) -> None:
    """Each command once, without credentials; those sent before an answer count as pipelined."""
    async with pop3(tenant) as raw:
        await raw.ask("STAT")
        assert tenant.pop3.pipelined == 0
        raw.send("NOOP\r\nNOOP\r\nNOOP")
        assert [await raw.line() for _ in range(3)] == ["+OK"] * 3
        await raw.ask("NOOP")
    names = [logged.name for logged in tenant.pop3.commands]
    assert names == ["AUTH", "STAT", "NOOP", "NOOP", "NOOP", "NOOP"]
    assert tenant.pop3.commands[0].line == "AUTH XOAUTH2"
    assert tenant.pop3.pipelined == 2
    assert token_of(tenant)[:20] not in repr(tenant.pop3.commands)


async def test_the_server_comes_back_on_its_ports_with_the_mail(
    tenant: Tenant, box: Mailbox
) -> None:
    """A restart cuts sessions, deletes nothing of theirs, and keeps ports, mail and UIDLs."""
    box.deliver(MAIL)
    ports = (tenant.pop3.port, tenant.pop3.stls_port)
    async with pop3(tenant) as raw:
        uidl = await raw.ask("UIDL 1")
        await raw.ask("DELE 1")
        await tenant.pop3.stop()
        assert await raw.rest() == b""
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", ports[0])
    await tenant.pop3.restart()
    assert (tenant.pop3.port, tenant.pop3.stls_port) == ports
    async with pop3(tenant) as raw:
        assert await raw.ask("UIDL 1") == uidl


async def test_silence_is_ended_with_exchanges_line(tenant: Tenant, box: Mailbox) -> None:
    """Nobody may hold a connection without a word, before or after sign-in, or amid it."""
    tenant.pop3.limits.sign_in_seconds = tenant.pop3.limits.idle_seconds = 0.1
    line = b"-ERR Connection is closed. 10\r\n"
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.rest() == line
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask("AUTH XOAUTH2") == "+ "
        assert await raw.rest() == line
    async with pop3(tenant) as raw:
        assert await raw.rest() == line
