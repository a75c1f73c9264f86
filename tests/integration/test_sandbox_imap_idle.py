"""Everything odd that IDLE does at Exchange and between here and there, on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    Raw,
    app_of,
    eventually,
    signed_in,
    signing_key,
    tls_records,
)

CONTINUATION = "+ IDLE accepted, awaiting DONE command."
EXPIRED = "* BYE Session invalidated - AccessTokenExpired"


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


async def idle(raw: Raw) -> None:
    raw.send("A IDLE")
    assert await raw.line() == CONTINUATION


@pytest.mark.parametrize(
    ("fault", "lines"),
    [
        ("imap.exists_before_idle", ["* 1 EXISTS", CONTINUATION]),
        ("imap.exists_with_idle", [CONTINUATION, "* 1 EXISTS"]),
        ("imap.exists_behind_idle", [CONTINUATION, "* 1 EXISTS"]),
    ],
)
async def test_mail_can_arrive_in_the_very_moment_idle_begins(
    tenant: Tenant, box: Mailbox, fault: str, lines: list[str]
) -> None:
    """Mail since the last command is announced around the continuation, once and never again."""
    tenant.faults.add(fault, times=1)
    async with signed_in(tenant) as raw:
        box.deliver(MAIL)
        raw.send("A IDLE")
        assert [await raw.line() for _ in lines] == lines
        raw.send("DONE")
        assert await raw.line() == "A OK IDLE completed."
        tenant.faults.add(fault, times=1)
        raw.send("B IDLE")
        assert [await raw.line() for _ in lines] == lines


@pytest.mark.parametrize(
    ("fault", "records"), [("imap.exists_with_idle", 1), ("imap.exists_behind_idle", 2)]
)
async def test_continuation_and_exists_share_a_record_or_not(
    tenant: Tenant, box: Mailbox, fault: str, records: int
) -> None:
    """One read of the socket can bring both: a client that looks only once sleeps on its mail."""
    tenant.faults.add(fault, times=1)
    async with tls_records(tenant) as client:
        await client.sign_in()
        seen = await client.records_of("A IDLE", until=b"EXISTS\r\n")
        assert len(seen) == records
        assert b"".join(seen) == f"{CONTINUATION}\r\n* 0 EXISTS\r\n".encode()


async def test_pushes_can_come_in_pieces(tenant: Tenant, box: Mailbox) -> None:
    """A line split over TLS records is still the line."""
    tenant.faults.add("imap.idle_split", size=3, pause=0.002)
    async with tls_records(tenant) as client:
        await client.sign_in()
        await client.records_of("A IDLE", until=b"command.\r\n")
        box.deliver(MAIL)
        seen = await client.records_of(None, until=b"EXISTS\r\n")
        assert seen == [b"* 1", b" EX", b"IST", b"S\r\n"]


async def test_idle_can_end_with_its_token_by_itself(tenant: Tenant, box: Mailbox) -> None:
    """BYE comes amid IDLE, without a command: by a fault, from outside, or since time is up."""
    tenant.faults.add("imap.idle_bye", times=1)
    async with signed_in(tenant) as raw:
        await idle(raw)
        assert await raw.rest() == f"{EXPIRED}\r\n".encode()
    async with signed_in(tenant) as raw:
        await idle(raw)
        assert await tenant.imap.say_bye(address=ADDRESS) == 1
        assert await raw.rest() == f"{EXPIRED}\r\n".encode()
    app_of(tenant).lifetime = 1
    async with signed_in(tenant) as raw:
        await idle(raw)
        assert await raw.rest() == f"{EXPIRED}\r\n".encode()


async def test_idle_can_die_without_a_word(tenant: Tenant, box: Mailbox) -> None:
    """FIN without BYE, or RST; pushes until then come through."""
    tenant.faults.add("imap.idle_drop", times=1, seconds=0.3)
    async with signed_in(tenant) as raw:
        await idle(raw)
        box.deliver(MAIL)
        assert await raw.rest() == b"* 1 EXISTS\r\n"
    tenant.faults.add("imap.idle_drop", times=1, reset=True)
    async with signed_in(tenant) as raw:
        await idle(raw)
        with pytest.raises(ConnectionResetError):
            await raw.rest()


async def test_idle_can_be_a_black_hole(tenant: Tenant, box: Mailbox) -> None:
    """Nothing is pushed, DONE is never answered, and the session ends only with the client."""
    tenant.faults.add("imap.idle_black_hole", times=1)
    async with signed_in(tenant) as raw:
        await idle(raw)
        box.deliver(MAIL)
        raw.send("DONE")
        with pytest.raises(TimeoutError):
            await raw.line(within=0.2)
        assert len(tenant.imap.sessions_of(ADDRESS)) == 1
    await eventually(lambda: not tenant.imap.sessions_of(ADDRESS))


async def test_idle_can_say_that_it_is_still_there(tenant: Tenant, box: Mailbox) -> None:
    """Untagged OK comes again and again, and mail in between."""
    tenant.faults.add("imap.idle_still_here", times=1, seconds=0.05)
    async with signed_in(tenant) as raw:
        await idle(raw)
        assert [await raw.line() for _ in range(2)] == ["* OK Still here"] * 2
        box.deliver(MAIL)
        assert "* 1 EXISTS" in await raw.until("* 1 EXISTS")
        assert await raw.line() == "* OK Still here"
        raw.send("DONE")
        assert (await raw.until("A "))[-1] == "A OK IDLE completed."


async def test_idle_ends_after_its_time(tenant: Tenant, box: Mailbox) -> None:
    """Pushes do not prolong it, and the goodbye is Exchange's own."""
    tenant.imap.limits.idle_seconds = 0.3
    async with signed_in(tenant) as raw:
        await idle(raw)
        box.deliver(MAIL)
        assert await raw.rest() == b"* 1 EXISTS\r\n* BYE Connection is closed. 13\r\n"


