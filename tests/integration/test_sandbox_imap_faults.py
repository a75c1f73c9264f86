"""The sandbox's IMAP faults strike where, when and as often as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    connect,
    signed_in,
    signing_key,
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


async def test_faults_of_any_command_strike_as_told(tenant: Tenant, box: Mailbox) -> None:
    """Throttling, a broken backend and hang-ups come with the recorded texts, then stop."""
    tenant.faults.add("imap.throttled", times=2, command="NOOP", milliseconds=300)
    tenant.faults.add("imap.server_unavailable", times=1, command="CHECK", hang_up=False)
    async with signed_in(tenant) as raw:
        notice = "BAD Request is throttled. Suggested Backoff Time: 300 milliseconds"
        assert await raw.do("A NOOP") == [f"A {notice}"]
        assert await raw.do("B NOOP") == [f"B {notice}"]
        assert await raw.do("C NOOP") == ["C OK NOOP completed."]
        assert await raw.do("D CHECK") == ["D NO Server Unavailable. 15"]
        tenant.faults.add("imap.server_unavailable", times=1, form="untagged")
        raw.send("E NOOP")
        assert await raw.rest() == b"Server Unavailable. 15\r\n* BYE Connection closed.\r\n"
    tenant.faults.add("imap.bye_on_command", times=1, command="SEARCH", mailbox=ADDRESS)
    async with signed_in(tenant) as raw:
        raw.send("A UID SEARCH ALL")
        assert await raw.rest() == b"* BYE Connection closed. 14\r\n"
    tenant.faults.add("imap.drop_on_command", times=1)
    async with connect(tenant) as raw:
        await raw.line()
        raw.send("A NOOP")
        assert await raw.rest() == b""
    tenant.faults.add("imap.token_expired", times=1, command="NOOP")
    async with signed_in(tenant) as raw:
        raw.send("A NOOP")
        assert await raw.rest() == b"* BYE Session invalidated - AccessTokenExpired\r\n"
    tenant.faults.add("imap.refuse", times=1)
    async with connect(tenant) as raw:
        assert await raw.rest() == b""
    assert tenant.faults.fired["imap.throttled"] == 2


async def test_faults_of_one_mailbox_leave_the_others_alone(tenant: Tenant, box: Mailbox) -> None:
    """A fault armed for another address never strikes here, until it is cleared there too."""
    tenant.faults.add("imap.throttled", mailbox="other@feuerwehr.example")
    tenant.faults.add("imap.throttled", folder="Archive")
    async with signed_in(tenant) as raw:
        assert await raw.do("A NOOP") == ["A OK NOOP completed."]
        await raw.do("B SELECT Archive")
        assert "throttled" in (await raw.do("C NOOP"))[0]
        tenant.faults.clear("imap.throttled")
        assert await raw.do("D NOOP") == ["D OK NOOP completed."]


async def test_fetch_faults_hit_their_message(tenant: Tenant, box: Mailbox) -> None:
    """A poisoned message spoils a batch, its own answer, or nothing but its size, as told."""
    for _ in range(3):
        box.deliver(MAIL)
    add = tenant.faults.add
    async with signed_in(tenant) as raw:
        add("imap.fetch_bad", uid=2, times=2)
        assert await raw.do("A UID FETCH 1:3 (FLAGS)") == ["A BAD Command Argument Error. 11"]
        assert (await raw.do("B UID FETCH 1,3 (FLAGS)"))[-1] == "B OK FETCH completed."
        assert await raw.do("C UID FETCH 2 (FLAGS)") == ["C BAD Command Argument Error. 11"]
        add("imap.fetch_no", uid=2, times=1)
        assert await raw.do("D UID FETCH 1:3 (FLAGS)") == ["D NO Server Unavailable. 15"]
        add("imap.fetch_ok_no_data", uid=2, times=1)
        assert await raw.do("E UID FETCH 2 (BODY.PEEK[])") == ["E OK FETCH completed."]
        add("imap.fetch_nil", uid=2, times=1)
        assert (await raw.do("F UID FETCH 2 (BODY.PEEK[])"))[0] == "* 2 FETCH (BODY[] NIL UID 2)"
        add("imap.inexact_size", uid=2, delta=-7, times=1)
        size = len(MAIL) - 7
        assert (await raw.do("G UID FETCH 2 (RFC822.SIZE)"))[0] == (
            f"* 2 FETCH (RFC822.SIZE {size} UID 2)"
        )


async def test_a_fetch_can_bring_more_or_other_than_was_asked(tenant: Tenant, box: Mailbox) -> None:
    """Unsolicited lines, a stand-in for the mail, and another client's EXPUNGE amid the answer."""
    for _ in range(3):
        box.deliver(MAIL)
    add = tenant.faults.add
    async with signed_in(tenant) as raw:
        add("imap.duplicate_fetch", uid=2, times=1)
        assert await raw.do("H UID FETCH 2 (RFC822.SIZE)") == [
            "* 1 FETCH (FLAGS ())",
            "* 2 FETCH (FLAGS ())",
            f"* 2 FETCH (RFC822.SIZE {len(MAIL)} UID 2)",
            "* 2 FETCH (FLAGS () UID 2)",
            "H OK FETCH completed.",
        ]
        add("imap.placeholder", uid=3, times=1)
        stand_in = "\n".join(await raw.do("I UID FETCH 3 (BODY.PEEK[])"))
        assert "Retrieval using the IMAP4 protocol failed for the following message: 3" in stand_in
        assert '"Microsoft Exchange Server"' in stand_in
        add("imap.expunge_during_fetch", times=1)
        assert await raw.do("J UID FETCH 1:3 (RFC822.SIZE)") == [
            f"* 1 FETCH (RFC822.SIZE {len(MAIL)} UID 1)",
            "* 3 EXPUNGE",
            f"* 2 FETCH (RFC822.SIZE {len(MAIL)} UID 2)",
            "J OK FETCH completed.",
        ]
    assert box.folder().uids == [1, 2]


