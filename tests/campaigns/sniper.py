"""A webhook receiver that shoots the daemon at a named step of an attempt.

It speaks HTTP over bare sockets, so it knows how far a request has come, and verifies signatures
with the reference library. What it stores is its truth, whatever it answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from standardwebhooks import Webhook, WebhookVerificationError

#: steps of an attempt as a receiver sees them; ``died``: it stores and hangs up, nobody is shot
STEPS = ("connected", "mid request", "request", "stored", "status line")
DIED = "died"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(slots=True, kw_only=True)
class Order:
    """At which step of which event's request to shoot, and whom."""

    step: str
    event: str
    pid: int


class Sniper:
    """Listens on one port of loopback, and counts what it has stored by webhook-id."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._open = 0
        self.stored: Counter[str] = Counter()
        #: by the token in the mail's subject: every webhook-id under which it came
        self.ids: dict[str, set[str]] = {}
        self.forged: list[str] = []
        self.requests = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def arm(self, step: str, event: str, pid: int) -> None:
        """Shoot once, at this step of this event's request."""
        with self._lock:
            self._order = Order(step=step, event=event, pid=pid)

    def disarm(self) -> None:
        """Forget the order."""
        with self._lock:
            self._order = None

    def wait_until_quiet(self, seconds: float = 10.0) -> None:
        """Wait until every connection of a daemon that is gone has been read to its end."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            time.sleep(0.002)
        if self._open:
            raise TimeoutError(f"{self._open} connections are still open")

    def _take(self, step: str, event: str) -> bool:
        with self._lock:
            order = self._order
            if order is None or order.step != step or (event and order.event != event):
                return False
            self._order = None
        if step != DIED:
            os.kill(order.pid, signal.SIGKILL)
        return True

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self._open += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                buffer = b""
                going = not self._take("connected", "")
                while going:
                    going, buffer = self._request(connection, buffer)
        except OSError:
            pass  # the daemon was shot
        finally:
            with self._lock:
                self._open -= 1

    def _request(self, connection: socket.socket, buffer: bytes) -> tuple[bool, bytes]:
        """Serve one request; returns whether to go on, and what came behind it."""
        head, body = _until(connection, buffer, lambda got: b"\r\n\r\n" in got).split(
            b"\r\n\r\n", 1
        )
        lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        event, length = headers["webhook-id"], int(headers["content-length"])
        if self._take("mid request", event):
            return False, b""
        body = _until(connection, body, lambda got: len(got) >= length)
        if self._take("request", event):
            return False, b""
        self._store(headers, body[:length])
        over = self._take(DIED, event) or self._take("stored", event)
        if over or self._take_line(event, connection):
            return False, b""
        connection.sendall(OK)
        return True, body[length:]

    def _take_line(self, event: str, connection: socket.socket) -> bool:
        """Send half an answer and shoot, if that is the order."""
        with self._lock:
            due = self._order
        if due is None or due.step != "status line" or due.event != event:
            return False
        connection.sendall(OK.partition(b"\r\n")[0] + b"\r\n")
        return self._take("status line", event)

    def _store(self, headers: dict[str, str], body: bytes) -> None:
        try:
            event = self._webhook.verify(body, headers)
        except WebhookVerificationError as error:
            self.forged.append(f"{headers.get('webhook-id')}: {error}")
            return
        name = headers["webhook-id"]
        with self._lock:
            self.requests += 1
            self.stored[name] += 1
            token = str(event["data"].get("subject") or "")
            self.ids.setdefault(token, set()).add(name)


def _until(connection: socket.socket, got: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """Read until it is enough; raises ``OSError`` when the other end is gone before."""
    while not enough(got):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionAbortedError
        got += piece
    return got
