"""A full disk stops the intake and loses nothing."""

from __future__ import annotations

from tests.campaigns.disk_full import Plan, run


def test_full_disk_loses_nothing_and_recovers_by_itself() -> None:
    """Only what is stored is acknowledged; with room again all is delivered without a restart."""
    verdict = run(Plan(size=16, room=5, mails=150))

    assert verdict.broken == []
    assert verdict.lost == 0
    assert 0 < verdict.stored_when_full < verdict.tried == 150
