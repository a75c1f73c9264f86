"""Gets messages from a POP3 server, whatever it takes.

A message that the server refuses becomes a gap. Those that were under way when a connection
was lost are remembered by the source (``Suspects``) and come one at a time on the next, so
that the guilty one is found, and stops nobody behind it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal

from mailbridge.errors import Unavailable
from mailbridge.model import Batch, Checkpoint, Gap, MessageRef, RawMessage
from mailbridge.sources.imap_plan import FetchLimits, batches, is_stand_in, next_gap
from mailbridge.sources.pop3_connection import Order
from mailbridge.sources.pop3_driver import Driver
from mailbridge.sources.pop3_errors import Refused
from mailbridge.sources.pop3_plan import (
    Head,
    Listing,
    Suspects,
    read_head,
    received_at,
)

Start = Literal["new", "all"] | date
Settling = Literal["keep", "delete"]

#: POP3 knows no other folder
FOLDER: Final = "INBOX"
#: how a connection ends that may have died of the message it carried
FATAL: Final = frozenset(
    {
        "pop3.connection",
        "pop3.eof",
        "pop3.protocol",
        "pop3.timeout",
        "pop3.tls",
        "pop3.too_large",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a session needs to know of its source. ``fetch_room`` bounds bodies in hand."""

    mailbox: str
    start: Start
    after: Settling
    limits: FetchLimits
    fetch_room: AbstractAsyncContextManager[Any]
    now: Callable[[], datetime]
    suspects: Suspects
    #: when the watch began, however long it took until the mailbox could be seen
    begun: datetime

    def ref(self, uidl: str) -> MessageRef:
        """Return the place of a UIDL."""
        return MessageRef(mailbox=self.mailbox, folder=FOLDER, protocol="pop3", uidl=uidl)

    def batch(self, checkpoint: Checkpoint, **parts: Any) -> Batch:
        """Return a batch of this mailbox."""
        return Batch(mailbox=self.mailbox, folder=FOLDER, checkpoint=checkpoint, **parts)

    def gap(self, uidl: str, reason: str, before: Gap | None = None) -> Gap:
        """Return the gap for a message that would not come, once more if it had one ``before``."""
        self.suspects.cleared(uidl)
        return next_gap(self.ref(uidl), reason, self.now(), before)


