"""The way to a mail server, phase by phase: DNS, TCP, TLS; by the proxy that the daemon takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mailbridge.diagnose.finding import Fault, Told
from mailbridge.diagnose.words import told
from mailbridge.network_faults import connection_code, tls_code
from mailbridge.proxy.environment import goes_around
from mailbridge.proxy.errand import Errand
from mailbridge.proxy.place import Proxy
from mailbridge.sources.transport import Line, MailServer, connect, secure
from mailbridge.tls import tls_context

#: seconds for each of DNS, TCP and TLS
PHASE: Final = 10.0


class Way:
    """The steps ``dns, tcp, tls`` towards one server; ``run`` runs what blocks in a thread."""

    def __init__(
        self,
        server: MailServer,
        *,
        starttls: Callable[[], Awaitable[Told]],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        self._server = server
        self._starttls = starttls
        self._run = run

    async def dns(self) -> Told:
        """Look up the server, and its proxy if there is one."""
        server = self._server
        proxy = server.proxy
        if proxy is not None and await self._run(goes_around, proxy, server.host, server.port):
            return told("dns.inside", known=await _looked_up(server.host, server.port))
        if proxy is None:
            return await _looked_up(server.host, server.port)
        try:
            known = await _looked_up(proxy.host, proxy.port)
        except Fault as fault:
            # What the daemon would say of it: the errand's own error has code and fix.
            unknown = Errand(proxy=proxy, host=server.host, port=server.port).unknown()
            fix = told("as_said", said=unknown.fix)
            raise Fault(fault.said, code=unknown.code, fix=fix) from fault
        if proxy.resolves:
            return told("dns.by_proxy", host=server.host, known=known)
        return told("dns.both", known=await _looked_up(server.host, server.port), proxy=known)

    async def tcp(self) -> Told:
        """Connect."""
        return await self._run(_reach, self._server)  # type: ignore[no-any-return]

    async def tls(self) -> Told:
        """Begin TLS and check the certificate."""
        if self._server.tls == "starttls":
            return await self._starttls()
        return await self._run(_handshake, self._server)  # type: ignore[no-any-return]


def through(proxy: Proxy) -> Told:
    """Return the words for a proxy, without its password."""
    if proxy.variable:
        return told("through.variable", url=proxy.url, variable=proxy.variable)
    return told("through", url=proxy.url)


async def _looked_up(host: str, port: int) -> Told:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PHASE):
            found = await loop.getaddrinfo(host, port)
    except (OSError, TimeoutError) as error:
        silent = isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN
        code = "dns.no_answer" if silent else "dns"
        raise Fault(told("network", place=host, said=_words(error)), code=code) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return told("dns.ok", host=host, addresses=addresses[:4])


def _reach(server: MailServer) -> Told:
    """Connect as the daemon does, through its proxy if there is one."""
    try:
        sock = connect(server.host, server.port, line=Line(server.proxy), timeout=PHASE)
    except OSError as error:
        place = f"{server.host}:{server.port}"
        code = connection_code(error) or "tcp"
        raise Fault(told("network", place=place, said=_words(error)), code=code) from error
    with sock:
        peer = sock.getpeername()
    if server.proxy is None or goes_around(server.proxy, server.host, server.port):
        return told("tcp.ok", host=peer[0], port=peer[1])
    return told(
        "tcp.proxy",
        host=server.host,
        port=server.port,
        peer=peer[0],
        peer_port=peer[1],
        through=through(server.proxy),
    )


def _handshake(server: MailServer) -> Told:
    line = Line(server.proxy)
    try:
        with (
            connect(server.host, server.port, line=line, timeout=PHASE) as sock,
            secure(sock, tls_context(server.ca), host=server.host, line=line) as secured,
        ):
            certificate = secured.getpeercert() or {}
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        said = told("as_said", said=error.verify_message)
        raise Fault(said, code=tls_code(error)) from error
    except OSError as error:
        cut = isinstance(error, (ssl.SSLEOFError, ConnectionError))
        code = tls_code(error) or ("tls.closed" if cut else "tls")
        raise Fault(told("as_said", said=_words(error)), code=code) from error
    return told("tls.ok", version=version, until=certificate.get("notAfter", "?"))


def _words(error: BaseException) -> object:
    if isinstance(error, TimeoutError) and not error.errno:
        return told("patience", seconds=PHASE)
    return str(error) or type(error).__name__
