"""The sink of a mailbox that sends: one outgoing mail after the other, to whom it is still open.

::

    deliver ── in doubt ── look, wait, decide (``smtp_doubt``)
       ├── the mailbox or server pauses, no budget ── deferred, unasked
       └── submit to the open recipients, a hundred at a time
              before the dot ── store.in_doubt
              after its answer ── store.answered: who has it, who never gets it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

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
from mailbridge.sinks.smtp_doubt import LOOKS, Doubts, Look, SendStore, noted
from mailbridge.sinks.smtp_errors import Undecided
from mailbridge.sinks.smtp_message import Envelope, WireForm, wire_form
from mailbridge.sinks.smtp_pool import Pool
from mailbridge.sinks.smtp_replies import Judgement
from mailbridge.sinks.smtp_session import SmtpSession, Submission

log = structlog.get_logger(__name__)

#: recipients of one transaction; every server takes so many (RFC 5321, 4.5.3.1.8)
RECIPIENTS: Final = 100
#: mails in hand for each connection: while what became of one is noted, others use it
AHEAD: Final = 2
#: seconds until a mailbox that needs a person is tried again
PARKED: Final = 900.0
#: bytes from which on a mail is brought into form in a thread
_LARGE: Final = 64 * 1024
_TAKEN: Final = 250
_NO_LONGER: Final = "the mailbox was paused, and is so no longer"
_UNNOTED: Final = "the server's answer could not be noted; the mail is in doubt"


class _UsedUpError(Exception):
    """The budget has no room for this submission now."""


class _PausedError(Exception):
    """While this one waited for its connection, another one was told that nothing goes out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why nothing of a mailbox goes out, and until when."""

    reason: str
    code: str
    fix: str
    until: datetime
    status: int | None = None
    #: nothing gets better before somebody acts
    person: bool = False


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
        # Who has an answer to note, or waits for the store, keeps no connection from the next one.
        self.concurrency = AHEAD * connections
        self.pause: Pause | None = None
        self._mailbox = mailbox
        self._store = store
        self._budget = budget
        self._doubts = Doubts(
            mailbox=mailbox, store=store, look=look, when_undecided=in_doubt, now=now
        )
        self._now = now
        self._most = RECIPIENTS
        #: how often somebody said that it is mended; what was refused before says nothing then
        self._mended = 0

        async def open_unless_paused() -> SmtpSession:
            if self._paused():
                raise _PausedError
            return await opener()

        self._pool = Pool(open_unless_paused, most=connections, now=now)

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
        self._mended += 1
        self.pause = None

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        """See ``Sink``."""
        del attempt
        delivery, send = rendered.delivery, _mail(rendered.delivery)
        if send.in_doubt_at is not None and send.doubtful:
            settled = await self._doubts.settle(delivery, send, send.in_doubt_at)
            if not isinstance(settled, StoredSend):
                return settled
            send = settled
        if not send.open:
            return _ended(send.recipients)
        return self._paused() or await self._sent(delivery, send)

    # -- sending ------------------------------------------------------------------------------

    @property
    def pausing(self) -> Pause | None:
        """Why nothing goes out now; ``None`` when it may."""
        pause = self.pause
        # Where a person has to act nothing is well before a mail has passed.
        over = pause is None or (pause.until <= self._now() and not pause.person)
        return None if over else pause

    def _paused(self) -> Deferred | None:
        pause = self.pause
        if pause is None or pause.until <= self._now():
            return None
        return Deferred(
            reason=pause.reason,
            status=pause.status,
            retry_after=(pause.until - self._now()).total_seconds(),
            alert=pause.person,
            unasked=True,
            pauses=True,
            code=pause.code,
            fix=pause.fix,
        )

    async def _sent(self, delivery: Delivery, send: StoredSend) -> Outcome:
        """Submit to the open recipients, group by group, as far as it goes."""
        raw = send.raw
        form = wire_form(raw) if len(raw) < _LARGE else await asyncio.to_thread(wire_form, raw)
        known = {one.address: one for one in send.recipients}
        waits: list[Judgement] = []
        mended = self._mended
        for group in _groups(send.open, self._most):
            try:
                done = await self._submitted(delivery, send, form, group)
            except _UsedUpError:
                return self._used_up(len(group))
            except _PausedError:
                return self._paused() or Deferred(reason=_NO_LONGER, unasked=True)
            except MailbridgeError as error:
                return self._failed(error, mended)
            self._learn(done, mended)
            settled = [_settled(one, done) for one in group]
            if not await noted(self._store, delivery, settled):
                return Deferred(reason=_UNNOTED, retry_after=LOOKS[0], exactly=True)
            known.update({one.address: one for one in settled})
            waits += [one for one in done.refused.values() if one.weight == "deferred"]
            if any(one.scope in {"mailbox", "server"} for one in waits):
                break
        if not waits:
            return _ended(tuple(known.values()))
        blamed = any(one.scope in {"mailbox", "server"} for one in waits)
        return (blamed and self._paused()) or _deferred(waits)

    async def _submitted(
        self, delivery: Delivery, send: StoredSend, form: WireForm, group: Sequence[str]
    ) -> Submission:
        envelope = Envelope(sender=send.sender, recipients=tuple(group), id=send.id)

        async def before_dot(recipients: Sequence[str]) -> None:
            await self._store.in_doubt(delivery, recipients)

        if self._budget.wait(len(group)):
            raise _UsedUpError
        async with self._pool.session() as session:
            # Others may have spent it while this one waited for its connection.
            if self._budget.wait(len(group)):
                raise _UsedUpError
            self._budget.begin(len(group))
            try:
                return await session.submit(envelope, form, before_dot=before_dot)
            finally:
                self._budget.end()

    def _learn(self, done: Submission, mended: int) -> None:
        """Draw consequences for the mails behind this one."""
        for one in done.refused.values():
            if one.code == "smtp.too_many_recipients":
                self._most = max(1, len(done.taken) or self._most // 2)
            if one.weight == "deferred" and one.scope in {"mailbox", "server"}:
                usual = PARKED if one.person else 0.0
                self._pause(one, one.retry_after or usual, mended)
                return
        if done.taken:
            self.pause = None

    def _failed(self, error: MailbridgeError, mended: int) -> Deferred:
        """Return the outcome of a connection that failed; a person's task parks the mailbox."""
        reason = str(error)
        if isinstance(error, Undecided):
            return Deferred(reason=reason, retry_after=LOOKS[0], exactly=True)
        if error.code.startswith(("store.", "send.")):
            # What the store does not let us do says nothing about the server.
            return Deferred(reason=reason, sink_fault=False)
        if isinstance(error, PermanentError):
            self._pause(error, PARKED, mended)
        elif isinstance(error, Throttled):
            self._pause(error, error.retry_after, mended)
        else:
            return Deferred(reason=reason, code=error.code, fix=error.fix)
        return self._paused() or Deferred(reason=reason, code=error.code, fix=error.fix)

    def _used_up(self, recipients: int) -> Deferred:
        """Return the outcome of a mail for which the budget has no room, if not for any."""
        return Deferred(
            reason="the mailbox has used up what it may send for now",
            retry_after=self._budget.wait(recipients) or 1.0,
            sink_fault=False,
            unasked=True,
            pauses=self._budget.wait(1) > 0,
        )

    def _pause(self, why: Judgement | MailbridgeError, seconds: float, mended: int) -> None:
        if not seconds or mended != self._mended:
            return
        if isinstance(why, Judgement):
            reason, person = why.reason, why.person
            status = why.reply.code if why.reply is not None else None
        else:
            reason, person, status = str(why), isinstance(why, PermanentError), None
        self.pause = Pause(
            reason=reason,
            code=why.code,
            fix=why.fix,
            until=self._now() + timedelta(seconds=seconds),
            status=status,
            person=person,
        )
        log.warning(
            "send.paused", mailbox=self._mailbox, code=why.code, reason=reason, seconds=seconds
        )


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
        code=first.code,
        fix=first.fix,
    )
