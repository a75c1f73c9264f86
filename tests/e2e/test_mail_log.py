"""The mail log as a person reads it: where each message is and why, at a glance, as it grows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailbridge.store.store import Store
from tests.contract.mails import accept, batch, claim, dead, done, gap, ref
from tests.contract.rulings import once, passed, rule, step
from tests.servers.site import SECONDS, Site, site

__all__ = ["site"]  # the fixture


@pytest.fixture
async def store(site: Site, tmp_path: Path) -> AsyncIterator[Store]:
    """Give the database of the site, held as the daemon would."""
    home = tmp_path / "state"
    home.mkdir(mode=0o700, exist_ok=True)
    store = await Store.open(f"sqlite:///{home}/mailbridge.db")
    yield store
    await store.close()


async def a_day(store: Store) -> None:
    """Let a mail stand in each state that there is."""
    alarm = once("4711", fields={"keyword": "B3"}, wanted=("keyword", "number"))
    await rule(
        store,
        {
            1: [passed("spam"), alarm],
            2: [passed("spam"), alarm],
            3: [step("spam", "drop", reason="matches", webhooks=())],
            4: [passed("spam"), passed("alarm")],
            5: [passed("spam"), step(reason="matches, authenticated")],
        },
    )
    one, five = await claim(store)
    await store.resolve([done(one), dead(five)])
    await accept(store, [6])
    await store.accept(batch(gaps=(gap(7),), uid=7), address="a", settles=True)


async def test_the_log_says_where_each_mail_is_and_why(site: Site, store: Store) -> None:
    """One row a message; the reason stands beside it, in the reader's language."""
    await a_day(store)
    code, english, err = await site.call("log", "--lang", "en")
    assert (code, err) == (0, "")
    assert rows(english) == {
        "7": ("gap", "NO [SERVERBUG], tried 1 times"),
        "6": ("accepted", "waits for erp"),
        "5": ("dead", "erp: rejected 3 times"),
        "4": ("unrouted", "no route took it"),
        "3": ("dropped", "matches"),
        "2": ("held", f"erp: duplicate of {ref(1).message_id} 0 s before"),
        "1": ("delivered", "-"),
    }
    site.environ |= {"LANG": "de_DE.UTF-8", "LC_ALL": "", "LC_MESSAGES": ""}
    _, german, _ = await site.call("log")
    assert rows(german)["2"] == (
        "zurückgehalten",
        f"erp: Duplikat von {ref(1).message_id}, 0 s danach",
    )
    assert rows(german)["4"] == ("ohne Route", "keine Route nahm sie")


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Return state and reason by UID; columns stand two spaces apart."""
    found = {}
    for line in text.splitlines()[1:]:
        _, state, _, _, uid, *rest = (part.strip() for part in line.split("  ") if part.strip())
        found[uid] = (state, rest[-1])
    return found


async def test_json_is_the_same_in_every_language(site: Site, store: Store) -> None:
    """Programs read the log too: its JSON is not translated, and filters do what they say."""
    await a_day(store)
    english = await site.json("log", "--lang", "en")
    assert english == await site.json("log", "--lang", "de")
    held = await site.json("log", "--state", "held", "--lang", "de")
    assert [(row["ref"]["uid"], row["state"], row["webhook"]) for row in held] == [
        (2, "held", "erp")
    ]
    alarm = await site.json("log", "--route", "alarm")
    assert [row["ref"]["uid"] for row in alarm] == [5, 2, 1]
    one = ref(2).message_id
    assert await site.json("trace", one, "--lang", "de") == await site.json("trace", one)


async def test_a_trace_tells_it_in_one_glance(site: Site, store: Store) -> None:
    """What each route said, what was found and not found, and how to release what is held."""
    await a_day(store)
    _, out, _ = await site.call("trace", ref(2).message_id, "--lang", "en")
    lines = [line.strip() for line in out.splitlines()]
    why = f"duplicate of {ref(1).message_id} 0 s before"
    assert lines[0] == f"{ref(2).message_id}  held  erp: {why}"
    assert "spam   passes it by: subject does not match" in lines
    assert f"alarm  holds it for erp: {why}" in lines
    assert "keyword = B3" in lines
    assert "number: not found" in lines
    (row,) = await store.deliveries(state="held")
    assert f"release it: mailbridge queue retry {row.id}" in out
    _, out, _ = await site.call("trace", ref(2).message_id, "--lang", "de")
    assert "hält sie zurück für erp" in out
    assert f"freigeben: mailbridge queue retry {row.id}" in out
    code, _, err = await site.call("trace", "msg_nobody", "--lang", "de")
    assert (code, err) == (1, "mailbridge: von msg_nobody ist nichts bekannt\n")


async def test_what_is_held_is_released_by_command(site: Site, store: Store) -> None:
    """``queue list --state held`` shows it, ``queue retry`` lets it go."""
    await a_day(store)
    await store.close()
    (row,) = await site.json("queue", "list", "--state", "held")
    assert (row["route"], row["event_id"]) == ("alarm", ref(2).message_id)
    assert (await site.call("queue", "retry", str(row["id"])))[:2] == (0, "1 queued again\n")
    assert await site.json("queue", "list", "--state", "held") == []
    assert [row["state"] for row in await site.json("log", "--limit", "6")][-1] == "accepted"


@asynccontextmanager
async def following(site: Site, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await site.start("log", "--follow", *words)
    try:
        async with asyncio.timeout(SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read(process: asyncio.subprocess.Process, count: int) -> list[int]:
    """Return the UIDs of the next lines."""
    assert process.stdout is not None
    return [json.loads(await process.stdout.readline())["ref"]["uid"] for _ in range(count)]


async def test_following_shows_each_new_mail_once_until_ctrl_c(site: Site, store: Store) -> None:
    """Lines come as mails do, in order, none twice; Ctrl-C ends it with 0 and without a word."""
    await accept(store, [1, 2])
    async with following(site, "--json", "--limit", "1") as process:
        assert await read(process, 1) == [2]
        for start in range(3, 303, 30):
            await accept(store, range(start, start + 30))
        assert await read(process, 300) == list(range(3, 303))
        await accept(store, [400])
        assert await read(process, 1) == [400]
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_following_ends_when_nobody_reads(site: Site, store: Store) -> None:
    """``log --follow | head`` leaves no process behind, although no further mail ever comes."""
    await accept(store, [1])
    inlet, outlet = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mailbridge", "--config", str(site.config), "log", "--follow"),
        stdout=outlet,
        stderr=asyncio.subprocess.PIPE,
        env=site.environ,
    )
    os.close(outlet)
    try:
        first = await asyncio.to_thread(os.read, inlet, 4096)
        os.close(inlet)
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert ref(1).message_id in first.decode()
    assert (process.returncode, err) == (0, b"")


async def test_following_a_state_that_comes_later_is_refused(site: Site, store: Store) -> None:
    """A filter that would show some mails and miss others by chance is wrong usage, said so."""
    code, _, err = await site.call("log", "--follow", "--state", "dead", "--lang", "de")
    assert code == 2
    assert "worin eine Nachricht eintrifft" in " ".join(err.replace("│", " ").split())
