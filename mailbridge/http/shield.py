"""What stands around every request: its name in the log, headers for browsers, errors of ours."""

from __future__ import annotations

import secrets
from collections import Counter
from email.utils import formatdate
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailbridge.http.problems import bug

log = structlog.get_logger(__name__)

#: of every answer, unless it says otherwise; nothing here is meant for a browser's page
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Shield:
    """ASGI, outermost: whatever happens inside, the client gets an answer and the log a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        #: requests answered, by status
        self.answered: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name = secrets.token_hex(8)
        scope["state"] = {**scope.get("state", {}), "request_id": name}
        if scope["method"] == "HEAD":
            # uvicorn knows of the HEAD and leaves out the body.
            scope = {**scope, "method": "GET"}
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.answered[message["status"]] += 1
                message = {**message, "headers": _headers(message.get("headers", ()), name)}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=name):
            try:
                await self._app(scope, receive, sending)
            except Exception:
                log.exception("http.bug", method=scope["method"], route=_route(scope))
                # Of half an answer the connection is closed, so that it is not taken for a whole.
                if not begun:
                    await bug().answer(name)(scope, receive, sending)


def _headers(given: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    headers = [(key.lower(), value) for key, value in given]
    said = {key for key, _ in headers}
    headers += [pair for pair in HEADERS if pair[0] not in said]
    headers.append((b"x-request-id", request_id.encode()))
    headers.append((b"date", formatdate(usegmt=True).encode()))
    return headers


def _route(scope: Scope) -> str:
    """Return the pattern of the path, since a path may hold what gives access."""
    return getattr(scope.get("route"), "path", "unknown")