async def test_silence_is_broken_by_the_next_command(tenant: Tenant, box: Mailbox) -> None:
    """What a silent IDLE kept back is told at its end, so a client that asks finds the mail."""
    tenant.faults.add("imap.silent_idle", times=1)
    async with signed_in(tenant) as raw:
        await idle(raw)
        box.deliver(MAIL)
        with pytest.raises(TimeoutError):
            await raw.line(within=0.2)
        raw.send("DONE")
        assert await raw.until("A ") == ["* 1 EXISTS", "A OK IDLE completed."]


async def test_a_folder_that_is_renumbered_ends_idle(tenant: Tenant, box: Mailbox) -> None:
    """Another UIDVALIDITY amid IDLE cuts the session; the next one sees the new numbers."""
    box.deliver(MAIL)
    before = box.folder().uidvalidity
    async with signed_in(tenant) as raw:
        await idle(raw)
        box.folder().reset_uidvalidity(before + 7, first_uid=40)
        assert await raw.rest() == b"* BYE Connection closed. 14\r\n"
    async with signed_in(tenant) as raw:
        lines = await raw.do("A SELECT INBOX")
        assert f"* OK [UIDVALIDITY {before + 7}] UIDVALIDITY value" in lines
        assert (await raw.do("B UID SEARCH ALL"))[0] == "* SEARCH 40"


async def test_two_hundred_sessions_hear_of_every_mail(tenant: Tenant, box: Mailbox) -> None:
    """Each of 200 idling sessions is told of each of 5 mails, once."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(signed_in(tenant)) for _ in range(200)]
        for client in clients:
            await idle(client)
        assert len(tenant.imap.sessions_of(ADDRESS)) == len(clients)
        for number in range(1, 6):
            box.deliver(MAIL)
            lines = [await client.line(within=30) for client in clients]
            assert lines == [f"* {number} EXISTS"] * len(clients)
    await eventually(lambda: not tenant.imap.sessions)
