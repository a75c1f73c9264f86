"""How many mails a second the API takes, each durable before its answer.

The server is a process of its own, on the daemon's event loop, with a database whose commits are on
disk; clients ask over kept connections, and each waits for its answer. Beside it, in the same run,
an endpoint of the same server that does nothing: what is left for it to do is our part.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import multiprocessing
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, cast

import structlog
import uvloop

from tests.servers.api import TOKEN

#: connections over which clients ask; a client may have 64 requests answered at a time
CLIENTS: Final = 32
#: what the server is told: to say its figures, to end
_MORE, _END = "more", "end"
SEND, EMPTY = "/v1/send", "/v1/empty"
_TEXT: Final = "Stichwort: B3 Brand\r\nStra\xdfe: Hauptstr. 1\r\n" * 20
_BODY: Final = json.dumps(
    {
        "from": "alarm",
        "to": ["Max Mustermann <max@wache.example>"],
        "subject": "\xdcbung am Mittwoch",
        "text": _TEXT,
    }
).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Requests a second; milliseconds of the server's CPU, and commits, for each."""

    rate: float
    cpu: float
    commits: float


def _serve(pipe: Connection) -> None:
    """Be the server; answers its CPU seconds and commits whenever it is asked."""
    from mailbridge.http.api import api_router
    from tests.servers.api import running_api

    router = api_router("benchmark")

    @router.post("/empty", status_code=202)
    async def empty() -> dict[str, str]:
        return {"state": "empty"}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="mb-bench-") as home:
            async with running_api(Path(home), routers=[router]) as api:
                quiet()
                pipe.send(api.port)
                loop = asyncio.get_running_loop()
                while await loop.run_in_executor(None, pipe.recv) == _MORE:
                    pipe.send((time.process_time(), api.store.commits))

    uvloop.run(main())


def quiet() -> None:
    """Log no line for each mail: a terminal would be what is measured."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


class _Client(asyncio.Protocol):
    """Asks, waits for the answer, asks again, while there is something left to ask."""

    def __init__(self, path: str, left: list[int], done: asyncio.Future[int]) -> None:
        self._path, self._left, self._done = path, left, done
        self._seen, self._taken = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        if not self._left:
            self._transport.close()
            self._done.set_result(self._taken)
            return
        self._left.pop()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nIdempotency-Key: {secrets.token_hex(8)}\r\n"
            f"Content-Length: {len(_BODY)}\r\n\r\n"
        )
        self._transport.write(head.encode() + _BODY)

    def data_received(self, data: bytes) -> None:
        """Count an answer, and ask again."""
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end:
            return
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) >= size:
            self._taken += self._seen.startswith(b"HTTP/1.1 202")
            self._seen = b""
            self._ask()


async def _ask_all(port: int, path: str, count: int) -> float:
    left, loop = list(range(count)), asyncio.get_running_loop()
    began = time.perf_counter()
    done: list[asyncio.Future[int]] = []
    for _ in range(CLIENTS):
        one: asyncio.Future[int] = loop.create_future()
        done.append(one)
        client = functools.partial(_Client, path, left, one)
        await loop.create_connection(client, "127.0.0.1", port)
    taken = sum(await asyncio.gather(*done))
    if taken != count:
        raise RuntimeError(f"{count - taken} of {count} requests were refused")
    return count / (time.perf_counter() - began)


def measure(count: int, runs: int) -> dict[str, list[Pace]]:
    """Return the pace of both endpoints, run by run."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    theirs.close()  # so that the end of the server is heard
    port = ours.recv()
    found: dict[str, list[Pace]] = {EMPTY: [], SEND: []}
    uvloop.run(_ask_all(port, SEND, 100))
    for _ in range(runs):
        for path, paces in found.items():
            cpu, commits = _figures(ours)
            rate = uvloop.run(_ask_all(port, path, count))
            more_cpu, more_commits = _figures(ours)
            paces.append(
                Pace(
                    rate=rate,
                    cpu=1000 * (more_cpu - cpu) / count,
                    commits=(more_commits - commits) / count,
                )
            )
    ours.send(_END)
    server.join(10)
    return found


def _figures(pipe: Connection) -> tuple[float, int]:
    pipe.send(_MORE)
    cpu, commits = pipe.recv()
    return cpu, commits


def middle(paces: list[Pace], what: str) -> float:
    """Return the median of one figure."""
    return float(statistics.median(getattr(one, what) for one in paces))
