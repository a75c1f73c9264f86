"""Which proxy the environment names for a target, by the rules of curl.

=========  ======================================================  ========
target     the first that is set                                   unless
=========  ======================================================  ========
mail       ``all_proxy``, ``ALL_PROXY``                            ``no_proxy``, ``NO_PROXY``
https      ``https_proxy``, ``HTTPS_PROXY``, then as for mail      the same
http       ``http_proxy`` (small letters only), then as for mail   the same
=========  ======================================================  ========

``https_proxy`` is not for mail: curl does not use it for ``imaps://`` either, and the usual web
proxy refuses CONNECT to any port but 443. ``HTTP_PROXY`` is deaf, for a web server puts the
header ``Proxy`` of a stranger's request into it (CVE-2016-5385).

Loopback and private addresses are never reached through a proxy of the environment: an alarm
server in the next room must not depend on one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

from mailbridge.proxy.place import Proxy, ProxyUrlError, is_ip, parse

Kind = Literal["mail", "https", "http"]

_ALL: Final = ("all_proxy", "ALL_PROXY")
_VARIABLES: Final[dict[Kind, tuple[str, ...]]] = {
    "mail": _ALL,
    "https": ("https_proxy", "HTTPS_PROXY", *_ALL),
    "http": ("http_proxy", *_ALL),
}
#: what curl takes when a proxy of the environment has no port
USUAL_PORT: Final = 1080
#: loopback, private (RFC 1918, 4193), shared (RFC 6598) and link-local addresses
_INSIDE: Final = [
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("100.64.0.0/10", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"),
    )
]


def from_environment(environ: Mapping[str, str], kind: Kind, host: str) -> Proxy | None:
    """Return the proxy for ``host``; ``None`` when it is to be reached directly.

    Raises ``ProxyUrlError``, which names the variable, for one that cannot be used: to go on
    without it would be a connection past the proxy that nobody asked for.
    """
    variable = next((name for name in _VARIABLES[kind] if environ.get(name, "").strip()), None)
    if variable is None or is_local(host) or _excepted(host, environ):
        return None
    text = environ[variable].strip()
    try:
        proxy = parse(_completed(text))
    except ProxyUrlError as error:
        raise ProxyUrlError(
            f"the environment variable {variable} names no proxy that can be used ({error})",
            f"in {variable}, {error.fix.rstrip('.')}; or write `proxy: off` here.",
        ) from None
    return replace(proxy, variable=variable)


def _completed(text: str) -> str:
    """Return the URL with what curl lets people leave out: the scheme and the port."""
    url = text if "://" in text else f"http://{text}"
    url = url.rstrip("/")
    return url if re.search(r":[0-9]+$", url) else f"{url}:{USUAL_PORT}"


def _excepted(host: str, environ: Mapping[str, str]) -> bool:
    """Whether ``no_proxy`` is about this host: by name, parent domain, address or network."""
    listed = environ.get("no_proxy", "") or environ.get("NO_PROXY", "")
    entries = [entry for entry in re.split(r"[\s,]+", listed.lower()) if entry]
    if "*" in entries:
        return True
    plain = host.lower().strip("[]").rstrip(".")
    if is_ip(plain):
        return _within(plain, entries)
    names = [entry.removeprefix("*").strip(".") for entry in entries]
    return any(plain == name or plain.endswith(f".{name}") for name in names if name)


def _within(address: str, entries: Iterable[str]) -> bool:
    parsed = ipaddress.ip_address(address)
    for entry in entries:
        try:
            network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            continue
        if parsed in network:
            return True
    return False


def is_local(host: str) -> bool:
    """Whether the text alone shows that this host is loopback or has a private address."""
    plain = host.lower().strip("[]").rstrip(".")
    if plain == "localhost" or plain.endswith(".localhost"):
        return True
    return is_ip(plain) and is_inside(plain)


def is_inside(address: str) -> bool:
    """Whether an IP address is loopback, private, shared or link-local."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in _INSIDE if network.version == parsed.version)


def goes_around(proxy: Proxy, host: str, port: int) -> bool:
    """Whether a proxy of the environment is left out, since all addresses of ``host`` are inside.

    Asks the system's resolver, and blocks for as long as that takes. A name that it does not
    know is not one of this network.
    """
    if not proxy.variable:
        return False
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(is_inside(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found)
