"""FETCH commands that overlap: what is asked for ahead, how much of it, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from mailbridge.errors import TemporaryError, Throttled
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap import FetchLimits
from tests.contract.imap_rigs import Ledger, SandboxRig, mail, source_for


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def rig(key: SigningKey) -> AsyncIterator[SandboxRig]:
    async with Tenant.start(key=key) as tenant:
        yield SandboxRig(tenant, tenant.add_app())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


async def filled(rig: SandboxRig, count: int, **given: Any) -> None:
    for number in range(1, count + 1):
        await rig.deliver(mail(number, **given))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def asked(rig: SandboxRig, item: str = "BODY.PEEK[]") -> list[list[int]]:
    """Return the UIDs of each FETCH of bodies (or sizes) that the server has got, in order."""
    lines = [line.split(" ") for line in rig.commands("FETCH") if item in line]
    return [[int(uid) for uid in line[2].split(",")] for line in lines]


def until_asked(rig: SandboxRig, count: int, item: str = "BODY.PEEK[]") -> Any:
    return until(lambda: len(asked(rig, item)) >= count)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
async def test_the_next_batches_are_asked_for_before_the_last_one_is_taken(
    rig: SandboxRig, pool: ThreadPoolExecutor, in_flight: int
) -> None:
    """As many as are allowed, and never more, in order and each once."""
    await filled(rig, 40)
    limits = FetchLimits(messages=5, in_flight=in_flight)
    ledger = Ledger()
    async with source_for(rig, pool, limits=limits).session() as session:
        taken = 0
        async for batch in session.fetch(ledger.due(), ledger):
            ledger.accept(batch)
            if not batch.messages:
                continue
            taken += 1
            expected = min(8, taken + in_flight - 1)
            await until_asked(rig, expected)
            assert len(asked(rig)) == expected

    assert asked(rig) == [list(range(first, first + 5)) for first in range(1, 41, 5)]
    assert ledger.numbers == list(range(1, 41))
    assert ledger.doubled == []


async def test_the_sizes_of_the_next_window_are_asked_for_ahead(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """And its first bodies are on their way before the window that came before is through."""
    await filled(rig, 40)
    limits = FetchLimits(messages=5, list_window=20, in_flight=3)
    ledger = Ledger()
    async with source_for(rig, pool, limits=limits).session() as session:
        batches = cast("Any", session.fetch(ledger.due(), ledger))
        async with aclosing(batches):
            for _ in range(2):
                ledger.accept(await anext(batches))
            await until_asked(rig, 2, "RFC822.SIZE")
            assert len(asked(rig)) <= 3
            for _ in range(3):
                ledger.accept(await anext(batches))
            # Four batches of the first window are here; the second window's are under way.
            await until_asked(rig, 6)
            async for batch in batches:
                ledger.accept(batch)

    assert asked(rig, "RFC822.SIZE") == [list(range(1, 21)), list(range(21, 41))]
    assert ledger.numbers == list(range(1, 41))


async def test_one_new_mail_costs_one_question_and_one_fetch(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The usual case of a push: no size is asked for, since there is nothing to plan."""
    ledger = Ledger()
    async with source_for(rig, pool).session() as session:
        await ledger.fetch(session)
        await rig.deliver(mail(1))
        before = len(rig.tenant.imap.commands)
        await ledger.fetch(session)

    said = [one.name for one in list(rig.tenant.imap.commands)[before:]]
    assert said == ["NOOP", "UID SEARCH", "UID FETCH", "LOGOUT"]
    assert ledger.numbers == [1]


