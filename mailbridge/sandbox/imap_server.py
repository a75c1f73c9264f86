"""The IMAP server of the sandbox: it listens, keeps count, and knows what to announce."""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mailbridge.sandbox.exchange import BACKEND_MARK, Exchange, Logged
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.imap_session import Session
from mailbridge.sandbox.imap_strikes import EXPIRED
from mailbridge.sandbox.listener import Listener
from mailbridge.sandbox.wire import Disconnected

_BEFORE: Final = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE NAMESPACE "
    "LITERAL+"
)
_AFTER: Final = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CLIENTACCESSRULES "
    "CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE CHILDREN IDLE NAMESPACE LITERAL+"
)
_NEW_BEFORE: Final = (
    "IMAP4 IMAP4rev1 AUTH=XOAUTH2 LOGINDISABLED SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE "
    "NAMESPACE LITERAL+"
)
_NEW_AFTER: Final = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT ENABLE IMAP4rev2 "
    "CLIENTACCESSRULES CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE BACKENDAUTHENTICATE-IR "
    "CHILDREN IDLE NAMESPACE LITERAL+"
)


@dataclass(slots=True, kw_only=True)
class Limits:
    """What the server puts up with; seconds and counts. Change it before the client connects."""

    sign_in_seconds: float = 60
    idle_seconds: float = 30 * 60
    #: answers of BAD before it hangs up
    bad_before_sign_in: int = 3
    bad_after_sign_in: int = 10


class ImapServer:
    """Exchange Online's IMAP front end on implicit TLS.

    ``commands`` logs what was received; ``connections``, ``logins`` and ``refusals`` count.
    """

    def __init__(self, *, exchange: Exchange, faults: Faults, now: Callable[[], datetime]) -> None:
        self.exchange = exchange
        self.faults = faults
        self.now = now
        self.limits = Limits()
        self.port = 0
        #: sign-ins whose token was taken, "not connected" ones included
        self.logins = 0
        #: sign-ins answered NO
        self.refusals = 0
        self.commands: deque[Logged] = deque(maxlen=100_000)
        self._logins_of: dict[str, deque[datetime]] = {}
        self._listener = Listener(lambda wire, number, _secure: Session(self, wire, number=number))

    @property
    def connections(self) -> int:
        """Connections taken so far."""
        return self._listener.connections

    @property
    def sessions(self) -> set[Session]:
        """The sessions that live."""
        return self._listener.sessions

    async def start(self, context: ssl.SSLContext, *, host: str, port: int) -> None:
        """Listen; port 0 takes a free one."""
        self.port = await self._listener.open(context, host=host, port=port)

    async def stop(self) -> None:
        """Stop listening and cut off every session."""
        await self._listener.stop()

    async def restart(self) -> None:
        """Listen again on the same port, as after a crash; the mail is still there."""
        await self._listener.restart()

    def record(self, session: int, address: str, name: str, line: str) -> None:
        """Log a command; the caller has blanked its credentials."""
        self.commands.append(Logged(session=session, address=address, name=name, line=line))

    def note_login(self, address: str) -> None:
        """Count a sign-in whose token was taken."""
        self.logins += 1
        times = self._logins_of.setdefault(address.lower(), deque(maxlen=1000))
        times.append(self.now())

    def logins_within(self, address: str, seconds: float) -> int:
        """Return how often the mailbox was signed in to in the last ``seconds``."""
        since = self.now() - timedelta(seconds=seconds)
        return sum(moment > since for moment in self._logins_of.get(address.lower(), ()))

    def sessions_of(self, address: str) -> list[Session]:
        """Return the signed-in sessions of a mailbox."""
        return [s for s in self.sessions if s.address.lower() == address.lower()]

    def drop(self, address: str | None = None) -> int:
        """Cut the connections of a mailbox, or all, without BYE; return how many there were."""
        sessions = list(self.sessions) if address is None else self.sessions_of(address)
        for session in sessions:
            session.wire.abort()
        return len(sessions)

    async def say_bye(self, text: str = EXPIRED, *, address: str | None = None) -> int:
        """Tell the sessions of a mailbox, or all, that they are over; return how many there were.

        It comes by itself, amid whatever they do, as when a token expires.
        """
        sessions = list(self.sessions) if address is None else self.sessions_of(address)
        for session in sessions:
            with contextlib.suppress(Disconnected):
                await session.bye(text)
        return len(sessions)

    # --- what it announces ---------------------------------------------------------------------

    def greeting(self) -> str:
        """Return the first line, after ``* ``."""
        if self.faults.active("imap.new_front_end"):
            return (
                "OK Microsoft Exchange IMAP4 service ready. 7d5f1c5e-2c4a-4d0e-9a53-4c1f3a1b6f20 "
                f"(tcpproxy/15.21.0406.000 BACKENDAUTHENTICATE) [{BACKEND_MARK}]"
            )
        return f"OK The Microsoft Exchange IMAP4 service is ready. [{BACKEND_MARK}]"

    def capabilities(self, address: str, *, signed_in: bool) -> list[str]:
        """Return what CAPABILITY lists, without what a fault hides."""
        if self.faults.active("imap.new_front_end", mailbox=address):
            listed = _NEW_AFTER if signed_in else _NEW_BEFORE
        else:
            listed = _AFTER if signed_in else _BEFORE
        hidden = self.hidden(address)
        return [name for name in listed.split() if name.upper() not in hidden]

    def hidden(self, address: str) -> set[str]:
        """Return the capabilities that a fault takes away."""
        faults = self.faults.active("imap.no_capability", mailbox=address)
        return {str(fault["capability"]).upper() for fault in faults}