class Fetcher:
    """Fetches what one listing shows, over the connection that gave it."""

    def __init__(self, watch: Watch, driver: Driver, listing: Listing) -> None:
        self._watch = watch
        self._listing = listing
        self._call = driver.call
        self._server = driver.connection

    async def heads(self, uidls: Sequence[str]) -> dict[str, Head]:
        """Return what the headers of messages tell; nothing of one that the server refuses."""
        listing = self._listing
        heads: dict[str, Head] = {}
        step = self._watch.limits.list_window
        for start in range(0, len(uidls), step):
            some = {listing.first(uidl): uidl for uidl in uidls[start : start + step]}
            found = await self._call(self._server.heads, sorted(some))
            heads |= {uidl: read_head(found.get(number, b"")) for number, uidl in some.items()}
        return heads

    async def fetched(
        self, uidls: Sequence[str], checkpoint: Checkpoint
    ) -> AsyncGenerator[Batch, None]:
        """Fetch these messages in this order, in as many batches as it takes."""
        listing, watch, suspects = self._listing, self._watch, self._watch.suspects
        hopeless = [uidl for uidl in uidls if suspects.hopeless(uidl)]
        if hopeless:
            reason = "the connection was lost each time it was fetched"
            yield watch.batch(checkpoint, gaps=tuple(watch.gap(uidl, reason) for uidl in hopeless))
        wanted = {listing.first(uidl): uidl for uidl in uidls if uidl not in set(hopeless)}
        alone = {number for number, uidl in wanted.items() if uidl in suspects.losses}
        order = Order(numbers=tuple(wanted), sizes=listing.sizes, alone=alone)
        await self._call(self._server.expect, order)
        caution = dict.fromkeys(alone, 10)
        for portion in batches(tuple(wanted), listing.sizes, watch.limits, caution=caution):
            some = {wanted[number]: listing.sizes.get(number) for number in portion}
            async with aclosing(self._portion(some, checkpoint)) as found:
                async for batch in found:
                    yield batch

    async def _portion(
        self, sizes: Mapping[str, int | None], checkpoint: Checkpoint
    ) -> AsyncGenerator[Batch, None]:
        """Fetch the next messages of the order; what came before the connection broke counts."""
        watch, left = self._watch, list(sizes)
        while left:
            answers = await self._take(len(left))
            messages: list[RawMessage] = []
            gaps: list[Gap] = []
            later: Refused | None = None
            for uidl, answer in zip(left, answers, strict=False):
                outcome = _judged(answer, sizes[uidl])
                if isinstance(outcome, bytes):
                    messages.append(self._message(uidl, outcome))
                elif isinstance(answer, Refused) and answer.transient and self._again(uidl):
                    later = answer
                else:
                    gaps.append(watch.gap(uidl, outcome))
            if messages or gaps:
                yield watch.batch(checkpoint, messages=tuple(messages), gaps=tuple(gaps))
            if later is not None:
                raise Unavailable(str(later), code="pop3.server_unavailable")
            left = left[len(answers) :]

    def _again(self, uidl: str) -> bool:
        """Count a refusal that may pass; returns whether the message is worth another session."""
        self._watch.suspects.lost([uidl])
        return not self._watch.suspects.hopeless(uidl)

    async def _take(self, count: int) -> list[bytes | Refused]:
        connection, suspects = self._server, self._watch.suspects
        async with self._watch.fetch_room:
            try:
                taken: list[bytes | Refused] = await self._call(connection.take, count)
            except Unavailable as exc:
                if exc.code in FATAL:
                    names = self._listing.names(connection.under_way())
                    suspects.lost(names, surely=exc.code == "pop3.too_large" and len(names) == 1)
                raise
        return taken

    def _message(self, uidl: str, raw: bytes) -> RawMessage:
        self._watch.suspects.cleared(uidl)
        return RawMessage(ref=self._watch.ref(uidl), raw=raw, received_at=received_at(raw))

    async def due(self, gaps: Sequence[Gap], checkpoint: Checkpoint) -> AsyncGenerator[Batch, None]:
        """Try gaps one by one, so that one of them cannot take the others along."""
        watch, listing = self._watch, self._listing
        # One that IMAP left behind was listed anew, under its UIDL.
        gone = tuple(gap.ref for gap in gaps if gap.ref.uidl not in listing.numbers)
        if gone:
            yield watch.batch(checkpoint, vanished=gone)
        for gap in gaps:
            uidl = gap.ref.uidl
            if uidl not in listing.numbers:
                continue
            number, failure = listing.first(uidl), None
            order = Order(numbers=(number,), sizes=listing.sizes)
            await self._call(self._server.expect, order)
            try:
                outcome = _judged((await self._take(1))[0], listing.sizes.get(number))
            except Unavailable as exc:
                if exc.code not in FATAL:
                    raise
                outcome, failure = str(exc), exc
            if isinstance(outcome, bytes):
                yield watch.batch(checkpoint, messages=(self._message(uidl, outcome),))
            else:
                yield watch.batch(checkpoint, gaps=(watch.gap(uidl, outcome, gap),))
            if failure is not None:
                raise failure


def _judged(answer: bytes | Refused, size: int | None) -> bytes | str:
    """Return the message, or why these bytes are not it."""
    if isinstance(answer, Refused):
        return str(answer)
    if not answer and size != 0:
        return "the server gives no bytes of the message"
    if is_stand_in(answer):
        return "the server cannot convert the message and sent a notice instead"
    return answer
