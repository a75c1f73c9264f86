"""The bound on sessions that are opened at once, and the account of those that are pushed to."""

from __future__ import annotations

import asyncio

import pytest

from mailbridge.sources.push import DOUBTFUL, SLOW_ONES, Openings, Parking


async def _until_quiet() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class _Server:
    """Opens sessions when it is told to; counts who is inside."""

    def __init__(self, openings: Openings) -> None:
        self.openings = openings
        self.inside: list[str] = []
        self.fails: dict[str, asyncio.Event] = {}

    async def open(self, name: str, ended: asyncio.Event, *, fails: bool = False) -> None:
        async with self.openings.turn((name, "INBOX")):
            self.inside.append(name)
            try:
                await ended.wait()
                if fails:
                    raise TimeoutError
            finally:
                self.inside.remove(name)


async def test_so_many_are_opened_at_once_and_no_more() -> None:
    """As places come free, the next ones go in."""
    server, ended = _Server(Openings(3, slow=60)), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(server.open(f"m{number}", ended))
        await _until_quiet()
        assert len(server.inside) == 3
        ended.set()
    assert server.inside == []


async def test_a_slow_server_does_not_hold_up_the_others() -> None:
    """Openings that take long give their places away, but only so many of them."""
    server, never, ended = _Server(Openings(3, slow=0.02)), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(SLOW_ONES + 5):
            group.create_task(server.open(f"dead{number}", never))
        async with asyncio.timeout(5):
            while len(server.inside) < SLOW_ONES + 3:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert len(server.inside) == SLOW_ONES + 3
        never.set()
        ended.set()

    # All places are there again.
    ended.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(server.open(f"m{number}", ended))
        await _until_quiet()
        assert len(server.inside) == 3
        ended.set()


async def test_whoever_kept_others_waiting_waits_for_its_like() -> None:
    """After a slow failure a mailbox has few places, and takes none from the living."""
    openings = Openings(2, slow=0.0)
    server, ended = _Server(openings), asyncio.Event()
    dead = [f"dead{number}" for number in range(DOUBTFUL + 4)]
    ended.set()
    for name in dead:
        with pytest.raises(TimeoutError):
            await server.open(name, ended, fails=True)
    ended.clear()
    openings._slow = 60
    async with asyncio.TaskGroup() as group:
        for name in dead:
            group.create_task(server.open(name, ended))
        await _until_quiet()
        assert len(server.inside) == DOUBTFUL
        living = [group.create_task(server.open(f"alive{n}", ended)) for n in range(2)]
        await _until_quiet()
        assert {"alive0", "alive1"} <= set(server.inside)
        ended.set()
        await asyncio.gather(*living)

    # They have shown that they live.
    ended.clear()
    async with asyncio.TaskGroup() as group:
        for name in dead:
            group.create_task(server.open(name, ended))
        await _until_quiet()
        assert len(server.inside) == 2
        ended.set()


async def test_one_who_is_cancelled_gives_the_place_back() -> None:
    """In the queue or inside: a place is never lost."""
    server, never = _Server(Openings(1, slow=60)), asyncio.Event()
    tasks = [asyncio.create_task(server.open(f"m{number}", never)) for number in range(3)]
    await _until_quiet()
    tasks[1].cancel()
    tasks[0].cancel()
    await _until_quiet()
    assert server.inside == ["m2"]
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert server.inside == []


def test_the_account_counts_folders() -> None:
    """Each folder counts once, however often it is entered."""
    parking = Parking()
    for place in [("a", "INBOX"), ("a", "INBOX"), ("a", "Alarm"), ("b", "INBOX")]:
        parking.enter(place)
    parking.leave(("b", "INBOX"))
    parking.leave(("c", "INBOX"))

    assert parking.push_sessions == 2
    assert parking.is_pushed_to(("a", "Alarm"))
    assert not parking.is_pushed_to(("b", "INBOX"))
