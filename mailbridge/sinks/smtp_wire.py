"""One SMTP connection: commands out, replies in, under TLS in any case.

aiosmtplib's protocol does the work. Its client is not used: it writes the body and the final
dot in one go, and what must be durable between the two has no place there; it sends a token on
the AUTH line, where servers cut it; and what a stranger puts between STARTTLS and the handshake
it drops in silence, where it should be told.

Commands are never sent ahead of their replies (PIPELINING is not made use of): a mailbox may
send thirty mails a minute, so that nothing would be gained, and a reply that nobody asked for
can be told from one that is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from aiosmtplib.esmtp import parse_esmtp_extensions
from aiosmtplib.protocol import SMTPProtocol

from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.network_faults import NoGreeting
from mailbridge.proxy.dial import dial_async
from mailbridge.proxy.environment import goes_around
from mailbridge.proxy.place import Proxy, is_ip
from mailbridge.sinks.smtp_errors import Undecided, refusal, translated
from mailbridge.sinks.smtp_reach import look_up, reach
from mailbridge.sinks.smtp_replies import Phase, Reply
from mailbridge.sinks.smtp_rules import judge
from mailbridge.tls import tls_context

Tls = Literal["starttls", "implicit"]

#: bytes written before the network is waited for
_CHUNK: Final = 256 * 1024
_READY: Final = 220
_GO_ON: Final = 354


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """Where mail is submitted. ``ca`` is a PEM file that replaces the system's authorities.

    ``proxy`` is the only way there when it is set.
    """

    host: str = "smtp.office365.com"
    port: int = 587
    tls: Tls = "starttls"
    ca: Path | None = None
    proxy: Proxy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds that each step may take. RFC 5321, 4.5.3.2 says what servers may need."""

    connect: float = 10.0
    tls: float = 10.0
    #: greeting, EHLO, STARTTLS, AUTH
    hello: float = 60.0
    #: MAIL, RCPT and DATA
    command: float = 120.0
    #: for each piece of the body to leave this machine
    block: float = 180.0
    #: for the word on the whole mail: long, for giving up here is what leaves a mail in doubt
    dot: float = 600.0
    goodbye: float = 5.0


