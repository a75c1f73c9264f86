"""Many small writes in one commit: who comes while one is under way shares the next.

A commit costs a few milliseconds, nearly all of it waiting for the disk, however little it
writes. A caller that is alone does not wait for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, StoreFull, StoreRefused, Unavailable

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

#: what goes into one commit: pieces of work, and bytes
MOST: Final = 200
MOST_BYTES: Final = 32 * 1024 * 1024
#: errors of the database, not of a piece of work: to try each by itself would not help
_OF_ALL: Final = (StoreFull, StoreRefused, Unavailable)


class Transaction(Protocol):
    """A ``Protocol``: runs work in one transaction."""

    def __call__(self, work: Work[T]) -> Awaitable[T]:
        """Return what ``work`` returns, once that is committed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    work: Work[Any]
    size: int
    order: str
    done: asyncio.Future[Any]


class Together:
    """Runs pieces of work, each of which is through when its commit is.

    A piece may be run twice, in two transactions of which only the last is committed. It
    refuses by raising before it has written anything; others that share its commit are not
    concerned. ``background`` holds what is under way, to be waited for before the store is
    closed: a caller that is cancelled only stops waiting.
    """

    def __init__(self, transaction: Transaction, background: set[asyncio.Future[None]]) -> None:
        self._transaction = transaction
        self._background = background
        self._waiting: list[_Piece] = []
        self._busy = False

    async def run(self, work: Work[T], *, order: str = "", size: int = 0) -> T:
        """Return what ``work`` returns, once that is committed.

        Two hosts that take the same locks must take them in the same order: pieces of one
        commit are run in that of ``order``. ``size`` is in bytes.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Piece(work, size, order, done))
        if not self._busy:
            self._busy = True
            task = asyncio.ensure_future(self._work_off())
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return await done

    async def _work_off(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next())
        finally:
            self._busy = False

    def _next(self) -> list[_Piece]:
        """Take the oldest that fit into one commit, at least one."""
        size = count = 0
        for one in self._waiting[:MOST]:
            size += one.size
            if count and size > MOST_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return sorted(taken, key=lambda one: one.order)

    async def _commit(self, pieces: list[_Piece]) -> None:
        try:
            results = await self._transaction(lambda connection: _run_all(connection, pieces))
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if len(pieces) == 1 or isinstance(error, _OF_ALL):
                for one in pieces:
                    _tell(one, error)
                return
            # One of them cannot be written; the others must not suffer for it.
            for one in pieces:
                await self._commit([one])
        else:
            for one, result in zip(pieces, results, strict=True):
                _tell(one, result)


def _run_all(connection: sa.Connection, pieces: list[_Piece]) -> list[Any]:
    results: list[Any] = []
    for one in pieces:
        try:
            results.append(one.work(connection))
        except MailbridgeError as refusal:
            results.append(refusal)
    return results


def _tell(piece: _Piece, result: Any) -> None:
    if piece.done.done():  # its caller was cancelled
        return
    if isinstance(result, Exception):
        piece.done.set_exception(result)
    else:
        piece.done.set_result(result)
