"""The HTTP client that msal is given: bounded in time and size, deaf to the environment.

msal sees only answers that are JSON objects. What is not (a captive portal's page, an outage)
becomes our error here, because msal writes such a body into its log, and it might be a token
that came damaged. Errors are raised without their cause: the exceptions of requests carry the
request, and with it the client secret.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from mailbridge.errors import MailbridgeError, Throttled, Unavailable
from mailbridge.proxy.dial import dial
from mailbridge.proxy.environment import goes_around
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.entra_errors import code_of

#: seconds: to connect, and between two reads
TIMEOUTS: Final = (10.0, 20.0)
#: seconds for one whole answer
DEADLINE: Final = 30.0
#: bytes; token answers have a few kB, discovery documents about 2 kB
LARGEST_ANSWER: Final = 512 * 1024
#: seconds; what an unspecified "too many requests" means, and the longest that is obeyed
USUAL_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0

_TOO_MANY: Final = 429
_REDIRECT: Final = 300
_ERROR: Final = 400
_SERVER_ERROR: Final = 500


class Answer:
    """A response in the shape that msal wants."""

    def __init__(self, status_code: int, text: str, headers: dict[str, str]) -> None:
        self.status_code = status_code
        self.text = text
        self.headers = headers

    def raise_for_status(self) -> None:
        """Raise for an error; msal calls it where only success makes sense."""
        if self.status_code >= _ERROR:
            raise Unavailable(
                f"Entra answers HTTP {self.status_code}", code=f"entra.http_{self.status_code}"
            )


class TokenHttp:
    """msal's ``http_client``. ``refused`` is the last JSON body that came with an error.

    ``proxy`` is the only way out when it is set, and for https:// alone; what it does wrong is
    ``Unavailable``.
    """

    def __init__(self, ca: Path | None, proxy: Proxy | None = None) -> None:
        self._verify = trusted(ca)
        self._proxy = proxy
        self.refused: dict[str, Any] | None = None

    def get(self, url: str, **given: Any) -> Answer:
        """Send a GET; raises ``Unavailable`` and ``Throttled``."""
        return self._send("GET", url, given)

    def post(self, url: str, **given: Any) -> Answer:
        """Send a POST; raises ``Unavailable`` and ``Throttled``."""
        return self._send("POST", url, given)

    def close(self) -> None:
        """Nothing is kept open between two requests, which are an hour apart."""

    def _send(self, method: str, url: str, given: dict[str, Any]) -> Answer:
        return self._checked(*self.fetch(method, url, given))

    def fetch(
        self, method: str, url: str, given: dict[str, Any]
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body, whatever they are; raises ``Unavailable``."""
        failure: MailbridgeError | None = None
        try:
            return self._exchange(method, url, given)
        except MailbridgeError:
            raise
        except (requests.RequestException, OSError, ValueError) as exc:
            failure = _unreachable(exc, url)
        raise failure

    def _exchange(
        self, method: str, url: str, given: dict[str, Any]
    ) -> tuple[int, dict[str, str], bytes]:
        with requests.Session() as session:
            # Proxies, netrc and CA bundles from the environment are nobody's configuration.
            session.trust_env = False
            if self._proxy is not None:
                session.adapters.clear()
                session.mount("https://", _Tunnels(self._proxy))
            with session.request(
                method,
                url,
                params=given.get("params"),
                data=given.get("data"),
                headers=given.get("headers"),
                timeout=TIMEOUTS,
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, dict(response.headers), _content(response)

    def _checked(self, status: int, headers: dict[str, str], content: bytes) -> Answer:
        pause = retry_after(headers)
        code = f"entra.http_{status}"
        if status == _TOO_MANY or (status >= _SERVER_ERROR and pause is not None):
            raise Throttled(
                f"Entra asks for a pause (HTTP {status})",
                retry_after=USUAL_PAUSE if pause is None else pause,
                code=code,
            )
        if status >= _SERVER_ERROR or _REDIRECT <= status < _ERROR:
            raise Unavailable(f"Entra answers HTTP {status}", code=code)
        text = content.decode("utf-8", "replace")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Unavailable(
                f"Entra's address answers HTTP {status} with something that is not JSON; "
                "a captive portal or a proxy may stand between",
                code="entra.not_json",
            )
        self.refused = body if status >= _ERROR else None
        if body.get("error") == "temporarily_unavailable" and pause is not None:
            raise Throttled(
                "Entra is temporarily unavailable", retry_after=pause, code=code_of(body)
            )
        return Answer(status, text, headers)


class _Tunnels(HTTPAdapter):
    """requests' way to a server, with sockets that lead through a proxy.

    Its own proxies would need another library for SOCKS, and have no bound on how long a
    proxy may take over its answer.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool; the connections in it know the proxy."""
        super().init_poolmanager(*args, **kwargs)
        proxy = self._proxy

        class Connection(HTTPSConnection):
            # The seam that urllib3's own support for SOCKS uses.
            def _new_conn(self) -> socket.socket:
                port = self.port or 443
                if goes_around(proxy, self.host, port):
                    return super()._new_conn()
                try:
                    return dial(proxy, self.host, port, timeout=TIMEOUTS[0])
                except socket.gaierror as exc:
                    raise Unavailable(_no_address(self.host), code="entra.dns") from exc

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        self.poolmanager.pool_classes_by_scheme = {"https": Pool}


def trusted(ca: Path | None) -> str | bool:
    """Return what requests verifies against: ``ca`` alone, or the system's authorities.

    Not what the environment says. ``True`` is the bundle that comes with requests, for
    systems without one.
    """
    if ca is not None:
        return str(ca)
    system = ssl.get_default_verify_paths()
    if Path(system.openssl_cafile).is_file():
        return system.openssl_cafile
    folder = Path(system.openssl_capath)
    return str(folder) if folder.is_dir() and any(folder.iterdir()) else True


def _content(response: requests.Response) -> bytes:
    ends = time.monotonic() + DEADLINE
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(16384):
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise Unavailable("Entra's answer is too large", code="entra.too_large")
        if time.monotonic() > ends:
            raise Unavailable("Entra's answer takes too long", code="entra.timeout")
    return b"".join(parts)


def retry_after(headers: dict[str, str]) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), bounded; ``None`` without it."""
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), "")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return USUAL_PAUSE
    return min(max(seconds, 1.0), LONGEST_PAUSE) if seconds == seconds else USUAL_PAUSE  # noqa: PLR0124 - NaN


def _no_address(host: str) -> str:
    return f"the name {host} has no address"


def _unreachable(exc: Exception, url: str) -> MailbridgeError:
    """Return the error for a request that got no answer; it names the host and no more."""
    host = urlsplit(url).netloc or "the login host"
    if isinstance(exc, requests.exceptions.SSLError):
        return Unavailable(
            f"the certificate of {host} is not trusted, or TLS failed",
            code="entra.tls",
            fix="Check the clock; for a private authority set `ca` of the app.",
        )
    if isinstance(exc, (requests.exceptions.Timeout, TimeoutError)):
        return Unavailable(f"{host} did not answer in time", code="entra.timeout")
    if "NameResolutionError" in str(exc) or "getaddrinfo" in str(exc):
        return Unavailable(_no_address(host), code="entra.dns")
    return Unavailable(f"{host} cannot be reached ({type(exc).__name__})", code="entra.connection")
