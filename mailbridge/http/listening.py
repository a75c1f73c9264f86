"""The sockets of ``http.listen`` and ``relay.listen``, taken before anything else begins."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

from mailbridge.config import Http
from mailbridge.errors import ConfigError, Problem

_FIXES: Final = {
    errno.EADDRINUSE: "another program listens there (`ss -ltnp` names it); end it, or write "
    "another port.",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; write a higher one, and let a "
    "proxy listen at the lower.",
    errno.EADDRNOTAVAIL: "write an address that this machine has, or 0.0.0.0 for all of them.",
}


def listen(http: Http) -> list[socket.socket]:
    """Return a listening socket for each address of the host; none when ``listen`` is ``off``.

    Raises ``ConfigError`` when the place is taken, not permitted, or not on this machine.
    """
    if http.listen == "off":
        return []
    return listen_at(http.host, http.port, key="http.listen")


def listen_at(host: str, port: int, *, key: str) -> list[socket.socket]:
    """Return the same for any place; ``key`` names it in the configuration.

    Port 0 is any free one, the same for each address. Raises ``ConfigError``.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            same = address[1] or (sockets[0].getsockname()[1] if sockets else 0)
            sockets.append(_bound(family, (address[0], same, *address[2:])))
    except OSError as error:
        for one in sockets:
            one.close()
        raise _refused(host, port, key, error) from error
    return sockets


def url_of(http: Http, sockets: list[socket.socket]) -> str:
    """Return what links and redirect URIs begin with."""
    if http.public_url is not None:
        return http.public_url
    host = f"[{http.host}]" if ":" in http.host else http.host
    return f"http://{host}:{sockets[0].getsockname()[1]}"


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    # With the protocol named, the event loop sends answers at once (TCP_NODELAY); without it,
    # the body waits 40 ms for the client to acknowledge the head.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(256)
        one.setblocking(False)  # noqa: FBT003 - the socket's own signature
    except OSError:
        one.close()
        raise
    return one


def _refused(host: str, port: int, key: str, error: OSError) -> ConfigError:
    if isinstance(error, socket.gaierror):
        reason, fix = "this host has no address here", "write an address, like 127.0.0.1."
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
        fix = _FIXES.get(error.errno or 0, "write another HOST:PORT, or off.")
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    message = f"cannot listen at {shown}: {reason}."
    problem = Problem(file="the configuration", line=None, path=key, message=message, fix=fix)
    return ConfigError([problem])
