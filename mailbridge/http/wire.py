"""The connections: how many, how long a request may take to arrive, how long an answer to leave.

uvicorn's protocol on h11, with bounds where it has none: a client that sends its head slowly, that
goes on sending after it was answered, or that does not read its answer is cut off. When there are
too many connections, the one that has been idle for longest makes room for the next.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailbridge.http.problems import MEDIA_TYPE, Refusal

#: connections that are open at the same time
CONNECTIONS: Final = 256
#: seconds for the head of a request, from its first byte or the connection on
HEAD_SECONDS: Final = 10.0
#: seconds until a client has read the 64 KiB that are on their way to it
READ_SECONDS: Final = 30.0
#: bytes of a request line with its headers
HEAD_BYTES: Final = 16 * 1024
#: seconds that a connection without a request stays open
KEEP_ALIVE: Final = 15

#: uvicorn says nothing that the answers and the counts do not: everybody could flood the log
_QUIET: Final = logging.getLogger("mailbridge.http.uvicorn")
_QUIET.setLevel(logging.CRITICAL + 1)


class Connections:
    """Those that are open, the longest idle first; counts what was cut off."""

    def __init__(self, limit: int = CONNECTIONS) -> None:
        self.limit = limit
        self.open: dict[Guarded, None] = {}
        #: connections that were cut off, by why
        self.cut: dict[str, int] = {"head": 0, "read": 0, "room": 0}

    def protocol(self) -> Callable[..., Guarded]:
        """Return what uvicorn makes its connections with."""

        def make(**arguments: Any) -> Guarded:
            return Guarded(self, **arguments)

        return make

    def arrived(self, one: Guarded) -> None:
        """Note a connection; when there are too many, one that has been idle for longer goes."""
        self.open[one] = None
        if len(self.open) > self.limit:
            next((other for other in self.open if other.idle), one).cut("room")

    def became_idle(self, one: Guarded) -> None:
        """Note that a connection has had its answer."""
        self.open.pop(one, None)
        self.open[one] = None


class Guarded(H11Protocol):
    """One connection."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.logger = _QUIET
        self._all = connections
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether it can go: there is no request, or a stranger has not sent all of it."""
        if not self._answering:
            return True
        return self.cycle.more_body and "client" not in self.cycle.scope.get("state", {})

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._all.arrived(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._all.open.pop(self, None)
        self._stop_waiting()
        self._stop_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; what is not yet, or no longer, part of a request being answered is timed."""
        super().data_received(data)
        if self._answering:
            self._stop_waiting()
        elif not self.transport.is_closing():
            self._wait()

    def on_response_complete(self) -> None:
        """Count as idle, unless the next request is there already."""
        super().on_response_complete()
        if not self._answering and not self.transport.is_closing():
            self._all.became_idle(self)

    def pause_writing(self) -> None:
        """Give the client some time to read what is on its way."""
        super().pause_writing()
        self._stop_reader()
        self._reader = self.loop.call_later(READ_SECONDS, self.cut, "read")

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._stop_reader()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Answer it as the plain request that it also is; never called without such a library."""
        raise NotImplementedError

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, with a problem document."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        too_large = status == 431  # noqa: PLR2004 - RFC 6585, section 5
        code, detail = ("http.head", "the head is too large") if too_large else ("http.bad", msg)
        answer = Refusal(431 if too_large else 400, code, detail).answer()
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(answer.body)))]
        headers += [("connection", "close"), ("x-content-type-options", "nosniff")]
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()  # an answer is under way, and this would mix with it
            return
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def cut(self, why: str) -> None:
        """End the connection now, whatever is under way."""
        self._all.cut[why] += 1
        self._all.open.pop(self, None)
        self._stop_waiting()
        self.transport.abort()

    def _wait(self) -> None:
        """Begin to count, unless it is being done: bytes that drip in do not prolong it."""
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.cut, "head")

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
