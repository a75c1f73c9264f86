"""A webhook receiver that can be relied on: it verifies, writes a line, syncs, then answers.

What it has answered with 2xx is on disk, so that "the receiver has it" is a fact and no hope.
Signatures are checked with the reference library of Standard Webhooks, not with our own code.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One accepted request: when (``time.monotonic``), under which id, for which mail."""

    at: float
    webhook_id: str
    type: str
    message_id: str
    mailbox: str
    raw_sha256: str


class Receiver:
    """Listens on one port of loopback for its whole life, also while it is down."""

    def __init__(self, journal: Path, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._file = journal.open("ab")
        self._lock = threading.Lock()
        self._receipts: list[Receipt] = []
        self._tokens: dict[str, list[Receipt]] = {}
        self._requests = 0
        #: requests whose signature did not fit, and faults of the receiver itself
        self.forged: list[str] = []
        self.failures: list[BaseException] = []
        self.port = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def requests(self) -> int:
        """How many requests came, also those that were refused."""
        return self._requests

    def receipts(self) -> list[Receipt]:
        """Return all that was accepted so far, in order."""
        with self._lock:
            return list(self._receipts)

    def of_token(self, token: str) -> list[Receipt]:
        """Return what came of one mail so far."""
        with self._lock:
            return list(self._tokens.get(token, ()))

    def by_token(self, tokens: Iterable[str]) -> dict[str, list[Receipt]]:
        """Return the receipts of mails, by the token in their Message-ID."""
        found: dict[str, list[Receipt]] = {token: [] for token in tokens}
        for receipt in self.receipts():
            if receipt.type == "mail.received":
                token = receipt.message_id.strip("<>").partition("@")[0]
                if token not in found:
                    raise AssertionError(f"a mail came that nobody sent: {receipt}")
                found[token].append(receipt)
        return found

    def up(self) -> None:
        """Answer; after ``down`` on the same port."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.receiver = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def down(self) -> None:
        """Refuse connections, as a dead host does; requests in hand are answered before."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        self._thread.join()
        server.server_close()
        server.close_connections()

    def take(self, headers: dict[str, str], body: bytes) -> bool:
        """Verify and write down one request; false when the signature is wrong."""
        with self._lock:
            self._requests += 1
        try:
            event = self._webhook.verify(body, headers)
        except WebhookVerificationError as error:
            self.forged.append(f"{headers.get('webhook-id')}: {error}")
            return False
        data = event["data"]
        receipt = Receipt(
            at=time.monotonic(),
            webhook_id=headers["webhook-id"],
            type=event["type"],
            message_id=str(data.get("message_id") or ""),
            mailbox=str(data.get("mailbox") or ""),
            raw_sha256=str(data.get("raw_sha256") or ""),
        )
        line = [receipt.webhook_id, receipt.type, receipt.message_id, receipt.raw_sha256]
        with self._lock:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._receipts.append(receipt)
            token = receipt.message_id.strip("<>").partition("@")[0]
            self._tokens.setdefault(token, []).append(receipt)
        return True

    def __enter__(self) -> Self:
        """Start to answer."""
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.down()
        self._file.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    receiver: Receiver

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep what went wrong here; a client that was killed and its reset are no fault."""
        failure = sys.exception()
        if failure is not None and not isinstance(failure, OSError):
            self.receiver.failures.append(failure)

    def close_connections(self) -> None:
        for one in list(self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:
            # The sender was killed in the middle of its request, so there was none.
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        accepted = self.server.receiver.take(headers, body)
        self.send_response(204 if accepted else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing; the journal has it."""
