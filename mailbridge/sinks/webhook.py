"""Webhooks: one signed POST for each delivery.

What a receiver sees is described in ``docs/webhooks.md``. What this module promises:

* one attempt per call, within its deadlines, and an ``Outcome`` for whatever comes back, also
  from a receiver that means harm: the status line decides, its body can change nothing;
* no redirect is followed, no cookie kept, nothing decompressed;
* the address that the guard judged is the one that is connected to; with a ``proxy`` nothing
  is connected to but that (``passage`` tells what the guard can and cannot do then);
* the URL, the signing secrets, the values of static headers and the proxy's password are in no
  outcome and no repr.

Nothing here is durable and nothing is retried: the queue is the retry.
"""

from __future__ import annotations

import asyncio
import io
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, NamedTuple, Self

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict, istr
from yarl import URL

from mailbridge.errors import PermanentError, TemporaryError, Unavailable
from mailbridge.model import Deferred, Delivery, Outcome, Rendered
from mailbridge.proxy.place import Proxy
from mailbridge.retry import POLICIES, ProfileName
from mailbridge.sinks.address import Guard, Resolve, SystemResolver, check_url, exact_url
from mailbridge.sinks.answer import extract, judge, secret_parts
from mailbridge.sinks.connector import (
    BrokenAnswer,
    Deadlines,
    HeadTooLong,
    PinningConnector,
    StaleConnection,
    os_words,
    tls_words,
)
from mailbridge.sinks.signature import parse_secret, sign

DEADLINES: Final[Mapping[ProfileName, Deadlines]] = MappingProxyType(
    {"default": Deadlines(), "alarm": Deadlines(first_byte=10.0, total=10.0)}
)
JSON: Final = "application/json; charset=utf-8"

#: bytes of an answer's body that are read before the connection is given up
DRAIN_BYTES: Final = 65_536
#: from this size on a body is signed in a thread and sent piece by piece, since either would
#: hold up the event loop
LARGE_BODY_BYTES: Final = 1_048_576
#: a reused connection that is lost so soon was closed before our request came
STALE_SECONDS: Final = 1.0

# Ready for look-ups without regard to case, which a plain string is made into on every use.
_CONTENT_TYPE: Final = istr("Content-Type")
_ID: Final = istr("webhook-id")
_TIMESTAMP: Final = istr("webhook-timestamp")
_SIGNATURE: Final = istr("webhook-signature")
_ATTEMPT: Final = istr("mailbridge-attempt")
_SEQUENCE: Final = istr("mailbridge-sequence")
_AGE: Final = istr("mailbridge-age")
_REPLAY: Final = istr("mailbridge-replay")

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "host", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "user-agent"),
    }
)


def check_header(name: str, value: str) -> str | None:
    """Say what is wrong with a static header; ``None`` when nothing is. Never holds the value."""
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        return f"{name!r} is not the name of a header"
    if lower in _OURS or lower.startswith(("webhook-", "mailbridge-")):
        return f"header {name} is set by mailbridge itself"
    if not _VALUE.fullmatch(value):
        return f"the value of header {name} contains characters that a header cannot carry"
    return None


