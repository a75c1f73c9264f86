"""Many small writes in one commit: who comes while one is under way shares the next.

A commit costs a few milliseconds, nearly all of it waiting for the disk, however little it
writes. A caller that is alone does not wait for company, unless he says that he has the time
(``linger``) and there is some to come: then the first who has not takes him along.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, StoreFull, StoreRefused, Unavailable

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

#: what goes into one commit: items, and bytes
MOST: Final = 200
MOST_BYTES: Final = 32 * 1024 * 1024
#: errors of the database, not of an item: to try each by itself would not help
_OF_ALL: Final = (StoreFull, StoreRefused, Unavailable)


class Transaction(Protocol):
    """A ``Protocol``: runs work in one transaction."""

    def __call__(self, work: Callable[[sa.Connection], T]) -> Awaitable[T]:
        """Return what ``work`` returns, once that is committed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece(Generic[Item]):
    item: Item
    size: int
    done: asyncio.Future[Any]
    #: until when it has the time to wait for company, by the loop's clock; 0: it has none
    until: float


class Together(Generic[Item, Result]):
    """Writes items, each of which is through when its commit is.

    ``write`` returns for each item, in their order, its result or the refusal that its caller is
    to get; for a refusal it has written nothing. It may be run twice for an item, in two
    transactions of which only the last is committed. ``background`` holds what is under way, to
    be waited for before the store is closed: a caller that is cancelled only stops waiting.
    """

    def __init__(
        self,
        transaction: Transaction,
        write: Callable[[sa.Connection, Sequence[Item]], Sequence[Result | MailbridgeError]],
        background: set[asyncio.Future[None]],
    ) -> None:
        self._transaction = transaction
        self._write = write
        self._background = background
        self._waiting: list[_Piece[Item]] = []
        self._came = asyncio.Event()
        self._busy = False

    async def run(self, item: Item, *, size: int = 0, linger: float = 0.0) -> Result:
        """Write an item; returns, or raises, once that is committed. ``size`` is in bytes.

        With ``linger`` it may wait so many seconds for another one to share its commit.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        until = loop.time() + linger if linger else 0.0
        self._waiting.append(_Piece(item, size, done, until))
        self._came.set()
        if not self._busy:
            self._busy = True
            task = asyncio.ensure_future(self._work_off())
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return await done

    async def _work_off(self) -> None:
        try:
            while self._waiting:
                await self._company()
                await self._commit(self._next())
        finally:
            self._busy = False

    async def _company(self) -> None:
        """Wait until somebody has no time to wait, or there are as many as a commit takes."""
        loop = asyncio.get_running_loop()
        while len(self._waiting) < MOST:
            left = min(one.until for one in self._waiting) - loop.time()
            if left <= 0:
                return
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._came.wait()

    def _next(self) -> list[_Piece[Item]]:
        """Take the oldest that fit into one commit, at least one."""
        size = count = 0
        for one in self._waiting[:MOST]:
            size += one.size
            if count and size > MOST_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _commit(self, pieces: list[_Piece[Item]]) -> None:
        items = [one.item for one in pieces]
        try:
            results = await self._transaction(lambda connection: self._write(connection, items))
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


def _tell(piece: _Piece[Any], result: Any) -> None:
    if piece.done.done():  # its caller was cancelled
        return
    if isinstance(result, Exception):
        piece.done.set_exception(result)
    else:
        piece.done.set_result(result)
