"""A TLS socket in the event loop, for connections that belong to a blocking library otherwise.

asyncio's own streams cannot take over a socket whose TLS session is under way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

#: bytes that one read of a TLS connection brings at most
TLS_RECORD: Final = 16384


class LoopSocket:
    """Reads and writes a non-blocking socket as the event loop says; it closes nothing.

    ``heard`` gets the bytes that come. ``lost`` is called once, with what the socket raised or
    ``None`` at the end of the stream; nothing watches the socket any more then, so that a dead
    connection costs nothing.
    """

    def __init__(
        self,
        sock: ssl.SSLSocket,
        *,
        heard: Callable[[bytes], None],
        lost: Callable[[OSError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._heard = heard
        self._lost = lost
        self._out = b""
        self._writing = False
        self._watching = True
        self._loop.add_reader(self._fd, self._readable)

    @property
    def unsent(self) -> bool:
        """Whether something waits for the network to take it."""
        return bool(self._out)

    def drain(self) -> None:
        """Read what the TLS layer holds already: that does not make the socket readable."""
        if self._watching and self._sock.pending():
            self._readable()

    def send(self, data: bytes) -> None:
        """Send ``data``, now or as soon as the network takes it."""
        if self._watching:
            self._out += data
            self._flush()

    def let_go(self) -> None:
        """Watch the socket no longer; harmless when that is so already."""
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)
            self._await_writing(wanted=False)

    def _readable(self) -> None:
        # A record is read whole, and OpenSSL reads no further than its end: what comes behind
        # it makes the socket readable again.
        try:
            data = self._sock.recv(TLS_RECORD)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._await_writing(wanted=True)
        except OSError as exc:
            self._end(exc)
        else:
            if not data:
                self._end(None)
                return
            self._heard(data)
        if self._out:
            self._flush()

    def _writable(self) -> None:
        self._await_writing(wanted=False)
        # A read may have been what had to write.
        self._readable()

    def _flush(self) -> None:
        try:
            while self._out and self._watching:
                self._out = self._out[self._sock.send(self._out) :]
        except ssl.SSLWantWriteError:
            self._await_writing(wanted=True)
        except ssl.SSLWantReadError:
            pass  # goes on when the socket is readable
        except OSError as exc:
            self._end(exc)

    def _await_writing(self, *, wanted: bool) -> None:
        if wanted == self._writing or (wanted and not self._watching):
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._fd, self._writable)
        else:
            self._loop.remove_writer(self._fd)

    def _end(self, reason: OSError | None) -> None:
        if self._watching:
            self.let_go()
            self._lost(reason)
