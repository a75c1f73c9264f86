"""The POP3 server of the sandbox: it listens, keeps count, and knows what to announce."""

from __future__ import annotations

import ssl
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from mailbridge.sandbox.exchange import BACKEND_MARK, Exchange, Logged
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.listener import Listener
from mailbridge.sandbox.pop3_session import Session

_GREETING: Final = "The Microsoft Exchange POP3 service is ready."
_NEW_GREETING: Final = "Microsoft Exchange POP3 server ready (tcpproxy/15.20.9137.005)."


@dataclass(slots=True, kw_only=True)
class Limits:
    """What the server puts up with; seconds and bytes. Change it before the client connects."""

    sign_in_seconds: float = 60
    idle_seconds: float = 30 * 60
    #: bytes of a command line with its end; a credential is not one
    line: int = 512
    #: characters of a token that the new front end takes
    token: int = 4096


class Pop3Server:
    """Exchange Online's POP3 front end: one port with implicit TLS, another with STLS.

    ``commands`` logs what was received; ``connections``, ``logins``, ``refusals``, ``deleted``
    and ``pipelined`` count.
    """

    def __init__(self, *, exchange: Exchange, faults: Faults) -> None:
        self.exchange = exchange
        self.faults = faults
        self.limits = Limits()
        self.port = 0
        self.stls_port = 0
        self.context: ssl.SSLContext | None = None
        self.logins = 0
        #: sign-ins answered -ERR
        self.refusals = 0
        #: messages deleted by a QUIT
        self.deleted = 0
        #: commands that came before their predecessor was answered
        self.pipelined = 0
        #: commands of each mailbox once signed in
        self.spent: Counter[str] = Counter()
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
        self, context: ssl.SSLContext, *, host: str, port: int, stls_port: int = 0
    ) -> None:
        """Listen; port 0 takes a free one."""
        self.context = context
        self.port = await self._listener.open(context, host=host, port=port)
        self.stls_port = await self._listener.open(None, host=host, port=stls_port)

    async def stop(self) -> None:
        """Stop listening and cut off every session; none of them deletes anything."""
        await self._listener.stop()

    async def restart(self) -> None:
        """Listen again on the same ports, as after a crash; the mail is still there."""
        await self._listener.restart()

    def record(self, session: int, address: str, name: str, line: str) -> None:
        """Log a command; the caller has blanked its credentials."""
        self.commands.append(Logged(session=session, address=address, name=name, line=line))
        if address:
            self.spent[address.lower()] += 1

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
        """Return the first line, after ``+OK ``."""
        new = self.faults.active("pop3.new_front_end")
        return f"{_NEW_GREETING if new else _GREETING} [{BACKEND_MARK}]"

    def capabilities(self, address: str, *, secure: bool) -> list[str]:
        """Return what CAPA lists. In the clear nobody may sign in, so no way to is listed."""
        listed = ["TOP"]
        if not self.faults.active("pop3.no_uidl", mailbox=address):
            listed.append("UIDL")
        listed += ["SASL PLAIN XOAUTH2", "USER"] if secure else ["STLS"]
        if self.faults.active("pop3.pipelining", mailbox=address):
            listed.append("PIPELINING")
        return listed
