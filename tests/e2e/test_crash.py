"""A daemon that is killed loses nothing, and one that is stopped doubles nothing."""

from __future__ import annotations

from rich.console import Console

from tests.campaigns.crash import Plan, run


def test_nothing_is_lost_over_kills_and_clean_stops() -> None:
    """After kills under load every mail arrives unchanged under one id; after stops only once."""
    verdicts = run(Plan(kills=8, stops=3, seed=7, mailboxes=2), Console(quiet=True))

    assert [one.broken for one in verdicts] == [[], []]
    assert [one.lost for one in verdicts] == [0, 0]
    assert all(one.tried > 20 for one in verdicts)