async def test_a_literal_can_be_cut_or_lie(tenant: Tenant, box: Mailbox) -> None:
    """The connection ends inside a literal, or the literal is shorter than announced."""
    box.deliver(MAIL)
    tenant.faults.add("imap.drop_mid_literal", after=10, times=1)
    async with signed_in(tenant) as raw:
        raw.send("A UID FETCH 1 (BODY.PEEK[])")
        head = f"* 1 FETCH (BODY[] {{{len(MAIL)}}}\r\n".encode()
        assert await raw.rest() == head + MAIL[:10]
    tenant.faults.add("imap.broken_literal_size", delta=5, times=1)
    async with signed_in(tenant) as raw:
        assert (await raw.do("A UID FETCH 1 (BODY.PEEK[])"))[0] == (
            f"* 1 FETCH (BODY[] {{{len(MAIL) + 5}}}"
        )


async def test_capabilities_can_be_taken_away(tenant: Tenant, box: Mailbox) -> None:
    """A hidden capability is neither listed nor obeyed."""
    box.deliver(MAIL)
    tenant.faults.add("imap.no_capability", capability="MOVE")
    tenant.faults.add("imap.no_capability", capability="UIDPLUS")
    async with signed_in(tenant) as raw:
        listed = (await raw.do("A CAPABILITY"))[0].split()
        assert "MOVE" not in listed
        assert "IDLE" in listed
        assert await raw.do("B UID MOVE 1 Archive") == ["B BAD Command Error. 10"]
        assert await raw.do("C UID COPY 1 Archive") == ["C OK COPY completed."]


async def test_a_hanging_server_answers_nothing_and_stops_all_the_same(box: Mailbox) -> None:
    """Silent sessions, before or after sign-in, do not keep a tenant from ending."""
    async with Tenant.start(key=signing_key()) as tenant:
        tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS))
        async with signed_in(tenant) as raw:
            tenant.faults.add("imap.hang")
            raw.send("A NOOP")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await raw.reader.readline()
            assert len(tenant.imap.sessions_of(ADDRESS)) == 1
            tenant.faults.add("imap.no_greeting")
            async with connect(tenant) as mute:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await mute.reader.readline()
    assert tenant.imap.sessions == set()


async def test_too_many_sessions_are_not_connected(tenant: Tenant, box: Mailbox) -> None:
    """Beyond the limit sign-in says OK and the mailbox stays closed, as in session storms."""
    tenant.faults.add("imap.session_limit", limit=1)
    async with signed_in(tenant) as first, signed_in(tenant, select=False) as second:
        assert (await first.do("A NOOP"))[-1] == "A OK NOOP completed."
        assert (await second.do("A SELECT INBOX"))[-1] == (
            "A BAD User is authenticated but not connected."
        )
    assert tenant.imap.logins == 2


async def test_slow_answers_are_whole(tenant: Tenant, box: Mailbox) -> None:
    """A trickling server sends the same bytes."""
    box.deliver(MAIL)
    tenant.faults.add("imap.slow", command="FETCH", bytes_per_second=400)
    async with signed_in(tenant) as raw:
        lines = await raw.do("A UID FETCH 1 (BODY.PEEK[])")
        assert lines[1:4] == ["From: a@ils.example", "Subject: Alarm", ""]
        assert lines[-1] == "A OK FETCH completed."


async def test_connections_can_be_cut_from_outside(tenant: Tenant, box: Mailbox) -> None:
    """A test can drop the sessions of a mailbox without a word."""
    async with signed_in(tenant) as raw:
        assert tenant.imap.drop(ADDRESS) == 1
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await raw.reader.readexactly(1)
