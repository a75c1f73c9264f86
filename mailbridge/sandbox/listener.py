"""The ports of a mail server, and the sessions on them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from mailbridge.sandbox.wire import GOODBYE, Wire

_BACKLOG: Final = 1024


class Served(Protocol):
    """A ``Protocol``: one connection, as far as the listener cares."""

    wire: Wire

    async def run(self) -> None:
        """Serve the connection until it ends; must not raise when the client goes away."""


S = TypeVar("S", bound=Served)


@dataclass(slots=True, kw_only=True)
class _Endpoint:
    host: str
    port: int
    context: ssl.SSLContext | None
    server: asyncio.Server | None = None


class Listener(Generic[S]):
    """Accepts connections and keeps their sessions until they end.

    ``serve`` makes a session of a connection; it is told its number, and whether TLS is on.
    """

    def __init__(self, serve: Callable[[Wire, int, bool], S]) -> None:
        self._serve = serve
        self._endpoints: list[_Endpoint] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: connections taken so far
        self.connections = 0
        self.sessions: set[S] = set()

    async def open(self, context: ssl.SSLContext | None, *, host: str, port: int) -> int:
        """Listen too on ``port`` (0 takes a free one) and return it; no context is no TLS yet."""
        endpoint = _Endpoint(host=host, port=port, context=context)
        await self._listen(endpoint)
        self._endpoints.append(endpoint)
        return endpoint.port

    async def _listen(self, endpoint: _Endpoint) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._accept(Wire(reader, writer), secure=endpoint.context is not None)

        endpoint.server = await asyncio.start_server(
            accept,
            endpoint.host,
            endpoint.port,
            ssl=endpoint.context,
            ssl_shutdown_timeout=None if endpoint.context is None else GOODBYE,
            backlog=_BACKLOG,
        )
        endpoint.port = endpoint.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut off every session; nothing happens when it was not listening."""
        for endpoint in self._endpoints:
            if endpoint.server is not None:
                endpoint.server.close()
        for session in list(self.sessions):
            session.wire.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            if endpoint.server is not None:
                await endpoint.server.wait_closed()
                endpoint.server = None

    async def restart(self) -> None:
        """Stop if it runs, and listen again on the ports of before."""
        await self.stop()
        for endpoint in self._endpoints:
            await self._listen(endpoint)

    def _accept(self, wire: Wire, *, secure: bool) -> None:
        self.connections += 1
        session = self._serve(wire, self.connections, secure)
        self.sessions.add(session)
        task = asyncio.get_running_loop().create_task(self._run(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, session: S) -> None:
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            await session.wire.closed()
