"""One folder's side of the store: what is accepted, what the server has been told, what is known.

The only writer of its folder. Everything is counted in the folder's health and said in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from time import perf_counter
from typing import Final

import structlog

from mailbridge.health import FolderHealth
from mailbridge.model import Accepted, Batch, Fingerprint, Gap, MessageRef, Notice, derived_id
from mailbridge.routing import Routing, counted
from mailbridge.sources.base import Session
from mailbridge.store.base import IntakeStore
from mailbridge.test_mail import mark_of

log = structlog.get_logger()

#: messages settled with one command and one commit
SETTLE_CHUNK: Final = 500
#: UIDs and ids named in one line of the log
NAMED: Final = 20


class Acceptance:
    """Accepts batches, settles them, and is the ``Memory`` of a folder's sessions."""

    def __init__(  # noqa: PLR0913 - what the intake is built from
        self,
        *,
        mailbox: str,
        folder: str,
        store: IntakeStore,
        address: str,
        sinks: Sequence[str],
        listeners: Sequence[str],
        settles: bool,
        health: FolderHealth,
        on_accepted: Callable[[], None],
        now: Callable[[], datetime],
        routing: Routing | None = None,
    ) -> None:
        self.mailbox = mailbox
        self.folder = folder
        self.health = health
        self._store = store
        self._address = address
        self._sinks = tuple(sinks)
        self._listeners = tuple(listeners)
        self._settles = settles
        self._on_accepted = on_accepted
        self._now = now
        self._routing = routing

    def reroute(
        self, *, sinks: Sequence[str], listeners: Sequence[str], routing: Routing | None
    ) -> None:
        """Let the mails go elsewhere, from the next batch on; see a reload."""
        self._sinks, self._listeners = tuple(sinks), tuple(listeners)
        self._routing = routing

    async def fingerprints(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """See ``Memory``."""
        return await self._store.fingerprints(self.mailbox, self.folder, uidvalidity)

    async def unknown(self, uidvalidity: int, uids: Sequence[int]) -> Sequence[int]:
        """See ``Memory``."""
        return await self._store.unknown(self.mailbox, self.folder, uidvalidity, uids)

    async def uidls(self) -> Mapping[str, bool]:
        """See ``Memory``."""
        return await self._store.uidls(self.mailbox, self.folder)

    async def accept(self, batch: Batch) -> Accepted:
        """Make a batch durable, count it, and say what is out of the ordinary.

        When this returns, no crash loses anything of the batch.
        """
        begun = perf_counter()
        if batch.vanished:
            # Before the commit that forgets the gap: its id is derived, so a repeat is harmless.
            notices = [_vanished(ref, self._address, self._now()) for ref in batch.vanished]
            await self._store.notify(notices, self._listeners)
        batch = replace(batch, sinks=self._sinks, marks=_marks(batch))
        if self._routing is not None:
            batch = await self._routing.ruled(batch)
        accepted = await self._store.accept(batch, address=self._address, settles=self._settles)
        # A test says nothing of when the last mail came.
        self.health.progress(self._now(), accepted.new - accepted.tests)
        for gap in batch.gaps:
            self._say_gap(gap)
        if batch.swept and (accepted.new or batch.gaps):
            self._say_swept(batch, accepted)
        elif accepted.new:
            log.info(
                "batch.accepted",
                mailbox=self.mailbox,
                folder=self.folder,
                new=accepted.new,
                known=accepted.known,
                **({"tests": accepted.tests} if accepted.tests else {}),
                uid=batch.checkpoint.uid,
                ids=[message.ref.message_id for message in batch.messages[:NAMED]],
                **({"routes": counted(batch.rulings)} if batch.rulings else {}),
                took_ms=_ms(begun),
            )
        if accepted.new or batch.vanished:
            self._on_accepted()
        return accepted

    def _say_gap(self, gap: Gap) -> None:
        log.warning(
            "message.gap",
            mailbox=self.mailbox,
            folder=self.folder,
            uid=gap.ref.uid,
            reason=gap.reason,
            tries=gap.tries,
        )

    def _say_swept(self, batch: Batch, accepted: Accepted) -> None:
        """Count holes and say it loudly: in a healthy run there are none."""
        count = accepted.new + len(batch.gaps)
        self.health.swept += count
        places = [*(m.ref for m in batch.messages), *(gap.ref for gap in batch.gaps)]
        log.warning(
            "sweep.found",
            mailbox=self.mailbox,
            folder=self.folder,
            count=count,
            uids=[ref.uid for ref in places[:NAMED]],
        )

    async def settle(self, session: Session) -> bool:
        """Tell the server what is stored; ``False`` if it has not taken all of it."""
        if not self._settles:
            return True
        while refs := await self._store.unsettled(self.mailbox, self.folder, SETTLE_CHUNK):
            begun = perf_counter()
            done = await session.settle(refs)
            await self._store.settled(done)
            self.health.progress(self._now(), 0)
            about = {"mailbox": self.mailbox, "folder": self.folder, "count": len(done)}
            log.info("batch.settled", **about, took_ms=_ms(begun))
            if len(done) < len(refs):
                return False  # the rest is tried again at the next look
        return True


def _marks(batch: Batch) -> dict[str, str]:
    """Return what messages say they are tests by; the store knows which of them are."""
    marks = ((one.ref.message_id, mark_of(one.raw)) for one in batch.messages)
    return {name: mark for name, mark in marks if mark is not None}


def _ms(begun: float) -> float:
    return round((perf_counter() - begun) * 1000, 1)


def _vanished(ref: MessageRef, address: str, now: datetime) -> Notice:
    data = {
        "message": ref.message_id,
        "address": address,
        "folder": ref.folder,
        "source": ref.source(),
        "reason": "the message was listed and was gone from the server before it could be fetched",
    }
    parts: list[object] = [ref.mailbox, ref.folder, ref.uidvalidity, ref.uid, ref.uidl]
    return Notice(
        id=derived_id("vanished", parts),
        type="mail.vanished",
        mailbox=ref.mailbox,
        at=now,
        data=data,
    )
