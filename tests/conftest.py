"""What every test may ask for: a clock, chance with a seed, a PostgreSQL server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.servers.postgres import Postgres, running_postgres

#: fixtures that live beside their server
pytest_plugins = [
    "tests.servers.dovecot",
    "tests.servers.cyrus",
    "tests.servers.postfix",
    "tests.canaries",
]


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
    with running_postgres() as server:
        yield server