async def test_a_large_message_is_not_asked_for_ahead(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """What is larger than a batch comes alone: nothing before its turn, nothing beside it."""
    sizes = [400, 400, 9000, 400, 9000, 9000, 400]
    for number, size in enumerate(sizes, 1):
        await rig.deliver(mail(number, size=size))
    limits = FetchLimits(messages=1, bytes=4000, in_flight=3)
    ledger = Ledger()
    allowed = {1: 2, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7}
    async with source_for(rig, pool, limits=limits).session() as session:
        async for batch in session.fetch(ledger.due(), ledger):
            ledger.accept(batch)
            if ledger.accepted:
                expected = allowed[len(ledger.accepted)]
                await until_asked(rig, expected)
                assert len(asked(rig)) == expected

    assert ledger.numbers == [1, 2, 3, 4, 5, 6, 7]


async def test_a_refusal_costs_no_other_batch_a_second_fetch(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """What was under way with it is read first and kept; only the refused one is halved."""
    await filled(rig, 40)
    rig.tenant.imap.limits.bad_after_sign_in = 100
    for uid in (7, 13):
        rig.tenant.faults.add("imap.fetch_bad", uid=uid)
    ledger = Ledger()
    await ledger.look(source_for(rig, pool, limits=FetchLimits(messages=5, in_flight=3)))

    assert [ref.uid for ref in ledger.gaps] == [7, 13]
    assert len(ledger.accepted) == 38
    assert rig.tenant.imap.connections == 1
    fetched = [uid for uids in asked(rig) for uid in uids]
    innocent = [*range(1, 6), *range(16, 41)]
    assert [uid for uid in fetched if uid in innocent] == innocent


async def test_a_caller_may_stop_with_batches_under_way(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The session can be used for anything, and the next look begins where it was."""
    await filled(rig, 30)
    source = source_for(rig, pool, after="seen", limits=FetchLimits(messages=5, in_flight=3))
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session, stop_after=2)
        assert len(ledger.accepted) == 5
        await session.settle(list(ledger.accepted))
        await ledger.fetch(session, stop_after=1)
        assert ledger.checkpoint is not None
        await session.settle(list(ledger.accepted)[:1])
        assert await session.unchanged(replace(ledger.checkpoint, uid=30))
        await rig.deliver(mail(31))
        await ledger.fetch(session)
        await ledger.fetch(session, stop_after=1)

    assert ledger.numbers == list(range(1, 32))
    assert ledger.doubled == []
    assert [bool(flags) for _, flags, _ in await rig.look()] == [True] * 5 + [False] * 26
    assert rig.tenant.imap.connections == 1


async def test_a_session_ends_at_once_with_batches_under_way(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Nobody waits for mail that nobody wants any more, and nothing is lost by it."""
    await filled(rig, 9, size=200_000)
    limits = FetchLimits(messages=1, in_flight=3)
    ledger = Ledger()
    source = source_for(rig, pool, limits=limits)
    async with source.session() as session:
        rig.tenant.faults.add("imap.slow", command="FETCH", bytes_per_second=4_000_000)
        await ledger.fetch(session, stop_after=2)
    assert rig.commands("LOGOUT") == []
    rig.tenant.faults.clear()
    await ledger.look(source)

    assert ledger.numbers == list(range(1, 10))


async def looked_until_quiet(ledger: Ledger, source: Any, tries: int = 12) -> int:
    """Look again and again as a supervisor does; returns how many sessions were lost."""
    for lost in range(tries):
        try:
            await ledger.look(source)
        except TemporaryError:
            continue
        return lost
    raise AssertionError("never quiet")


@pytest.mark.parametrize("fault", ["imap.drop_mid_literal", "imap.server_unavailable"])
async def test_what_was_on_its_way_beside_the_guilty_is_not_condemned(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str
) -> None:
    """A message that costs every session becomes a gap; its neighbours never do."""
    await filled(rig, 8)
    rig.tenant.faults.add(fault, uid=4)
    ledger = Ledger()
    lost = await looked_until_quiet(
        ledger, source_for(rig, pool, limits=FetchLimits(messages=1, in_flight=3))
    )

    assert [ref.uid for ref in ledger.gaps] == [4]
    assert sorted(ledger.numbers) == [1, 2, 3, 5, 6, 7, 8]
    assert lost <= 4


async def test_after_a_loss_one_thing_is_asked_for_at_a_time(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Until the messages that were under way are through: so it is plain what fails."""
    await filled(rig, 60)
    source = source_for(rig, pool, limits=FetchLimits(messages=5, list_window=30, in_flight=3))
    ledger = Ledger()
    rig.tenant.faults.add("imap.drop_mid_literal", times=1, uid=8)
    with suppress(TemporaryError):
        await ledger.look(source)
    before = len(asked(rig))

    async with source.session() as session:
        async for batch in session.fetch(ledger.due(), ledger):
            ledger.accept(batch)
            last = max(ref.uid for ref in ledger.accepted)
            if last <= 35:
                assert asked(rig)[-1][-1] == last
            elif last <= 40:
                await until(lambda: asked(rig)[-1][-1] == 50)

    assert ledger.numbers == list(range(1, 61))
    again = asked(rig)[before:]
    assert again[:15] == [[uid] for uid in range(6, 21)]
    assert again[15:] == [list(range(first, first + 5)) for first in range(21, 61, 5)]


async def test_a_throttle_of_what_is_ahead_makes_no_gap(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """What came before it is stored; the rest comes after the pause."""
    await filled(rig, 30)
    source = source_for(rig, pool, limits=FetchLimits(messages=5, in_flight=3))
    ledger = Ledger()
    async with source.session() as session:
        batches = cast("Any", session.fetch(ledger.due(), ledger))
        async with aclosing(batches):
            for _ in range(2):
                ledger.accept(await anext(batches))
            rig.tenant.faults.add("imap.throttled", times=1, command="FETCH", form="OK")
            with pytest.raises(Throttled):
                await _rest(batches, ledger)
    await ledger.look(source)

    assert ledger.numbers == list(range(1, 31))
    assert (ledger.gaps, ledger.doubled) == ({}, [])


async def _rest(batches: AsyncIterator[Any], ledger: Ledger) -> None:
    async for batch in batches:
        ledger.accept(batch)
