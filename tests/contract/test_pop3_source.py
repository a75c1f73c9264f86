"""What POP3 as a source promises, held against Dovecot, Cyrus and the sandbox's Exchange."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from mailbridge.errors import SignInRejected, TemporaryError
from mailbridge.model import AccessToken
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.pop3 import FetchLimits
from mailbridge.store.store import Store
from tests.contract.pop3_rigs import (
    NOON,
    CyrusRig,
    Desk,
    DovecotRig,
    Rig,
    SandboxRig,
    mail,
    source_for,
)


@pytest.fixture(params=["exchange", "exchange-stls", "dovecot", "dovecot-stls", "cyrus"])
async def rig(request: pytest.FixtureRequest, key: SigningKey) -> AsyncIterator[Rig]:
    """Give a mailbox of its own on each server, reached in both ways."""
    kind, _, stls = request.param.partition("-")
    if kind == "exchange":
        async with Tenant.start(key=key) as tenant:
            yield SandboxRig(tenant, tenant.add_app(), tls="starttls" if stls else "implicit")
        return
    address = f"{uuid.uuid4().hex[:12]}@feuerwehr.example"
    server, minter = request.getfixturevalue(kind), request.getfixturevalue("minter")
    if kind == "cyrus":
        yield CyrusRig(server, minter, address)
        return
    yield DovecotRig(server, minter, address, tls="starttls" if stls else "implicit")


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Give an intake's place at an empty store."""
    store = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db")
    yield Desk(store)
    await store.close()


