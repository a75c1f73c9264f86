"""A power cut loses nothing that was acknowledged; the long version is `make crash-test`."""

from __future__ import annotations

from tests.campaigns.power_cut import Plan, run, violations


def test_no_power_cut_loses_an_acknowledged_row() -> None:
    """In every rebuilt state all that was acknowledged is there, digest by digest, undamaged."""
    verdict = run(Plan(states=120, rounds=14))
    assert violations(verdict) == []
    assert verdict.states >= 120
    assert verdict.acknowledged >= 50
    assert (verdict.corrupt, verdict.lossy, verdict.worst) == (0, 0, 0)


def test_the_same_without_full_syncs_is_caught() -> None:
    """With synchronous=NORMAL the same states do lose acknowledged rows: the test bites."""
    verdict = run(Plan(states=60, rounds=14, synchronous="NORMAL"))
    assert violations(verdict) == []
    assert verdict.lossy > 5
