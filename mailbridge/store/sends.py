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
import functools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, TemporaryError
from mailbridge.model import Delivery, Outgoing, Recipient
from mailbridge.store import sends_bounces, sends_lookup, sends_writing
from mailbridge.store.access import Access
from mailbridge.store.base import AcceptedSend, Bounce
from mailbridge.store.rows import SendRow
from mailbridge.store.tables import micros, moment
from mailbridge.store.together import Together

#: how long a submission counts towards the budget of a mailbox
COUNTED: Final = timedelta(days=1)


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
        self._noting = Together(access.run, sends_writing.note, background)

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
        now = micros(self._now())
        work = functools.partial(
            sends_writing.in_doubt, delivery=delivery, asked=recipients, now=now
        )
        if not await self._noting.run((delivery.id, work)):
            raise _lost(delivery)

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        """Note what the server said of these recipients; see ``SendStore``."""
        now = micros(self._now())
        work = functools.partial(
            sends_writing.answered, delivery=delivery, told=recipients, now=now
        )
        if not await self._noting.run((delivery.id, work)):
            raise _lost(delivery)

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


def _lost(delivery: Delivery) -> TemporaryError:
    return TemporaryError(
        f"{delivery.event_id} is no longer ours to send: another has claimed it since",
        code="send.claim_lost",
    )
