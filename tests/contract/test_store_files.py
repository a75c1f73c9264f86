"""The SQLite files: who may write them, what damage looks like, a full disk, copies."""

# Nothing else runs on the loop of these tests, so they may look at files in between.
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mailbridge.errors import StoreFull, StoreRefused, TemporaryError
from mailbridge.model import Accepted
from mailbridge.store import engine, files
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, batch, claim, done, mail, notice, uids


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path of the database of ``sqlite_url``."""
    return tmp_path / "mailbridge.db"


async def test_a_second_daemon_is_refused_and_named_the_first(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """Two writers never meet: the second is told the pid of the first, and may come later."""
    first = await open_store(sqlite_url)
    with pytest.raises(StoreRefused, match=f"pid {os.getpid()} ") as refused:
        await open_store(sqlite_url)
    assert refused.value.code == "store.locked"
    assert await first.accept(batch(mail(1)), address="a", settles=True) == Accepted(new=1, known=0)
    await first.close()
    again = await open_store(sqlite_url)
    assert uids(await claim(again)) == [1]


async def test_another_process_is_refused_too(
    sqlite_url: str, open_store: OpenStore, file: Path
) -> None:
    """The lock holds between processes, and ends with the process that holds it."""
    program = f"""
        import asyncio, os
        from mailbridge.store.store import Store
        async def main():
            store = await Store.open({sqlite_url!r})
            print("open", flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        while "open" not in other.stdout.readline():
            assert other.poll() is None
        with pytest.raises(StoreRefused, match=f"pid {other.pid} "):
            await open_store(sqlite_url)
    finally:
        other.kill()
        other.communicate()
    assert await (await open_store(sqlite_url)).check() == []


async def test_the_files_are_private(sqlite_url: str, open_store: OpenStore, file: Path) -> None:
    """Mail lies in them: nobody but the owner may read any, whatever the umask says."""
    before = os.umask(0)
    try:
        store = await open_store(sqlite_url)
        await accept(store, [1])
        await store.backup(file.with_name("copy.db"))
    finally:
        os.umask(before)
    found = {one.name: stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()}
    assert {"mailbridge.db", "mailbridge.db-wal", "mailbridge.db.lock", "copy.db"} <= set(found)
    assert set(found.values()) == {0o600}
    await store.close()
    file.chmod(0o644)
    await open_store(sqlite_url)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_commands_read_beside_a_running_daemon(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """Readers see every commit at once, hold up nobody, and can write nothing."""
    daemon = await open_store(sqlite_url)
    reader = await open_store(sqlite_url, mode="read")
    await accept(daemon, [1])
    assert [row.ref.uid for row in await reader.messages()] == [1]
    await accept(daemon, [2])
    assert [row.ref.uid for row in await reader.messages()] == [2, 1]
    assert (await reader.counts()).sinks[0].queued == 2
    with pytest.raises(StoreRefused):
        await reader.accept(batch(mail(3)), address="a", settles=True)
    await reader.close()
    assert uids(await claim(daemon)) == [1, 2]


async def test_a_database_is_readable_after_a_crash_and_after_a_clean_stop(
    sqlite_url: str, open_store: OpenStore, file: Path, tmp_path: Path
) -> None:
    """With no daemon there, commands read what it left: with its log after a crash, or without."""
    daemon = await open_store(sqlite_url)
    await accept(daemon, [1])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("mailbridge.db", "mailbridge.db-wal"):
        (crashed / name).write_bytes((tmp_path / name).read_bytes())
    await daemon.close()
    assert not file.with_name("mailbridge.db-wal").exists()
    for folder in (tmp_path, crashed):
        reader = await open_store(f"sqlite:///{folder}/mailbridge.db", mode="read")
        assert [row.ref.uid for row in await reader.messages()] == [1]
        assert await reader.check() == []
        await reader.close()


async def test_reading_what_is_not_there_creates_nothing(
    sqlite_url: str, open_store: OpenStore, file: Path
) -> None:
    """A mistyped path is an error with a hint, not a new empty database."""
    with pytest.raises(StoreRefused, match="there is no database at") as refused:
        await open_store(sqlite_url, mode="read")
    assert refused.value.code == "store.missing"
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x00" * 8192, "is not a SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "damaged"),
        (b"From: a@b\r\n\r\nhello", "is not a SQLite database"),
    ],
    ids=["empty", "zeros", "garbage", "a mail"],
)
@pytest.mark.parametrize("mode", ["read", "write"])
async def test_damage_is_refused_and_left_as_it_is(
    open_store: OpenStore, file: Path, content: bytes, says: str, mode: str
) -> None:
    """Never a silent new database in place of a damaged one, which a person may still save."""
    file.write_bytes(content)
    with pytest.raises(StoreRefused, match=says) as refused:
        await open_store(f"sqlite:///{file}", mode=mode)
    assert refused.value.code == "store.damaged"
    assert refused.value.fix
    assert file.read_bytes() == content


