"""What an IMAP session promises between two looks, held against three makes of servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailbridge.errors import TemporaryError
from mailbridge.sources.base import Session
from mailbridge.sources.push import Parking
from tests.contract.imap_rigs import Ledger, Rig, mail, source_for

#: until a test gives up; Dovecot tells half a second late
SECONDS = 30


class Post:
    """A session with push and a ledger that has looked once; ``waiting`` stands by."""

    def __init__(self, session: Session, parking: Parking) -> None:
        self.session, self.parking, self.ledger = session, parking, Ledger()
        self.woken = asyncio.Event()

    async def fetch(self) -> None:
        await self.ledger.fetch(self.session)

    async def unchanged(self) -> bool:
        assert self.ledger.checkpoint is not None
        return await self.session.unchanged(self.ledger.checkpoint)

    async def stand_by(self) -> None:
        """Wait for news, for an hour if need be; the test ends before."""
        await self.session.stand_by(self.woken, datetime.now(UTC) + timedelta(hours=1))

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Stand by until the block, which begins when the server listens, has its effect."""
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            wait = group.create_task(self.stand_by())
            while not self.parking.push_sessions:
                assert not wait.done()
                await asyncio.sleep(0.01)
            yield


@pytest.fixture
async def post(rig: Rig, pool: ThreadPoolExecutor) -> AsyncIterator[Post]:
    """Give a session that has seen the only mail there is."""
    parking = Parking()
    settings: dict[str, Any] = {"push": True, "parking": parking, "after": "seen"}
    await rig.deliver(mail(1))
    async with source_for(rig, pool, **settings).session() as session:
        post = Post(session, parking)
        await post.fetch()
        yield post


async def test_mail_ends_the_wait_and_is_found(rig: Rig, post: Post) -> None:
    """Whoever stands by learns that mail came, again and again on one connection."""
    assert post.session.pushes
    for number in (2, 3, 4):
        async with post.waiting():
            await rig.deliver(mail(number))
        await post.fetch()
        assert post.ledger.numbers == list(range(1, number + 1))

    assert post.session.pushes


async def test_mail_that_comes_before_the_server_listens_ends_the_wait(
    rig: Rig, post: Post
) -> None:
    """Between the last look and IDLE nothing is overheard, nor after a question."""
    await rig.deliver(mail(2))
    async with asyncio.timeout(SECONDS):
        await post.stand_by()
    await post.fetch()
    assert post.ledger.numbers == [1, 2]

    assert await post.unchanged()
    await rig.deliver(mail(3))
    async with asyncio.timeout(SECONDS):
        await post.stand_by()
    await post.fetch()
    assert post.ledger.numbers == [1, 2, 3]


async def test_mail_that_the_server_mentions_in_passing_ends_the_wait(rig: Rig, post: Post) -> None:
    """What it tells beside another answer it does not tell again when it is listened to."""
    await rig.deliver(mail(2))
    await post.session.settle(list(post.ledger.accepted))
    async with asyncio.timeout(SECONDS):
        await post.stand_by()
    await post.fetch()

    assert post.ledger.numbers == [1, 2]


async def test_no_wake_up_is_lost_when_mail_comes_at_any_moment(
    rig: Rig, post: Post, rng: random.Random
) -> None:
    """Mail after mail, at moments of chance: none waits for the next one to be noticed."""
    count = 25

    async def deliver() -> None:
        for number in range(2, count + 1):
            await asyncio.sleep(rng.uniform(0, 0.06))
            await rig.deliver(mail(number))

    async with asyncio.timeout(2 * SECONDS), asyncio.TaskGroup() as group:
        group.create_task(deliver())
        while len(post.ledger.accepted) < count:
            await post.stand_by()
            await post.fetch()

    assert post.ledger.numbers == list(range(1, count + 1))
    assert post.ledger.doubled == []


async def test_a_question_tells_whether_mail_came(rig: Rig, post: Post) -> None:
    """`unchanged` is true when nothing came, false when something did, true once it is fetched."""
    assert await post.unchanged()
    assert await post.unchanged()
    await rig.deliver(mail(2))
    assert not await post.unchanged()
    assert not await post.unchanged()
    await post.fetch()

    assert post.ledger.numbers == [1, 2]
    assert await post.unchanged()


async def test_a_wait_that_was_ended_leaves_a_good_connection(rig: Rig, post: Post) -> None:
    """Called away or at its time, the session leaves IDLE and can be asked and used."""
    async with post.waiting():
        post.woken.set()
    assert await post.unchanged()
    post.woken.clear()
    await post.session.stand_by(post.woken, datetime.now(UTC) + timedelta(seconds=0.1))
    assert await post.unchanged()
    await rig.deliver(mail(2))
    await post.fetch()

    assert post.ledger.numbers == [1, 2]


async def test_what_others_delete_is_no_mail(rig: Rig, post: Post) -> None:
    """A message that goes while the session stands by hides no other and is not taken for one."""
    await rig.deliver(mail(2))
    await post.fetch()
    task = asyncio.create_task(post.stand_by())
    await rig.expunge(1)
    post.woken.set()
    await task

    assert await post.unchanged()
    await rig.deliver(mail(3))
    assert not await post.unchanged()
    await post.fetch()
    assert post.ledger.numbers == [1, 2, 3]


async def test_a_connection_that_dies_ends_the_wait(rig: Rig, post: Post) -> None:
    """What serves the mailbox is killed: the wait is over, and the next question says why."""
    async with post.waiting():
        await rig.kill_sessions()

    with pytest.raises(TemporaryError):
        await post.unchanged()
    with pytest.raises(TemporaryError):
        await post.fetch()
