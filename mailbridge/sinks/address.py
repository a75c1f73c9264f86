"""Which addresses a webhook may have: the guard against server-side request forgery.

A webhook's URL, and what DNS says about it, come from people who may not be friends of the
network that mailbridge runs in. So every address is judged before it is connected to, and the
address that was judged is the one that is connected to: there is no second look-up in between
that DNS rebinding could use.

The table is written out instead of asking ``ipaddress.is_private``, whose answers differ
between Python versions. Sources: the IANA special-purpose address registries (RFC 6890).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from yarl import URL

from mailbridge.errors import Unavailable

#: ``public``: may be connected to. ``private``: only with ``allow_private``. ``never``: not at all
Reach = Literal["public", "private", "never"]
#: host and port to IP addresses as text; raises ``OSError`` when there are none
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

#: of a name with hundreds of addresses, only so many are tried in one attempt
MAX_ADDRESSES: Final = 8
#: seconds that an answer of the system's resolver is used again, so that a receiver which
#: closes every connection does not cost one look-up for each request
SYSTEM_ANSWER_SECONDS: Final = 5.0

_FIX: Final = "set `allow_private: true` for this webhook if that is meant"

# First match wins, so the single addresses of cloud metadata services stand before the ranges
# that ``allow_private`` opens.
_TABLE_4: Final[tuple[tuple[str, Reach, str], ...]] = (
    ("100.100.100.200/32", "never", "a cloud metadata service"),
    ("168.63.129.16/32", "never", "a cloud metadata service"),
    ("0.0.0.0/8", "never", "unspecified"),
    ("10.0.0.0/8", "private", "private"),
    ("100.64.0.0/10", "private", "shared (carrier-grade NAT)"),
    ("127.0.0.0/8", "private", "loopback"),
    ("169.254.0.0/16", "never", "link-local (cloud metadata services live there)"),
    ("172.16.0.0/12", "private", "private"),
    ("192.0.0.0/24", "never", "reserved"),
    ("192.0.2.0/24", "never", "for documentation only"),
    ("192.88.99.0/24", "never", "a 6to4 relay"),
    ("192.168.0.0/16", "private", "private"),
    ("198.18.0.0/15", "never", "for benchmarks only"),
    ("198.51.100.0/24", "never", "for documentation only"),
    ("203.0.113.0/24", "never", "for documentation only"),
    ("224.0.0.0/4", "never", "multicast"),
    ("255.255.255.255/32", "never", "broadcast"),
    ("240.0.0.0/4", "never", "reserved"),
    ("0.0.0.0/0", "public", "public"),
)
_TABLE_6: Final[tuple[tuple[str, Reach, str], ...]] = (
    ("fd00:ec2::254/128", "never", "a cloud metadata service"),
    ("fd20:ce::254/128", "never", "a cloud metadata service"),
    ("::1/128", "private", "loopback"),
    ("::/128", "never", "unspecified"),
    ("fc00::/7", "private", "private (unique local)"),
    ("fe80::/10", "never", "link-local"),
    ("ff00::/8", "never", "multicast"),
    ("2001::/32", "never", "a Teredo address, which hides another one"),
    ("2002::/16", "never", "a 6to4 address, which hides another one"),
    ("2001::/23", "never", "reserved"),
    ("2001:db8::/32", "never", "for documentation only"),
    ("3fff::/20", "never", "for documentation only"),
    # All global unicast space that exists lies here; the rest of IPv6 is reserved, translated
    # IPv4 (::/96, ::ffff:0:0:0/96, 64:ff9b:1::/48), discard-only or segment routing.
    ("2000::/3", "public", "public"),
    ("::/0", "never", "reserved"),
)
_NETWORKS_4: Final = [(ipaddress.IPv4Network(net), reach, what) for net, reach, what in _TABLE_4]
_NETWORKS_6: Final = [(ipaddress.IPv6Network(net), reach, what) for net, reach, what in _TABLE_6]
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Judges addresses for one webhook."""

    scheme: str
    allow_private: bool

    def refusal(self, address: str) -> str | None:
        """Say why this address (text of an IP address) is refused; ``None`` when it is not."""
        reach, what = classify(address)
        if reach == "never":
            return f"address {address} is {what}, which is never connected to"
        if reach == "private":
            return None if self.allow_private else f"address {address} is {what}; {_FIX}"
        if self.scheme != "https":
            return f"address {address} is public, and http:// is only for private addresses"
        return None


