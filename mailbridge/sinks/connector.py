"""Connections to one webhook: a judged address, a deadline for each phase, a bounded answer.

aiohttp's own TCP connector does not fit: it asks no resolver about hosts that are IP addresses,
it has one deadline for TCP and TLS together, and its parser takes any number of interim (1xx)
answers. So this one builds the connection itself, as aiohttp's other connectors do.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import aiohappyeyeballs
import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from yarl import URL

from mailbridge.errors import Unavailable
from mailbridge.proxy.dial import dial_async
from mailbridge.proxy.place import Proxy
from mailbridge.sinks.address import Guard, Resolve
from mailbridge.sinks.passage import Passage, Passages

if TYPE_CHECKING:
    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

#: bytes that a receiver may send before its final header section is complete: all interim
#: answers and all headers together. Stops floods of ``100 Continue`` and endless headers.
HEAD_BYTES: Final = 65_536
#: seconds an idle connection is kept. Most servers close theirs after 5 or more; being first
#: avoids the race in which a request meets a connection that is just being closed.
KEEPALIVE_SECONDS: Final = 4.0
#: seconds before the next address is tried beside the first (RFC 8305 section 5)
NEXT_ADDRESS_SECONDS: Final = 0.25
#: seconds that a receiver has to answer our goodbye of TLS, after the outcome is known
TLS_SHUTDOWN_SECONDS: Final = 1.0

_SECTION_END: Final = re.compile(rb"\r?\n\r?\n")
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each phase of an attempt may take, in seconds."""

    dns: float = 5.0
    connect: float = 5.0
    tls: float = 5.0
    #: from the last byte of the request to the first of the answer, and between any two
    first_byte: float = 15.0
    #: everything, with the body of the answer
    total: float = 30.0


class BrokenAnswer(aiohttp.ClientError):
    """A whole header section came, with a status, but aiohttp could not make sense of it.

    The status counts nevertheless: the receiver has said what became of the message.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status} with unreadable headers")
        self.status = status


class HeadTooLong(aiohttp.ClientError):
    """The receiver sent 64 KiB and its final header section was not complete."""


class StaleConnection(aiohttp.ClientError):
    """A connection that was used before was closed on us, and no byte of an answer had come.

    Nearly always the receiver had closed it, idle, while the request was on its way.
    """


class BoundedHandler(ResponseHandler):
    """aiohttp's reader of answers, with an end to its patience and a memory for the status.

    What came before the final header section was complete is remembered, so that nonsense behind
    it (a broken chunk, more bytes than announced, a header that the parser refuses) cannot take
    back a status that was already told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: what came so far, while the final header section is awaited; ``None`` afterwards
        self._early: bytearray | None = None
        self._requests = 0

    def set_response_params(self, **params: Any) -> None:
        """Begin to wait for an answer."""
        self._early = bytearray()
        self._requests += 1
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Note a final header section on its way to the reader."""
        if data[0].code >= 200 or data[0].code == 101:  # noqa: PLR2004 - RFC 9110 section 15.2
            self._early = None
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Let a status survive what the parser refuses, once its header section is whole.

        And tell a connection that was closed while idle from one that failed in its work.
        """
        if self._early is not None:
            if isinstance(exc, HttpProcessingError):
                status = final_status(self._early)
                exc = exc if status is None else BrokenAnswer(status)
            lost = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
            if lost and self._requests > 1 and not self._early:
                exc = StaleConnection()
        super().set_exception(exc, *cause)

    def data_received(self, data: bytes) -> None:
        """Pass on what comes; before the final header section is complete, at most 64 KiB."""
        if self._early is None:
            super().data_received(data)
            return
        room = HEAD_BYTES - len(self._early)
        self._early += data[:room]
        # Cut before it is parsed: a flood of tiny interim answers costs most in the parser.
        super().data_received(data[:room])
        if self.exception() is not None:
            return
        if self._early is None:
            if len(data) > room:
                super().data_received(data[room:])
        elif len(self._early) >= HEAD_BYTES:
            self.set_exception(HeadTooLong())
            if self.transport is not None:
                self.transport.abort()