class _Protocol(SMTPProtocol):
    """aiosmtplib's protocol; it remembers bytes that it drops because nobody asked for them."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.unasked = False
        self.gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the network."""
        waiter = self._response_waiter
        if waiter is None or waiter.done() or not self._response_pending:
            self.unasked = True
        super().data_received(data)
        if waiter is not None and waiter.done() and self._buffer:
            self.unasked = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is no more."""
        super().connection_lost(exc)
        self.gone.set()

    @property
    def full(self) -> bool:
        """Whether more is waiting to be sent than should."""
        return self._paused

    async def drained(self) -> None:
        """Wait until the network has taken most of what was written."""
        await self._drain_helper()


class Wire:
    """One connection; ``open`` makes it. Its verbs raise the errors of ``mailbridge.errors``."""

    def __init__(self, server: SmtpServer, patience: Patience) -> None:
        self._server = server
        self._patience = patience
        self._protocol = _Protocol()
        self._clean = False
        self.encrypted = False
        #: what the last EHLO said, by small letters
        self.capabilities: Mapping[str, str] = {}
        self.mechanisms: frozenset[str] = frozenset()
        self.greeting = ""

    @classmethod
    async def open(cls, server: SmtpServer, patience: Patience) -> Self:
        """Connect, change to TLS, and ask what the server can do, all over again within TLS."""
        wire = cls(server, patience)
        try:
            await wire._connect()
            await wire._hello()
            if server.tls == "starttls":
                await wire._start_tls()
                # What was said in the clear may have been anybody's.
                await wire._hello()
        except BaseException:
            await wire.close(politely=False)
            raise
        return wire

    @property
    def usable(self) -> bool:
        """Whether another command can be sent."""
        return self._clean and self._protocol.is_connected and not self._protocol.unasked

    # -- opening ------------------------------------------------------------------------------

    async def _connect(self) -> None:
        server, patience = self._server, self._patience
        with translated(f"connect to {server.host}", port=server.port):
            context = await asyncio.to_thread(tls_context, server.ca)
            options = await self._way()
            if server.tls == "implicit":
                options |= {
                    "ssl": context,
                    "server_hostname": server.host.rstrip("."),
                    "ssl_handshake_timeout": patience.tls,
                }
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(patience.connect + patience.tls):
                await loop.create_connection(lambda: self._protocol, **options)
            self.encrypted = server.tls == "implicit"
            try:
                async with asyncio.timeout(patience.hello):
                    reply = _reply(await self._protocol.read_response())
            except TimeoutError:
                raise NoGreeting from None
        self._clean = True
        self.greeting = reply.text
        if reply.code != _READY:
            raise refusal(judge(reply, "connect"), "connect")

    async def _way(self) -> dict[str, Any]:
        """Return what leads to the server: a name to look up, or a socket through the proxy."""
        server, seconds = self._server, self._patience.connect
        proxy = server.proxy
        if proxy is None or await asyncio.to_thread(goes_around, proxy, server.host, server.port):
            return {"sock": await reach(server.host, server.port, seconds)}
        host = server.host
        if not proxy.resolves and not is_ip(host.rstrip(".")):
            host = (await look_up(host, server.port))[0]
        sock = await dial_async(
            proxy, host, server.port, seconds=seconds, resolve=look_up, greets=True
        )
        return {"sock": sock}

    async def _hello(self) -> None:
        reply = await self.ask(b"EHLO", self._own_name(), phase="connect")
        if not reply.ok:
            raise refusal(judge(reply, "connect"), "EHLO")
        # Its first line is a greeting.
        capabilities, mechanisms = parse_esmtp_extensions(reply.text)
        self.capabilities = {name.lower(): value for name, value in capabilities.items()}
        self.mechanisms = frozenset(mechanism.lower() for mechanism in mechanisms)

    def _own_name(self) -> bytes:
        """Return our end of the connection; few machines have a name that others know."""
        transport = self._protocol.transport
        address = (transport.get_extra_info("sockname") or ("127.0.0.1",))[0] if transport else ""
        host = str(address).partition("%")[0]
        return f"[IPv6:{host}]".encode() if ":" in host else f"[{host}]".encode()

    async def _start_tls(self) -> None:
        if "starttls" not in self.capabilities:
            raise Unavailable(
                f"{self._server.host} offers no STARTTLS; somebody on the way may have removed it",
                code="smtp.no_starttls",
                fix="No credential is sent without TLS. Ask who runs the network between; with "
                "another server use `tls: implicit` and port 465.",
            )
        self._trusted()
        protocol, seconds = self._protocol, self._patience.tls
        with translated("STARTTLS"):
            context = tls_context(self._server.ca)
            async with asyncio.timeout(self._patience.hello + seconds):
                await protocol.start_tls(context, self._server.host.rstrip("."), seconds)
        self._trusted()
        self.encrypted = True

    def _trusted(self) -> None:
        """Refuse to go on when bytes came in the clear that nobody had asked for (RFC 3207, 6)."""
        if self._protocol.unasked:
            self._clean = False
            raise Unavailable(
                "STARTTLS: bytes came before TLS that nobody had asked for; somebody on the way "
                "may have put them there",
                code="smtp.injected",
                fix="Ask who runs the network between this machine and the server.",
            )

    # -- talking ------------------------------------------------------------------------------

    async def ask(
        self, *words: bytes, phase: Phase = "mail", seconds: float | None = None
    ) -> Reply:
        """Send a command and return the reply; whatever fails here ends the connection."""
        usual = self._patience.command if phase in {"mail", "recipient"} else self._patience.hello
        name = words[0][:8].decode("ascii", "replace") if phase != "sign_in" else "sign in"
        if not self.encrypted:
            self._trusted()
        if not self.usable:
            raise Unavailable(f"{name}: the connection is closed", code="smtp.eof")
        self._clean = False
        with translated(name):
            async with asyncio.timeout(seconds or usual):
                reply = _reply(await self._protocol.execute_command(*words))
        # 421 announces the end of the connection (RFC 5321, 3.8).
        self._clean = reply.code != 421  # noqa: PLR2004 - as the line above says
        return reply

    async def hand_over(
        self, data: bytes, before_dot: Callable[[], Awaitable[object]]
    ) -> tuple[Phase, Reply]:
        """Send DATA and a body; ``before_dot`` is awaited when only the final dot is missing.

        Returns the reply and whether it came to DATA (``mail``) or to the mail (``data``).
        Raises ``Undecided`` when the dot was written and its reply is lost; after any other
        error the server has taken nothing.
        """
        reply = await self.ask(b"DATA")
        if reply.code != _GO_ON:
            if reply.ok:
                self._clean = False
                raise Unavailable("DATA: the server says yes too early", code="smtp.protocol")
            return "mail", reply
        self._clean = False
        # It listens while we write: a server may refuse in the middle, and hang up.
        answer = asyncio.ensure_future(self._protocol.read_response())
        try:
            with translated("send the mail"):
                await self._write_body(data, answer)
            if not answer.done():
                await before_dot()
            if answer.done():
                return "data", self._early(answer)
            return "data", await self._dot(answer)
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    async def _write_body(self, data: bytes, answer: asyncio.Future[Any]) -> None:
        """Write the body, or as much of it as the server wants to hear."""
        protocol, view = self._protocol, memoryview(data)
        for start in range(0, len(view), _CHUNK):
            # Lets the reader begin, and hears of an end.
            await asyncio.sleep(0)
            if answer.done():
                return
            protocol.write(cast("bytes", view[start : start + _CHUNK]))
            if protocol.full:
                await self._drain(answer)

    async def _drain(self, answer: asyncio.Future[Any]) -> None:
        """Wait until the network has taken what was written, or the server has answered."""
        taken = asyncio.ensure_future(self._protocol.drained())
        try:
            async with asyncio.timeout(self._patience.block):
                await asyncio.wait({taken, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                taken.result()
        finally:
            taken.cancel()
            await asyncio.gather(taken, return_exceptions=True)

    @staticmethod
    def _early(answer: asyncio.Future[Any]) -> Reply:
        """Return what the server said before the mail was complete."""
        with translated("send the mail"):
            reply = _reply(answer.result())
        if reply.ok:
            raise Unavailable("the server took a mail that had no end yet", code="smtp.protocol")
        return reply

    async def _dot(self, answer: asyncio.Future[Any]) -> Reply:
        lost: MailbridgeError | None = None
        try:
            with translated("hear what became of the mail"):
                self._protocol.write(b".\r\n")
                async with asyncio.timeout(self._patience.dot):
                    reply = _reply(await answer)
        except MailbridgeError as error:
            lost = error
        if lost is not None:
            raise Undecided(f"the mail was handed over, and the answer is lost ({lost})")
        self._clean = reply.code != 421  # noqa: PLR2004 - RFC 5321, 3.8
        return reply

    # -- closing ------------------------------------------------------------------------------

    async def close(self, *, politely: bool = True) -> None:
        """Close; with a QUIT if ``politely`` and the connection is in a state to hear it."""
        protocol, patience = self._protocol, self._patience
        if politely and self.usable:
            # The work is done: whether the server hears the farewell changes nothing.
            with contextlib.suppress(MailbridgeError):
                await self.ask(b"QUIT", phase="connect", seconds=patience.goodbye)
        self._clean = False
        transport = cast("asyncio.Transport | None", protocol.transport)
        if transport is None:
            return
        if politely:
            transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await protocol.gone.wait()
        if not protocol.gone.is_set():
            transport.abort()
            await protocol.gone.wait()


def _reply(response: Any) -> Reply:
    return Reply(code=response.code, text=response.message)
