"""URLs of the configuration: webhooks and the database."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from mailbridge.config.problems import fault
from mailbridge.config.secrets import Secret, reading, resolve, there

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: what ``allow_private`` permits: loopback, private networks, carrier NAT, unique local IPv6
_PRIVATE = [
    ipaddress.ip_network(net)
    for net in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "::1/128",
        "fc00::/7",
    )
]
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_KEYLIKE = re.compile(
    r"(^|[&;])[^=&]*(key|token|secret|sig|password|auth)[^=&]*=[^&]", re.IGNORECASE
)


def literal_address(host: str) -> Address | None:
    """Return the address that a host stands for when it is a number and no name.

    Reads also what programs understand as an address: decimal, octal, hexadecimal and short
    forms (``2130706433``, ``0x7f.1``), and addresses inside of IPv6 (mapped, NAT64, 6to4).
    """
    bare = host.strip("[]").rstrip(".").partition("%")[0]
    try:
        address: Address = ipaddress.ip_address(bare)
    except ValueError:
        if not _NUMERIC.fullmatch(bare):
            return None
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(bare))
        except OSError:
            return ipaddress.IPv4Address("0.0.0.0")  # noqa: S104 - stands for "refuse this", nothing is bound
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def is_private(address: Address) -> bool:
    """Tell whether ``allow_private`` is about this address."""
    return any(address in net for net in _PRIVATE if net.version == address.version)


def webhook_fault(url: str, *, allow_private: bool) -> PydanticCustomError | None:
    """Return what is wrong with the URL of a webhook, ``None`` if nothing is.

    Only what the text shows is judged. Names are resolved, and their addresses judged, when
    the webhook is called.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return fault("this URL cannot be read", "write it as https://host/path.")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return fault("this is not a web address", "write it as https://host/path.")
    if any(char <= " " or char == "\x7f" for char in url):
        return fault("a blank or control character stands in the URL", "encode it as %20.")
    if parts.username is not None or parts.password is not None:
        return fault(
            "user and password do not belong into the URL",
            "use `headers: {Authorization: {env: NAME}}` with `Basic …` as its value.",
        )
    if parts.fragment:
        return fault("a fragment (#…) is never sent to a server", "remove it.")
    return _address_fault(parts, allow_private=allow_private)


def _address_fault(parts: SplitResult, *, allow_private: bool) -> PydanticCustomError | None:
    host = (parts.hostname or "").rstrip(".")
    address = literal_address(host)
    local = host == "localhost" or host.endswith(".localhost")
    inner = local or (address is not None and is_private(address))
    if address is not None and not inner and not address.is_global:
        return fault(
            "this address is neither public nor a private one that webhooks may have",
            "write the receiver's own address.",
        )
    if inner and not allow_private:
        return fault(
            "this address is private, and webhooks go to public ones only",
            "add `allow_private: true` to this webhook if the receiver stands in your network.",
        )
    if parts.scheme == "http" and address is not None and not inner:
        return fault("http:// would send mail unencrypted over the internet", "use https://.")
    if parts.scheme == "http" and not allow_private:
        return fault(
            "http:// is for receivers in your own network only",
            "use https://, or add `allow_private: true` if the address is private.",
        )
    return None


def holds_key(url: str) -> bool:
    """Tell whether the query of a URL seems to hold a key."""
    try:
        return _KEYLIKE.search(urlsplit(url).query) is not None
    except ValueError:
        return False


def origin(url: str) -> str:
    """Return ``https://host:port`` of a URL, which is all that logs and tables show."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def default_database(environ: Mapping[str, str] = os.environ) -> str:
    """Return the database in systemd's state directory, else in the working directory."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return f"sqlite:///{directory}/mailbridge.db" if directory else "sqlite:///mailbridge.db"


def database(value: Any, info: ValidationInfo) -> Secret:
    """Return the URL of the database, as a secret because it may hold a password."""
    fix = "write sqlite:////var/lib/mailbridge/mailbridge.db or postgresql://user@host/database."
    given = isinstance(value, dict | Secret)
    secret = resolve(value, info) if given else None
    if secret is None and not isinstance(value, str):
        raise fault("this is not the URL of a database", fix)
    if secret is not None and not there(secret):
        return secret
    url = secret.reveal() if secret is not None else value
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        raise fault("this is not the URL of a database", fix) from None
    if parts.scheme == "sqlite":
        if not url.startswith("sqlite:///") or len(url) == len("sqlite:///"):
            raise fault("this names no database file", "write sqlite:////absolute/path.db.")
    elif parts.scheme not in ("postgresql", "postgresql+psycopg") or len(parts.path) < 2:  # noqa: PLR2004 - a slash and a name
        raise fault("this is not the URL of an SQLite or PostgreSQL database", fix)
    if secret is None and password is not None:
        raise fault(
            "a password is never written into this file",
            "write `database: {env: NAME}` with the whole URL as its value, or use ~/.pgpass.",
        )
    if password:
        reading(info).remember(password)
    return secret or Secret(url)
