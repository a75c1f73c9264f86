"""One signed-in SMTP connection, and what it does for the queue: submit one mail.

::

    MAIL ─ refused ──────────────────────────────► nobody gets it
      │
    RCPT each ─ refused ─────────────────────────► that recipient only
      │
    DATA, body ─ cut, refused ───────────────────► nobody has got it
      │
    before_dot() ── the store commits "in doubt"
      │
    the dot ─ 250 ───────────────────────────────► every recipient taken so far has it
            ─ 4xx, 5xx ──────────────────────────► none of them has
            ─ cut ───────────────────────────────► Undecided: nobody knows
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from mailbridge.errors import SignInRejected, Unavailable
from mailbridge.model import AccessToken, TokenSource
from mailbridge.sinks.smtp_errors import refusal
from mailbridge.sinks.smtp_message import Envelope, WireForm, commands
from mailbridge.sinks.smtp_replies import Judgement, Phase, Reply
from mailbridge.sinks.smtp_rules import judge
from mailbridge.sinks.smtp_wire import Patience, SmtpServer, Wire

_CHALLENGE: Final = 334
_AUTHENTICATED: Final = 235
#: refusals that another token may mend: the one in hand may have ended meanwhile
_STALE: Final = frozenset({"smtp.authenticate_failed", "smtp.refused", "smtp.invalid_xoauth2"})

#: returns a token newer than the one that was refused
Refresh = Callable[[AccessToken], Awaitable[AccessToken]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who signs in: ``user`` may be a delegate, the ``mailbox`` is what is sent from."""

    user: str
    mailbox: str
    token: TokenSource = field(repr=False)
    refresh: Refresh = field(repr=False)
    #: a person signs in, and not the app
    person: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What became of a mail: who has it now, and why the others have not.

    ``reply`` is the server's word on it when at least one recipient has it.
    """

    taken: tuple[str, ...] = ()
    refused: Mapping[str, Judgement] = field(default_factory=dict)
    reply: Reply | None = None


class SmtpSession:
    """A connection that is signed in. One submission at a time."""

    def __init__(self, wire: Wire, account: Account, expires_at: datetime) -> None:
        self._wire = wire
        self._account = account
        #: when the token ends that it was signed in with
        self.expires_at = expires_at
        #: mails that were submitted over it
        self.submitted = 0

    @classmethod
    async def open(
        cls, server: SmtpServer, account: Account, *, patience: Patience | None = None
    ) -> Self:
        """Connect and sign in; a refused token is replaced once.

        Raises ``SignInRejected``, ``Throttled``, ``Unavailable``, and what the token source
        raises.
        """
        patience = patience or Patience()
        token = await account.token()
        try:
            return await cls._open(server, account, token, patience)
        except SignInRejected as rejected:
            if rejected.code not in _STALE:
                raise
            fresh = await account.refresh(token)
            if fresh.value == token.value:
                raise
        return await cls._open(server, account, fresh, patience)

    @classmethod
    async def _open(
        cls, server: SmtpServer, account: Account, token: AccessToken, patience: Patience
    ) -> Self:
        wire = await Wire.open(server, patience)
        try:
            person = account.person
            await sign_in(wire, account.user, token, mailbox=account.mailbox, person=person)
        except BaseException:
            await wire.close()
            raise
        return cls(wire, account, token.expires_at)

    @property
    def usable(self) -> bool:
        """Whether another mail can be submitted over it, as far as is known."""
        return self._wire.usable

    async def ready(self) -> bool:
        """Ask whether it still lives; to be done before it is used again."""
        if not self.usable:
            return False
        try:
            return (await self._wire.ask(b"RSET")).ok
        except Unavailable:
            return False

    async def submit(
        self,
        envelope: Envelope,
        form: WireForm,
        *,
        before_dot: Callable[[Sequence[str]], Awaitable[object]],
    ) -> Submission:
        """Submit a mail. Every refusal is in the result; errors are those of the connection.

        ``before_dot`` is awaited once all but the final dot was sent, with the recipients that the
        server has taken; what it raises leaves here, and the mail is not sent. Raises
        ``Undecided`` when the reply to the dot is lost, and ``Unavailable`` when the connection is
        lost before: then nothing was taken.
        """
        asked = commands(envelope, form, self._wire.capabilities)
        if isinstance(asked, Judgement):
            return Submission(refused=dict.fromkeys(envelope.recipients, asked))
        reply = await self._wire.ask(asked.mail)
        if not reply.ok:
            judgement = self._judge(reply, "mail", envelope)
            return Submission(refused=dict.fromkeys(envelope.recipients, judgement))
        refused = dict(asked.refused)
        taken: list[str] = []
        for recipient, command in asked.recipients.items():
            reply = await self._wire.ask(command, phase="recipient")
            if reply.ok:
                taken.append(recipient)
                continue
            refused[recipient] = self._judge(reply, "recipient", envelope)
            if not self._wire.usable:
                break
        if not self._wire.usable:
            return self._hung_up(envelope, refused, reply)
        if not taken:
            await self.ready()
            return Submission(refused=refused)
        return await self._hand_over(envelope, form, tuple(taken), refused, before_dot)

    def _hung_up(
        self, envelope: Envelope, refused: Mapping[str, Judgement], reply: Reply
    ) -> Submission:
        """Return the result for a server that said goodbye among the recipients: none has it."""
        last = self._judge(reply, "recipient", envelope)
        return Submission(refused={**dict.fromkeys(envelope.recipients, last), **refused})

    async def _hand_over(
        self,
        envelope: Envelope,
        form: WireForm,
        taken: tuple[str, ...],
        refused: Mapping[str, Judgement],
        before_dot: Callable[[Sequence[str]], Awaitable[object]],
    ) -> Submission:
        try:
            phase, reply = await self._wire.hand_over(form.data, lambda: before_dot(taken))
        except BaseException:
            # Amid the data nothing else can be said; only the end of the connection is heard.
            await self._wire.close(politely=False)
            raise
        if reply.ok:
            self.submitted += 1
            return Submission(taken=taken, refused=refused, reply=reply)
        judgement = self._judge(reply, phase, envelope)
        if not self._wire.usable:
            await self._wire.close(politely=False)
        return Submission(refused={**dict.fromkeys(taken, judgement), **refused})

    def _judge(self, reply: Reply, phase: Phase, envelope: Envelope) -> Judgement:
        own = self._account
        known = {"mailbox": own.mailbox, "account": own.user, "sender": envelope.sender}
        return judge(reply, phase, **known, person=own.person)

    async def close(self, *, politely: bool = True) -> None:
        """End the connection."""
        await self._wire.close(politely=politely)


async def sign_in(
    wire: Wire, user: str, token: AccessToken, *, mailbox: str, person: bool = False
) -> None:
    """Authenticate by XOAUTH2 in two lines: a long token on the AUTH line is cut by servers.

    ``mailbox`` is what the fix of a refusal speaks of, and ``person`` whether one signs in.
    """
    if not wire.encrypted:
        raise Unavailable("sign in: the connection has no TLS", code="smtp.no_starttls")
    if "xoauth2" not in wire.mechanisms:
        raise SignInRejected(
            "the server does not take XOAUTH2 here",
            code="smtp.no_xoauth2",
            fix="Check send.server.host and send.server.port. Exchange Online offers it once SMTP "
            "AUTH is on.",
        )
    credential = f"user={user}\x01auth=Bearer {token.value}\x01\x01".encode()
    reply = await wire.ask(b"AUTH", b"XOAUTH2", phase="sign_in")
    if reply.code == _CHALLENGE:
        reply = await wire.ask(base64.b64encode(credential), phase="sign_in")
    if reply.code == _CHALLENGE:
        # It says why in JSON, and wants an empty line before it says no (RFC 7628, 3.2.3).
        reply = await wire.ask(b"", phase="sign_in")
    if reply.code != _AUTHENTICATED:
        raise refusal(
            judge(reply, "sign_in", mailbox=mailbox, account=user, person=person), "sign in"
        )
