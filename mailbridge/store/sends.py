"""Outgoing mail, as those see it who hand it over and those who send it.

::

    accept ──▶ queued ──claim──▶ in hand ──in_doubt──▶ the dot ──answered──▶ resolve
                  ▲                 └──── crash, cut ────┘                      │
                  └──── again; still in doubt, unless the answer was noted ◀────┴──▶ sent, failed,
                                                                                    held

Claims and outcomes are those of every delivery (``outgoing``, ``outcomes``); what an outcome
means for a mail is in ``sends_ending``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, TemporaryError
from mailbridge.model import Delivery, Outgoing, Recipient, Resolution
from mailbridge.store import outcomes, sends_bounces, sends_lookup, sends_writing
from mailbridge.store.access import Access
from mailbridge.store.base import AcceptedSend, Bounce
from mailbridge.store.rows import SendRow
from mailbridge.store.tables import micros, moment
from mailbridge.store.together import Together

#: how long a submission counts towards the budget of a mailbox
COUNTED: Final = timedelta(days=1)
#: seconds that an answer, or an outcome, waits for the next mail to be noted as in doubt, while
#: others are on their way to their dots: one commit then serves several
LINGER: Final = 0.02


class Sends:
    """Implements ``SendStore``; ``Store.sends``.

    What many do at the same time, and each waits for, shares a commit: ``accept``, and what is
    noted before and after the final dot.
    """

    def __init__(
        self,
        access: Access,
        now: Callable[[], datetime],
        background: set[asyncio.Future[None]],
    ) -> None:
        self._access = access
        self._now = now
        self._accepting = Together(access.admit, self._accept, background)
        self._noting = Together(access.run, self._write, background)
        #: deliveries whose dot is being written or answered
        self._at_dot: set[int] = set()

    async def accept(self, mail: Outgoing) -> AcceptedSend:
        """Make a mail durable, with others who do so at the same time; see ``SendStore``.

        ``ValueError`` for a mail without a recipient: whoever composed it must have seen that.
        """
        if not mail.recipients:
            msg = f"{mail.id} has no recipient"
            raise ValueError(msg)
        return await self._accepting.run(mail, size=len(mail.raw))

    def _accept(
        self, connection: sa.Connection, mails: Sequence[Outgoing]
    ) -> Sequence[AcceptedSend | MailbridgeError]:
        return sends_writing.accept(connection, mails, micros(self._now()))

    async def in_doubt(self, delivery: Delivery, recipients: Sequence[str]) -> None:
        """Note that the final dot is about to be written for these; see ``SendStore``."""
        told = [Recipient(address=one, state="doubt") for one in recipients]
        self._at_dot.add(delivery.id)
        try:
            await self._note(delivery, told, answered=False)
        except BaseException:
            self._at_dot.discard(delivery.id)
            raise

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        """Note what the server said of these recipients; see ``SendStore``."""
        self._at_dot.discard(delivery.id)
        await self._note(delivery, recipients, answered=True, linger=self._linger)

    async def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolution]:
        """Write what attempts came to, in a commit with others; see ``DispatchStore.resolve``."""
        self._at_dot.difference_update(one.delivery.id for one in resolutions)
        held: Sequence[Resolution] = await self._noting.run(resolutions, linger=self._linger)
        return held

    async def _note(
        self,
        delivery: Delivery,
        told: Sequence[Recipient],
        *,
        answered: bool,
        linger: float = 0.0,
    ) -> None:
        now = micros(self._now())
        note = sends_writing.Note(delivery=delivery, told=told, answered=answered, at=now)
        if not await self._noting.run(note, linger=linger):
            raise TemporaryError(
                f"{delivery.event_id} is no longer ours to send: another has claimed it since",
                code="send.claim_lost",
            )

    @property
    def _linger(self) -> float:
        """How long what nobody waits for waits for company: while there is some to come."""
        return LINGER if self._at_dot else 0.0

    def _write(
        self,
        connection: sa.Connection,
        items: Sequence[sends_writing.Note | Sequence[Resolution]],
    ) -> list[Any]:
        """Write notes, and outcomes; returns the result of each."""
        notes = [one for one in items if isinstance(one, sends_writing.Note)]
        held = iter(sends_writing.note(connection, notes) if notes else ())
        now = micros(self._now())
        return [
            next(held)
            if isinstance(one, sends_writing.Note)
            else outcomes.resolve(connection, one, now)
            for one in items
        ]

    async def spent(self, mailbox: str) -> Sequence[tuple[datetime, int]]:
        """Return what a mailbox has submitted in the last 24 hours; see ``SendStore``."""
        since = micros(self._now() - COUNTED)
        found = await self._access.run(
            lambda connection: sends_lookup.spent(connection, mailbox, since)
        )
        return [(moment(at), count) for at, count in found]

    async def status(self, name: str) -> SendRow | None:
        """Return what became of a mail by its ``out_`` id, ``None`` when there is none."""
        return await self._access.reading().run(
            lambda connection: sends_lookup.by_id(connection, name)
        )

    async def find(self, message_id: str) -> Sequence[SendRow]:
        """Return the mails with this Message-ID, bare or in brackets, the newest first."""
        return await self._access.reading().run(
            lambda connection: sends_lookup.by_message_id(connection, message_id)
        )

    async def bounced(self, bounce: Bounce, listeners: Sequence[str]) -> str | None:
        """Note a bounce, and tell of it once; see ``SendStore``."""
        now = micros(self._now())
        return await self._access.run(
            lambda connection: sends_bounces.note(connection, bounce, listeners, now), again=True
        )
