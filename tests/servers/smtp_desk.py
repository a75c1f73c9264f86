"""What tests of submission share: an account with tokens, sessions, and a server that lies."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mailbridge.model import AccessToken
from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sinks.smtp_message import Envelope, wire_form
from mailbridge.sinks.smtp_session import Account, SmtpSession, Submission
from mailbridge.sinks.smtp_wire import Patience, SmtpServer

#: for servers that never answer; short, since every test of that kind waits for it
IMPATIENT = Patience(connect=5, tls=5, hello=0.5, command=0.5, block=0.5, dot=0.5, goodbye=0.5)


async def nothing(_: Sequence[str] = ()) -> None:
    """Stand for a hook that has nothing to do."""


def token(value: str) -> AccessToken:
    return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))


@dataclass(slots=True)
class Desk:
    """Submits as one mailbox to one server. ``asked`` and ``refreshed`` count tokens."""

    server: SmtpServer
    address: str
    mint: Callable[[], str]
    user: str = ""
    asked: int = 0
    refreshed: int = 0
    #: handed out before a refresh, where it is set
    first: str = ""
    patience: Patience = field(default_factory=Patience)

    @property
    def account(self) -> Account:
        return Account(
            user=self.user or self.address,
            mailbox=self.address,
            token=self._token,
            refresh=self._refresh,
        )

    async def _token(self) -> AccessToken:
        self.asked += 1
        return token(self.first or self.mint())

    async def _refresh(self, _: AccessToken) -> AccessToken:
        self.refreshed += 1
        return token(self.mint())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[SmtpSession]:
        """Open a session, and close it in the end."""
        session = await SmtpSession.open(self.server, self.account, patience=self.patience)
        try:
            yield session
        finally:
            await session.close()

    async def submit(
        self,
        raw: bytes,
        *recipients: str,
        before_dot: Callable[[Sequence[str]], Awaitable[object]] = nothing,
        **changed: Any,
    ) -> Submission:
        """Submit one mail over a session of its own; ``changed`` is about the envelope."""
        envelope = Envelope(sender=self.address, recipients=recipients)
        async with self.session() as session:
            return await session.submit(
                replace(envelope, **changed), wire_form(raw), before_dot=before_dot
            )


def desk_for(tenant: Tenant, address: str, **changed: Any) -> Desk:
    """Return a desk at the sandbox, for the first app."""
    app = next(iter(tenant.directory.apps.values()))
    desk = Desk(
        server=SmtpServer(host="localhost", port=tenant.smtp.port, ca=tenant.ca_file),
        address=address,
        mint=lambda: tenant.tokens.app_token(app, audience="https://outlook.office365.com"),
    )
    for name, value in changed.items():
        setattr(desk, name, value)
    return desk


@dataclass(slots=True)
class Liar:
    """A server that says what it was told to. ``heard`` is all that came, by TLS or not."""

    port: int
    clear: list[bytes] = field(default_factory=list)
    secret: list[bytes] = field(default_factory=list)


#: what is answered to a line that begins so; ``TLS`` begins the handshake after the answer
Script = Sequence[tuple[bytes, bytes]]


@asynccontextmanager
async def lying_server(
    authority: Authority, script: Script, *, greeting: bytes = b"220 liar\r\n", later: bytes = b""
) -> AsyncIterator[Liar]:
    """Serve a script on loopback. ``later`` is sent in the clear a moment after STARTTLS's 220."""
    context = authority.server_context()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _lie(reader, writer, context, script, liar, greeting, later)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    liar = Liar(port=server.sockets[0].getsockname()[1])
    try:
        yield liar
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _lie(  # noqa: PLR0913, PLR0917 - the script and its surroundings
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    context: ssl.SSLContext,
    script: Script,
    liar: Liar,
    greeting: bytes,
    later: bytes,
) -> None:
    heard = liar.clear
    writer.write(greeting)
    while line := await reader.readline():
        heard.append(line)
        if line.upper().startswith(b"QUIT"):
            return
        # A command that stands twice in the script is answered differently within TLS.
        answers = [said for start, said in script if line.upper().startswith(start)]
        said = answers[-1 if heard is liar.secret else 0] if answers else b"500 5.3.3 no\r\n"
        writer.write(said)
        await writer.drain()
        if line.upper().startswith(b"STARTTLS") and said.startswith(b"220"):
            if later:
                await asyncio.sleep(0.02)
                writer.write(later)
            with contextlib.suppress(ssl.SSLError):
                await writer.start_tls(context)
            heard = liar.secret
