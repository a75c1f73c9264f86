"""What a proxy is, and what its URL may look like."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import SplitResult, unquote, urlsplit

Scheme = Literal["http", "socks5", "socks5h"]
SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)

#: bytes of a user or a password; RFC 1929 counts them in one byte
LONGEST_FIELD: Final = 255
_FORM: Final = "write it as http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT."
_ESCAPE: Final = "`/`, `?`, `#` and `@` in a password are written %2F, %3F, %23 and %40."
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")


class ProxyUrlError(ValueError):
    """A text that is no usable URL of a proxy. Neither message nor ``fix`` repeats any of it."""

    def __init__(self, message: str, fix: str = _FORM) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where a proxy listens, and what it is spoken to with. Only ``place`` is ever shown."""

    scheme: Scheme
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    #: the environment variable that named it; empty when the configuration did
    variable: str = ""

    @property
    def place(self) -> str:
        """``host:port``, which is what errors and reports show."""
        return authority(self.host, self.port)

    @property
    def url(self) -> str:
        """The URL without user and password."""
        return f"{self.scheme}://{self.place}"

    @property
    def origin(self) -> str:
        """Where a person can change it."""
        return f"the variable {self.variable}" if self.variable else "`proxy`"

    @property
    def resolves(self) -> bool:
        """Whether the proxy looks names up; with ``socks5`` this machine does."""
        return self.scheme != "socks5"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen anywhere: the password, alone and as Basic sign-in joins it."""
        return (self.password, f"{self.user}:{self.password}") if self.password else ()


def authority(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(host: str) -> bool:
    """Whether this is the text of an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse(text: str) -> Proxy:
    """Read the URL of a proxy; raises ``ProxyUrlError``."""
    if any(char <= " " or char == "\x7f" for char in text):
        raise ProxyUrlError("a blank or control character stands in this URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ProxyUrlError("the URL of this proxy cannot be read", _ESCAPE) from None
    if not parts.netloc or not parts.hostname:
        raise ProxyUrlError("this is not the URL of a proxy")
    scheme = next((known for known in SCHEMES if known == parts.scheme), None)
    if scheme is None:
        raise _unknown_scheme(parts.scheme)
    if not port:
        raise ProxyUrlError("the URL of a proxy needs its port")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ProxyUrlError(
            "something stands behind the port of this proxy",
            f"remove it; {_ESCAPE}",
        )
    host = parts.hostname
    if not is_ip(host) and not _HOST.fullmatch(host):
        raise ProxyUrlError("the host of this proxy is neither a name nor an address")
    user, password = _credentials(parts, scheme)
    return Proxy(scheme=scheme, host=host, port=port, user=user, password=password)


def _unknown_scheme(scheme: str) -> ProxyUrlError:
    if scheme == "https":
        return ProxyUrlError(
            "TLS to the proxy itself is not supported",
            "write http://; what goes through it to mail servers and https:// is encrypted anyway.",
        )
    return ProxyUrlError("this is no kind of proxy that is known here")


def _credentials(parts: SplitResult, scheme: Scheme) -> tuple[str, str]:
    try:
        user = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
    except UnicodeDecodeError:
        raise ProxyUrlError(
            "user or password of this proxy is not UTF-8", "encode special characters as %XX."
        ) from None
    if password and not user:
        raise ProxyUrlError("a password without a user", "write it as USER:PASSWORD@HOST.")
    if scheme == "http" and ":" in user:
        raise ProxyUrlError("a user with a colon cannot sign in", "ask for another user.")
    if max(len(user.encode()), len(password.encode())) > LONGEST_FIELD:
        raise ProxyUrlError(
            "user or password of this proxy is longer than 255 bytes", "ask for shorter ones."
        )
    return user, password