def final_status(early: bytes | bytearray) -> int | None:
    """Return the status of the first complete, final header section in the raw bytes."""
    start = 0
    while (end := _SECTION_END.search(early, start)) is not None:
        line = _STATUS_LINE.match(early, start)
        if line is None:
            return None
        if line[1][0:1] != b"1":
            return int(line[1])
        start = end.end()
    return None


class PinningConnector(aiohttp.BaseConnector):
    """Opens connections to judged addresses only, and reuses them for four idle seconds."""

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        *,
        guard: Guard,
        resolve: Resolve,
        deadlines: Deadlines,
        context: ssl.SSLContext | None,
        limit: int,
        proxy: Proxy | None = None,
    ) -> None:
        super().__init__(limit=limit, keepalive_timeout=KEEPALIVE_SECONDS)
        self._passages = Passages(guard=guard, resolve=resolve, proxy=proxy)
        self._resolve = resolve
        self._deadlines = deadlines
        self._context = context
        handler = partial(BoundedHandler, loop=self._loop)
        self._factory = cast("partial[ResponseHandler]", handler)

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002, ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        return await self.dial(req.url)

    async def dial(self, url: URL) -> ResponseHandler:
        """Open a connection for requests to ``url``; raises ``Unavailable``. Nothing is sent."""
        host, port = url.raw_host or "", url.port or 0
        async with _phase("DNS", host, self._deadlines.dns):
            passage = await self._passages.find(host, port)
        sock = await self._socket(passage, host, port)
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {
                "ssl": self._context,
                # A certificate names the host without the dot of a fully qualified name.
                "server_hostname": host.rstrip("."),
                "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
            }
        async with _phase("TLS", host, self._deadlines.tls):
            _, protocol = await self._loop.create_connection(self._factory, sock=sock, **tls)
        return protocol

    async def _socket(self, passage: Passage, host: str, port: int) -> socket.socket:
        seconds, proxy = self._deadlines.connect, passage.proxy
        if proxy is None:
            async with _phase("connect", host, seconds):
                return await aiohappyeyeballs.start_connection(
                    [_addr_info(address, port) for address in passage.addresses],
                    happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
                )
        try:
            return await dial_async(
                proxy, passage.target, port, seconds=seconds, resolve=self._resolve
            )
        except Unavailable as exc:
            raise Unavailable(f"{host}: {exc}. {exc.fix}", code=exc.code, fix=exc.fix) from exc


def _addr_info(address: str, port: int) -> Any:
    """Return what ``getaddrinfo`` would, for an address that needs no look-up any more."""
    if ":" in address:
        where: tuple[Any, ...] = (address, port, 0, 0)
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


@asynccontextmanager
async def _phase(
    phase: Literal["DNS", "connect", "TLS"], host: str, seconds: float
) -> AsyncIterator[None]:
    """Bound a phase, and translate every way it can fail into ``Unavailable``."""
    code = f"webhook.{phase.lower()}"
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise Unavailable(f"{host}: {phase} took longer than {seconds:g} s", code=code) from exc
    except ssl.SSLError as exc:
        raise Unavailable(f"{host}: TLS: {tls_words(exc)}", code=code) from exc
    except OSError as exc:
        raise Unavailable(f"{host}: {phase}: {os_words(exc)}", code=code) from exc


def tls_words(exc: ssl.SSLError) -> str:
    """Say what went wrong in TLS, in OpenSSL's words, which hold names but no content."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate refused: {exc.verify_message}"
    return (exc.reason or "not understood").replace("_", " ").lower()


def os_words(exc: OSError) -> str:
    """Say what the system says, and never the exception's own text, which may hold a URL."""
    if isinstance(exc, socket.gaierror):
        return exc.strerror or "no answer"
    if exc.errno and exc.errno > 0:
        return os.strerror(exc.errno)
    # asyncio raises some without a number: ConnectionResetError becomes "Connection reset".
    return _CAPITAL.sub(" ", type(exc).__name__).removesuffix(" Error").capitalize()
