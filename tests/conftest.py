"""What every test may ask for: a clock, chance with a seed, a PostgreSQL server."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from tests.servers.postgres import Postgres, running_postgres

#: fixtures that live beside their server
pytest_plugins = [
    "tests.servers.dovecot",
    "tests.servers.cyrus",
    "tests.servers.postfix",
    "tests.canaries",
]

#: bytes that a run of the whole suite writes at most: databases of two workers, PostgreSQL's mostly
ROOM: Final = 8_000_000_000


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say at once what would otherwise come as a thousand failures in the middle."""
    if hasattr(session.config, "workerinput"):
        return
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        pytest.exit(
            f"{folder} has {free / 1e9:.1f} GB free, and the suite may write {ROOM / 1e9:.0f} GB: "
            "make room, or point TMPDIR elsewhere",
            returncode=1,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Give free what each SQLite database reserves for a full disk: 32 MB of nothing a test."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    yield
    if isinstance(folder, Path):
        for reserve in folder.rglob("*.reserve"):
            reserve.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _logging_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a command that runs in this process set up logging for its own test alone."""
    configure = structlog.configure

    def uncached(**settings: Any) -> None:
        # A logger that has been used would else keep what one test has set up.
        configure(**(settings | {"cache_logger_on_first_use": False}))

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


class Clock:
    """A ``now`` that stands still until a test moves it."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        return self.moment

    def advance(self, seconds: float) -> datetime:
        """Let ``seconds`` pass and return the new moment."""
        self.moment += timedelta(seconds=seconds)
        return self.moment

    def set(self, moment: datetime) -> None:
        """Jump to an aware moment, backwards too."""
        self.moment = moment.astimezone(UTC)


@pytest.fixture
def clock() -> Clock:
    """Give a clock that only the test moves."""
    return Clock()


@pytest.fixture
def rng() -> random.Random:
    """Give chance that falls the same way on every run."""
    return random.Random(20261121)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Give a private PostgreSQL server; each test creates a database of its own in it."""
    with running_postgres(fsync=False) as server:
        yield server
