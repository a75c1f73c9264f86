"""The end of the mail log, as it grows: each message once, and none missed.

A SQLite file has one writer, so messages appear in the order of their numbers. In PostgreSQL
several hosts write: a number is given when a message is written, and seen when it is committed,
which may be after a higher one. So what lies above a mark is read again each time, and the mark
follows only when every transaction that could still bring a lower number has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import sqlalchemy as sa

from mailbridge.store.lookup import Wanted, read_messages
from mailbridge.store.rows import MessageRow

T = TypeVar("T")

#: lines that are read at once; and how far back, in lines, the first look remembers what it saw
PAGE: Final = 1000
_SNAPSHOT: Final = sa.text(
    "SELECT txid_snapshot_xmin(now.seen), txid_snapshot_xmax(now.seen)"
    " FROM (SELECT txid_current_snapshot() AS seen) AS now"
)


class Read(Protocol):
    """A ``Protocol``: runs a function in one transaction that only reads."""

    def __call__(self, work: Callable[[sa.Connection], T], /) -> Awaitable[T]:
        """Return what ``work`` returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Where a tail stands. Of the numbers up to ``mark``, none is to come."""

    mark: int
    #: above the mark
    shown: frozenset[int]
    #: the highest number that was read
    highest: int
    #: such highest numbers, each with the transaction that was next at the look after it
    waiting: tuple[tuple[int, int], ...] = ()
    gaps: frozenset[str]


class Tail:
    """Gives the newest lines at the first call, and at each further one those that are new.

    ``wanted`` filters; its ``limit`` is for the first call. A gap is shown when it opens, the
    message when it comes. A call that fails has shown nothing and may be made again. A message
    that is committed while a thousand later ones are already there when the first call is made
    is taken for one of the past.
    """

    def __init__(self, read: Read, wanted: Wanted) -> None:
        self._read = read
        self._wanted = wanted
        self._seen: _Seen | None = None

    async def more(self) -> Sequence[MessageRow]:
        """Return the lines that were not shown yet, the oldest first."""
        seen = self._seen
        if seen is None:
            rows, self._seen = await self._read(self._begin)
        else:
            rows, self._seen = await self._read(lambda connection: self._go_on(connection, seen))
        return rows

    def _begin(self, connection: sa.Connection) -> tuple[list[MessageRow], _Seen]:
        limit = self._wanted.limit
        found = read_messages(connection, replace(self._wanted, limit=max(limit, PAGE)))
        rows = [row for row in found if row.number]
        gaps = self._gaps(connection)
        shown = frozenset(row.number for row in rows)
        seen = _Seen(
            mark=min(shown, default=1) - 1,
            shown=shown,
            highest=max(shown, default=0),
            gaps=frozenset(row.id for row in gaps),
        )
        return [*gaps, *reversed(rows[:limit])], seen

    def _go_on(self, connection: sa.Connection, seen: _Seen) -> tuple[list[MessageRow], _Seen]:
        # Before the messages are read: what has ended now is seen then.
        ended, next_one = _transactions(connection)
        gaps = self._gaps(connection)
        above = list(self._above(connection, seen.mark))
        new = [row for row in gaps if row.id not in seen.gaps]
        new += [row for row in above if row.number not in seen.shown]
        # A number may be given a moment before its transaction has one: hence one look later.
        waiting = (*seen.waiting, (seen.highest, next_one))
        mark = max([seen.mark, *(number for number, begun in waiting if begun <= ended)])
        return new, _Seen(
            mark=mark,
            shown=frozenset(row.number for row in above if row.number > mark),
            highest=max([seen.highest, *(row.number for row in above)]),
            waiting=tuple(one for one in waiting if one[1] > ended),
            gaps=frozenset(row.id for row in gaps),
        )

    def _above(self, connection: sa.Connection, mark: int) -> Iterator[MessageRow]:
        while True:
            page = replace(self._wanted, after=mark, before=None, oldest=True, limit=PAGE)
            rows = read_messages(connection, page)
            yield from rows
            if len(rows) < PAGE:
                return
            mark = rows[-1].number

    def _gaps(self, connection: sa.Connection) -> list[MessageRow]:
        if self._wanted.state not in {None, "gap"}:
            return []
        gaps = read_messages(connection, replace(self._wanted, state="gap", limit=PAGE))
        return gaps[::-1]


def _transactions(connection: sa.Connection) -> tuple[int, int]:
    """Return the first transaction that has not ended, and the number of the next one."""
    if connection.dialect.name == "sqlite":
        return 0, 0
    ended, next_one = connection.execute(_SNAPSHOT).one()
    return ended, next_one
