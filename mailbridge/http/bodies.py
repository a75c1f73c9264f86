"""What a request may send: bounded in bytes, in time, and JSON in depth."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailbridge.http.problems import Refusal

#: bytes of a body: of a client with a token, and of anybody
LIMIT: Final = 1024 * 1024
LIMIT_FOR_ANYBODY: Final = 64 * 1024
#: bytes of all bodies that are held at the same time
HELD: Final = 256 * 1024 * 1024
#: seconds for a body to arrive, and one more for so many bytes of it
SECONDS: Final = 30.0
BYTES_A_SECOND: Final = 32 * 1024
#: how deep lists and objects may be in one another, and how many there may be
DEPTH: Final = 32
PARTS: Final = 100_000
#: strings that there may be
STRINGS: Final = 200_000
#: a whole string, also one that has no end: it always matches, so that it never looks back
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_OTHERS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")


class Bodies:
    """ASGI: reads the whole body before anybody works on the request.

    ``limits`` gives bytes by method and path where they are more than usual.
    """

    def __init__(
        self, app: ASGIApp, limits: Mapping[tuple[str, str], int], *, seconds: float = SECONDS
    ) -> None:
        self._app = app
        self._limits = dict(limits)
        self._seconds = seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 408, 413 or 503, or pass the request on with its body."""
        headers = Headers(scope=scope)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        try:
            body = await self._read(parts, self._limit(scope, headers), receive)
            if body is None:
                return
            if _is_json(headers) and not shallow(body):
                detail = f"this is no JSON, nested deeper than {DEPTH} levels, or of too many parts"
                raise Refusal(400, "http.json", detail)  # noqa: TRY301 - as those of _read
            given = _given(body, receive)
            await self._app(scope, given, send)
        except Refusal as refusal:
            await refusal.answer(scope["state"].get("request_id"))(scope, receive, send)
        finally:
            self._held -= sum(map(len, parts))

    def _limit(self, scope: Scope, headers: Headers) -> int:
        usual = LIMIT if "client" in scope["state"] else LIMIT_FOR_ANYBODY
        limit = self._limits.get((scope["method"], scope["path"]), usual)
        # h11 has made sure that it is a number.
        if int(headers.get("content-length", "0")) > limit:
            raise _too_large(limit)
        return limit

    async def _read(self, parts: list[bytes], limit: int, receive: Receive) -> bytes | None:
        """Return the body, and its parts in ``parts``; ``None`` when the client has gone."""
        loop = asyncio.get_running_loop()
        began, size = loop.time(), 0
        try:
            async with asyncio.timeout(self._seconds) as patience:
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    self._held += len(part)
                    if size > limit:
                        raise _too_large(limit)
                    if self._held > HELD:
                        detail = "too many large requests at the same time"
                        raise Refusal(503, "http.full", detail, headers={"retry-after": "5"})
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    patience.reschedule(began + self._seconds + size / BYTES_A_SECOND)
        except TimeoutError:
            detail = "the body did not arrive in time"
            raise Refusal(408, "http.slow", detail, headers={"connection": "close"}) from None


def shallow(body: bytes) -> bool:
    """Tell whether JSON is nested at most ``DEPTH`` deep and has no more parts than it may.

    Takes some 10 ms for each MiB at worst, since nothing else runs meanwhile. Brackets are taken
    for alike: whether they fit is told by whoever reads the values.
    """
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return True
    if body.count(b'"') - body.count(b'\\"') > 2 * STRINGS:
        return False
    left = _STRING.sub(b"", body).translate(_ALIKE, _OTHERS)
    if len(left) > 2 * PARTS:
        return False
    for _ in range(DEPTH):
        if not left:
            break
        left = left.replace(b"[]", b"")  # one level less at every place
    return not left


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "http.too_large", f"a body may have {limit} bytes here")


def _given(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body, and after it what becomes of the client."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return rest.pop() if rest else await receive()

    return given
