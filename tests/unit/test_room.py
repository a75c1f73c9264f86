"""The bound on what is in memory at once, and the treatment of memory."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys

import pytest

from mailbridge.errors import Throttled
from mailbridge.room import PER_RETURN, RETURNS, MailboxSlots, Room


async def test_so_many_and_no_more() -> None:
    """While places change hands in time, the bound holds."""
    room = Room(3, patience=30)
    inside = most = 0

    async def visit() -> None:
        nonlocal inside, most
        async with room:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(40)))

    assert most == 3


async def test_dead_connections_do_not_keep_the_living_waiting() -> None:
    """When every place is held by a fetch that hangs, the next one goes in after its patience."""
    room = Room(2, patience=0.01)
    never = asyncio.Event()

    async def hang() -> None:
        async with room:
            await never.wait()

    dead = [asyncio.create_task(hang()) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20), room:
        pass
    for task in dead:
        task.cancel()
    await asyncio.gather(*dead, return_exceptions=True)

    async with asyncio.timeout(20), room:
        assert room._free._value == 1  # both dead ones have given their places back


class Seconds:
    """A steady clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def slots(folders: int, seconds: Seconds, **given: int) -> MailboxSlots:
    return MailboxSlots(folders, clock=seconds, rng=random.Random(7), **given)


@pytest.mark.parametrize(
    ("folders", "limit", "own"),
    [(1, 3, 1), (3, 3, 3), (4, 3, 2), (20, 3, 2), (5, 1, 0), (1, 1, 1)],
)
def test_each_folder_has_a_connection_or_shares_the_last(
    folders: int, limit: int, own: int
) -> None:
    """Up to the limit each folder keeps its own; beyond it, all but one place are kept."""
    subject = slots(folders, Seconds(), limit=limit)

    assert [subject.claim() for _ in range(folders)] == [True] * own + [False] * (folders - own)
    assert own + (1 if own < folders else 0) <= limit


async def test_who_has_no_place_of_their_own_takes_turns() -> None:
    """Those that share a place are inside one after the other, in the order in which they came."""
    subject = slots(5, Seconds(), limit=3)
    inside: list[int] = []
    most = 0

    async def visit(number: int) -> None:
        nonlocal most
        async with subject.place(own=False):
            inside.append(number)
            most += 1
            assert most == 1
            await asyncio.sleep(0)
            most -= 1

    async with subject.place(own=True), subject.place(own=True):
        await asyncio.gather(*(visit(number) for number in range(10)))

    assert inside == list(range(10))


def test_sign_ins_of_a_mailbox_are_a_second_apart() -> None:
    """Folders that sign in together are told to wait for each other; after a while nobody is."""
    seconds = Seconds()
    subject = slots(3, seconds)
    waits = [subject.book() for _ in range(3)]
    seconds.now += 60

    assert waits[0] == 0.0
    assert 1.0 <= waits[1] <= 1.25
    assert 1.0 <= waits[2] - waits[1] <= 1.25
    assert subject.book() == 0.0


def test_a_server_that_hangs_up_each_time_is_not_hammered() -> None:
    """A few sessions that end are followed at once; from then on two sign-ins come in a minute."""
    seconds = Seconds()
    subject = slots(1, seconds)
    waits: list[float] = []
    for _ in range(RETURNS + 6):
        waits.append(subject.book())
        seconds.now += waits[-1] + 0.1
        subject.ended()

    assert waits[0] == 0.0
    assert all(0.9 <= wait <= 1.25 for wait in waits[1 : RETURNS + 1])
    hammered = waits[RETURNS + 1 :]
    assert sum(hammered) >= 0.45 * PER_RETURN * len(hammered)


def test_a_network_that_fails_now_and_then_costs_a_second() -> None:
    """Sessions that end every half minute are replaced at once, for ever."""
    seconds = Seconds()
    subject = slots(1, seconds)
    waits: list[float] = []
    for _ in range(50):
        waits.append(subject.book())
        seconds.now += waits[-1] + PER_RETURN
        subject.ended()

    assert max(waits) <= 1.25


def test_nobody_signs_in_while_the_server_throttles() -> None:
    """Every folder of the mailbox is told for how long, and the longest time asked for holds."""
    seconds = Seconds()
    subject = slots(2, seconds)
    subject.hold(89.0)
    subject.hold(30.0)
    seconds.now += 40
    with pytest.raises(Throttled) as held:
        subject.book()
    seconds.now += 49.1

    assert held.value.retry_after == pytest.approx(49.0)
    assert subject.book() == 0.0


def test_memory_is_spared_in_a_process_of_its_own() -> None:
    """The settings can be made, twice too, and garbage is collected afterwards."""
    code = (
        "import gc; from mailbridge import process as p; p.spare_memory(); p.spare_memory();"
        "p.start_without_garbage(); assert not gc.isenabled();"
        "p.collect_seldom(); assert gc.isenabled(); assert gc.get_freeze_count() > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    assert gc.isenabled()