def classify(address: str) -> tuple[Reach, str]:
    """Return how far an IP address reaches, and the word for it.

    An IPv4-mapped address is judged by what it embeds. So is NAT64 (RFC 6052), by which a host
    without IPv4 sees the public internet, but there only a public one is believed.
    Raises ``ValueError`` when the text is not an IP address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return next((reach, what) for net, reach, what in _NETWORKS_4 if parsed in net)
    if parsed.ipv4_mapped is not None:
        return classify(str(parsed.ipv4_mapped))
    if parsed in _NAT64:
        reach, what = classify(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        return (reach, what) if reach == "public" else ("never", f"{what} behind NAT64")
    return next((reach, what) for net, reach, what in _NETWORKS_6 if parsed in net)


def check_url(url: str, allow_private: bool) -> str | None:  # noqa: FBT001 - a fixed signature
    """Say what is wrong with a webhook's URL as far as it can be seen without DNS.

    ``None`` when nothing is. The sentence names the host at most, for the rest may be secret.
    """
    if not url.isprintable() or " " in url:
        return "the URL contains white space or control characters"
    try:
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        return "the URL cannot be read"
    if parsed.scheme not in {"http", "https"}:
        return "the URL must start with https://"
    if not host or not port:
        return "the URL names no host" if not host else "the URL names no usable port"
    return check_host(host, scheme=parsed.scheme, allow_private=allow_private)


def exact_url(url: str) -> URL:
    """Return the URL to request: exactly as it was written, where that is possible.

    yarl decodes what it thinks needs no escape (``%2F`` in a query), which breaks URLs that were
    signed as a whole. As it is written is taken only if that names the same host and port as
    the reading that was judged.
    """
    read = URL(url)
    if url.isascii():
        exact = URL(url, encoded=True)
        same = (exact.scheme, exact.raw_host, exact.port) == (read.scheme, read.raw_host, read.port)
        if same and exact.raw_path:
            return exact
    return read


def check_host(host: str, *, scheme: str, allow_private: bool) -> str | None:
    """Say what is wrong with a host as far as it can be seen without DNS."""
    if scheme == "http" and not allow_private:
        return (
            f"http:// to {host}: use https://, or, for a receiver on a loopback or private"
            " address, set `allow_private: true`"
        )
    name = host.rstrip(".").lower()
    if not name:
        return "the URL names no host"
    if name == "localhost" or name.endswith(".localhost"):
        return None if allow_private else f"{host} is loopback; {_FIX}"
    if is_ip(name):
        return Guard(scheme=scheme, allow_private=allow_private).refusal(name)
    if _is_legacy_number(name):
        return f"{host} is an IP address in an unusual notation; write it as four decimal numbers"
    return None


def is_ip(host: str) -> bool:
    """Whether this is the text of an IPv4 or IPv6 address in its usual notation."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_legacy_number(host: str) -> bool:
    """Whether the C library would read this as an IPv4 address: decimal, octal, hex, short."""
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


async def pinned(host: str, port: int, *, guard: Guard, resolve: Resolve) -> list[str]:
    """Resolve ``host`` once and return the addresses that may be connected to, at most eight.

    An address that is refused is left out; when all are, ``Unavailable`` names the host, the
    address and the setting. ``resolve`` is not asked about what is an IP address already.
    """
    problem = check_host(host, scheme=guard.scheme, allow_private=guard.allow_private)
    if problem is not None:
        raise Unavailable(problem, code="webhook.address_refused")
    name = host.rstrip(".")
    answers = [name] if is_ip(name) else await resolve(name, port)
    refusals = [(answer, guard.refusal(answer)) for answer in dict.fromkeys(answers)]
    allowed = [answer for answer, refusal in refusals if refusal is None]
    if allowed:
        return allowed[:MAX_ADDRESSES]
    if not refusals:
        raise Unavailable(f"{host}: DNS has no address for it", code="webhook.dns")
    raise Unavailable(f"{host}: {refusals[0][1]}", code="webhook.address_refused")


class SystemResolver:
    """Asks the system's resolver, in two threads of its own.

    ``getaddrinfo`` cannot be cancelled: a name server that does not answer would otherwise eat
    up the threads that the rest of the program shares. Answers are used again for five seconds
    (they are judged again each time), and several waiters share one question.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="webhook-dns")
        self._asking: dict[tuple[str, int], asyncio.Future[list[str]]] = {}
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of ``host``; raises ``OSError`` (``socket.gaierror``)."""
        key = (host, port)
        until, addresses = self._known.get(key, (0.0, []))
        if time.monotonic() < until:
            return addresses
        question = self._asking.get(key)
        if question is None:
            loop = asyncio.get_running_loop()
            question = loop.run_in_executor(self._threads, _look_up, host, port)
            self._asking[key] = question
            question.add_done_callback(lambda done: self._answered(key, done))
        # Shielded: that one waiter ran out of time must not take the answer from the others.
        return await asyncio.shield(question)

    def _answered(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled() and done.exception() is None:
            self._known[key] = (time.monotonic() + SYSTEM_ANSWER_SECONDS, done.result())

    def close(self) -> None:
        """Let the threads go; a look-up that still runs is not waited for."""
        for question in list(self._asking.values()):
            question.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    # As bytes: a host of a URL is encoded already, and Python's own IDNA codec raises
    # UnicodeError, which is no OSError, for labels that are too long.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
