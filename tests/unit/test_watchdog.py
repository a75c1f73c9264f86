"""When systemd's watchdog is fed: while the database answers and every loop moves."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailbridge.app import MOVED_WITHIN, _feed_watchdog
from mailbridge.build import utc_now
from mailbridge.errors import StoreRefused, Unavailable

LONG_AGO = timedelta(seconds=MOVED_WITHIN + 1)


class _Beside:
    """What the watchdog looks at: two dispatchers, a supervisor, a database, and what is fed."""

    def __init__(self) -> None:
        self.fed = 0
        self.trouble: Exception | None = None
        moved = utc_now()
        self.supervisor: Any = SimpleNamespace(moved_at=moved)
        self.dispatchers = {
            name: SimpleNamespace(name=name, moved_at=moved) for name in ("alarm", "erp")
        }
        self.daemon: Any = SimpleNamespace(store=self, dispatchers=self.dispatchers)

    async def checkpoint(self, *_: str) -> None:
        """Answer as the store does, or fail as it may."""
        if self.trouble is not None:
            raise self.trouble

    def alive(self) -> None:
        """Count a sign of life."""
        self.fed += 1

    async def feed(self) -> None:
        service: Any = self
        await _feed_watchdog(self.daemon, self.supervisor, service)


async def test_it_is_fed_while_all_moves() -> None:
    """With every loop at work each round is a sign of life."""
    beside = _Beside()
    await beside.feed()
    await beside.feed()
    assert beside.fed == 2


@pytest.mark.parametrize("who", ["alarm", "erp", "supervisor"])
async def test_one_loop_that_stands_still_starves_it(who: str) -> None:
    """The others' moving does not feed it, and the log names the loop that stands still."""
    beside = _Beside()
    ((beside.dispatchers | {"supervisor": beside.supervisor})[who]).moved_at -= LONG_AGO
    with capture_logs() as logs:
        await beside.feed()
    assert beside.fed == 0
    assert [(line["event"], line["loops"]) for line in logs] == [("loop.wedged", [who])]


async def test_a_database_that_is_away_is_no_reason_to_be_ended() -> None:
    """A restart would not bring a database back; the loops go on, and so does the daemon."""
    beside = _Beside()
    beside.trouble = Unavailable("the database does not answer")
    await beside.feed()
    assert beside.fed == 1


async def test_a_database_that_may_not_be_used_starves_it() -> None:
    """What can no longer be trusted gives no sign of life."""
    beside = _Beside()
    beside.trouble = StoreRefused("the database is damaged")
    with pytest.raises(StoreRefused):
        await beside.feed()
    assert beside.fed == 0
