"""The seam between the intake loop and a mail protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailbridge.model import Batch, Checkpoint, Fingerprint, Gap, MessageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store knows of a folder when a fetch begins.

    ``checkpoint`` is ``None`` on the first look. ``gaps`` are those that are due for another
    try. ``sweep_since`` asks for a look-back as well: whatever was received since then, lies
    behind the checkpoint and is not known to ``Memory`` is fetched, too.
    """

    checkpoint: Checkpoint | None
    gaps: Sequence[Gap] = ()
    sweep_since: datetime | None = None


class Memory(Protocol):
    """A ``Protocol``: what the store remembers of one folder, asked only when it is needed."""

    async def fingerprints(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """Return every stored message of that epoch (UIDVALIDITY), without its bytes."""

    async def unknown(self, uidvalidity: int, uids: Sequence[int]) -> Sequence[int]:
        """Return those UIDs that are neither stored, nor remembered, nor in the gap list."""

    async def uidls(self) -> Mapping[str, bool]:
        """Return every UIDL that was dealt with: stored, in the gap list, or there before.

        The value says whether it was gone when a batch last told.
        """


class Session(Protocol):
    """A ``Protocol``: one authenticated connection with one folder selected.

    Not shared between tasks. Every method raises the errors of ``mailbridge.errors`` and
    nothing else; after a ``TemporaryError`` the session is closed and a new one is opened.
    ``expires_at`` is when the session has to be replaced, well before its token ends.
    ``pushes`` says whether the server tells by itself that something changed (IMAP IDLE).
    ``lasts`` says whether it can be used for another look (POP3 shows a snapshot: it cannot).
    """

    expires_at: datetime
    pushes: bool
    lasts: bool

    def fetch(self, known: Known, memory: Memory) -> AsyncIterator[Batch]:
        """Yield batches (bounded in messages and bytes) of what lies beyond the checkpoint.

        Reads without changing the mailbox (``BODY.PEEK[]``). Each batch carries the checkpoint
        that holds once its messages are stored, so the caller may stop after any of them.
        ``Batch.sinks`` is left empty: routing is the intake's. A fetch that finds nothing new
        yields nothing when a checkpoint exists, and one batch with the first checkpoint when
        there is none.
        """

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        """Tell the server that these messages are stored: seen, move or delete.

        Idempotent: what is already seen or gone counts as settled. Returns those that are.
        """

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        """Prove that nothing lies beyond the checkpoint, at the price of a few packets.

        Needs no thread, so that a thousand parked mailboxes can be asked in turn. ``False``
        says only that ``fetch`` has to look; a session that cannot ask answers ``False``.
        """

    async def stand_by(self, woken: asyncio.Event, until: datetime) -> None:
        """Wait until ``woken`` is set, the server says that something changed, or ``until``.

        While it waits the session holds a socket and no thread. Returns at once when something
        came before it could listen; a connection that is lost meanwhile ends the wait, too,
        and shows at the next question.
        """


class Source(Protocol):
    """A ``Protocol``: one folder of one mailbox, able to open sessions."""

    mailbox: str
    folder: str

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Connect, sign in, select the folder; close on exit whatever happened."""
