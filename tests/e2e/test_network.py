"""A broken network delays mail and never loses, changes or doubles it."""

from __future__ import annotations

from rich.console import Console

from tests.campaigns.network import Plan, run


def test_every_mail_survives_what_a_network_can_do() -> None:
    """After cuts, stalls, slices and refusals each mail arrives unchanged, once, under one id."""
    plan = Plan(steps=6, size=200_000, imap=2, pop3=1, repeats=1, hole=5)

    outcome = run(plan, Console(quiet=True))

    assert outcome.broken == []
    assert outcome.kinds["cut"].tried == 12
    assert outcome.kinds["cut"].cuts >= 12
    assert all(one.tried for one in outcome.kinds.values())
