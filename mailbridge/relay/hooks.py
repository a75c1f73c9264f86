"""What aiosmtpd asks while a session goes on: who is who, and what becomes of a recipient."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar, cast

import structlog
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from aiosmtpd.smtp import LoginPassword as Login

from mailbridge.health import RelayHealth
from mailbridge.relay.bounds import Bounds
from mailbridge.relay.policy import NOBODY, Policy, Refusal, Word

log = structlog.get_logger()

T = TypeVar("T")
BytesT = TypeVar("BytesT", bytes, bytearray)

#: bytes from which on work with a mail is done in a thread
_LARGE: Final = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A mail as a client brought it, with what was said of each recipient."""

    client: str
    helo: str
    protocol: str
    sender: str
    words: tuple[tuple[str, Word], ...]
    content: bytes = field(repr=False)


class Desk(Protocol):
    """A ``Protocol``: what the sessions of a listener share."""

    policy: Policy
    bounds: Bounds
    figures: RelayHealth

    async def take(self, mail: Brought) -> str:
        """Make a mail durable, or not; returns the reply to its final dot. Never raises."""

    async def wait(self, seconds: float) -> None:
        """Let time pass."""


async def aside(work: Callable[[BytesT], T], content: BytesT) -> T:
    """Do something with a mail, in a thread if the loop would stand still over it."""
    if len(content) < _LARGE:
        return work(content)
    return await asyncio.to_thread(work, content)


class MailEnvelope(Envelope):
    """The mail that is coming in."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[tuple[str, Word]] = []


class Hooks:
    """What aiosmtpd asks while a session goes on."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Announce AUTH only where somebody can sign in."""
        del server, envelope
        session.host_name = hostname
        some = bool(self._desk.policy.passwords)
        return [line for line in responses if some or not line.startswith("250-AUTH")]

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Note the sender; what may be done in his name depends on the recipient."""
        del server, session
        if not address.isascii() and not envelope.smtp_utf8:
            return "553 5.6.7 This address needs SMTPUTF8"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Sender noted"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Say what becomes of a mail to this recipient."""
        del server, options
        mail = cast("MailEnvelope", envelope)
        client = str(session.peer[0]) if session.peer else ""
        if address == NOBODY:
            return "553 5.1.3 This is nobody's address"
        if not address.isascii() and not mail.smtp_utf8:
            return "553 5.6.7 This address needs SMTPUTF8"
        if len(mail.words) >= self._desk.bounds.limits.recipients:
            return "452 4.5.3 Too many recipients; send the others in a mail of their own"
        sender = mail.mail_from or NOBODY
        word = self._desk.policy.judge(
            client=client,
            sender=sender,
            recipient=address,
            signed_in=bool(session.authenticated),
        )
        if isinstance(word, Refusal):
            self._desk.figures.refused[word.reason] += 1
            log.warning("relay.refused", client=client, reason=word.reason)
            log.debug("relay.refused_addresses", sender=sender, recipient=address)
            return word.reply
        mail.words.append((address, word))
        mail.rcpt_tos.append(address)
        return "250 2.1.5 Recipient noted"

    async def handle_exception(self, error: Exception) -> str:
        """Answer after a bug of ours: nothing was taken, and trying again is right."""
        log.error("relay.bug", exc_info=error)
        return "451 4.3.0 Something went wrong here; try again later"


def authenticator(desk: Desk) -> Any:
    """Return what aiosmtpd asks whether user and password fit, whatever the mechanism."""

    def check(
        server: SMTP, session: Session, envelope: Envelope, how: str, given: Any
    ) -> AuthResult:
        del server, session, envelope, how
        fits = isinstance(given, Login) and _fits(desk.policy.passwords, given)
        return AuthResult(success=fits, handled=False)

    return check


def _fits(passwords: Mapping[str, str], given: Login) -> bool:
    """Compare every password, so that no time tells which user there is."""
    found = False
    for user, password in passwords.items():
        same = hmac.compare_digest(user.encode(), given.login)
        found |= hmac.compare_digest(password.encode(), given.password) and same
    return found
