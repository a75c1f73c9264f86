"""A sign-in that is killed in the midst of a refresh signs in again without a person."""

from __future__ import annotations

import pytest

from tests.campaigns.refresh import STEPS, Plan, run
from tests.campaigns.refresher import MUTANTS, Mutant


def test_no_kill_in_a_refresh_asks_for_a_person() -> None:
    """Killed at each step, with each kind of server, it signs in again; no grant is lost."""
    verdict = run(Plan(kills=3 * len(STEPS), seed=7))

    assert verdict.broken == []
    assert [tally.tried for tally in verdict.steps.values()] == [3] * len(STEPS)
    assert (verdict.lost, verdict.locked_out) == (0, 0)
    assert verdict.within_a_commit > 0
    assert verdict.twice_in_a_row > 0
    assert verdict.former_used > 0


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant])
def test_the_campaign_notices_what_it_is_for(mutant: Mutant) -> None:
    """Each way of doing it wrong is found: used too soon, not kept, the former one forgotten."""
    assert run(Plan(kills=3 * len(STEPS), seed=7, mutant=mutant)).broken
