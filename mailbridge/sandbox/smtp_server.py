"""The SMTP server of the sandbox: it listens, keeps count, and hands mail to the mailboxes."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Final

from mailbridge.sandbox.exchange import Exchange, Logged
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.listener import Listener
from mailbridge.sandbox.smtp_session import Session

HOST: Final = "BE1P281CA0440.outlook.office365.com"
_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


@dataclass(slots=True, kw_only=True)
class Limits:
    """What the server puts up with; seconds, bytes, counts. Change it as you like."""

    idle_seconds: float = 600
    #: bytes of a command line with its end; a credential may have more (RFC 4954, 4)
    line: int = 2048
    credential: int = 12_288
    #: what SIZE says, and what a mailbox may really send (MaxSendSize)
    announced: int = 157_286_400
    size: int = 36_700_160
    recipients: int = 500
    #: of a mailbox: sessions, mails in a minute, recipients in 24 hours
    sessions: int = 3
    per_minute: int = 30
    recipients_per_day: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A mail that was taken. ``raw`` is as it was before dots were stuffed, nothing added."""

    session: int
    #: who signed in
    address: str
    sender: str
    recipients: tuple[str, ...]
    at: datetime
    raw: bytes = field(repr=False)


class SmtpServer:
    """Exchange Online's client submission: one port that begins in the clear, with STARTTLS.

    ``mails`` are those taken, ``commands`` logs what was received; ``connections``, ``logins``
    and ``refusals`` count. ``violations`` are lines that did not end in CRLF.
    """

    def __init__(self, *, exchange: Exchange, faults: Faults, now: Callable[[], datetime]) -> None:
        self.exchange = exchange
        self.faults = faults
        self.now = now
        self.limits = Limits()
        self.port = 0
        self.implicit_port = 0
        self.context: ssl.SSLContext | None = None
        self.logins = 0
        #: sign-ins answered 535
        self.refusals = 0
        #: the most sessions that one mailbox had signed in at once
        self.most_sessions = 0
        self.mails: list[Submitted] = []
        self.violations: list[str] = []
        self.commands: deque[Logged] = deque(maxlen=100_000)
        self._listener = Listener(
            lambda wire, number, secure: Session(self, wire, number=number, secure=secure)
        )

    @property
    def connections(self) -> int:
        """Connections taken so far."""
        return self._listener.connections

    @property
    def sessions(self) -> set[Session]:
        """The sessions that live."""
        return self._listener.sessions

    async def start(
        self, context: ssl.SSLContext, *, host: str, port: int, implicit_port: int = 0
    ) -> None:
        """Listen; port 0 takes a free one. Exchange has no port with implicit TLS, others do."""
        self.context = context
        self.port = await self._listener.open(None, host=host, port=port)
        self.implicit_port = await self._listener.open(context, host=host, port=implicit_port)

    async def stop(self) -> None:
        """Stop listening and cut off every session."""
        await self._listener.stop()

    async def restart(self) -> None:
        """Listen again on the same port, as after a crash."""
        await self._listener.restart()

    def record(self, session: int, address: str, name: str, line: str) -> None:
        """Log a command; the caller has blanked its credentials."""
        self.commands.append(Logged(session=session, address=address, name=name, line=line))

    def sessions_of(self, address: str) -> list[Session]:
        """Return the signed-in sessions of a mailbox."""
        return [s for s in self.sessions if s.address.lower() == address.lower()]

    def drop(self, address: str | None = None) -> int:
        """Cut the connections of a mailbox, or all; return how many there were."""
        sessions = list(self.sessions) if address is None else self.sessions_of(address)
        for session in sessions:
            session.wire.abort()
        return len(sessions)

    # --- what it announces ---------------------------------------------------------------------

    def greeting(self) -> str:
        """Return the first line, after ``220 ``."""
        moment = format_datetime(self.now())
        return f"{HOST} Microsoft ESMTP MAIL Service ready at {moment} [08DDD30471EE4ED5]"

    def capabilities(self, *, secure: bool) -> list[str]:
        """Return what EHLO lists. In the clear nobody may sign in."""
        listed = [f"SIZE {self.limits.announced}", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES"]
        listed.append("AUTH LOGIN XOAUTH2" if secure else "STARTTLS")
        listed += ["8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8"]
        hidden = {fault["capability"].upper() for fault in self.faults.active("smtp.no_capability")}
        return [one for one in listed if one.partition(" ")[0] not in hidden]

    # --- what it does with mail ----------------------------------------------------------------

    def used(self, address: str, *, within: timedelta) -> list[Submitted]:
        """Return the mails of an address that were taken within the time before now."""
        since = self.now() - within
        return [m for m in self.mails if m.address.lower() == address.lower() and m.at > since]

    def over_rate(self, address: str) -> bool:
        """Tell whether the mailbox has sent all that it may in a minute."""
        return len(self.used(address, within=_MINUTE)) >= self.limits.per_minute

    def over_day(self, address: str, count: int) -> bool:
        """Tell whether so many more recipients are more than the mailbox may have in a day."""
        used = sum(len(mail.recipients) for mail in self.used(address, within=_DAY))
        return used + count > self.limits.recipients_per_day

    def take(self, mail: Submitted) -> None:
        """Take a mail: into the recipients' inboxes, and a copy into the sender's sent items."""
        self.mails.append(mail)
        trace = (
            f"Received: from {HOST} by {HOST} with Microsoft SMTP Server; "
            f"{format_datetime(mail.at)}\r\n"
        )
        for recipient in mail.recipients:
            if (box := self.exchange.mailboxes.get(recipient.lower())) is not None:
                box.deliver(trace.encode() + mail.raw)
        own = self.exchange.mailboxes.get(mail.address.lower())
        if own is not None:
            sent = next(folder for folder in own.folders.values() if folder.special == "\\Sent")
            own.deliver(mail.raw, folder=sent.name, flags=["\\Seen"])
