"""Under load and trouble nothing is lost and nothing leaks: the long campaign, cut short."""

from __future__ import annotations

from tests.campaigns.soak import Plan, run


def test_nothing_is_lost_while_servers_misbehave() -> None:
    """With restarts, resets and renumbered folders every mail arrives unchanged under one id."""
    verdict = run(Plan(seconds=30, per_second=6, imap=4, pop3=1, calm=3, seed=4))

    assert verdict.broken == []
    assert verdict.tried > 100
    assert len(verdict.events) >= 3
