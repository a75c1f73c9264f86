"""Another key for the grants, all or nothing; and no dump that shows any of them."""

# Nothing else runs on the loop of these tests, so they may look at files in between.
# ruff: noqa: ASYNC220, ASYNC221, ASYNC240

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from mailbridge.errors import PermanentError, StoreRefused, TemporaryError
from mailbridge.model import Grant
from mailbridge.store.store import Store
from tests.contract.conftest import OpenStore
from tests.contract.consents import (
    CANARIES,
    KEY,
    NEW,
    STRANGER,
    a_grant,
    get,
    kept,
    leaks,
    of,
    stored,
    touch,
)
from tests.contract.mails import accept
from tests.servers.postgres import Postgres

#: kills of each database; each at another moment of changing keys to and fro
KILLS = 8
#: grants that are encrypted anew each time
MANY = 60
#: what is not secret, and is found: so the search would find a secret too
FINDABLE = "ils@example.org"


async def everything(store: Store, wanted: Sequence[Grant]) -> bool:
    """Tell whether all these grants are there as they were saved."""
    return [await get(store, grant) for grant in wanted] == list(wanted)


async def filled(store: Store, count: int = 5) -> list[Grant]:
    return [await kept(store, of(f"person-{number}")) for number in range(count)]


# --- another key


async def test_all_grants_are_brought_under_the_new_key(url: str, open_store: OpenStore) -> None:
    """After the change the new key alone opens them, and nothing is left under the former one."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store)
    before = await stored(store)
    await store.close()
    store = await open_store(url)
    assert await store.grants.rekey([NEW, KEY], alone=True) == 5
    after = await stored(store)
    assert len(after) == 5
    assert not before.keys() & after.keys()
    await store.close()
    with pytest.raises(StoreRefused, match=f"under the key {NEW.fingerprint}"):
        await open_store(url, keys=[KEY])
    assert await everything(await open_store(url, keys=[NEW]), wanted)


async def test_a_change_of_the_key_may_be_repeated(url: str, open_store: OpenStore) -> None:
    """Whoever does not know whether it went through runs it again, and nothing happens twice."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store)
    assert await store.grants.rekey([NEW, KEY]) == 5
    rows = await stored(store)
    assert await store.grants.rekey([NEW, KEY]) == 0
    assert await stored(store) == rows
    await store.close()
    assert await everything(await open_store(url, keys=[NEW]), wanted)


async def test_the_daemon_changes_the_key_when_it_starts_with_both(
    url: str, open_store: OpenStore
) -> None:
    """[new, former] in the configuration is all that an operator has to write."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store)
    await store.close()
    with structlog.testing.capture_logs() as logs:
        store = await open_store(url, keys=[NEW, STRANGER, KEY])
    assert {"event": "grants.rekeyed", "grants": 5, "key": NEW.fingerprint} in [
        {name: entry[name] for name in entry if name != "log_level"} for entry in logs
    ]
    assert await everything(store, wanted)
    await store.close()
    with structlog.testing.capture_logs() as logs:
        store = await open_store(url, keys=[NEW, KEY])
    assert logs == []
    await store.close()
    assert await everything(await open_store(url, keys=[NEW]), wanted)


async def test_none_of_the_keys_fits(url: str, open_store: OpenStore) -> None:
    """A change that would start from a wrong key is refused and changes nothing."""
    store = await open_store(url, keys=[KEY])
    await filled(store)
    rows = await stored(store)
    with pytest.raises(PermanentError) as refused:
        await store.grants.rekey([NEW, STRANGER])
    assert refused.value.code == "store.wrong_key"
    assert await stored(store) == rows


async def test_a_damaged_row_is_not_left_behind(url: str, open_store: OpenStore) -> None:
    """The key stays what it is until a person has decided about a row that cannot be read."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store)
    await touch(store, wanted[2], b"\x01 not what was sealed here, but as long")
    rows = await stored(store)
    with pytest.raises(PermanentError, match="1 of 5 grants cannot be read") as refused:
        await store.grants.rekey([NEW, KEY])
    assert refused.value.code == "grant.damaged"
    assert "forget-grants --damaged" in refused.value.fix
    await store.close()
    # The daemon starts all the same: under the former key, as long as it is still given.
    store = await open_store(url, keys=[NEW, KEY])
    assert await stored(store) == rows
    assert await everything(store, wanted[:2] + wanted[3:])
    assert await store.grants.forget_damaged([KEY]) == 1
    await store.close()
    await (await open_store(url, keys=[NEW, KEY])).close()
    assert await everything(await open_store(url, keys=[NEW]), wanted[:2] + wanted[3:])


