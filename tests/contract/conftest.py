"""The store's contract is tested on both databases, that of a source of mail on three servers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.imap_rigs import CyrusRig, DovecotRig, Rig, SandboxRig

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database that does not exist yet (SQLite) or is empty (PostgreSQL)."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mailbridge.db"
    made: str = request.getfixturevalue("postgres").create_database().url
    return made


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
