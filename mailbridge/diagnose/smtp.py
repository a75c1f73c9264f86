"""What ``test-mailbox`` does where a mailbox sends: connect, change to TLS, sign in.

No mail is sent unless somebody has asked for one (``--send-to``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mailbridge.config import Mailbox, Send
from mailbridge.diagnose.finding import Told
from mailbridge.diagnose.words import told
from mailbridge.model import AccessToken
from mailbridge.sign_in.base import SignIn
from mailbridge.sinks.smtp_errors import refusal
from mailbridge.sinks.smtp_message import Envelope, wire_form
from mailbridge.sinks.smtp_session import Account, SmtpSession, sign_in
from mailbridge.sinks.smtp_wire import Patience, SmtpServer, Wire

#: of EHLO's capabilities, those that matter to mail
_TELLING: Final = ("size", "8bitmime", "smtputf8", "dsn")
#: nobody waits longer for a diagnosis
_PATIENCE: Final = Patience(hello=15.0, command=15.0, block=30.0, dot=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A test mail as it is sent; ``message_id`` has its brackets."""

    to: str
    message_id: str
    raw: bytes = field(repr=False)


class SmtpProbe:
    """The SMTP steps of one mailbox, in this order; each says what it saw."""

    def __init__(self, mailbox: Mailbox, send: Send, *, sends: bool = False) -> None:
        server = send.server
        self._mailbox = mailbox
        self._server = SmtpServer(
            host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
        )
        self._sends = sends
        self._wire: Wire | None = None

    async def connect(self) -> Told:
        """Connect and change to TLS, as the daemon does."""
        server = self._server
        self._wire = wire = await Wire.open(server, _PATIENCE)
        return told(
            "smtp.ok",
            host=server.host,
            port=server.port,
            how="STARTTLS" if server.tls == "starttls" else "TLS",
            offered=[
                f"{name.upper()} {wire.capabilities[name]}".strip()
                for name in _TELLING
                if name in wire.capabilities
            ],
        )

    async def sign_in(self, token: AccessToken) -> Told:
        """Sign in by XOAUTH2; nothing is sent."""
        user = self._mailbox.account
        await sign_in(self._open, user, token, mailbox=self._mailbox.address)
        return told("smtp_sign_in.before" if self._sends else "smtp_sign_in.ok", user=user)

    async def send(self, letter: Letter, token: AccessToken, source: SignIn) -> Told:
        """Submit a test mail; raises what the server's refusal amounts to."""
        mailbox = self._mailbox
        account = Account(
            user=mailbox.account,
            mailbox=mailbox.address,
            token=source.token,
            refresh=source.force_refresh,
        )
        session = SmtpSession(self._open, account, token.expires_at)
        done = await session.submit(
            Envelope(sender=mailbox.address, recipients=(letter.to,)),
            wire_form(letter.raw),
            before_dot=_nothing_to_keep,
        )
        for judgement in done.refused.values():
            raise refusal(judgement, "send")
        reply = done.reply.shown if done.reply is not None else "250"
        return told("send.ok", to=letter.to, reply=reply, message_id=letter.message_id)

    @property
    def _open(self) -> Wire:
        assert self._wire is not None  # noqa: S101 - the step before has succeeded
        return self._wire

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()


async def _nothing_to_keep(recipients: Sequence[str]) -> None:
    """Keep nothing: a test mail stands in no queue, and nobody misses one that is lost."""
    del recipients
