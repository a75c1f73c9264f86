"""Sockets to mail servers: opened here, under TLS, cuttable by any thread.

Both protocols use it, so that what is true of a connection (its trust, its keepalive, its
proxy) is true of all of them.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mailbridge.network_faults import Unanswered
from mailbridge.proxy.dial import dial
from mailbridge.proxy.environment import goes_around
from mailbridge.proxy.place import Proxy

Tls = Literal["implicit", "starttls"]

#: after so many seconds of silence the kernel asks whether a connection still lives, again and
#: again, so many times; a path that went dead under a waiting session shows within 40 s
KEEPALIVE: Final = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
#: milliseconds for which what was sent may stay unacknowledged (RFC 5482; tcp(7))
USER_TIMEOUT: Final = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where the mail lies. ``ca`` is a PEM file that replaces the system's authorities.

    ``proxy`` is the only way there when it is set: its connections begin as ``Line(proxy)``.
    """

    host: str = "outlook.office365.com"
    port: int = 993
    tls: Tls = "implicit"
    ca: Path | None = None
    proxy: Proxy | None = None


class Line:
    """The socket of a connection, which any thread may cut, and the proxy it goes through."""

    def __init__(self, proxy: Proxy | None) -> None:
        self.proxy = proxy
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    @property
    def is_cut(self) -> bool:
        """Whether it was cut; nothing is read or written any more."""
        return self._cut

    def hold(self, sock: socket.socket) -> None:
        """Remember the socket now in use; it is closed at once if the line was cut before."""
        with self._lock:
            self._socket = sock
            if self._cut:
                _shut(sock)

    def cut(self) -> None:
        """End every read and write that is under way in another thread."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: it takes the TLS object away under the reading thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def connect(host: str, port: int, *, line: Line, timeout: float) -> socket.socket:
    """Open a TCP connection for ``line``; ``timeout`` (seconds) stays on it; ``OSError``.

    Through the line's proxy if it has one; what that does wrong is ``Unavailable``. The line
    holds the socket before the proxy is asked, so that it can be cut while the proxy hangs.
    """
    if line.proxy is not None and not goes_around(line.proxy, host, port):
        prepare = functools.partial(_prepare, line)
        return dial(line.proxy, host, port, timeout=timeout, prepare=prepare)
    try:
        sock = socket.create_connection((host, port), timeout)
    except TimeoutError as exc:
        raise Unanswered(*exc.args) from None
    try:
        _prepare(line, sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare(line: Line, sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": USER_TIMEOUT}.items():
        if hasattr(socket, name):  # not every kernel has each of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    line.hold(sock)


def secure(sock: socket.socket, context: ssl.SSLContext, *, host: str, line: Line) -> ssl.SSLSocket:
    """Put TLS on ``sock``; it is closed when the handshake fails. Raises ``OSError``."""
    wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        line.hold(wrapped)
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped
