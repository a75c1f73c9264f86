"""An attempt, cut off at any of its steps; a week without a sink; neighbours that mean harm."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns import neighbours
from tests.campaigns.delivery import kills
from tests.campaigns.outage import outage
from tests.campaigns.sniper import DIED

DAY = 24.0


def test_a_kill_at_any_step_loses_nothing(tmp_path: Path) -> None:
    """Exactly what was stored and not written down comes again, under its id; nothing is lost."""
    steps = ("claimed", "mid request", "stored", "resolve", DIED)
    verdict = kills(len(steps), 7, tmp_path, named=steps)

    assert verdict.broken == []
    assert verdict.lost == 0
    assert verdict.doubled == verdict.expected >= 3


async def test_a_sink_that_is_away_for_almost_seven_days_gets_everything(tmp_path: Path) -> None:
    """After 6 days and 23 hours all is delivered, what came first and what came meanwhile."""
    found = await outage(tmp_path, 60, 6 * DAY + 23, "default", step=6 * 3600 - 600)

    assert found.broken == []
    assert (found.delivered, found.dead) == (60, 0)


async def test_after_more_than_seven_days_a_replay_delivers_everything(tmp_path: Path) -> None:
    """After 7 days and an hour all are dead letters, hardly any tried; a replay brings them all."""
    found = await outage(tmp_path, 60, 7 * DAY + 1, "alarm", step=6 * 3600)

    assert found.broken == []
    assert (found.dead, found.replayed) == (60, 60)
    assert found.requests <= 60


async def test_others_do_not_wait_for_receivers_that_mean_harm(tmp_path: Path) -> None:
    """Beside five that hang, flood, drip, redirect and lead inside, every mail comes, in bounds."""
    found = await neighbours.measure(tmp_path, mails=30)

    assert len(found.beside) == len(found.alone) == 30
    assert found.grown <= neighbours.MAY_GROW
    assert all(found.attempts.values())
