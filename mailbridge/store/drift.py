"""Drift: a field that a route used to find, and finds no more.

Control centres change the form of their mails without a word. A field that was filled in
``FILLED`` mails of a mailbox and is empty in ``EMPTY`` in a row is told once; it is told again
only after it was filled in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import Notice, Step, derived_id
from mailbridge.store.dialect import insert
from mailbridge.store.driver import Many, among
from mailbridge.store.tables import drift, moment

DRIFT: Final = "format.drift"
#: mails that had a field before its absence means anything, and mails in a row without it
FILLED: Final = 5
EMPTY: Final = 5

COUNTED: Final = (
    sa.select(drift)
    .where(
        drift.c.mailbox == sa.bindparam("mailbox", type_=sa.Text),
        drift.c.route == sa.bindparam("route", type_=sa.Text),
        among(drift.c.field, "fields"),
    )
    .order_by(drift.c.field)
    .with_for_update()
)
_CHANGED: Final = Many(
    drift.update()
    .where(
        drift.c.mailbox == sa.bindparam("box"),
        drift.c.route == sa.bindparam("of"),
        drift.c.field == sa.bindparam("name"),
    )
    .values({name: sa.bindparam(name) for name in ("filled", "empty", "filled_at", "mails")}),
    *("filled", "empty", "filled_at", "mails", "box", "of", "name"),
)


@cache
def _new(dialect: str) -> Many:
    names = ("mailbox", "route", "field", "filled", "empty", "filled_at", "mails")
    return Many(insert(dialect, drift).on_conflict_do_nothing(), *names)


@dataclass(slots=True)
class _Count:
    filled: int = 0
    empty: int = 0
    filled_at: int | None = None
    mails: list[str] = field(default_factory=list)

    def row(self) -> tuple[int, int, int | None, str]:
        return (self.filled, self.empty, self.filled_at, json.dumps(self.mails))


def count(
    connection: sa.Connection, mailbox: str, taken: Sequence[tuple[str, Step]], now: int
) -> list[Notice]:
    """Count what routes found in mails, in this order; returns what has begun to drift.

    ``taken`` are webhook-ids with the step of the route that takes the mail, at ``now``.
    """
    notices: list[Notice] = []
    for route in sorted({step.route for _, step in taken if step.wanted}):
        mails = [(message, step) for message, step in taken if step.route == route]
        notices += _of_route(connection, (mailbox, route), mails, now)
    return notices


def _of_route(
    connection: sa.Connection,
    place: tuple[str, str],
    mails: Sequence[tuple[str, Step]],
    now: int,
) -> list[Notice]:
    names = sorted({name for _, step in mails for name in step.wanted})
    counts = _read(connection, place, names)
    notices: list[Notice] = []
    for message, step in mails:
        for name in step.wanted:
            one = counts[name]
            if not empty(step.fields.get(name)):
                one.filled, one.empty, one.filled_at, one.mails = one.filled + 1, 0, now, []
                continue
            one.empty += 1
            if one.empty <= EMPTY:
                one.mails.append(message)
            if one.empty == EMPTY and one.filled >= FILLED:
                notices.append(_notice(place, name, one, now))
    _CHANGED.run(connection, [(*one.row(), *place, name) for name, one in counts.items()])
    return notices


def empty(value: Any) -> bool:
    """Whether an extracted value holds nothing: absent, blank, or a list or object of nothing."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(empty(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(empty(one) for one in value)
    return value is None


def _read(
    connection: sa.Connection, place: tuple[str, str], names: Sequence[str]
) -> dict[str, _Count]:
    """Return the counts of these fields; their rows are ours until the commit."""

    def read(some: Sequence[str]) -> dict[str, _Count]:
        asked = {"mailbox": place[0], "route": place[1], "fields": list(some)}
        rows = connection.execute(COUNTED, asked)
        return {row[2]: _Count(row[3], row[4], row[5], json.loads(row[6])) for row in rows}

    counts = read(names)
    new = [name for name in names if name not in counts]
    if new:
        rows = [(*place, name, *_Count().row()) for name in new]
        _new(connection.dialect.name).run(connection, rows)
        # Another host may have made one of them, while we waited for its commit.
        counts |= read(new)
    return counts


def _notice(place: tuple[str, str], name: str, one: _Count, now: int) -> Notice:
    mailbox, route = place
    last = moment(one.filled_at or now)
    data: dict[str, Any] = {
        "message": one.mails[-1],
        "messages": list(one.mails),
        "route": route,
        "field": name,
        "empty": one.empty,
        "last_filled_at": last.isoformat(timespec="milliseconds")[:-6] + "Z",
    }
    return Notice(
        id=derived_id("drift", [mailbox, route, name, one.mails[-1]]),
        type=DRIFT,
        mailbox=mailbox,
        at=moment(now),
        data=data,
    )
