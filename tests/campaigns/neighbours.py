"""Receivers that mean harm beside one that does not: how late the good one's mails come.

Five webhooks misbehave as they can: one hangs, one answers with 10 GB, one drips a byte a second,
one redirects to the cloud's metadata service, one has a name that leads to loopback. Sinks,
dispatchers and store are real; the receivers are a process of their own, apart from the good one.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from mailbridge.dispatch import Dispatcher
from mailbridge.health import SinkHealth
from mailbridge.model import Batch, Checkpoint, Delivery, MessageRef, RawMessage
from mailbridge.retry import POLICIES
from mailbridge.sinks.webhook import WebhookSink
from mailbridge.store.store import Store
from tests.servers.receiver import Exchange, Script, answer, endless, raw, receiving

OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE: dict[str, Script] = {
    "hangs": raw(then="hang"),
    "10 GB": endless(OK + b"Content-Length: 10000000000\r\n\r\n", b"x" * 65536),
    "drips": endless(OK + b"Content-Length: 1000\r\n\r\n", b"x", pause=1.0),
    "redirects": answer(302, headers={"Location": "http://169.254.169.254/latest/meta-data/"}),
}
LEADS_INSIDE = "leads inside"
GOOD = "good"
#: by how much the good one's p99 may rise, and the memory of this process, in bytes
MAY_RISE = 0.25
MAY_GROW = 64 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Beside:
    """How late mails came at the good one, in seconds, alone and beside the others."""

    mails: int
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    grown: int = 0
    attempts: Mapping[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Note what is broken."""
        for name, came in (("alone", self.alone), ("beside", self.beside)):
            if len(came) != self.mails:
                self.broken.append(f"{name}: {len(came)} of {self.mails} came")
        if not self.broken and p99(self.beside) - p99(self.alone) > MAY_RISE:
            self.broken.append(f"p99 rose from {p99(self.alone):.3f} to {p99(self.beside):.3f} s")
        if self.grown > MAY_GROW:
            self.broken.append(f"memory grew by {self.grown / 1e6:.0f} MB")
        untried = [name for name, count in self.attempts.items() if not count]
        if untried:
            self.broken.append(f"never tried: {untried}")

    def table(self) -> Table:
        """Return the figures as people read them."""
        shown = Table(title="a webhook beside five that mean harm")
        for name in ("", "mails", "p50", "p99", "most"):
            shown.add_column(name, justify="right" if name else "left")
        for name, came in (("alone", self.alone), ("beside them", self.beside)):
            values = (sorted(came)[len(came) // 2], p99(came), max(came)) if came else (0, 0, 0)
            shown.add_row(name, str(len(came)), *(f"{value * 1000:.0f} ms" for value in values))
        attempts = ", ".join(f"{name} {count}" for name, count in self.attempts.items())
        shown.caption = f"memory grew by {self.grown / 1e6:.1f} MB; attempts at {attempts}"
        return shown


def p99(came: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(came)[max(0, -(-99 * len(came) // 100) - 1)]


async def serve() -> None:
    """Be the hostile receivers, until standard input ends."""
    async with AsyncExitStack() as stack:
        urls = {}
        for name, script in HOSTILE.items():
            receiver = await stack.enter_async_context(receiving(script))
            urls[name] = receiver.url()
        sys.stdout.write(json.dumps(urls) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def hostile() -> AsyncIterator[dict[str, str]]:
    """Start them in a process of their own; yields their URLs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.campaigns.neighbours"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        urls: dict[str, str] = json.loads(await process.stdout.readline())
        yield urls
    finally:
        process.kill()
        await process.communicate()


class Hooks:
    """Dispatchers of real webhook sinks on one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.healths: dict[str, SinkHealth] = {}
        self._dispatchers: list[Dispatcher] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._uid = 0

    async def add(self, stack: AsyncExitStack, name: str, url: str, **more: Any) -> None:
        """Open a sink and deliver to it."""
        settings: dict[str, Any] = {"allow_private": True} | more
        sink = WebhookSink(name=name, url=url, body=_body, version="0", **settings)
        await stack.enter_async_context(sink)
        self.healths[name] = SinkHealth(name=name)
        dispatcher = Dispatcher(
            sink=sink,
            store=self.store,
            policy=POLICIES["default"],
            health=self.healths[name],
            listeners=lambda _mailbox, _kind: [],
            run_blocking=_in_thread,
            now=lambda: datetime.now(UTC),
            rng=random.Random(7),
        )
        self._dispatchers.append(dispatcher)
        self._tasks.append(asyncio.create_task(dispatcher.run(self._stop)))

    async def put(self) -> tuple[str, float]:
        """Accept a mail for all of them; returns its id and when it was there."""
        self._uid += 1
        ref = MessageRef(mailbox="a", folder="INBOX", uidvalidity=1, uid=self._uid)
        mail = RawMessage(ref=ref, raw=b"Subject: alarm\r\n\r\n" + b"x" * 3000)
        where = Checkpoint(
            mailbox="a",
            folder="INBOX",
            uidvalidity=1,
            uid=self._uid,
            watching_since=datetime.now(UTC),
        )
        batch = Batch(
            mailbox="a",
            folder="INBOX",
            checkpoint=where,
            sinks=tuple(self.healths),
            messages=(mail,),
        )
        await self.store.accept(batch, address="a@b.example", settles=False)
        for dispatcher in self._dispatchers:
            dispatcher.wake()
        return ref.message_id, time.monotonic()

    async def end(self) -> None:
        """Stop; an attempt that hangs is not waited for."""
        self._stop.set()
        _, late = await asyncio.wait(self._tasks, timeout=1.0)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _body(delivery: Delivery) -> bytes:
    return delivery.mail.raw if delivery.mail is not None else b""


async def _in_thread(function: Callable[[Any], Any], arg: Any) -> Any:
    return await asyncio.to_thread(function, arg)


async def measure(folder: Path, *, mails: int = 400, per_second: float = 20.0) -> Beside:
    """Deliver mails to the good one alone, then beside the others; state lies in ``folder``."""
    found = Beside(mails=mails)
    came: dict[str, float] = {}

    async def good(exchange: Exchange) -> None:
        came.setdefault(exchange.request.headers["webhook-id"], time.monotonic())
        await exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with AsyncExitStack() as stack:
        store = await Store.open(f"sqlite:///{folder}/mailbridge.db")
        stack.push_async_callback(store.close)
        receiver = await stack.enter_async_context(receiving(good))
        urls = await stack.enter_async_context(hostile())
        hooks = Hooks(store)
        await hooks.add(stack, GOOD, receiver.url())
        found.alone = await _send(hooks, came, mails, per_second)
        for name, url in urls.items():
            await hooks.add(stack, name, url)
        await hooks.add(
            stack, LEADS_INSIDE, "https://inner.example/", allow_private=False, resolve=_inside
        )
        before = _resident()
        found.beside = await _send(hooks, came, mails, per_second)
        found.grown = max(0, _resident() - before)
        found.attempts = {
            name: health.delivered + health.deferred
            for name, health in hooks.healths.items()
            # An attempt at these may not be over yet.
            if name not in {GOOD, "hangs", "drips"}
        }
        await hooks.end()
    found.judge()
    return found


async def _inside(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def _send(
    hooks: Hooks, came: Mapping[str, float], mails: int, per_second: float
) -> list[float]:
    sent: dict[str, float] = {}
    due = time.monotonic()
    for _ in range(mails):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += 1.0 / per_second
        name, at = await hooks.put()
        sent[name] = at
    deadline = time.monotonic() + 30
    while not sent.keys() <= came.keys() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return [came[name] - at for name, at in sent.items() if name in came]


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    asyncio.run(serve())
