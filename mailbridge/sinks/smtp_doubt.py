"""What becomes of a mail of which nobody knows whether the server has it.

::

    in doubt ── look ── a copy of this submission ────────► its recipients have the mail
       │         ├───── none, and it is early ────────────► look again
       │         └───── none, looked often enough ─┐
       └── nobody can look, for an hour ───────────┴──────► resend | hold, as configured

Only the recipients whom the lost answer was about are settled by a copy. A mail that had been
submitted to others before has copies of that, too: there have to be more than those submissions
can have made, of which there were no more than recipients who have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

import structlog

from mailbridge.errors import MailbridgeError
from mailbridge.model import Deferred, Delivery, Outcome, Recipient, Rejected, StoredSend

log = structlog.get_logger(__name__)

#: seconds after the dot at which the sent items are looked at
LOOKS: Final = (5.0, 30.0, 120.0, 300.0)
#: seconds after which a mail in doubt is decided although nobody could look
BLIND: Final = 3600.0
#: seconds until the next try to look, when that failed
AGAIN: Final = 60.0
#: how long a mail is sent again and again when its answer is lost every time
ENOUGH: Final = timedelta(days=2)
#: seconds between tries to note an answer that the store would not take
_NOTE_AGAIN: Final = (0.1, 0.5, 2.0, 5.0, 10.0)
_LOST: Final = "send.claim_lost"

#: tells how many copies of a mail lie in the sent items; raises when nobody can tell now
Look = Callable[[StoredSend], Awaitable[int]]


class SendStore(Protocol):
    """A ``Protocol``: what has to be durable while a mail is handed over. Each is one commit.

    Both raise when the claim is no longer ours; then nothing may be sent.
    """

    async def in_doubt(self, delivery: Delivery, recipients: Sequence[str]) -> None:
        """Note that the final dot is about to be written, and whom it is about."""

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        """Note what the server said of these recipients; the mail is in doubt no more."""


async def noted(store: SendStore, delivery: Delivery, recipients: Sequence[Recipient]) -> bool:
    """Note an answer, patiently: it has been given, and will not be given again.

    False when the store will not have it, or the claim is another's: then the mail is in doubt.
    """
    for delay in (*_NOTE_AGAIN, None):
        try:
            await store.answered(delivery, recipients)
        except MailbridgeError as error:
            if delay is None or error.code == _LOST:
                log.error("send.answer_not_noted", send=delivery.event_id, error=str(error))  # noqa: TRY400 - no bug
                return False
            await asyncio.sleep(delay)
        else:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """Settles the mails of one mailbox that are in doubt.

    ``look`` is ``None`` where the mailbox cannot be read.
    """

    mailbox: str
    store: SendStore
    look: Look | None
    when_undecided: Literal["resend", "hold"]
    now: Callable[[], datetime]

    async def settle(
        self, delivery: Delivery, send: StoredSend, since: datetime
    ) -> Outcome | StoredSend:
        """Return an outcome, or the mail as it is to be sent to whoever is still open."""
        age = (self.now() - since).total_seconds()
        if self.look is not None:
            found = await self._looked(send, age)
            if isinstance(found, Deferred):
                return found
            if found:
                return await self._sent(delivery, send)
            later = next((look for look in LOOKS if look > age), None)
            if later is not None:
                return _wait("in doubt, and not in the sent items yet", later - age)
        tried = self.now() - delivery.first_due_at > ENOUGH
        if not send.released and (self.when_undecided == "hold" or tried):
            return Rejected(reason="held: nobody knows whether the server took it", hold=True)
        log.warning("send.again", mailbox=self.mailbox, send=send.id)
        return send

    async def _looked(self, send: StoredSend, age: float) -> bool | Deferred:
        """Tell whether the submission in doubt has left a copy; of what is not known, nothing."""
        if self.look is None:
            return False
        try:
            copies = await self.look(send)
        except MailbridgeError as error:
            if age < BLIND:
                return _wait(f"in doubt, and the sent items cannot be read: {error}", AGAIN)
            return False
        return copies > sum(one.state == "taken" for one in send.recipients)

    async def _sent(self, delivery: Delivery, send: StoredSend) -> Outcome | StoredSend:
        word = "found in the sent items"
        settled = {one: Recipient(address=one, state="taken", reply=word) for one in send.doubtful}
        if not await noted(self.store, delivery, list(settled.values())):
            return _wait("found in the sent items, and the store does not take it", AGAIN)
        log.info("send.found", mailbox=self.mailbox, send=send.id)
        recipients = tuple(settled.get(one.address, one) for one in send.recipients)
        return replace(send, recipients=recipients, in_doubt_at=None)


def _wait(reason: str, seconds: float) -> Deferred:
    return Deferred(reason=reason, retry_after=seconds, sink_fault=False, unasked=True)
