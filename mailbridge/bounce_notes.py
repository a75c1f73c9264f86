"""Bounces in fetched mail: noted with the send that they are about, and told.

They are noted before the mail that brings them is accepted. A crash in between brings the mail
again, and it is noted and told once for each recipient.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from mailbridge.bounce import Failure, failures, suspected
from mailbridge.errors import StoreFull, StoreRefused, Unavailable
from mailbridge.model import RawMessage
from mailbridge.store.base import Bounce, SendStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceNotes:
    """Looks for bounces in what is about to be accepted.

    ``run`` runs what blocks in a worker thread. ``listeners`` tells who hears of an event of a
    mailbox, asked as (mailbox, kind).
    """

    store: SendStore
    listeners: Callable[[str, str], Sequence[str]]
    run: Callable[..., Awaitable[Any]]
    now: Callable[[], datetime]

    async def heed(self, messages: Sequence[RawMessage]) -> None:
        """Note the bounces among these mails.

        Raises ``StoreRefused``, ``StoreFull`` and ``Unavailable``: then the mails cannot be
        accepted either, and come again. Anything else costs the note alone. A report is a mail
        that anybody can write, and must not keep those that come with it from being accepted.
        """
        for message in messages:
            if not suspected(message.raw):
                continue
            try:
                await self._heed(message)
            except (StoreRefused, StoreFull, Unavailable):
                raise
            except Exception:
                log.exception(
                    "bounce.not_noted", mailbox=message.ref.mailbox, id=message.ref.message_id
                )

    async def _heed(self, message: RawMessage) -> None:
        found: Sequence[Failure] = await self.run(failures, message.raw)
        # All failures of a report are about one mail.
        if found and (message_id := await self._known(found[0])):
            for failure in found:
                await self._note(message_id, failure, message)

    async def _known(self, failure: Failure) -> str:
        """Return the Message-ID of the send that is meant, empty when it is none of ours."""
        sent = await self.store.status(failure.send) if failure.send else None
        if sent is not None:
            return sent.message_id
        for message_id in failure.message_ids:
            if await self.store.find(message_id):
                return message_id
        return ""

    async def _note(self, message_id: str, failure: Failure, message: RawMessage) -> None:
        bounce = Bounce(
            message_id=message_id,
            recipient=failure.recipient,
            report=failure.text,
            at=message.received_at or self.now(),
        )
        mailbox = message.ref.mailbox
        name = await self.store.bounced(bounce, self.listeners(mailbox, "send.failed"))
        log.warning("send.bounced", send=name, mailbox=mailbox, id=message.ref.message_id)
        log.debug("send.bounce_report", send=name, report=failure.text)
