"""Sockets that lead through a proxy: blocking ones, and asyncio's."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mailbridge.errors import Unavailable
from mailbridge.proxy.errand import Errand
from mailbridge.proxy.handshake import conversation
from mailbridge.proxy.place import Proxy, is_ip

#: seconds before the next address of a proxy is tried beside the first (RFC 8305 section 5)
NEXT_ADDRESS_SECONDS: Final = 0.25

#: host and port to IP addresses as text; raises ``OSError`` when there are none
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


def dial(
    proxy: Proxy,
    host: str,
    port: int,
    *,
    timeout: float,
    prepare: Callable[[socket.socket], None] | None = None,
) -> socket.socket:
    """Return a blocking socket to ``host`` through ``proxy``; ``timeout`` (seconds) stays on it.

    The proxy has ``timeout`` to take the connection, and as much again for its whole answer,
    however slowly that drips. ``prepare`` is handed the socket before a byte is said, so that
    it can be cut while the proxy hangs. With ``socks5`` this machine looks ``host`` up.

    Raises ``Unavailable`` for what the proxy does, ``OSError`` when ``host`` has no address.
    """
    name = host.rstrip(".")
    if not proxy.resolves and not is_ip(name):
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        name = str(found[0][4][0])
    errand = Errand(proxy=proxy, host=name, port=port)
    try:
        sock = socket.create_connection((proxy.host, proxy.port), timeout)
    except OSError as exc:
        raise _unreached(errand, exc) from exc
    try:
        if prepare is not None:
            prepare(sock)
        _converse(sock, errand, timeout)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _converse(sock: socket.socket, errand: Errand, seconds: float) -> None:
    ends = time.monotonic() + seconds
    talk = conversation(errand)
    step = next(talk)
    try:
        while True:
            heard = bytearray()
            if isinstance(step, bytes):
                sock.settimeout(_left(ends))
                sock.sendall(step)
            else:
                while len(heard) < step:
                    sock.settimeout(_left(ends))
                    heard += _some(sock.recv(step - len(heard)), errand)
            step = talk.send(bytes(heard))
    except StopIteration:
        return
    except TimeoutError:
        raise errand.silent() from None
    except OSError:
        raise errand.broken_off() from None


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


async def dial_async(  # noqa: PLR0913 - what differs between targets has a name
    proxy: Proxy,
    host: str,
    port: int,
    *,
    seconds: float,
    resolve: Resolve,
    greets: bool = False,
) -> socket.socket:
    """Return a non-blocking socket to ``host``, a name for the proxy to look up or an address.

    As ``dial``, with ``seconds`` for the connection (``resolve`` looks the proxy up) and as
    many for the answer. Unless the target ``greets``, it is one that waits to be spoken to: bytes
    that come before are refused, for they would be taken for its answer. Raises ``Unavailable``.
    """
    errand = Errand(proxy=proxy, host=host.rstrip("."), port=port)
    try:
        async with asyncio.timeout(seconds):
            sock = await _reach(proxy, resolve)
    except OSError as exc:
        raise _unreached(errand, exc) from exc
    try:
        async with asyncio.timeout(seconds):
            await _converse_async(sock, errand)
        if not greets:
            _require_quiet(sock, errand)
    except TimeoutError:
        sock.close()
        raise errand.silent() from None
    except OSError:
        sock.close()
        raise errand.broken_off() from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _reach(proxy: Proxy, resolve: Resolve) -> socket.socket:
    import aiohappyeyeballs

    known = is_ip(proxy.host)
    addresses = [proxy.host] if known else await resolve(proxy.host, proxy.port)
    places: list[Any] = [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, proxy.port, 0, 0) if ":" in address else (address, proxy.port),
        )
        for address in addresses
    ]
    return await aiohappyeyeballs.start_connection(
        places, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS
    )


async def _converse_async(sock: socket.socket, errand: Errand) -> None:
    loop = asyncio.get_running_loop()
    talk = conversation(errand)
    step = next(talk)
    try:
        while True:
            heard = bytearray()
            if isinstance(step, bytes):
                await loop.sock_sendall(sock, step)
            else:
                while len(heard) < step:
                    heard += _some(await loop.sock_recv(sock, step - len(heard)), errand)
            step = talk.send(bytes(heard))
    except StopIteration:
        return


def _some(data: bytes, errand: Errand) -> bytes:
    if not data:
        raise errand.broken_off()
    return data


def _require_quiet(sock: socket.socket, errand: Errand) -> None:
    try:
        waiting = sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return
    raise errand.rushed() if waiting else errand.broken_off()


def _unreached(errand: Errand, exc: OSError) -> Unavailable:
    if isinstance(exc, socket.gaierror):
        return errand.unknown()
    if isinstance(exc, TimeoutError):
        return errand.unreached("no answer in time")
    return errand.unreached(os.strerror(exc.errno) if exc.errno else type(exc).__name__)
