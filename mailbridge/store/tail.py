"""The end of the mail log, as it grows: each message once, and none missed.

A SQLite file has one writer, so messages appear in the order of their numbers. In PostgreSQL
several hosts write: a number is given when a message is written, and seen when it is committed,
which may be after a higher one. So what lies above a mark is read again each time, and the mark
follows only when every transaction that could still bring a lower number has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from mailbridge.store.lookup import Wanted, read_messages
from mailbridge.store.rows import MessageRow

Look = Callable[[sa.Connection], list[MessageRow]]

#: lines that are read at once; and how far back, in lines, the first look remembers what it saw
PAGE: Final = 1000
#: the first transaction that has not ended, and the number of the next one
_SNAPSHOT: Final = sa.text(
    "SELECT txid_snapshot_xmin(now.seen), txid_snapshot_xmax(now.seen)"
    " FROM (SELECT txid_current_snapshot() AS seen) AS now"
)


class Tail:
    """Gives the newest lines at the first call, and at each further one those that are new.

    ``wanted`` filters; its ``limit`` is for the first call. A gap is shown when it opens, the
    message when it comes. A message that is committed while a thousand later ones are already
    there when the first call is made is taken for one of the past.
    """

    def __init__(self, read: Callable[[Look], Awaitable[list[MessageRow]]], wanted: Wanted) -> None:
        self._read = read
        self._wanted = wanted
        # Of the numbers up to the mark, none is to come; of those above it, these were shown.
        self._mark: int | None = None
        self._shown: set[int] = set()
        self._gaps: set[str] = set()
        # The highest number of a look, with the transaction that began first after the next look.
        self._waiting: list[tuple[int, int]] = []
        self._highest = 0

    async def more(self) -> Sequence[MessageRow]:
        """Return the lines that were not shown yet, the oldest first."""
        return await self._read(self._begin if self._mark is None else self._go_on)

    def _begin(self, connection: sa.Connection) -> list[MessageRow]:
        limit = self._wanted.limit
        found = read_messages(connection, replace(self._wanted, limit=max(limit, PAGE)))
        rows = [row for row in found if row.number]
        self._shown = {row.number for row in rows}
        self._mark = min(self._shown, default=1) - 1
        self._highest = max(self._shown, default=0)
        return [*self._new_gaps(connection), *reversed(rows[:limit])]

    def _go_on(self, connection: sa.Connection) -> list[MessageRow]:
        ended, next_one = self._transactions(connection)
        new = self._new_gaps(connection)
        highest = self._highest
        for row in self._above(connection):
            highest = max(highest, row.number)
            if row.number not in self._shown:
                self._shown.add(row.number)
                new.append(row)
        # A number may be given a moment before its transaction has one: hence one look later.
        self._waiting.append((self._highest, next_one))
        self._highest = highest
        self._move_mark(ended)
        return new

    def _transactions(self, connection: sa.Connection) -> tuple[int, int]:
        if connection.dialect.name == "sqlite":
            return 0, 0
        ended, next_one = connection.execute(_SNAPSHOT).one()
        return ended, next_one

    def _move_mark(self, ended: int) -> None:
        """Move the mark up to what was read before every transaction of that time had ended."""
        done = [number for number, begun in self._waiting if begun <= ended]
        if done:
            self._waiting = [one for one in self._waiting if one[1] > ended]
            self._mark = max(self._mark or 0, *done)
            self._shown = {number for number in self._shown if number > self._mark}

    def _above(self, connection: sa.Connection) -> Iterator[MessageRow]:
        after = self._mark
        while True:
            page = replace(self._wanted, after=after, before=None, oldest=True, limit=PAGE)
            rows = read_messages(connection, page)
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1].number

    def _new_gaps(self, connection: sa.Connection) -> list[MessageRow]:
        if self._wanted.state not in {None, "gap"}:
            return []
        found = read_messages(connection, replace(self._wanted, state="gap", limit=PAGE))
        new = [row for row in reversed(found) if row.id not in self._gaps]
        self._gaps = {row.id for row in found}
        return new
