"""The seam between the loops and the store. Every method is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from mailbridge.model import (
    Accepted,
    Batch,
    Checkpoint,
    Delivery,
    Fingerprint,
    Gap,
    Grant,
    MessageRef,
    Notice,
    Resolution,
)


class IntakeStore(Protocol):
    """A ``Protocol``: what the intake of one folder needs."""

    async def checkpoint(self, mailbox: str, folder: str) -> Checkpoint | None:
        """Return how far the folder was read, ``None`` before the first look."""

    async def gaps_due(self, mailbox: str, folder: str, now: datetime) -> Sequence[Gap]:
        """Return the gaps whose next try is due."""

    async def fingerprints(
        self, mailbox: str, folder: str, uidvalidity: int
    ) -> Sequence[Fingerprint]:
        """Return what the stored messages of one epoch are recognised by."""

    async def unknown(
        self, mailbox: str, folder: str, uidvalidity: int, uids: Sequence[int]
    ) -> Sequence[int]:
        """Return those of ``uids`` that are neither stored, nor remembered, nor in the gap list."""

    async def uidls(self, mailbox: str, folder: str) -> Mapping[str, bool]:
        """Return every POP3 UIDL that was dealt with: stored, in the gap list, or there before.

        The value says whether it was gone when a batch last told. Those are remembered for a
        while, and are there again once a batch names them in ``before``.
        """

    async def accept(self, batch: Batch, *, address: str, settles: bool) -> Accepted:
        """Make a batch durable: messages, raw bytes, deliveries, gaps and checkpoint in one commit.

        When this returns, a crash or a power cut no longer loses anything of the batch. Messages
        whose place is already known are skipped. ``settles`` says whether the server is to be
        told afterwards. A gap whose message is in ``messages`` is closed.
        Raises ``StoreFull`` (nothing stored), or ``TemporaryError``.
        """

    async def unsettled(self, mailbox: str, folder: str, limit: int) -> Sequence[MessageRef]:
        """Return accepted messages that the server has not been told about, oldest first."""

    async def settled(self, refs: Sequence[MessageRef]) -> None:
        """Remember that the server has been told."""

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Queue events that are not mails for these sinks; a known ``Notice.id`` is ignored."""


class DispatchStore(Protocol):
    """A ``Protocol``: what the dispatcher of one sink needs."""

    async def claim(
        self, sink: str, *, limit: int, max_bytes: int, lease: float, alone: bool = False
    ) -> Sequence[Delivery]:
        """Take deliveries that are due, oldest first, for ``lease`` seconds, with their bytes.

        At least one is returned if any is due, however large; more only while the sum of raw
        bytes stays within ``max_bytes``. The claim is committed before this returns.
        Deliveries that were in hand at three deaths of the daemon in a row are passed over,
        unless ``alone``: then only such suspects are returned, few at a time, and by
        themselves once a few more deaths have not cleared them. A caller that asks for them
        has nothing else in hand.
        """

    async def renew(self, deliveries: Sequence[Delivery], *, lease: float) -> None:
        """Prolong the leases of claims still in hand (heartbeat)."""

    async def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolution]:
        """Write what attempts came to, in one commit; returns those whose claim still held.

        Conditional on the fence: a dispatcher that outlived its lease changes nothing.
        """

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back claims that were not attempted (clean stop); they are due at once."""

    async def next_due(self, sink: str) -> datetime | None:
        """Return when the next queued delivery of the sink is due, ``None`` when none waits."""

    async def rescue(self) -> int:
        """Queue again what is claimed under an expired lease; returns how many."""

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Queue events that are not mails for these sinks; a known ``Notice.id`` is ignored."""


class GrantStore(Protocol):
    """A ``Protocol``: where what people consented to is kept, encrypted at rest."""

    async def grant(self, app: str, account: str) -> Grant | None:
        """Return the grant of an account, ``None`` when there is none."""

    async def save_grant(self, grant: Grant) -> None:
        """Keep a grant in place of the former one; when this returns, a crash loses nothing."""

    async def forget_grant(self, app: str, account: str) -> bool:
        """Remove a grant; tells whether there was one."""
