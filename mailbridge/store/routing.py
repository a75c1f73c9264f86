"""What routes said of a mail: how it is kept, and what a claim needs of it.

A ruling is kept as JSON beside the message, ``rulings.steps``: a list of objects, one for each
step, with ``route``, ``verdict`` and ``reason``, and where there are any, ``webhooks``,
``fields``, ``wanted`` and ``duplicate_of``. It holds the word that counted: a duplicate's
step has the verdict that the route gives to duplicates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import Notice, derived_id
from mailbridge.store.driver import among
from mailbridge.store.tables import rulings

HELD: Final = "delivery.held"

_STEPS: Final = sa.select(rulings.c.message, rulings.c.steps).where(among(rulings.c.message))


def fields_of(
    connection: sa.Connection, wanted: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], dict[str, Any]]:
    """Return what routes extracted, by number of message and route; none for what had nothing.

    One statement, and none when nothing is wanted.
    """
    if not wanted:
        return {}
    asked = set(wanted)
    rows = connection.execute(_STEPS, {"ids": sorted({number for number, _ in asked})}).all()
    return {
        (number, step["route"]): step["fields"]
        for number, steps in rows
        for step in json.loads(steps)
        if (number, step["route"]) in asked and step.get("fields")
    }


def held_notice(  # noqa: PLR0913 - what is told, all by keyword
    *, message: str, webhook: str, mailbox: str, route: str | None, reason: str, at: datetime
) -> Notice:
    """Return the event that tells a person of a delivery that was kept back.

    ``message`` is the webhook-id. The event's own id is derived from it and the webhook, so to
    say it twice is harmless. Nothing of the mail's content is in it.
    """
    return Notice(
        id=derived_id("held", [message, webhook]),
        type=HELD,
        mailbox=mailbox,
        at=at,
        data={"message": message, "webhook": webhook, "route": route, "reason": reason},
    )