async def test_mail_comes_in_order_byte_by_byte_with_its_time(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Everything arrives once, the oldest first, unchanged, with the time of its arrival."""
    raws = [mail(number, size=300 + number) for number in range(1, 8)]
    for raw in raws:
        await rig.deliver(raw)

    await desk.look(source_for(rig, pool))

    assert desk.raws == raws
    times = {one.received_at for batch in desk.batches for one in batch.messages}
    assert times == {NOON}
    checkpoint = await desk.store.checkpoint("alarm", "INBOX")
    assert checkpoint is not None
    assert (checkpoint.uidvalidity, checkpoint.uid) == (0, 0)


async def test_awkward_bytes_come_unchanged(rig: Rig, pool: ThreadPoolExecutor, desk: Desk) -> None:
    """Lines of 100 kB, dots at their beginning, 8-bit bytes, empty lines: all as they were sent."""
    body = b"\r\n".join(
        [b".", b"..", b"...", b".x", b"x" * 100_000, bytes(range(128, 256)), b"", b".\t", b"", b""]
    )
    raws = [mail(number) + body for number in (1, 2)]
    raws.append(mail(3) + b"." * 5000 + b"\r\n")
    for raw in raws:
        await rig.deliver(raw)

    await desk.look(source_for(rig, pool))

    assert desk.raws == raws


async def test_a_message_of_20_mb_comes_whole(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Size is no matter, and what stands behind a large message comes as well."""
    raws = [mail(1), mail(2, size=20_000_000), mail(3)]
    for raw in raws:
        await rig.deliver(raw)

    await desk.look(source_for(rig, pool))

    assert desk.raws == raws


async def test_a_new_watch_leaves_what_lies_there(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """With `start: new` the first look only remembers, and later mail is delivered."""
    await rig.deliver(mail(1))
    await rig.deliver(mail(2))
    source = source_for(rig, pool, start="new")

    await desk.look(source)
    assert [(batch.messages, len(batch.before)) for batch in desk.batches] == [((), 2)]
    await rig.deliver(mail(3))
    await desk.look(source)

    assert desk.numbers == [3]
    assert await rig.left() == [1, 2, 3]


async def test_mail_that_came_before_the_first_look_could_be_had_is_new(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """`start: new` means new since the watch began, though the mailbox could not be seen then."""
    now = datetime.now(UTC)
    await rig.deliver(mail(1, received=now - timedelta(hours=1)))
    source = source_for(rig, pool, start="new")
    await rig.deliver(mail(2, received=now + timedelta(minutes=1)))

    await desk.look(source)

    assert desk.numbers == [2]
    assert len(desk.batches[0].before) == 1


async def test_an_empty_mailbox_gets_its_checkpoint(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """The watch of an empty mailbox begins with the first look; what comes then is new."""
    source = source_for(rig, pool, start="new")
    await desk.look(source)
    assert await desk.store.checkpoint("alarm", "INBOX") is not None
    await rig.deliver(mail(1))
    await desk.look(source)
    assert desk.numbers == [1]


async def test_a_date_to_start_from_is_held(rig: Rig, pool: ThreadPoolExecutor, desk: Desk) -> None:
    """What came before that day is remembered, what came on it or later is delivered."""
    for number, day in enumerate([1, 19, 20, 21], 1):
        await rig.deliver(mail(number, received=datetime(2026, 11, day, 15, 0, tzinfo=UTC)))

    await desk.look(source_for(rig, pool, start=date(2026, 11, 20)))

    assert desk.numbers == [3, 4]
    assert len(desk.batches[0].before) == 2


async def test_a_second_look_finds_nothing_and_writes_nothing(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A look without news costs no commit and fetches nothing again."""
    for number in range(1, 4):
        await rig.deliver(mail(number))
    source = source_for(rig, pool)
    await desk.look(source)
    desk.batches.clear()

    await desk.look(source)

    assert desk.batches == []
    assert desk.numbers == [1, 2, 3]


async def test_batches_are_bounded_in_messages_and_bytes(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """No batch holds more than it may; an oversized message is alone."""
    for number in range(1, 10):
        await rig.deliver(mail(number, size=300_000 if number == 5 else 400))

    await desk.look(source_for(rig, pool, limits=FetchLimits(messages=3, bytes=200_000)))

    sizes = [len(batch.messages) for batch in desk.batches if batch.messages]
    assert sizes == [3, 1, 1, 3, 1]
    assert desk.numbers == list(range(1, 10))


async def test_a_crash_between_two_batches_loses_and_doubles_nothing(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Whoever stops after any batch goes on exactly behind it."""
    for number in range(1, 13):
        await rig.deliver(mail(number))
    limits = FetchLimits(messages=4)
    for _ in range(6):
        await desk.look(source_for(rig, pool, limits=limits), stop_after=1)

    assert desk.numbers == list(range(1, 13))
    assert desk.doubled == 0


async def test_what_is_stored_is_deleted_if_that_is_wanted(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """`after: delete` empties the mailbox of what was accepted, and of nothing else."""
    desk.settles = True
    await rig.deliver(mail(1))
    await desk.look(source_for(rig, pool, start="new"))
    for number in range(2, 7):
        await rig.deliver(mail(number))

    await desk.look(source_for(rig, pool, after="delete"))

    assert desk.numbers == [2, 3, 4, 5, 6]
    assert await rig.left() == [1]
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []


async def test_nothing_is_deleted_unless_that_is_wanted(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """`after: keep` leaves the mailbox as it is, and what is to be settled counts as settled."""
    desk.settles = True
    await rig.deliver(mail(1))
    await desk.look(source_for(rig, pool))
    assert await rig.left() == [1]
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []


async def test_settling_twice_is_harmless(rig: Rig, pool: ThreadPoolExecutor, desk: Desk) -> None:
    """What is no longer listed is settled; a further round in a session reconnects by itself."""
    desk.settles = True
    for number in range(1, 6):
        await rig.deliver(mail(number))
    async with source_for(rig, pool, after="delete").session() as session:
        await desk.fetch(session)
        refs = await desk.store.unsettled("alarm", "INBOX", 9)
        assert await session.settle(refs[:2]) == refs[:2]
        assert await session.settle(refs[:4]) == refs[:4]
        assert await session.settle(refs) == refs
    assert await rig.left() == []


async def test_a_session_can_look_again(rig: Rig, pool: ThreadPoolExecutor, desk: Desk) -> None:
    """A second fetch of one session sees what came since, on a connection of its own."""
    async with source_for(rig, pool).session() as session:
        await rig.deliver(mail(1))
        await desk.fetch(session)
        await rig.deliver(mail(2))
        await desk.fetch(session)
    assert desk.numbers[-1] == 2
    assert sorted(desk.numbers) == [1, 2]


async def test_mail_that_somebody_deletes_is_gone_and_stays_known(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """UIDLs that are no longer listed are told once."""
    desk.settles = True
    for number in range(1, 4):
        await rig.deliver(mail(number))
    await desk.look(source_for(rig, pool, after="delete"))
    desk.batches.clear()
    source = source_for(rig, pool)
    await desk.look(source)
    await desk.look(source)
    assert [len(batch.gone) for batch in desk.batches] == [3]
    assert set((await desk.store.uidls("alarm", "INBOX")).values()) == {True}


async def test_a_refused_token_is_replaced_once(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A token that the server refuses is fetched anew; one that it takes ends the matter."""
    await rig.deliver(mail(1))
    asked: list[str] = []

    async def stale() -> AccessToken:
        return AccessToken(value="stale.token.x", expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def refresh(before: AccessToken) -> AccessToken:
        asked.append(before.value)
        return await rig.token()

    await desk.look(source_for(rig, pool, token=stale, refresh=refresh))

    assert asked == ["stale.token.x"]
    assert desk.numbers == [1]


async def test_a_credential_that_stays_refused_is_said(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """No storm of sign-ins: two tries, then an error with the fix and without the token."""
    asked: list[str] = []

    async def bad() -> AccessToken:
        value = f"bad{len(asked)}." + "A" * 60
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def refresh(before: AccessToken) -> AccessToken:
        asked.append(before.value)
        return await bad()

    source = source_for(rig, pool, token=bad, refresh=refresh)
    with pytest.raises(SignInRejected) as refused:
        async with source.session():
            pass

    assert len(asked) == 1
    assert refused.value.code == "pop3.authenticate_failed"
    assert "PopEnabled" in refused.value.fix
    assert "A" * 48 not in f"{refused.value} {refused.value!r} {refused.value.__cause__}"


async def test_a_session_says_what_it_can(rig: Rig, pool: ThreadPoolExecutor, desk: Desk) -> None:
    """It neither pushes nor lasts, proves nothing cheaply, and waits as long as it is told."""
    async with source_for(rig, pool).session() as session:
        assert (session.pushes, session.lasts) == (False, False)
        await desk.fetch(session)
        checkpoint = await desk.store.checkpoint("alarm", "INBOX")
        assert checkpoint is not None
        assert not await session.unchanged(checkpoint)
        woken = asyncio.Event()
        await session.stand_by(woken, datetime.now(UTC) + timedelta(milliseconds=1))
        woken.set()
        await session.stand_by(woken, datetime.now(UTC) + timedelta(hours=1))


async def test_a_cancelled_fetch_gives_its_thread_back(
    rig: Rig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Stopping the daemon in the middle of a fetch neither hangs nor loses anything."""
    for number in range(1, 30):
        await rig.deliver(mail(number, size=200_000))
    task = asyncio.ensure_future(desk.look(source_for(rig, pool, limits=FetchLimits(messages=1))))
    async with asyncio.timeout(30):
        while len(desk.numbers) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
    await desk.look(source_for(rig, pool))
    # Not by what the desk saw: it may have been stopped behind a commit.
    assert len(await desk.store.messages(limit=100)) == 29


async def test_an_unreachable_server_is_temporary(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """Nobody listens: back off and try again."""
    server = type(rig.server)(host="localhost", port=1, ca=rig.server.ca)
    with pytest.raises(TemporaryError) as failed:
        async with source_for(rig, pool, server=server).session():
            pass
    assert failed.value.code == "tcp.refused"
