"""One client's SMTP session: aiosmtpd's, with the bounds that a listener needs.

aiosmtpd has the commands and their order. What is here instead of its own way:

* addresses are read by the strict grammar of what we send, and not by that of header fields,
  which decodes encoded words and drops comments;
* a mail ends at CRLF . CRLF and nowhere else (bare CR and LF are its content), comes in pieces
  that are counted as they come, and may have lines of any length;
* STARTTLS with anything behind it ends the session, and starts by asyncio's own means;
* who signs in waits longer after each failure, and the session ends after a few.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import Any, Final, cast

import structlog
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailbridge.relay.bounds import Holding
from mailbridge.relay.hooks import Brought, Desk, Hooks, MailEnvelope, aside, authenticator
from mailbridge.relay.policy import NOBODY, Refusal, is_local, stranger
from mailbridge.sinks.smtp_message import BadAddress, on_the_wire

log = structlog.get_logger()

_END: Final = b"\r\n.\r\n"
#: a path in its brackets, or bare as old programs write it, and the parameters after it
_PATH: Final = re.compile(
    r'<((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>(?:\s+(.*))?|([^<>"\s]+)(?:\s+(.*))?'
)
#: so often may a command come in one session
_CALLS: Final = {"*": 100, "NOOP": 1000, "AUTH": 10} | dict.fromkeys(
    ("MAIL", "RCPT", "DATA", "RSET"), 1_000_000
)
#: bytes of a line with a command, its parameters included
_COMMAND_BYTES: Final = 1000


def _without_dots(came: bytearray) -> bytes:
    """Return a mail as its sender wrote it: no dot that SMTP put before another, and no end."""
    del came[-3:]
    plain = came.replace(b"\r\n.", b"\r\n")
    del plain[:2]
    return bytes(plain)


class Gone(ConnectionResetError):  # noqa: N818 - nothing has gone wrong
    """We end the session. aiosmtpd takes every other error for a reason to go on."""


class Conversation(SMTP):
    """The session of one client; made when it connects."""

    def __init__(self, desk: Desk, *, max_size: int, **others: Any) -> None:
        # One table for all sessions, which grows with every EHLO, is what it would have else.
        self.command_size_limits = defaultdict(lambda: _COMMAND_BYTES)
        super().__init__(
            Hooks(desk),
            data_size_limit=max_size,
            enable_SMTPUTF8=True,
            ident="mailbridge",
            timeout=desk.bounds.limits.command,
            command_call_limit=_CALLS,
            authenticator=authenticator(desk),
            loop=asyncio.get_running_loop(),
            **others,
        )
        self.command_size_limit = _COMMAND_BYTES
        self._desk = desk
        self._max_size = max_size
        self._attempts = 0
        self._busy = False
        self._leaving = False
        self.client = ""
        self.task: asyncio.Task[None] | None = None

    # --- from the first byte to the last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Who may not connect is told so by ``_handle_client``."""
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if peer else ""
        super().connection_made(transport)
        self._auth_require_tls = not is_local(self.client)
        self.task = self._handler_coroutine

    async def _handle_client(self) -> None:
        bounds = self._desk.bounds
        entered = False
        try:
            if not self._desk.policy.admits(self.client):
                await self._refuse(stranger(self.client))
                return
            entered = bounds.enter(self.client)
            if not entered:
                reply = "421 4.7.0 Too many connections; try again later"
                await self._refuse(Refusal(reply, "too_many_connections"))
                return
            await super()._handle_client()
        except ConnectionError:
            pass  # the client's or our own end of it; what was taken has been said
        finally:
            if entered:
                bounds.leave(self.client)
            self._end()

    async def _refuse(self, refusal: Refusal) -> None:
        self._desk.figures.refused[refusal.reason] += 1
        if self._desk.bounds.worth_saying(self.client, refusal.reason):
            log.warning("relay.refused", client=self.client, reason=refusal.reason)
        await self.push(refusal.reply)

    def _end(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        transport = self._writer.transport
        transport.close()
        # Who does not read what we still have for him keeps no socket.
        self.loop.call_later(self._desk.bounds.limits.stop, transport.abort)

    def _timeout_cb(self) -> None:
        self._say_goodbye("421 4.4.2 Nothing came for too long")

    def leave(self) -> None:
        """End the session; a mail that is coming in, or being stored, is answered first."""
        self._leaving = True
        if not self._busy:
            self._say_goodbye("421 4.3.2 The service is ending; try again later")

    def _say_goodbye(self, reply: str) -> None:
        if not self._writer.is_closing():
            self._writer.write(reply.encode() + b"\r\n")
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    async def _part(self, reply: str) -> None:
        await self.push(reply)
        raise Gone

    # --- commands

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return address and parameters; ``None`` for what cannot be an address."""
        match = _PATH.fullmatch(arg)
        if match is None:
            return None, None
        path = match[1] if match[1] is not None else match[3]
        rest = match[2] or match[4] or ""
        if path == "":
            return NOBODY, rest
        try:
            path.encode()
            return on_the_wire(path), rest
        except (BadAddress, UnicodeError):
            return None, None

    async def smtp_VRFY(self, arg: str) -> None:  # noqa: N802 - aiosmtpd finds commands by name
        """Tell nobody which addresses there are."""
        del arg
        await self.push("502 5.5.1 VRFY is off")

    async def _web(self, arg: str) -> None:
        """End the session of a browser: a page can make one send what it likes to this port."""
        del arg
        await self._part("421 4.7.0 This is not a web server")

    smtp_GET = smtp_POST = smtp_PUT = smtp_HEAD = smtp_OPTIONS = smtp_CONNECT = _web  # noqa: N815 - the same

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802 - the same
        """Begin TLS; RFC 3207, section 4.2: nothing that was said before counts any more."""
        if arg or self.tls_context is None or self._tls_protocol is not None:
            await self.push("501 5.5.4 STARTTLS: not so, not here, or not again")
            return
        if self._pending():
            await self._inject()
        await self.push("220 2.0.0 Begin TLS")
        if self._pending():
            await self._inject()
        try:
            await self._writer.start_tls(
                self.tls_context, ssl_handshake_timeout=self._desk.bounds.limits.handshake
            )
        except OSError as error:
            log.info("relay.tls_failed", client=self.client, error=str(error))
            self._writer.transport.abort()
            raise Gone from error
        self.transport = self._writer.transport
        self._tls_protocol = cast("Any", self.transport)
        peer = self.session.peer if self.session is not None else None
        self.session = self._create_session()
        self.session.peer = peer
        self.session.ssl = {"cipher": self.transport.get_extra_info("cipher")}
        self.envelope = self._create_envelope()
        self._reset_timeout()

    async def _inject(self) -> None:
        """End a session in which somebody put something in front of the handshake."""
        log.warning("relay.injection", client=self.client)
        await self._part("554 5.5.1 Something came after STARTTLS, and before TLS")

    def _pending(self) -> bool:
        # There is no public way to see whether something waits, nor to put something back.
        return bool(self._buffer())

    def _buffer(self) -> bytearray:
        return cast("bytearray", self._reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001 - see above

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802 - aiosmtpd finds commands by name
        """Let somebody sign in, the later the more often he failed."""
        if not self._desk.policy.passwords:
            await self.push("502 5.5.1 Nobody signs in here")
            return
        bounds = self._desk.bounds
        await self._desk.wait(bounds.delay(self.client))
        mechanism, _, rest = (arg or "").partition(" ")
        await super().smtp_AUTH(f"{mechanism.upper()} {rest}".strip())
        if self.session is not None and self.session.authenticated:
            return
        bounds.failed(self.client)
        self._attempts += 1
        log.warning("relay.sign_in_failed", client=self.client, attempt=self._attempts)
        if self._attempts >= bounds.limits.attempts:
            await self._part("421 4.7.0 Too many failures to sign in")

    # --- the mail

    def _create_envelope(self) -> Envelope:
        return MailEnvelope()

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd finds commands by name
        """Take a mail in; the reply to its final dot comes when it is durable."""
        if reply := self._not_now(arg):
            # What follows a DATA that is refused is a mail, and would be read as commands.
            await (self._part(reply) if self._pending() else self.push(reply))
            return
        self._busy = True
        self._reset_timeout(self._desk.bounds.limits.mail)
        try:
            await self.push("354 End with <CR><LF>.<CR><LF>")
            with self._desk.bounds.holding() as memory:
                content = await self._content(memory)
                if isinstance(content, bytes):
                    reply = await self._desk.take(self._brought(content))
                else:
                    reply = content
                    self._desk.figures.refused[content[:9]] += 1
                    log.warning("relay.refused", client=self.client, reason=content[:9])
            await self.push(reply)
        finally:
            self._busy = False
        self.envelope = self._create_envelope()
        self._reset_timeout()
        if self._leaving:
            await self._part("421 4.3.2 The service is ending")

    def _not_now(self, arg: str | None) -> str:
        if self.session is None or not self.session.host_name:
            return "503 5.5.1 Say EHLO first"
        if arg:
            return "501 5.5.4 DATA stands alone"
        envelope = cast("MailEnvelope", self.envelope)
        return "" if envelope.words else "503 5.5.1 No recipient was taken"

    async def _content(self, memory: Holding) -> bytes | str:
        """Return the mail without what SMTP has put into it, or why it is not taken."""
        # The line end of DATA is the one before the first line: an empty mail is a dot alone.
        self._buffer()[:0] = b"\r\n"
        size, refusal = 0, ""
        most = self._max_size * 3 // 2 + len(_END)  # a mail of nothing but dots grows by a third
        last = False
        while not last:
            piece, last = await self._piece()
            size += len(piece)
            if not refusal and size > most:
                refusal = self._too_large()
            elif not refusal and not memory.grow(piece):
                refusal = "452 4.3.1 Too many mails at once; try again later"
            if refusal:
                memory.release()
            if size > 2 * most:
                await self._part(refusal)
        if refusal:
            return refusal
        content = await aside(_without_dots, memory.content)
        return content if len(content) <= self._max_size else self._too_large()

    def _too_large(self) -> str:
        return f"552 5.3.4 Larger than relay.max_size, {self._max_size} bytes"

    async def _piece(self) -> tuple[bytes, bool]:
        """Return the next piece of a mail, and whether it is the last; no piece cuts an end."""
        try:
            async with asyncio.timeout(self._desk.bounds.limits.block):
                try:
                    return await self._reader.readuntil(_END), True
                except asyncio.LimitOverrunError as more:
                    return await self._reader.readexactly(more.consumed), False
        except TimeoutError:
            await self._part("421 4.4.2 Nothing came for too long")
            raise

    def _brought(self, content: bytes) -> Brought:
        envelope = cast("MailEnvelope", self.envelope)
        session = cast("Session", self.session)
        kind = "ESMTP" if session.extended_smtp else "SMTP"
        marks = ("S" if session.ssl else "") + ("A" if session.authenticated else "")
        return Brought(
            client=self.client,
            helo=session.host_name or "",
            protocol=kind + (marks if session.extended_smtp else ""),
            sender=envelope.mail_from or NOBODY,
            words=tuple(envelope.words),
            content=content,
        )
