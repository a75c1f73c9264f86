"""Duplicates: what a route that wants none has seen lately.

The first mail of a burst is remembered with the time of its acceptance, and those after it do not
move that time. So a control centre that sends the same alarm again and again gets through once
in each such span, and cannot be silenced for good by its own repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Final

import sqlalchemy as sa

from mailbridge.store.dialect import insert
from mailbridge.store.driver import Many, among
from mailbridge.store.tables import recent

#: how long the first of a burst is remembered at least, in microseconds; no span is longer
REMEMBERED: Final = 30 * 86_400 * 1_000_000
#: characters of a key that are kept as they are; of a longer one, the digest
_KEY: Final = 64

SEEN: Final = (
    sa.select(recent.c.key, recent.c.at, recent.c.first)
    .where(recent.c.route == sa.bindparam("route", type_=sa.Text), among(recent.c.key, "keys"))
    .order_by(recent.c.key)
    .with_for_update()
)
_AGAIN: Final = Many(
    recent.update()
    .where(recent.c.route == sa.bindparam("of"), recent.c.key == sa.bindparam("what"))
    .values(at=sa.bindparam("at"), first=sa.bindparam("first")),
    *("at", "first", "of", "what"),
)


@cache
def _first(dialect: str) -> Many:
    statement = insert(dialect, recent).on_conflict_do_nothing()
    return Many(statement, "route", "key", "at", "first")


OLD: Final = (
    sa.select(recent.c.route, recent.c.key)
    .where(recent.c.at < sa.bindparam("before", type_=sa.BigInteger))
    .order_by(recent.c.at)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether a mail that ``route`` would deliver is a duplicate; ``within`` in microseconds."""

    message: str
    route: str
    key: str
    within: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """The first mail of a burst, and how many seconds before it was accepted."""

    message: str
    seconds: int


def judge(
    connection: sa.Connection, questions: Sequence[Question], now: int
) -> dict[tuple[str, str], Former]:
    """Remember mails, in this order, and return which are duplicates, by message and route.

    A mail is no duplicate of itself. Of two hosts that ask at the same moment the second waits
    until the first has committed, and sees what that one has remembered.
    """
    found: dict[tuple[str, str], Former] = {}
    # Every host takes these rows in the same order, so that none waits for another in a circle.
    for route in sorted({question.route for question in questions}):
        asked = [question for question in questions if question.route == route]
        found |= _of_route(connection, route, asked, now)
    return found


def _of_route(
    connection: sa.Connection, route: str, asked: Sequence[Question], now: int
) -> dict[tuple[str, str], Former]:
    before = _seen(connection, route, asked, now)
    after = dict(before)
    found: dict[tuple[str, str], Former] = {}
    for question in asked:
        key = _short(question.key)
        at, first = after[key]
        if now - at > question.within:
            after[key] = (now, question.message)
        elif first != question.message:
            seconds = max(0, now - at) // 1_000_000
            found[question.message, route] = Former(message=first, seconds=seconds)
    moved = [(*seen, route, key) for key, seen in sorted(after.items()) if seen != before[key]]
    if moved:
        _AGAIN.run(connection, moved)
    return found


def _seen(
    connection: sa.Connection, route: str, asked: Sequence[Question], now: int
) -> dict[str, tuple[int, str]]:
    """Return when each key was seen first and in which mail; a new one now, in the first of these.

    The rows are ours until the commit.
    """
    firsts: dict[str, str] = {}
    for question in asked:
        firsts.setdefault(_short(question.key), question.message)

    def read(keys: list[str]) -> dict[str, tuple[int, str]]:
        rows = connection.execute(SEEN, {"route": route, "keys": keys})
        return {key: (at, first) for key, at, first in rows}

    seen = read(sorted(firsts))
    new = sorted(firsts.keys() - seen.keys())
    if new:
        rows = [(route, key, now, firsts[key]) for key in new]
        _first(connection.dialect.name).run(connection, rows)
        # Another host may have come first with one of them, while we waited for its commit.
        seen |= read(new)
    return seen


def _short(key: str) -> str:
    if len(key) <= _KEY and key.isascii() and key.isprintable():
        return key
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def purge(connection: sa.Connection, now: int, limit: int) -> int:
    """Forget what is older than every span; returns how many."""
    old = connection.execute(OLD.limit(limit), {"before": now - REMEMBERED}).all()
    if old:
        connection.execute(
            recent.delete().where(
                recent.c.route == sa.bindparam("of"), recent.c.key == sa.bindparam("what")
            ),
            [{"of": route, "what": key} for route, key in old],
        )
    return len(old)
