"""The sandbox's POP3 faults strike where, when and as often as they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    connect,
    credential,
    eventually,
    pop3,
    pop3_answer,
    signing_key,
    token_of,
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
    for _ in range(3):
        mailbox.deliver(MAIL)
    return mailbox


async def test_sign_in_can_be_refused_for_a_while(tenant: Tenant, box: Mailbox) -> None:
    """A refused token and a throttled mailbox have different words, and both pass."""
    blob = credential(token_of(tenant))
    tenant.faults.add("pop3.auth_failed", times=1, mailbox=ADDRESS)
    assert await pop3_answer(tenant, blob) == (
        "-ERR Authentication failure: unknown user name or bad password."
    )
    tenant.faults.add("pop3.throttled", times=1, commands=3)
    async with pop3(tenant) as raw:
        for _ in range(3):
            assert await raw.ask("NOOP") == "+OK"
    assert await pop3_answer(tenant, blob) == (
        "-ERR Logon failure: unknown user name or bad password."
    )
    assert (await pop3_answer(tenant, blob)).startswith("+OK")
    assert tenant.faults.fired == {"pop3.auth_failed": 1, "pop3.throttled": 1}


async def test_connecting_can_fail(tenant: Tenant, box: Mailbox) -> None:
    """Closed before the greeting, or greeted late."""
    tenant.faults.add("pop3.refuse", times=1)
    async with connect(tenant, port=tenant.pop3.port) as raw:
        assert await raw.rest() == b""
    tenant.faults.add("pop3.no_greeting", times=1)
    async with connect(tenant, port=tenant.pop3.port) as raw:
        raw.send("CAPA")
        with pytest.raises(TimeoutError):
            await raw.line(within=0.2)
    async with connect(tenant, port=tenant.pop3.port) as raw:
        assert (await raw.line()).startswith("+OK ")


async def test_too_many_sessions_are_refused(tenant: Tenant, box: Mailbox) -> None:
    """Beyond the limit the credential is answered with a BYE, until a session has ended."""
    tenant.faults.add("pop3.connection_limit", limit=1)
    blob = credential(token_of(tenant))
    async with pop3(tenant) as raw:
        assert await pop3_answer(tenant, blob) == "-ERR BYE Connection refused"
        await raw.ask("QUIT")
        await raw.rest()
    await eventually(lambda: not tenant.pop3.sessions_of(ADDRESS))
    assert (await pop3_answer(tenant, blob)).startswith("+OK")


async def test_any_command_can_fail(tenant: Tenant, box: Mailbox) -> None:
    """Cut with FIN or RST, closed with a text, or answered slowly."""
    tenant.faults.add("pop3.drop_on_command", times=1, command="STAT")
    async with pop3(tenant) as raw:
        assert await raw.ask("NOOP") == "+OK"
        raw.send("STAT")
        assert await raw.rest() == b""
    tenant.faults.add("pop3.drop_on_command", times=1, command="STAT", reset=True)
    async with pop3(tenant) as raw:
        raw.send("STAT")
        with pytest.raises(ConnectionResetError):
            await raw.rest()
    tenant.faults.add("pop3.err_on_command", times=1, command="LIST")
    async with pop3(tenant) as raw:
        assert await raw.ask("LIST") == "-ERR Connection is closed. 11"
        assert await raw.rest() == b""
    tenant.faults.add("pop3.err_on_command", times=1, command="DELE", hang_up=False, text="No.")
    tenant.faults.add("pop3.slow", command="RETR", bytes_per_second=400)
    async with pop3(tenant) as raw:
        assert await raw.ask("DELE 1") == "-ERR No."
        raw.send("RETR 1")
        assert (await raw.lines())[:2] == ["From: a@ils.example", "Subject: Alarm"]


async def test_a_hanging_server_answers_nothing_and_stops_all_the_same(
    tenant: Tenant, box: Mailbox
) -> None:
    """A command without an answer holds its session, and the tenant can still end."""
    tenant.faults.add("pop3.hang", command="STAT")
    async with pop3(tenant) as raw:
        raw.send("STAT")
        with pytest.raises(TimeoutError):
            await raw.line(within=0.2)
        assert len(tenant.pop3.sessions_of(ADDRESS)) == 1
        assert tenant.pop3.drop(ADDRESS) == 1
        assert await raw.rest() == b""


async def test_a_server_without_uidl_says_so(tenant: Tenant, box: Mailbox) -> None:
    """UIDL is gone from CAPA, and the command is unknown."""
    tenant.faults.add("pop3.no_uidl")
    async with pop3(tenant) as raw:
        raw.send("CAPA")
        assert await raw.lines() == ["TOP", "SASL PLAIN XOAUTH2", "USER"]
        assert await raw.ask("UIDL") == "-ERR Protocol error. 19"


async def test_pipelining_can_be_offered(tenant: Tenant, box: Mailbox) -> None:
    """CAPA names PIPELINING, and answers come in the order of the commands."""
    tenant.faults.add("pop3.pipelining")
    async with pop3(tenant) as raw:
        raw.send("CAPA")
        assert (await raw.lines())[-1] == "PIPELINING"
        raw.send("LIST 3\r\nLIST 1\r\nDELE 2\r\nLIST 2")
        answers = [await raw.line() for _ in range(4)]
    size = len(MAIL)
    assert answers[:3] == [f"+OK 3 {size}", f"+OK 1 {size}", "+OK"]
    assert answers[3].startswith("-ERR")


async def test_one_message_can_be_trouble(tenant: Tenant, box: Mailbox) -> None:
    """An error, a stand-in, a wrong size or a cut hits the message of that UID and no other."""
    add = tenant.faults.add
    add("pop3.retr_error", uid=2, times=1)
    add("pop3.placeholder", uid=3, times=1)
    add("pop3.inexact_size", uid=1, delta=7)
    async with pop3(tenant) as raw:
        size = len(MAIL)
        raw.send("LIST")
        assert await raw.lines() == [f"1 {size + 7}", f"2 {size}", f"3 {size}"]
        raw.send("RETR 1")
        assert await raw.line() == f"+OK {size + 7}"
        await raw.dotted()
        assert await raw.ask("RETR 2") == "-ERR Server Unavailable. 15"
        raw.send("RETR 2")
        assert "B3 Brand" in await raw.lines()
        raw.send("RETR 3")
        stand_in = "\n".join(await raw.lines())
        notice = "Retrieval using the POP3 protocol failed for the following message: 3"
        assert f"Subject: {notice}" in stand_in
        assert '"Microsoft Exchange Server"' in stand_in
        add("pop3.drop_mid_message", uid=2, after=30, times=1)
        raw.send("RETR 2")
        assert await raw.rest() == f"+OK {size}\r\n".encode() + MAIL[:30]


@pytest.mark.parametrize(
    ("fault", "left"), [("pop3.quit_dropped", [1, 2, 3]), ("pop3.quit_answer_lost", [2, 3])]
)
async def test_quit_can_get_lost_on_either_way(
    tenant: Tenant, box: Mailbox, fault: str, left: list[int]
) -> None:
    """The client sees the same end in both cases; only one of them has deleted."""
    tenant.faults.add(fault, times=1)
    async with pop3(tenant) as raw:
        assert await raw.ask("DELE 1") == "+OK"
        raw.send("QUIT")
        assert await raw.rest() == b""
    assert box.folder().uids == left
