"""The connection to the database: its threads, its settings, and who may write.

SQLite has ONE writing connection, and it lives in one thread: two connections that write or
checkpoint at once can damage the file before SQLite 3.51.3 (the WAL-reset race), and one writer
is faster anyway. PostgreSQL has a small pool, one connection a thread.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.store.translate import BROKEN, translated

Mode = Literal["read", "write"]
T = TypeVar("T")

#: connections, and threads, to PostgreSQL
POOL: Final = 4
#: how long a foreign process may hold the lock of a SQLite file
BUSY_SECONDS: Final = 10.0
#: bytes of a page, in new files
PAGE: Final = 8192
#: bytes of the write-ahead log before it is moved into the database file; less on a small disk,
#: where that copy must still find room when nothing else does
AUTOCHECKPOINT_BYTES: Final = 16 * 1024 * 1024
AUTOCHECKPOINT_SHARE: Final = 64
#: how large the write-ahead log may stay after a large transaction
WAL_KEPT_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the database is. ``shown`` is for messages and holds no password."""

    url: sa.URL
    shown: str
    file: Path | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``sqlite:///FILE`` or ``postgresql://…``; raise ``StoreRefused`` for any other."""
        try:
            url = sa.make_url(text)
        except sa.exc.ArgumentError as error:
            raise StoreRefused("not a database URL", code="store.url", fix=_EXAMPLES) from error
        if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
            url = url.set(drivername="postgresql+psycopg")
            return cls(url=url, shown=f"postgresql database {url.database!r}", file=None)
        if url.drivername not in {"sqlite", "sqlite+pysqlite"}:
            raise StoreRefused(
                f"cannot use {url.drivername} as a store", code="store.url", fix=_EXAMPLES
            )
        if not url.database or url.database == ":memory:":
            raise StoreRefused(
                "a store in memory would lose every mail", code="store.url", fix=_EXAMPLES
            )
        file = Path(url.database).absolute()
        return cls(url=url, shown=str(file), file=file)


_EXAMPLES: Final = (
    "write state.database as sqlite:////var/lib/mailbridge/mailbridge.db or "
    "postgresql://user@host/name"
)


class Database:
    """Runs functions in transactions, off the event loop, and translates what they raise.

    After an I/O error of SQLite the object is broken for good: every further call raises that
    error, because nobody knows what reached the disk. A new process recovers from the log.
    """

    def __init__(self, address: Address, *, mode: Mode, synchronous: str) -> None:
        self.address = address
        #: transactions that were committed by this object
        self.commits = 0
        #: is told the seconds of each commit, in the thread that made it
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        self._broken: MailbridgeError | None = None
        threads = 1 if address.file else POOL
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"store-{mode}")
        if address.file:
            self.engine = _sqlite_engine(address.file, mode, synchronous)
        else:
            self.engine = _postgres_engine(address, mode, synchronous)

    async def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread of the store, translated, outside of any transaction.

        A cancelled caller stops waiting; what has begun in the thread runs to its end.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guard, work)

    async def run(self, work: Callable[[sa.Connection], T], *, again: bool = False) -> T:
        """Run ``work`` in one transaction, committed when this returns.

        ``again`` runs it a second time, in a new transaction, when a unique key was violated:
        another host stored the same at the same moment, and now its rows can be seen.
        """

        def transaction() -> T:
            try:
                return self._transaction(work)
            except sa.exc.IntegrityError:
                if not again:
                    raise
                return self._transaction(work)

        return await self.call(transaction)

    async def close(self) -> None:
        """Close connections in their thread, wait for what is running, end the threads."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self.engine.dispose)
        await loop.run_in_executor(None, self._threads.shutdown)

    def _transaction(self, work: Callable[[sa.Connection], T]) -> T:
        with self.engine.connect() as connection, connection.begin() as transaction:
            result = work(connection)
            began = time.perf_counter()
            transaction.commit()
            self.on_commit(time.perf_counter() - began)
        self.commits += 1
        return result

    def _guard(self, work: Callable[[], T]) -> T:
        if self._broken:
            raise self._broken
        try:
            with translated(self.address.shown):
                return work()
        except StoreRefused as error:
            if error.code == BROKEN:
                self._broken = error
            raise


def _sqlite_engine(file: Path, mode: Mode, synchronous: str) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        return connect_sqlite(file, mode=mode, synchronous=synchronous)

    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=sa.pool.StaticPool,
        hide_parameters=True,
    )

    # The driver's own way of opening transactions would begin them only at the first write and
    # leave reads outside. IMMEDIATE takes the write lock at once, so that a transaction that
    # has read cannot fail at its first write.
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")

    return engine


def connect_sqlite(file: Path, *, mode: Mode, synchronous: str = "FULL") -> sqlite3.Connection:
    """Open an existing SQLite file with the settings on which every promise rests.

    A reader has ``query_only`` and opens the file read-only: it can neither write nor
    checkpoint, so it never becomes a second writer beside the daemon.
    """
    uri = f"file:{quote(str(file))}?mode={'rw' if mode == 'write' else 'ro'}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256
    )
    try:
        if mode == "read":
            connection.execute("PRAGMA query_only = ON")
            return connection
        # Set first: whatever follows is then written as durably as everything else.
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # Of a new file: larger pages take long mails faster, smaller ones cost less per index.
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_autocheckpoint(file)}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        connection.execute("PRAGMA cache_size = -8192")
    except BaseException:
        connection.close()
        raise
    return connection


def free_inside(connection: sa.Connection) -> int:
    """Return the bytes of a SQLite file that hold nothing and will be used before it grows."""
    pages: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return pages * PAGE


def _autocheckpoint(file: Path) -> int:
    total = shutil.disk_usage(file.parent).total
    return max(64, min(AUTOCHECKPOINT_BYTES, total // AUTOCHECKPOINT_SHARE) // PAGE)


def _postgres_engine(address: Address, mode: Mode, synchronous: str) -> sa.Engine:
    try:
        engine = sa.create_engine(
            address.url,
            pool_size=POOL,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"connect_timeout": 10, "application_name": "mailbridge"},
        )
    except ModuleNotFoundError as error:
        raise StoreRefused(
            "the driver for PostgreSQL is not installed",
            code="store.driver",
            fix="pip install 'mailbridge[postgres]'",
        ) from error

    @sa.event.listens_for(engine, "connect")
    def connected(driver: Any, _record: Any) -> None:
        with driver.cursor() as cursor:
            for statement in _postgres_settings(mode, synchronous):
                cursor.execute(statement)
            # A server that answers before its commit is durable would break the first promise.
            cursor.execute("SHOW synchronous_commit")
            if synchronous == "FULL" and cursor.fetchone()[0] == "off":
                cursor.execute("SET SESSION synchronous_commit = on")
        driver.commit()

    return engine


def _postgres_settings(mode: Mode, synchronous: str) -> list[str]:
    settings = ["SET SESSION lock_timeout = '10s'"]
    if mode == "read":
        settings.append("SET SESSION default_transaction_read_only = on")
    if synchronous == "OFF":
        settings.append("SET SESSION synchronous_commit = off")
    return settings
