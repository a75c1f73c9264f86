"""The store's contract is tested on both databases that implement it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mailbridge.store.store import Store
from tests.conftest import Clock

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
