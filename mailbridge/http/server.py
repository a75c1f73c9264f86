"""The HTTP server of the daemon: FastAPI behind its guards, run by uvicorn in the daemon's loop.

::

    uvicorn, wire ─▶ Shield ─▶ Door ─▶ Bodies ─▶ FastAPI ─▶ routers
    connections      names,    tokens   bytes,     errors as
    in time          headers            depth      problems

A router is a FastAPI ``APIRouter``. What lies under ``/v1`` needs a token without doing anything
for it; ``request.state.client`` names the client. Errors are raised as ``problems.Refusal`` or as
our own ``MailbridgeError``. Import this only when something listens: FastAPI is not small.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from mailbridge import __version__
from mailbridge.config import Http
from mailbridge.health import Health
from mailbridge.http.api import api
from mailbridge.http.base import Operations
from mailbridge.http.bodies import Bodies
from mailbridge.http.metrics import Metrics, metrics
from mailbridge.http.probes import probes
from mailbridge.http.problems import MEDIA_TYPE, answer_errors
from mailbridge.http.shield import Shield
from mailbridge.http.tokens import Door, Tokens
from mailbridge.http.wire import HEAD_BYTES, KEEP_ALIVE, Connections

log = structlog.get_logger(__name__)

#: seconds for requests under way when the daemon stops; dispatchers have 40
STOP_WITHIN: Final = 3


def make_app(routers: Iterable[APIRouter]) -> FastAPI:
    """Return the application that has these routers; nothing of it loads scripts from elsewhere."""
    app = FastAPI(
        title="mailbridge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        # The Location of a redirect would be built from a header that the client writes.
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    answer_errors(app)
    for router in routers:
        app.include_router(router)
    usual = app.openapi

    def openapi() -> dict[str, Any]:
        return describe(usual())

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own way to extend it
    return app


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Give the problems in an OpenAPI document their media type."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if (status == "default" or int(status) >= HTTPStatus.BAD_REQUEST) and content:
                    response["content"] = {MEDIA_TYPE: next(iter(content.values()))}
    return document


def guard(
    app: ASGIApp, tokens: Tokens, *, body_limits: Mapping[tuple[str, str], int] | None = None
) -> Shield:
    """Return the application behind its guards.

    ``body_limits`` are bytes by method and path, for routes that take more than 1 MiB.
    """
    return Shield(Door(Bodies(app, body_limits or {}), tokens))


def http_server(  # noqa: PLR0913 - the composition root names each once
    *,
    http: Http,
    sockets: list[socket.socket],
    operations: Operations,
    health: Health,
    routers: Iterable[APIRouter] = (),
    body_limits: Mapping[tuple[str, str], int] | None = None,
) -> HttpServer:
    """Return the daemon's server; ``routers`` are those of other parts (sign-in, attachments)."""
    tokens = Tokens({name: token.reveal() for name, token in http.api_tokens.items()})
    connections = Connections()
    collector = Metrics(health, operations, tokens, connections)
    app = make_app([probes(health), metrics(collector), *api(operations), *routers])
    guarded = guard(app, tokens, body_limits=body_limits)
    return HttpServer(guarded, sockets, connections=connections)


class HttpServer:
    """Answers on sockets that already listen, until it is told to stop."""

    def __init__(
        self, app: ASGIApp, sockets: list[socket.socket], *, connections: Connections | None = None
    ) -> None:
        self.connections = connections or Connections()
        self._sockets = sockets
        self._server = _Server(
            uvicorn.Config(
                app,
                http=self.connections.protocol(),  # type: ignore[arg-type] # called like a class
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=STOP_WITHIN,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until ``stop``; requests under way then have ``STOP_WITHIN`` seconds."""
        places = [_place(one) for one in self._sockets]
        log.info("http.listening", places=places)
        serving = asyncio.create_task(self._server.serve(self._sockets))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self._server.over.set()
            await serving
            await self._end()
        log.info("http.stopped")

    async def _end(self) -> None:
        """Cut off what did not end by itself; uvicorn has cancelled its tasks and left it there."""
        state = self._server.server_state
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the transports tell their protocols


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers and without its ten rounds a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.over.wait()


def _place(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
