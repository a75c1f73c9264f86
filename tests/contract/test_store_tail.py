"""Following the mail log: each message once, none missed, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from mailbridge.errors import TemporaryError
from mailbridge.store import incoming
from mailbridge.store.store import Store
from mailbridge.store.tables import micros
from mailbridge.store.tail import Tail
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, batch, gap, mail
from tests.contract.rulings import passed, rule, step


async def shown(tail: Tail) -> list[int]:
    return [row.ref.uid for row in await tail.more()]


async def test_the_tail_begins_with_the_newest_and_goes_on(store: Store) -> None:
    """First the last lines as they stand, then only what is new, the oldest first."""
    tail = store.tail(limit=2)
    assert await shown(tail) == []
    await accept(store, [1, 2, 3])
    assert await shown(store.tail(limit=2)) == [2, 3]
    assert await shown(tail) == [1, 2, 3]
    assert await shown(tail) == []
    await accept(store, [4])
    await accept(store, [5, 6])
    assert await shown(tail) == [4, 5, 6]
    for _ in range(3):
        assert await shown(tail) == []


async def test_no_line_is_missed_or_doubled_while_many_arrive(store: Store) -> None:
    """More at once than a page holds, and a look at any moment: each message exactly once."""
    await accept(store, range(1, 11))
    tail = store.tail(limit=5)
    seen = await shown(tail)

    async def arrive() -> None:
        for start in range(11, 3011, 250):
            await accept(store, range(start, start + 250))

    writing = asyncio.create_task(arrive())
    while not writing.done():
        seen += await shown(tail)
    await writing
    seen += await shown(tail)
    assert seen == list(range(6, 3011))


async def test_what_is_committed_late_is_shown_late_and_once(
    postgres_url: str, open_store: OpenStore
) -> None:
    """A host that commits after another, under lower numbers, is not passed over."""
    store = await open_store(postgres_url)
    await accept(store, [1])
    tail = store.tail()
    assert await shown(tail) == [1]
    with store._access.database.engine.connect() as slow, slow.begin() as transaction:
        part = batch(mail(2), mail(3), folder="Slow", sinks=())
        incoming.accept(slow, part, address="a", settles=False, now=micros(NOON))
        seen = []
        for uid in (4, 5, 6, 7):
            await accept(store, [uid])
            seen += await shown(tail)
        assert seen == [4, 5, 6, 7]
        transaction.commit()
    assert await shown(tail) == [2, 3]
    for uid in (8, 9, 10):
        await accept(store, [uid])
        assert await shown(tail) == [uid]
    assert await shown(tail) == []
    # What is over is not looked at again: the mark has followed.
    seen_now = tail._seen
    assert seen_now is not None
    assert len(seen_now.shown) < 3
    assert len(seen_now.waiting) < 3


async def test_the_tail_keeps_to_its_filters(store: Store) -> None:
    """By route and by the state in which a message arrives; the rest is passed over."""
    by_route, unrouted = store.tail(route="alarm"), store.tail(state="unrouted")
    assert await shown(by_route) == await shown(unrouted) == []
    await rule(store, {1: [step()], 2: [passed("alarm")], 3: [step(verdict="drop")]})
    await rule(store, {4: [passed("alarm")], 5: [step(verdict="hold")]})
    assert await shown(by_route) == [1, 3, 5]
    assert await shown(unrouted) == [2, 4]
    assert await shown(by_route) == await shown(unrouted) == []


async def test_a_gap_is_shown_when_it_opens(store: Store) -> None:
    """What the server would not give is a line too, once; its message is another when it comes."""
    tail = store.tail()
    await store.accept(batch(gaps=(gap(1),), uid=1), address="a", settles=False)
    assert [row.state for row in await tail.more()] == ["gap"]
    await store.accept(batch(gaps=(gap(1, tries=2), gap(2)), uid=2), address="a", settles=False)
    assert await shown(tail) == [2]
    await accept(store, [1])
    assert [(row.ref.uid, row.state) for row in await tail.more()] == [(1, "accepted")]


async def test_a_look_that_failed_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database does not answer, nothing is lost from view."""
    tail = store.tail()
    assert await shown(tail) == []
    await accept(store, [1, 2])
    with monkeypatch.context() as patched:
        patched.setattr("mailbridge.store.tail.Tail._above", _broken)
        with pytest.raises(TemporaryError):
            await tail.more()
    assert await shown(tail) == [1, 2]


def _broken(*_arguments: object) -> object:
    raise OSError
