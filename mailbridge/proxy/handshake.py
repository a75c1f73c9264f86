"""What is said to a proxy before the tunnel is open: HTTP CONNECT and SOCKS5, without a socket.

A conversation is a generator. It yields bytes that are to be sent, and numbers: so many bytes,
no more and no fewer, it wants to be given. Nothing behind the proxy's answer is ever read, so
what the target says first (the greeting of a mail server) stays in the socket for those who
wait for it, however the network has cut or joined the pieces.

Sources: RFC 9110, 9.3.6 (CONNECT), RFC 7617 (Basic), RFC 1928 and 1929 (SOCKS5).
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Generator
from typing import Final

from mailbridge import __version__
from mailbridge.errors import Unavailable
from mailbridge.proxy.errand import Errand
from mailbridge.proxy.place import Proxy, is_ip

Conversation = Generator[bytes | int, bytes, None]

#: bytes of all that a proxy may answer to CONNECT, interim answers and headers included
HEAD_BYTES: Final = 16 * 1024

_TARGET: Final = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r\n]")
_BASIC: Final = re.compile(rb"^proxy-authenticate:(.*[, \t])?basic\b", re.IGNORECASE | re.MULTILINE)
_SIGN_IN: Final = 407
_UNREACHED: Final = frozenset({502, 503, 504})
_FORBIDDEN: Final = frozenset({401, 403, 405})

_SOCKS: Final = 5
_ANONYMOUS, _USER_PASSWORD = 0, 2
#: what follows the kind of an address in a SOCKS5 answer, in bytes
_ADDRESS_BYTES: Final = {1: 4, 4: 16}
_NAME: Final = 3
_SOCKS_FORBIDDEN: Final = 2
_SOCKS_UNREACHED: Final = {
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "no answer in time",
}


def conversation(errand: Errand) -> Conversation:
    """Ask the proxy for the target; raises ``Unavailable`` when the answer is no.

    Once it has returned, the socket belongs to the target.
    """
    if not _TARGET.fullmatch(errand.host):
        # A line break in it would be a second request of somebody else's making.
        raise errand.nonsense()
    return _connect(errand) if errand.proxy.scheme == "http" else _socks(errand)


def _connect(errand: Errand) -> Conversation:
    yield _request(errand)
    heard = 0
    while True:
        head = bytearray()
        while not head.endswith((b"\n\r\n", b"\n\n")):
            head += yield 1
            heard += 1
            if not head.startswith(b"H") or heard > HEAD_BYTES:
                raise errand.garbled()
        line = _STATUS_LINE.match(head)
        if line is None:
            raise errand.garbled()
        status = int(line[1])
        if status >= 300:  # noqa: PLR2004 - RFC 9110, 15.3
            raise _http_failure(errand, status, bytes(head))
        # What is below is interim. A success has no content, whatever its headers say.
        if status >= 200:  # noqa: PLR2004 - RFC 9110, 15.2
            return


def _request(errand: Errand) -> bytes:
    proxy, target = errand.proxy, errand.target
    lines = [
        f"CONNECT {target} HTTP/1.1",
        f"Host: {target}",
        f"User-Agent: mailbridge/{__version__}",
    ]
    if proxy.user:
        pair = b64encode(f"{proxy.user}:{proxy.password}".encode()).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {pair}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _http_failure(errand: Errand, status: int, head: bytes) -> Unavailable:
    said = f"HTTP {status}"
    if status == _SIGN_IN:
        return errand.sign_in(said, basic=_BASIC.search(head) is not None)
    if status in _FORBIDDEN:
        return errand.forbidden(said)
    if status in _UNREACHED:
        return errand.no_way(said)
    return errand.refused(said)


def _socks(errand: Errand) -> Conversation:
    methods = bytes([_ANONYMOUS, _USER_PASSWORD] if errand.proxy.user else [_ANONYMOUS])
    yield bytes([_SOCKS, len(methods)]) + methods
    version, method = yield 2
    if version != _SOCKS:
        raise errand.garbled()
    if method == _USER_PASSWORD and errand.proxy.user:
        yield _introduction(errand.proxy)
        _, status = yield 2
        if status:
            raise errand.sign_in("SOCKS5")
    elif method != _ANONYMOUS:
        raise errand.sign_in("SOCKS5")
    yield bytes([_SOCKS, 1, 0]) + _address(errand) + errand.port.to_bytes(2, "big")
    # Two bytes first: some proxies say no in three and leave the rest out.
    version, reply = yield 2
    if version != _SOCKS:
        raise errand.garbled()
    if reply:
        raise _socks_failure(errand, reply)
    _, kind = yield 2
    length = (yield 1)[0] if kind == _NAME else _ADDRESS_BYTES.get(kind)
    if length is None:
        raise errand.garbled()
    # The address that the proxy uses on the other side, and its port: of no interest.
    yield length + 2


def _introduction(proxy: Proxy) -> bytes:
    """Return user and password in the form of RFC 1929."""
    user, password = proxy.user.encode(), proxy.password.encode()
    return bytes([1, len(user)]) + user + bytes([len(password)]) + password


def _address(errand: Errand) -> bytes:
    if is_ip(errand.host):
        packed = ipaddress.ip_address(errand.host).packed
        return bytes([1 if len(packed) == 4 else 4]) + packed  # noqa: PLR2004 - bytes of IPv4
    name = errand.host.encode("ascii")
    return bytes([_NAME, len(name)]) + name


def _socks_failure(errand: Errand, reply: int) -> Unavailable:
    if reply == _SOCKS_FORBIDDEN:
        return errand.forbidden("SOCKS5: not allowed by its rules")
    if reply in _SOCKS_UNREACHED:
        return errand.no_way(f"SOCKS5: {_SOCKS_UNREACHED[reply]}")
    return errand.refused(f"SOCKS5 reply {reply}")
