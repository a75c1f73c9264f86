"""A webhook receiver on loopback: verifies, records, and misbehaves when told to.

Its verifier is written from the Standard Webhooks specification and shares no code with the
side that signs, so that the two prove each other.

::

    async with Receiver.start(secrets=[secret]) as receiver:
        receiver.answer_with(Answer(status=503, retry_after=2), times=1)
        ...  # POST to receiver.url
        await receiver.wait(3)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

#: seconds that the clocks may differ
TOLERANCE: Final = 300
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_MAX_SIGNATURES: Final = 16
#: bytes; attachments may come inline
_MAX_BODY: Final = 512 * 1024 * 1024
_CHUNK: Final = b"x" * 65_536
_STOP_SECONDS: Final = 0.2


def _utc_now() -> datetime:
    return datetime.now(UTC)


def verify(
    secrets: Sequence[str], headers: CIMultiDict[str], body: bytes, *, moment: datetime
) -> str:
    """Return why a request is not to be trusted, or an empty string when it is."""
    values = {}
    for name in ("id", "timestamp", "signature"):
        found = headers.getall(f"webhook-{name}", [])
        if len(found) != 1:
            return f"webhook-{name} is there {len(found)} times"
        values[name] = found[0]
    if not _ID.fullmatch(values["id"]) or not _TIMESTAMP.fullmatch(values["timestamp"]):
        return "malformed id or timestamp"
    if abs(moment.timestamp() - int(values["timestamp"])) > TOLERANCE:
        return "timestamp outside the tolerance"
    signed = f"{values['id']}.{values['timestamp']}.".encode() + body
    wanted = [
        hmac.new(base64.b64decode(s.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        for s in secrets
    ]
    for item in values["signature"].split(" ")[:_MAX_SIGNATURES]:
        version, _, encoded = item.partition(",")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if version == "v1" and any(hmac.compare_digest(given, value) for value in wanted):
            return ""
    return "no signature fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How the receiver answers; seconds and bytes.

    ``hang`` never answers, ``drop`` cuts the connection instead. ``body_size`` sends that many
    bytes after ``body``; ``location`` makes it a redirect's target.
    """

    status: int = 200
    body: bytes = b""
    body_size: int = 0
    delay: float = 0
    retry_after: float | str | None = None
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request, whole. ``problem`` is empty when its signature holds.

    ``status`` is the answer that was decided on; 0 when it hangs or is cut off.
    """

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes = field(repr=False)
    at: datetime
    problem: str
    status: int = 0
    #: the event type, or empty
    type: str = ""

    @property
    def id(self) -> str:
        """The webhook-id, or empty."""
        return self.headers.get("webhook-id", "")

    @property
    def verified(self) -> bool:
        """Whether the signature holds."""
        return not self.problem

    @property
    def accepted(self) -> bool:
        """Whether it was verified and answered 2xx."""
        return self.verified and self.status // 100 == 2  # noqa: PLR2004 - the class of 2xx

    @property
    def json(self) -> Any:
        """The body as JSON; ``ValueError`` when it is none."""
        return orjson.loads(self.body)


def _event_type(body: bytes) -> str:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return str(document.get("type", "")) if isinstance(document, dict) else ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Script:
    answer: Answer
    times: int | None
    when: Callable[[Received], bool] | None


class Receiver:
    """The server. ``requests`` holds everything that came, in the order of its arrival."""

    def __init__(self, *, secrets: Sequence[str], now: Callable[[], datetime] = _utc_now) -> None:
        """Use ``start`` instead, which also listens. Without secrets nothing is verified."""
        self.secrets = list(secrets)
        self.requests: list[Received] = []
        #: called with every request; for showing it
        self.on_request: Callable[[Received], None] | None = None
        #: requests being answered right now, and the most there were at a time
        self.active = 0
        self.most_active = 0
        self.port = 0
        self.scheme = "http"
        self._now = now
        self._scripts: list[_Script] = []
        self._accepted: dict[str, Received] = {}
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        secrets: Sequence[str] = (),
        port: int = 0,
        context: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> AsyncIterator[Receiver]:
        """Listen on 127.0.0.1 until the block ends; port 0 takes a free one.

        ``context`` makes it HTTPS (``tenant.authority.server_context()``).
        """
        receiver = cls(secrets=secrets, now=now)
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("*", "/{path:.*}", receiver._handle)
        runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_STOP_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, backlog=1024).start()
            receiver.port = runner.addresses[0][1]
            receiver.scheme = "https" if context else "http"
            yield receiver
        finally:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Where to POST to."""
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return f"{self.scheme}://{host}:{self.port}/hook"

    # --- scripting -----------------------------------------------------------------------------

    def answer_with(
        self,
        answer: Answer,
        *,
        times: int | None = None,
        when: Callable[[Received], bool] | None = None,
    ) -> None:
        """Give this answer to the next ``times`` requests (``None``: all) that fit ``when``.

        Scripts are tried in the order in which they were added; without one that fits the
        answer is 200, or 401 for a signature that does not hold.
        """
        self._scripts.append(_Script(answer=answer, times=times, when=when))

    def behave(self) -> None:
        """Forget all scripts."""
        self._scripts.clear()

    # --- what came -----------------------------------------------------------------------------

    @property
    def accepted(self) -> dict[str, Received]:
        """The first accepted request of each webhook-id, in order."""
        return dict(self._accepted)

    async def wait(
        self, count: int, *, seconds: float = 10, event: str | None = None
    ) -> list[Received]:
        """Wait until ``count`` webhook-ids (of this event type) are accepted; return them."""
        return await self._until(
            lambda: [r for r in self._accepted.values() if event in {None, r.type}],
            count,
            seconds,
        )

    async def wait_requests(self, count: int, *, seconds: float = 10) -> list[Received]:
        """Wait until ``count`` requests came in all, whatever the answers were."""
        return await self._until(lambda: self.requests, count, seconds)

    async def _until(
        self, find: Callable[[], list[Received]], count: int, seconds: float
    ) -> list[Received]:
        try:
            async with asyncio.timeout(seconds):
                while len(find()) < count:
                    await self._news.wait()
        except TimeoutError:
            answers = [request.status for request in self.requests[-20:]]
            message = (
                f"waited {seconds} s for {count}, got {len(find())}; requests in all: "
                f"{len(self.requests)}, last answers: {answers}"
            )
            raise TimeoutError(message) from None
        return list(find())

    # --- serving -------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            body = await request.read()
            headers = CIMultiDict(request.headers)
            moment = self._now()
            problem = verify(self.secrets, headers, body, moment=moment) if self.secrets else ""
            draft = Received(
                method=request.method,
                path=request.path_qs,
                headers=headers,
                body=body,
                at=moment,
                problem=problem,
                type=_event_type(body),
            )
            answer = self._answer_for(draft)
            silent = answer.hang or answer.drop
            self._record(replace(draft, status=0 if silent else answer.status))
            return await self._give(request, answer)
        finally:
            self.active -= 1

    def _answer_for(self, received: Received) -> Answer:
        for script in self._scripts:
            if script.when is not None and not script.when(received):
                continue
            if script.times is not None:
                script.times -= 1
                if script.times <= 0:
                    self._scripts.remove(script)
            return script.answer
        return Answer() if received.verified else Answer(status=401, body=b"bad signature")

    def _record(self, received: Received) -> None:
        self.requests.append(received)
        if received.accepted:
            self._accepted.setdefault(received.id, received)
        if self.on_request is not None:
            self.on_request(received)
        # Whoever waits on the old event looks again; a new one takes its place.
        self._news.set()
        self._news = asyncio.Event()

    async def _give(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.hang:
            await asyncio.Event().wait()
        if answer.drop and request.transport is not None:
            request.transport.abort()
            return web.Response(status=500)
        headers = dict(answer.headers)
        if answer.retry_after is not None:
            headers["Retry-After"] = str(answer.retry_after)
        if answer.location is not None:
            headers["Location"] = answer.location
        if not answer.body_size:
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        await response.write(answer.body)
        for start in range(0, answer.body_size, len(_CHUNK)):
            await response.write(_CHUNK[: answer.body_size - start])
        return response