async def test_a_cut_off_file_is_refused_or_found(
    sqlite_url: str, open_store: OpenStore, file: Path
) -> None:
    """A database that lost its end does not pass for a sound one."""
    store = await open_store(sqlite_url)
    await accept(store, range(1, 40), size=20_000)
    await store.close()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        again = await open_store(sqlite_url)
        faults = await again.check()
    except StoreRefused as error:
        faults = [error.code]
    assert faults


async def test_a_log_without_its_database_is_refused(
    sqlite_url: str, open_store: OpenStore, file: Path
) -> None:
    """If only the -wal file with its mail is left, a new database would destroy it."""
    wal = file.with_name("mailbridge.db-wal")
    wal.write_bytes(b"mail in here")
    with pytest.raises(StoreRefused, match=re.escape("is missing, but mailbridge.db-wal")):
        await open_store(sqlite_url)
    assert wal.read_bytes() == b"mail in here"


async def test_a_foreign_database_is_refused(
    sqlite_url: str, open_store: OpenStore, file: Path
) -> None:
    """Another program's database gets no tables of ours."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE birds (name)")
    with pytest.raises(StoreRefused, match="not mailbridge's"):
        await open_store(sqlite_url)
    with closing(sqlite3.connect(file)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    assert names == ["birds"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://a/b", "birds"])
async def test_what_is_no_durable_store_is_refused(url: str, open_store: OpenStore) -> None:
    """Memory, and databases that nobody tested, are named as what they are."""
    with pytest.raises(StoreRefused) as refused:
        await open_store(url)
    assert refused.value.code == "store.url"


def _limit_pages(connection: sa.Connection) -> None:
    used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {used + 30}")


def _unlimit_pages(connection: sa.Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


async def test_a_full_database_stores_nothing_of_the_batch_and_goes_on_later(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """SQLITE_FULL rolls the whole batch back; with room again the same batch is accepted."""
    store = await open_store(sqlite_url)
    await accept(store, [1])
    await store._access.database.run(_limit_pages)
    large = batch(*(mail(uid, size=100_000) for uid in range(2, 12)))
    with pytest.raises(StoreFull):
        await store.accept(large, address="a", settles=True)
    assert [row.ref.uid for row in await store.messages()] == [1]
    checkpoint = await store.checkpoint("alarm", "INBOX")
    assert checkpoint is not None
    assert checkpoint.uid == 1
    (delivery,) = await claim(store)
    assert await store.resolve([done(delivery)]) == [done(delivery)]
    await store._access.database.run(_unlimit_pages)
    assert await store.accept(large, address="a", settles=True) == Accepted(new=10, known=0)
    assert await store.check() == []


async def test_a_full_disk_gives_the_reserve_free_and_stops_the_intake(
    sqlite_url: str, open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full, outcomes are still written; mail is accepted once there is room."""
    store = await open_store(sqlite_url)
    await accept(store, [1, 2])
    reserve = file.with_name("mailbridge.db.reserve")
    held = reserve.stat()
    assert 0 < held.st_size <= files.RESERVE_BYTES
    assert held.st_blocks * 512 >= held.st_size
    real = shutil.disk_usage(file.parent)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: real._replace(free=1024 * 1024))
        with pytest.raises(StoreFull, match="1024 KiB are free"):
            await store.accept(batch(mail(3)), address="a", settles=True)
        assert not reserve.exists()
        claimed = await claim(store)
        assert len(await store.resolve([done(one) for one in claimed])) == 2
        with pytest.raises(StoreFull):
            await store.accept(batch(mail(3)), address="a", settles=True)
    assert [row.ref.uid for row in await store.messages()] == [2, 1]
    assert await store.accept(batch(mail(3)), address="a", settles=True) == Accepted(new=1, known=0)
    assert reserve.stat().st_size == held.st_size