class Reached(NamedTuple):
    """Where a connection led: the address (of the proxy, if one is used), and TLS's version."""

    peer: str
    port: int
    tls: str


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class WebhookSink:
    """A ``Sink``. Open it before use (``async with``, or ``open`` and ``close``).

    ``secrets`` are signing keys or ``whsec_…`` texts, newest first; without any, requests are
    not signed. ``body`` renders one delivery, and raises ``TemporaryError`` when the configuration
    fails on it; ``now`` gives aware UTC. ``resolve`` replaces the system's resolver. ``hidden`` are
    secrets that the body holds: an answer that repeats one is kept without it. ``verdict`` judges
    an answer by its body where the status does not tell, and gives ``None`` where it does. Raises
    ``ValueError``, without any secret in it, for a secret or a header that cannot be used; a URL
    that is refused makes every attempt ``Deferred`` with the reason, so that nothing is lost until
    the configuration is mended.
    """

    name: str
    url: str
    body: Callable[[Delivery], bytes]
    version: str
    secrets: Sequence[bytes | str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    concurrency: int = 8
    allow_private: bool = False
    ca: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    profile: ProfileName = "default"
    deadlines: Deadlines | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    resolve: Resolve | None = None
    proxy: Proxy | None = None
    hidden: Collection[str] = ()
    verdict: Callable[[int, bytes], Outcome | None] = lambda _status, _body: None

    _keys: list[bytes] = field(init=False)
    _target: URL = field(init=False)
    _refusal: str | None = field(init=False)
    _static: CIMultiDict[str] = field(init=False)
    _redacted: list[str] = field(init=False)
    _limits: Deadlines = field(init=False)
    _slots: asyncio.Semaphore = field(init=False)
    _session: aiohttp.ClientSession | None = field(init=False, default=None)
    _resolver: SystemResolver | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Prepare everything that is the same for all attempts."""
        self._keys = [parse_secret(key) if isinstance(key, str) else key for key in self.secrets]
        self._refusal = check_url(self.url, self.allow_private)
        self._limits = self.deadlines or DEADLINES[self.profile]
        self._slots = asyncio.Semaphore(self.concurrency)
        # A URL that is refused is never connected to; an empty one stands in for it.
        given = URL() if self._refusal else exact_url(self.url)
        self._target = given.with_user(None) if given.raw_user or given.raw_password else given
        self._static = self._static_headers(given)
        self._redacted = secret_parts(given, [*self.headers.values(), *self.hidden])

    def _static_headers(self, given: URL) -> CIMultiDict[str]:
        problems = [check_header(name, value) for name, value in self.headers.items()]
        for problem in filter(None, problems):
            msg = f"webhook {self.name}: {problem}"
            raise ValueError(msg)
        static = CIMultiDict(self.headers)
        if (given.user or given.password) and "Authorization" not in static:
            pair = f"{given.user or ''}:{given.password or ''}".encode()
            static["Authorization"] = f"Basic {b64encode(pair).decode('ascii')}"
        static["User-Agent"] = f"mailbridge/{self.version}"
        static["Accept"] = "*/*"
        # No encodings are offered: what is not decompressed cannot explode.
        static["Accept-Encoding"] = "identity"
        return static

    @property
    def target(self) -> str:
        """Scheme and host: all of the URL that may be shown."""
        return f"{self._target.scheme}://{self._target.raw_host}" if self._target.scheme else "?"

    def __repr__(self) -> str:
        """Name and host, nothing else: the rest of the URL may be secret."""
        return f"<WebhookSink {self.name} to {self.target}>"

    async def open(self) -> None:
        """Read the TLS files and get ready. Raises ``PermanentError`` when they are unusable."""
        context = None
        if self._target.scheme == "https":
            # Reading the system's certificates takes tens of milliseconds.
            context = await asyncio.to_thread(self._tls_context)
        resolve = self.resolve
        if resolve is None:
            resolve = self._resolver = SystemResolver()
        connector = PinningConnector(
            guard=Guard(scheme=self._target.scheme, allow_private=self.allow_private),
            resolve=resolve,
            deadlines=self._limits,
            context=context,
            limit=self.concurrency,
            proxy=self.proxy,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._static,
            timeout=aiohttp.ClientTimeout(
                total=self._limits.total, sock_read=self._limits.first_byte
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def _tls_context(self) -> ssl.SSLContext:
        path = self.ca
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            if self.ca is not None:
                context.load_verify_locations(cafile=self.ca)
            if self.client_certificate is not None:
                path = self.client_certificate
                context.load_cert_chain(self.client_certificate, self.client_key)
        except (OSError, ValueError) as exc:
            why = tls_words(exc) if isinstance(exc, ssl.SSLError) else _os_reason(exc)
            raise PermanentError(
                f"webhook {self.name}: TLS file {path} cannot be used: {why}", code="webhook.tls"
            ) from exc
        return context

    async def close(self) -> None:
        """Close all connections. Attempts in flight end as ``Deferred``."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None

    async def __aenter__(self) -> Self:
        """Open."""
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close."""
        await self.close()

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        """Turn claimed deliveries into the exact bytes to send, in the same order."""
        return [self._rendered(each) for each in deliveries]

    def _rendered(self, delivery: Delivery) -> Rendered:
        body, refusal = b"", None
        try:
            body = self.body(delivery)
        except TemporaryError as exc:
            # The configuration fails on this mail. Others go on: it is no fault of the receiver.
            refusal = Deferred(reason=str(exc), sink_fault=False)
        return Rendered(
            delivery=delivery, body=body, content_type=self.content_type, refusal=refusal
        )

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        """Make one attempt. More calls than ``concurrency`` wait, and their clock has not begun."""
        if self._refusal is not None:
            return Deferred(reason=self._refusal)
        if rendered.refusal is not None:
            return rendered.refusal
        if self._session is None:
            msg = f"webhook {self.name} is not open"
            raise RuntimeError(msg)
        async with self._slots:
            headers = await self._headers(rendered, attempt)
            started = time.monotonic()
            try:
                try:
                    response = await self._post(self._session, rendered.body, headers)
                except StaleConnection:
                    # The idle connection was being closed as we used it, so this is no failure
                    # of the receiver. The id makes a second copy harmless if it was one.
                    if time.monotonic() - started > STALE_SECONDS:
                        raise
                    response = await self._post(self._session, rendered.body, headers)
            except BrokenAnswer as answer:
                return self._judge(answer.status, {}, b"")
            except (Unavailable, aiohttp.ClientError, OSError) as exc:
                return Deferred(reason=self._reason(exc))
            return self._judge(response.status, response.headers, await _drain(response))

    async def reach(self) -> Reached:
        """Connect as an attempt would, and hang up: nothing is sent. Raises ``Unavailable``."""
        if self._refusal is not None:
            raise Unavailable(self._refusal, code="webhook.address_refused")
        connector = self._session.connector if self._session is not None else None
        if not isinstance(connector, PinningConnector):
            msg = f"webhook {self.name} is not open"
            raise TypeError(msg)
        protocol = await connector.dial(self._target)
        transport = protocol.transport
        if transport is None:
            raise Unavailable(f"{self._target.raw_host}: hung up at once", code="webhook.connect")
        peer = transport.get_extra_info("peername") or ("?", 0)
        tls = transport.get_extra_info("ssl_object")
        closed = protocol.closed
        protocol.close()
        if closed is not None:
            await closed
        return Reached(peer=peer[0], port=peer[1], tls=tls.version() if tls else "")

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        return await session.post(
            self._target,
            data=body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
        )

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        outcome = judge(
            status,
            headers,
            extract(body, self._redacted),
            now=self.now(),
            retry_after_cap=POLICIES[self.profile].retry_after_cap,
        )
        said = self.verdict(status, body)
        if said is None:
            return outcome
        if isinstance(said, Deferred) and isinstance(outcome, Deferred):
            return replace(said, detail=outcome.detail, retry_after=outcome.retry_after)
        return replace(said, detail=outcome.detail)

    async def _headers(self, rendered: Rendered, attempt: int) -> CIMultiDict[str]:
        """Return the headers of this attempt; aiohttp lays them over the static ones."""
        delivery, now = rendered.delivery, self.now()
        timestamp = int(now.timestamp())
        headers = CIMultiDict(
            {
                _CONTENT_TYPE: rendered.content_type,
                _ID: delivery.event_id,
                _TIMESTAMP: str(timestamp),
                _ATTEMPT: str(attempt),
                _SEQUENCE: str(delivery.sequence),
                _AGE: str(max(0, int((now - delivery.created_at).total_seconds()))),
            }
        )
        if delivery.replay:
            headers[_REPLAY] = str(delivery.replay)
        if self._keys:
            signed = (self._keys, delivery.event_id, timestamp, rendered.body)
            large = len(rendered.body) >= LARGE_BODY_BYTES
            signature = await asyncio.to_thread(sign, *signed) if large else sign(*signed)
            headers[_SIGNATURE] = signature
        return headers

    def _reason(self, exc: Exception) -> str:
        """Say why there was no answer, never in aiohttp's own words: those hold the URL."""
        if isinstance(exc, Unavailable):
            return str(exc)
        match exc:
            case aiohttp.SocketTimeoutError():
                words = f"nothing came for {self._limits.first_byte:g} s"
            case TimeoutError():
                words = f"the attempt took longer than {self._limits.total:g} s"
            case HeadTooLong():
                words = "the headers of the answer have no end"
            case aiohttp.ServerDisconnectedError() | StaleConnection():
                words = "connection closed before the answer was complete"
            case aiohttp.ClientResponseError():
                words = "the answer is not valid HTTP"
            case _ if isinstance(exc.__cause__, ssl.SSLError):
                words = f"TLS: {tls_words(exc.__cause__)}"
            case OSError():
                words = f"connection lost: {os_words(exc)}"
            case _:
                words = f"connection lost: {type(exc).__name__}"
        return f"{self._target.raw_host}: {words}"


async def _drain(response: aiohttp.ClientResponse) -> bytes:
    """Read at most 64 KiB of the body; a connection with more to come is closed.

    The status has decided already, so whatever goes wrong here is not an error.
    """
    kept = bytearray()
    try:
        while len(kept) <= DRAIN_BYTES:
            piece = await response.content.readany()
            if not piece:
                # Read to its end: aiohttp has put the connection back for the next request.
                return bytes(kept)
            kept += piece
    except (aiohttp.ClientError, HttpProcessingError, OSError):
        # Torn, malformed or too slow: what came so far is enough for people to read.
        pass
    finally:
        if not response.closed:
            response.close()
    return bytes(kept)


def _os_reason(exc: OSError | ValueError) -> str:
    return os_words(exc) if isinstance(exc, OSError) else type(exc).__name__
