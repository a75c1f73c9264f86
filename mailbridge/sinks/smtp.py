"""The sink of a mailbox that sends: one outgoing mail after the other, to whom it is still open.

::

    deliver ── in doubt ── look into the sent items ── there ──────────► delivered
       │                        │                   └─ not yet ────────► deferred, look again
       │                        └─ not there for good, or nobody can look ── resend | hold
       ├── the mailbox or server pauses, no budget ────────────────────► deferred, unasked
       └── submit to the open recipients, a hundred at a time
              before the dot ── store.in_doubt
              after its answer ── store.answered: who has it, who never gets it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

import structlog

from mailbridge.errors import MailbridgeError, PermanentError, Throttled
from mailbridge.model import (
    Deferred,
    Delivered,
    Delivery,
    Outcome,
    Recipient,
    Rejected,
    Rendered,
    StoredSend,
)
from mailbridge.sinks.smtp_budget import Budget, Remaining
from mailbridge.sinks.smtp_errors import Undecided
from mailbridge.sinks.smtp_message import Envelope, WireForm, wire_form
from mailbridge.sinks.smtp_pool import Pool
from mailbridge.sinks.smtp_replies import Judgement
from mailbridge.sinks.smtp_session import SmtpSession, Submission

log = structlog.get_logger(__name__)

#: recipients of one transaction; every server takes so many (RFC 5321, 4.5.3.1.8)
RECIPIENTS: Final = 100
#: seconds after the dot at which the sent items are looked at
LOOKS: Final = (5.0, 30.0, 120.0, 300.0)
#: seconds after which a mail in doubt is decided although nobody could look
BLIND: Final = 3600.0
#: seconds until a mailbox that needs a person is tried again
PARKED: Final = 900.0
#: bytes from which on a mail is brought into form in a thread
_LARGE: Final = 64 * 1024
_TAKEN: Final = 250


class SendStore(Protocol):
    """A ``Protocol``: what has to be durable while a mail is handed over. Each is one commit.

    Both raise when the claim is no longer ours; then nothing may be sent.
    """

    async def in_doubt(self, delivery: Delivery) -> None:
        """Note that the final dot is about to be written."""

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        """Note what the server said of these recipients; the mail is in doubt no more."""


#: tells whether a mail lies in the sent items; raises when nobody can tell now
Look = Callable[[StoredSend], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why nothing of a mailbox goes out, and until when."""

    reason: str
    code: str
    fix: str
    until: datetime
    status: int | None = None


