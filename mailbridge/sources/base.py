"""The seam between the intake loop and a mail protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailbridge.model import Batch, Checkpoint, Fingerprint, Gap, MessageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store knows of a folder when a fetch begins.

    ``checkpoint`` is ``None`` on the first look. ``gaps`` are those that are due for another
    try. ``fingerprints`` is asked only when UIDVALIDITY has changed.
    """

    checkpoint: Checkpoint | None
    gaps: Sequence[Gap] = ()


class Fingerprints(Protocol):
    """A ``Protocol``: gives the stored fingerprints of one epoch (UIDVALIDITY) of the folder."""

    async def __call__(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """Return every stored message of that epoch, without its bytes."""


class Session(Protocol):
    """A ``Protocol``: one authenticated connection with one folder selected.

    Not shared between tasks. Every method raises the errors of ``mailbridge.errors`` and
    nothing else; after a ``TemporaryError`` the session is closed and a new one is opened.
    ``expires_at`` is when the session has to be replaced, well before its token ends.
    """

    expires_at: datetime

    def fetch(self, known: Known, fingerprints: Fingerprints) -> AsyncIterator[Batch]:
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


class Source(Protocol):
    """A ``Protocol``: one folder of one mailbox, able to open sessions."""

    mailbox: str
    folder: str

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Connect, sign in, select the folder; close on exit whatever happened."""
