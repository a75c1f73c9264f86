"""The seam of the API: what it asks the daemon for. Answers are JSON all through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFigures:
    """How the sign-ins of one app went since the start, and when its first credential ends."""

    refreshed: int = 0
    failed: int = 0
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the metrics need beside the daemon's health."""

    apps: Mapping[str, AppFigures]
    #: by webhook; ``None`` while the store does not answer
    waiting: Mapping[str, int] | None
    dead: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    #: by mailbox
    gaps: Mapping[str, int] = field(default_factory=dict)
    #: by mailbox that sends, and by state: outgoing mails that are not over, or failed
    sends: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Operations(Protocol):
    """A ``Protocol``: what the API can ask of the daemon.

    All of them raise ``MailbridgeError``; a temporary one is answered with 503, others with 409.
    """

    async def mailboxes(self) -> Sequence[Document]:
        """Return how each mailbox is seen."""

    async def messages(
        self,
        *,
        mailbox: str | None,
        state: Any,
        since: datetime | None,
        before: int | None,
        limit: int,
    ) -> Sequence[Document]:
        """Return lines of the mail log, the newest first; open gaps lead the first page."""

    async def trace(self, name: str) -> Document | None:
        """Return all that is known of a message, ``None`` when that is nothing."""

    async def raw(self, name: str) -> bytes | None:
        """Return a message as it came, ``None`` when its bytes are not here."""

    async def replay(self, name: str, webhook: str | None) -> int:
        """Deliver a message again under its id; returns how many deliveries that makes."""

    async def webhooks(self) -> Sequence[str]:
        """Return the names that ``replay`` takes."""

    async def deliveries(
        self, *, state: Any, webhook: str | None, limit: int
    ) -> Sequence[Document]:
        """Return deliveries that are not over, in the order in which they will go."""

    async def delivery(self, number: int) -> Document | None:
        """Return one delivery, ``None`` when there is none of that number."""

    async def retry(self, number: int) -> int:
        """Queue a dead or held delivery again; returns 1, or 0 when there is nothing to do."""

    async def figures(self) -> Figures:
        """Return what can be counted without looking at what is over."""