class SmtpSink:
    """A ``Sink``: see ``mailbridge.sinks.base``. ``close`` it when it is used no more.

    ``look`` is ``None`` where the mailbox cannot be read. ``pause`` says why nothing goes out,
    if so; ``resume`` ends it, when a person has mended something.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        mailbox: str,
        opener: Callable[[], Awaitable[SmtpSession]],
        store: SendStore,
        budget: Budget,
        connections: int,
        in_doubt: Literal["resend", "hold"],
        look: Look | None,
        now: Callable[[], datetime],
    ) -> None:
        self.name = f"send:{mailbox}"
        self.concurrency = connections
        self.pause: Pause | None = None
        self._mailbox = mailbox
        self._store = store
        self._budget = budget
        self._in_doubt = in_doubt
        self._look = look
        self._now = now
        self._most = RECIPIENTS
        self._pool = Pool(opener, most=connections, now=now)

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        """See ``Sink``: the bytes were fixed when the mail was accepted."""
        return [
            Rendered(delivery=one, body=_mail(one).raw, content_type="message/rfc822")
            for one in deliveries
        ]

    def remaining(self) -> Remaining:
        """Return what may go out now, by the mailbox's budget."""
        return self._budget.remaining()

    def resume(self) -> None:
        """Forget the pause; the next mail is tried."""
        self.pause = None

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        """See ``Sink``."""
        del attempt
        delivery, send = rendered.delivery, _mail(rendered.delivery)
        if not send.open:
            return _ended(send.recipients)
        if send.in_doubt_at is not None:
            outcome = await self._reconciled(delivery, send, send.in_doubt_at)
            if outcome is not None:
                return outcome
        return self._paused() or await self._sent(delivery, send)

    # -- in doubt -----------------------------------------------------------------------------

    async def _reconciled(
        self, delivery: Delivery, send: StoredSend, since: datetime
    ) -> Outcome | None:
        """Return what became of a mail in doubt; ``None`` when it is to be sent again."""
        age = (self._now() - since).total_seconds()
        if self._look is not None:
            try:
                found = await self._look(send)
            except MailbridgeError as error:
                if age < BLIND:
                    reason = f"in doubt, and the sent items cannot be read: {error}"
                    return Deferred(reason=reason, retry_after=60.0)
                found = False
            if found:
                word = "found in the sent items"
                recipients = [Recipient(address=a, state="taken", reply=word) for a in send.open]
                await self._store.answered(delivery, recipients)
                return Delivered(status=_TAKEN, detail=word)
            later = next((look for look in LOOKS if look > age), None)
            if later is not None:
                reason = "in doubt, and not in the sent items yet"
                return Deferred(reason=reason, retry_after=later - age, sink_fault=False)
        if self._in_doubt == "hold":
            return Rejected(reason="held: nobody knows whether the server took it")
        log.warning("send.again", mailbox=self._mailbox, send=send.id)
        return None

    # -- sending ------------------------------------------------------------------------------

    def _paused(self) -> Deferred | None:
        pause = self.pause
        if pause is None or pause.until <= self._now():
            return None
        return Deferred(
            reason=pause.reason,
            status=pause.status,
            retry_after=(pause.until - self._now()).total_seconds(),
        )

    async def _sent(self, delivery: Delivery, send: StoredSend) -> Outcome:
        """Submit to the open recipients, group by group, as far as it goes."""
        raw = send.raw
        form = wire_form(raw) if len(raw) < _LARGE else await asyncio.to_thread(wire_form, raw)
        known = {one.address: one for one in send.recipients}
        waits: list[Judgement] = []
        for group in _groups(send.open, self._most):
            if seconds := self._budget.wait(len(group)):
                reason = "the mailbox has used up what it may send for now"
                return Deferred(reason=reason, retry_after=seconds, sink_fault=False)
            try:
                done = await self._submitted(delivery, send, form, group)
            except MailbridgeError as error:
                return self._failed(error)
            self._learn(done)
            settled = [_settled(one, done) for one in group]
            await self._store.answered(delivery, [one for one in settled if one.state != "open"])
            known.update({one.address: one for one in settled})
            waits += [one for one in done.refused.values() if one.weight == "deferred"]
            if any(one.scope in {"mailbox", "server"} for one in waits):
                break
        return _deferred(waits) if waits else _ended(tuple(known.values()))

    async def _submitted(
        self, delivery: Delivery, send: StoredSend, form: WireForm, group: Sequence[str]
    ) -> Submission:
        envelope = Envelope(sender=send.sender, recipients=tuple(group), id=send.id)

        async def before_dot() -> None:
            await self._store.in_doubt(delivery)

        async with self._pool.session() as session:
            self._budget.spend(len(group))
            return await session.submit(envelope, form, before_dot=before_dot)

    def _learn(self, done: Submission) -> None:
        """Draw consequences for the mails behind this one."""
        for one in done.refused.values():
            if one.code == "smtp.too_many_recipients":
                self._most = max(1, len(done.taken) or self._most // 2)
            if one.weight == "deferred" and one.scope in {"mailbox", "server"}:
                usual = PARKED if one.person else 0.0
                self._pause(one.reason, one.code, one.fix, one.retry_after or usual, one)
                return
        if done.taken:
            self.pause = None

    def _failed(self, error: MailbridgeError) -> Deferred:
        """Return the outcome of a connection that failed; a person's task parks the mailbox."""
        if isinstance(error, Undecided):
            return Deferred(reason=str(error), retry_after=LOOKS[0])
        if isinstance(error, PermanentError):
            self._pause(str(error), error.code, error.fix, PARKED)
            return Deferred(reason=str(error), retry_after=PARKED)
        if isinstance(error, Throttled):
            self._pause(str(error), error.code, error.fix, error.retry_after)
            return Deferred(reason=str(error), retry_after=error.retry_after)
        return Deferred(reason=str(error))

    def _pause(
        self, reason: str, code: str, fix: str, seconds: float, judgement: Judgement | None = None
    ) -> None:
        if not seconds:
            return
        reply = judgement.reply if judgement is not None else None
        self.pause = Pause(
            reason=reason,
            code=code,
            fix=fix,
            until=self._now() + timedelta(seconds=seconds),
            status=reply.code if reply is not None else None,
        )
        log.warning("send.paused", mailbox=self._mailbox, code=code, reason=reason, seconds=seconds)


def _mail(delivery: Delivery) -> StoredSend:
    if delivery.send is None:
        raise TypeError(f"delivery {delivery.id} is not a mail to be sent")
    return delivery.send


def _groups(recipients: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Yield what is sent to at once: those who need SMTPUTF8 apart from those who do not.

    A server further on that cannot do it bounces the mail for everybody in the group.
    """
    for international in (False, True):
        some = [one for one in recipients if one.isascii() is not international]
        for start in range(0, len(some), most):
            yield some[start : start + most]


def _settled(address: str, done: Submission) -> Recipient:
    if address in done.taken:
        word = done.reply.shown if done.reply is not None else ""
        return Recipient(address=address, state="taken", reply=word)
    judgement = done.refused[address]
    state: Literal["open", "refused"] = "refused" if judgement.weight == "rejected" else "open"
    return Recipient(address=address, state=state, code=judgement.code, reply=judgement.reason)


def _ended(recipients: Sequence[Recipient]) -> Outcome:
    """Return the outcome of a mail that nobody waits for any more."""
    taken = [one for one in recipients if one.state == "taken"]
    if taken:
        return Delivered(status=_TAKEN, detail=taken[-1].reply)
    first = next((one for one in recipients if one.state == "refused"), None)
    return Rejected(reason=first.reply if first is not None else "it has no recipient")


def _deferred(waits: Sequence[Judgement]) -> Deferred:
    """Return the outcome of a mail that some have to wait for, by what is worst."""
    first = max(waits, key=lambda one: one.scope in {"mailbox", "server"})
    pauses = [one.retry_after for one in waits if one.retry_after is not None]
    return Deferred(
        reason=first.reason,
        status=first.reply.code if first.reply is not None else None,
        retry_after=max(pauses, default=PARKED if first.person else None),
        sink_fault=first.scope in {"mailbox", "server"},
    )