async def test_a_daemon_in_the_way_is_named(url: str, open_store: OpenStore) -> None:
    """The key is not changed under a running daemon that does not know the new one."""
    daemon = await open_store(url, keys=[KEY])
    wanted = await filled(daemon)
    with pytest.raises(StoreRefused, match="in use by another mailbridge") as refused:
        await (await open_store(url)).grants.rekey([NEW, KEY], alone=True)
    assert refused.value.code == "store.locked"
    assert await everything(daemon, wanted)
    await daemon.close()


async def test_a_host_with_both_keys_goes_on_while_another_changes_it(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Several hosts change the key one by one; a host that was not told says so and harms none."""
    ready = await open_store(postgres_url, keys=[KEY, NEW])
    left_behind = await open_store(postgres_url, keys=[KEY], owner="host:2")
    wanted = await filled(ready)
    changed = await open_store(postgres_url, keys=[NEW, KEY], owner="host:3")
    assert await everything(ready, wanted)
    newer = await kept(ready, of("person-1", "newer"))
    assert await get(changed, newer) == newer
    rows = await stored(changed)
    for call in (
        left_behind.grants.save_grant(of("person-1", "lost")),
        left_behind.grants.forget_grant(newer.app, newer.account),
        get(left_behind, newer),
    ):
        with pytest.raises(PermanentError) as told:
            await call
        assert told.value.code == "store.wrong_key"
        assert not isinstance(told.value, StoreRefused)
    assert await stored(changed) == rows


async def test_a_fault_at_any_statement_leaves_the_former_key(
    url: str, open_store: OpenStore
) -> None:
    """Wherever a change of the key breaks off, all grants are under one key."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store)
    engine, broken_at, seen = store._access.database.engine, 0, 0

    @sa.event.listens_for(engine, "before_cursor_execute")
    def fail(*_arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == broken_at:
            raise sa.exc.DBAPIError("x", {}, RuntimeError("fault"))

    finished = False
    while not finished:
        broken_at, seen = broken_at + 1, 0
        try:
            await store.grants.rekey([NEW, KEY])
            finished = True
        except TemporaryError:
            seen = -1000
            assert await everything(store, wanted)
            await store.grants.save_grant(wanted[0])
    sa.event.remove(engine, "before_cursor_execute", fail)
    assert broken_at > 8
    await store.close()
    assert await everything(await open_store(url, keys=[NEW]), wanted)


CHILD = """
    import asyncio
    from mailbridge.store.store import Store
    from tests.contract.consents import KEY, NEW

    async def main():
        store = await Store.open({url!r})
        former, new = KEY, NEW
        while True:
            await store.grants.rekey([new, former])
            print("changed", flush=True)
            former, new = new, former

    asyncio.run(main())
"""


async def test_kill_9_leaves_all_grants_under_one_key(
    url: str, open_store: OpenStore, rng: random.Random
) -> None:
    """Killed again and again while it changes keys, a store opens with exactly one of both."""
    store = await open_store(url, keys=[KEY])
    wanted = await filled(store, MANY)
    await store.close()
    found = []
    for _ in range(KILLS):
        await _kill_after(url, rng.randrange(1, 6), rng.uniform(0.0, 1.0))
        store = await open_store(url)
        faults = {key: await store.grants.faults([key]) for key in (KEY, NEW)}
        await store.close()
        [key] = [key for key in faults if not faults[key]]
        [other] = {KEY, NEW} - {key}
        with pytest.raises(StoreRefused, match=f"under the key {key.fingerprint}"):
            await open_store(url, keys=[other])
        store = await open_store(url, keys=[key])
        assert await everything(store, wanted)
        assert await store.check() == []
        await store.close()
        found.append(key)
    # Both happen, so the kills did fall between changes.
    assert set(found) == {KEY, NEW}


async def _kill_after(url: str, changes: int, share: float) -> None:
    """Kill it after so many changes of the key, and a ``share`` of the time that one takes."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD.format(url=url))],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline()
        began = time.monotonic()
        for _ in range(changes):
            assert child.stdout.readline()
        await asyncio.sleep(share * (time.monotonic() - began) / changes)
    finally:
        child.kill()
        child.communicate()


SAVER = """
    import asyncio
    from mailbridge.store.store import Store
    from tests.contract.consents import KEY, of

    async def main():
        store = await Store.open({url!r}, keys=[KEY])
        number = 0
        while True:
            number += 1
            await store.grants.save_grant(of("alarm", f"token-{{number}}"))
            print(number, flush=True)

    asyncio.run(main())
"""


async def test_kill_9_loses_no_saved_token(
    url: str, open_store: OpenStore, rng: random.Random
) -> None:
    """Whatever ``save_grant`` came back from is there after the kill: a token is never older."""
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVER.format(url=url))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert child.stdout is not None
            for _ in range(rng.randrange(1, 40)):
                assert child.stdout.readline()
        finally:
            child.kill()
            told = [int(line) for line in child.communicate()[0].split("\n") if line.isdigit()]
        store = await open_store(url, keys=[KEY])
        grant = await get(store, of("alarm"))
        assert grant is not None
        assert int(grant.refresh_token.removeprefix("token-")) >= max(told, default=1)
        await store.close()


# --- what a dump shows


async def a_year_of_use(open_store: OpenStore, url: str) -> Store:
    """Save, replace, forget and change the key, so that traces of all of it lie around."""
    store = await open_store(url, keys=[KEY])
    await accept(store, [1])
    await kept(store, a_grant())
    for number in range(30):
        await kept(store, of(f"person-{number}"))
    for number in range(15):
        await kept(store, of(f"person-{number}", "0.AVwA-short-" + "n" * 2000))
        await store.grants.forget_grant(a_grant().app, f"person-{2 * number}@canary-tenant.example")
    await kept(store, a_grant())
    await store.grants.rekey([NEW, KEY])
    await store.close()
    return await open_store(url, keys=[NEW])


async def test_no_file_beside_a_sqlite_database_shows_a_grant(
    sqlite_url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """Database, write-ahead log, free pages and backup hold ciphertext; the backup can be used."""
    store = await a_year_of_use(open_store, sqlite_url)
    await kept(store, a_grant(refresh_token="0.AVwA-canary-refresh-in-the-log"))
    await store.backup(tmp_path / "backup.db")
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {"mailbridge.db", "mailbridge.db-wal", "backup.db"} <= {path.name for path in files}
    assert leaks(b"".join(path.read_bytes() for path in files)) == []
    for name in ("mailbridge.db", "backup.db"):
        assert leaks((tmp_path / name).read_bytes(), [FINDABLE]) == [FINDABLE]
    copy = await open_store(f"sqlite:///{tmp_path}/backup.db", keys=[NEW])
    assert await get(copy, of("person-1")) is not None


async def test_no_dump_and_no_file_of_postgresql_shows_a_grant(
    postgres_url: str, open_store: OpenStore, postgres: Postgres
) -> None:
    """Neither what pg_dump writes nor the server's own files hold anything but ciphertext."""
    store = await a_year_of_use(open_store, postgres_url)
    dump = subprocess.run(
        ["pg_dump", f"--dbname={postgres_url}"], capture_output=True, check=True
    ).stdout
    assert b"COPY public.grants" in dump
    assert leaks(dump) == []
    assert leaks(dump, [FINDABLE]) == [FINDABLE]
    await store.close()
    files = b"".join(
        path.read_bytes()
        for path in postgres.directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    assert leaks(files) == []
    assert leaks(files, [FINDABLE]) == [FINDABLE]


async def test_nothing_is_logged_about_a_grant(
    url: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the debug log of every library shows what is saved, changed, damaged or refused."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        store = await a_year_of_use(open_store, url)
        await touch(store, of("person-1"), b"\x01 damaged", NEW)
        await store.close()
        for keys in ([NEW], [], [KEY]):
            try:
                await (await open_store(url, keys=keys)).close()
            except StoreRefused as error:
                logs.append({"event": f"{error} {error.fix}", "log_level": "error"})
    assert {"grants.damaged", "grants.locked"} <= {entry["event"] for entry in logs}
    said = repr(logs) + caplog.text + repr([KEY, store, store.grants])
    assert leaks(said.encode(), CANARIES) == []
