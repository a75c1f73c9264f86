"""A daemon that is killed amid a submission loses no mail, and sends none twice."""

from __future__ import annotations

import pytest

from tests.campaigns.sender import Mutant
from tests.campaigns.sending import Plan, Step, run

#: one for each thing that can be known of a mail; the long campaign goes through all of them
SHORT: tuple[Step, ...] = ("body", "doubt", "untaken", "taken", "answered", "noted")


def test_no_kill_loses_a_mail_or_sends_it_twice() -> None:
    """Killed between any two steps, every mail goes out once: the sent items tell."""
    verdict = run(Plan(kills=len(SHORT), steps=SHORT, seed=7))

    assert verdict.broken == []
    assert [tally.tried for tally in verdict.steps.values()] == [1] * len(SHORT)
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.in_doubt > 0


def test_without_a_look_only_what_was_in_doubt_comes_twice() -> None:
    """Where the mailbox cannot be read nothing is lost, and doubles are those it says."""
    verdict = run(Plan(kills=1, steps=("taken",), seed=7, look=False))

    assert verdict.broken == []
    assert verdict.lost == 0
    assert 0 < verdict.doubled <= verdict.in_doubt


@pytest.mark.parametrize("mutant", ["no-doubt", "no-look"])
def test_the_campaign_notices_what_it_is_for(mutant: Mutant) -> None:
    """Nothing noted before the dot, or nobody looking: both show as mails that come twice."""
    assert run(Plan(kills=1, steps=("taken",), seed=7, mutant=mutant)).broken
