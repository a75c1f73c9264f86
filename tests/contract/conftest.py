"""The store's contract is tested on both databases, that of a source of mail on three servers."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.imap_rigs import CyrusRig, DovecotRig, Rig, SandboxRig
from tests.servers.postgres import Database, Postgres

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database that does not exist yet (SQLite) or is empty (PostgreSQL).

    For a test that asks for an open ``store`` the tables are there already, by a copy: to make
    them takes longer than most of these tests.
    """
    sqlite = request.param == "sqlite"
    file = tmp_path / "mailbridge.db"
    if "store" not in request.fixturenames:
        return f"sqlite:///{file}" if sqlite else request.getfixturevalue("postgres_url")
    if sqlite:
        shutil.copyfile(request.getfixturevalue("made_sqlite"), file)
        file.chmod(0o600)
        return f"sqlite:///{file}"
    model = request.getfixturevalue("made_postgres")
    made: str = request.getfixturevalue("postgres").create_database(model).url
    return made


@pytest.fixture(scope="session")
def made_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a SQLite file with our tables and nothing in them."""
    file = tmp_path_factory.mktemp("made") / "mailbridge.db"
    asyncio.run(_make_tables(f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def made_postgres(postgres: Postgres) -> Database:
    """Give a PostgreSQL database with our tables and nothing in them."""
    made = postgres.create_database()
    asyncio.run(_make_tables(made.url))
    return made


async def _make_tables(url: str) -> None:
    store = await Store.open(url, now=lambda: datetime.now(UTC), owner="made:1")
    await store.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Give the URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/mailbridge.db"


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    """Give the URL of an empty PostgreSQL database."""
    made: str = request.getfixturevalue("postgres").create_database().url
    return made


@pytest_asyncio.fixture
async def open_store(clock: Clock) -> AsyncIterator[OpenStore]:
    """Give a way to open stores that are closed when the test is over."""
    opened: list[Store] = []

    async def open_one(url: str, **settings: Any) -> Store:
        chosen: dict[str, Any] = {"now": clock, "owner": "host:1"} | settings
        store = await Store.open(url, **chosen)
        opened.append(store)
        return store

    yield open_one
    for store in reversed(opened):
        await store.close()


@pytest_asyncio.fixture
async def store(url: str, open_store: OpenStore) -> Store:
    """Give an open, empty store."""
    return await open_store(url)


@pytest.fixture(scope="session")
def key() -> SigningKey:
    """Give the key that the sandbox's Entra signs with; to make one takes a second."""
    return SigningKey.generate()


@pytest.fixture(params=["exchange", "dovecot", "cyrus"])
async def rig(request: pytest.FixtureRequest, key: SigningKey) -> AsyncIterator[Rig]:
    """Give a mailbox of its own on each of the servers that mailbridge has to work with."""
    if request.param == "exchange":
        async with Tenant.start(key=key) as tenant:
            yield SandboxRig(tenant, tenant.add_app())
        return
    address = f"{uuid.uuid4().hex[:12]}@feuerwehr.example"
    server, minter = request.getfixturevalue(request.param), request.getfixturevalue("minter")
    yield (DovecotRig if request.param == "dovecot" else CyrusRig)(server, minter, address)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give the worker threads of a source."""
    with ThreadPoolExecutor(4) as made:
        yield made
