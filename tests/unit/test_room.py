"""The bound on what is in memory at once, and the treatment of memory."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

from mailbridge.room import Room


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


def test_memory_is_spared_in_a_process_of_its_own() -> None:
    """The settings can be made, twice too, and garbage is collected afterwards."""
    code = (
        "import gc; from mailbridge import process as p; p.spare_memory(); p.spare_memory();"
        "p.start_without_garbage(); assert not gc.isenabled();"
        "p.collect_seldom(); assert gc.isenabled(); assert gc.get_freeze_count() > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    assert gc.isenabled()