async def test_room_that_retention_made_lets_the_intake_go_on(
    sqlite_url: str, open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that fills its disk by itself accepts mail again once old mail was removed."""
    store = await open_store(sqlite_url)
    await accept(store, range(1, 120), size=500_000)
    await store.resolve([done(one) for one in await claim(store, limit=200)])
    real = shutil.disk_usage(file.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1024 * 1024))
    with pytest.raises(StoreFull):
        await store.accept(batch(mail(200)), address="a", settles=True)
    moment = NOON + timedelta(days=1)
    await store.purge(delivered_before=moment, dead_before=moment, log_before=NOON)
    assert await store.accept(batch(mail(200)), address="a", settles=True) == Accepted(
        new=1, known=0
    )


async def test_an_outcome_that_finds_no_room_takes_the_reserve(
    sqlite_url: str, open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolve on a full disk is run again with the reserve's room instead of being lost."""
    store = await open_store(sqlite_url)
    await accept(store, [1])
    (delivery,) = await claim(store)
    reserve = file.with_name("mailbridge.db.reserve")
    real = engine.Database._transaction

    def full_while_reserved(self: engine.Database, work: Any) -> Any:
        if reserve.exists():
            raise OSError(28, "No space left on device")
        return real(self, work)

    monkeypatch.setattr(engine.Database, "_transaction", full_while_reserved)
    assert await store.resolve([done(delivery)]) == [done(delivery)]
    assert not reserve.exists()


def _under_faults(tmp_path: Path, fault: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose calls to the kernel fail as ``fault`` tells strace."""
    calls = fault.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={calls}"]
    command += ["-e", f"inject={fault}", sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())


PROGRAM = """
    import asyncio
    from mailbridge.errors import MailbridgeError
    from mailbridge.store.store import Store
    from tests.contract.mails import batch, mail

    async def main():
        store = await Store.open({url!r})
        for uid in range(2, 200):
            try:
                await store.accept(batch(mail(uid, size=20_000)), address="a", settles=True)
            except MailbridgeError as error:
                print("said", type(error).__name__, error.code, uid, flush=True)
                if uid > 150:
                    break
            else:
                print("stored", uid, flush=True)

    asyncio.run(main())
"""


async def test_no_room_for_real_writes_loses_no_acknowledged_mail(
    sqlite_url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """When the kernel answers ENOSPC from some write on, what was acknowledged is all there."""
    first = await open_store(sqlite_url)
    await accept(first, [1])
    await first.close()
    fault = "pwrite64:error=ENOSPC:when=300+"
    ran = _under_faults(tmp_path, fault, PROGRAM.format(url=sqlite_url))
    assert ran.returncode == 0, ran.stderr
    said = [line.split() for line in ran.stdout.splitlines()]
    stored = [int(line[1]) for line in said if line[0] == "stored"]
    refused = {line[1] for line in said if line[0] == "said"}
    assert stored
    assert refused == {"StoreFull"}
    again = await open_store(sqlite_url)
    assert await again.check() == []
    there = {row.ref.uid for row in await again.messages(limit=500)}
    assert there == {1, *stored}


async def test_a_failed_sync_ends_the_use_of_the_store(
    sqlite_url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """After EIO from one fsync nothing more is acknowledged; a new process finds all that was."""
    first = await open_store(sqlite_url)
    await accept(first, [1])
    await first.close()
    fault = "fdatasync:error=EIO:when=20"
    ran = _under_faults(tmp_path, fault, PROGRAM.format(url=sqlite_url))
    said = [line.split() for line in ran.stdout.splitlines()]
    stored = [int(line[1]) for line in said if line[0] == "stored"]
    refused = [line[1:3] for line in said if line[0] == "said"]
    assert stored
    assert refused
    assert all(one == ["StoreRefused", "store.io"] for one in refused)
    first_refusal = said.index(next(line for line in said if line[0] == "said"))
    assert all(line[0] == "said" for line in said[first_refusal:])
    again = await open_store(sqlite_url)
    assert await again.check() == []
    assert {1, *stored} <= {row.ref.uid for row in await again.messages(limit=500)}


async def test_a_foreign_lock_is_waited_for_and_then_temporary(
    sqlite_url: str, open_store: OpenStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's sqlite3 shell on the file delays the daemon, and never ends it."""
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.2)
    store = await open_store(sqlite_url)
    with closing(sqlite3.connect(file, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(TemporaryError, match="locked") as refused:
            await store.accept(batch(mail(1)), address="a", settles=True)
        assert refused.value.code == "store.locked"
        foreign.execute("COMMIT")
    assert await store.accept(batch(mail(1)), address="a", settles=True) == Accepted(new=1, known=0)


async def test_a_backup_is_complete_while_mail_comes_in(
    sqlite_url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """A copy of the running store opens as a store and holds all of one moment."""
    store = await open_store(sqlite_url)
    await accept(store, range(1, 60), size=20_000)
    await store.notify([notice("msg_n")], ["erp"])
    copy = tmp_path / "backup" / "copy.db"
    copy.parent.mkdir()
    more = asyncio.gather(*(accept(store, [uid]) for uid in range(100, 120)))
    await store.backup(copy)
    await more
    assert [one.name for one in copy.parent.iterdir()] == ["copy.db"]
    restored = await open_store(f"sqlite:///{copy}")
    assert await restored.check() == []
    there = {row.ref.uid for row in await restored.messages(limit=500)}
    assert set(range(1, 60)) <= there
    checkpoint = await restored.checkpoint("alarm", "INBOX")
    assert checkpoint is not None
    assert checkpoint.uid == max(there)
    assert await restored.raw(mail(7).ref.message_id) == mail(7, size=20_000).raw
    with pytest.raises(StoreRefused, match="exists already"):
        await store.backup(copy)


async def test_postgres_is_sent_to_its_own_backup(
    postgres_url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """A backup that could not be consistent is not made; the hint names the tool that can."""
    store = await open_store(postgres_url)
    with pytest.raises(StoreRefused) as refused:
        await store.backup(tmp_path / "copy")
    assert "pg_dump" in refused.value.fix


async def test_a_small_disk_gets_a_small_reserve(tmp_path: Path) -> None:
    """Reserve and margin shrink with the disk, so that a few megabytes are enough to run on."""
    real = shutil.disk_usage

    def tiny(_: object) -> object:
        return real(tmp_path)._replace(total=8 * 2**20, free=7 * 2**20)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "disk_usage", tiny)
        reserve = files.Reserve(tmp_path / "mailbridge.db")
        reserve.admit(lambda: 0)
    assert reserve.size == 7 * 2**20 // 20
    assert reserve.margin == 8 * 2**20 // 40


async def test_closing_twice_is_closing_once(sqlite_url: str, clock: Clock) -> None:
    """A stop that is asked for twice does not fail the second time."""
    store = await Store.open(sqlite_url, now=clock)
    await store.close()
    await store.close()
