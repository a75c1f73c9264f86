"""A relay for tests: the real listener on a real SQLite store, with a real outbox and routes."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailbridge.config import Config, load
from mailbridge.model import Delivery
from mailbridge.outbox import Outbox
from mailbridge.relay.bounds import Limits
from mailbridge.relay.inbound import Inbound
from mailbridge.relay.listener import Relay
from mailbridge.routing import Routing
from mailbridge.store.store import Store
from mailbridge.ways import build_router

#: until a test gives up; generous, since machines are shared
SECONDS = 30
PASSWORD = "a made-up password"
SECTION = """
  accept:
    senders: {"scanner@fw.example": alarm, "*@office.example": alarm}
  inbound: {alarm@in.fw.example: [alarm, archive], other@in.fw.example: archive}
"""
MAIL = (
    b"From: scanner@fw.example\r\nTo: chief@fw.example\r\nSubject: scan\r\n"
    b"Message-ID: <1@scanner>\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n\r\nHello\r\n"
)


def config_of(home: Path, section: str = SECTION) -> Config:
    """Return a configuration with this section ``relay``, which listens at any free port."""
    file = home / "mailbridge.yaml"
    file.write_text(
        f'state: {{database: "sqlite:///{home}/m.db"}}\napps:\n  main:\n'
        "    tenant: 11111111-2222-3333-4444-555555555555\n"
        "    client_id: 66666666-7777-8888-9999-000000000000\n"
        "    credential: {client_secret: {env: S}, expires: 2028-11-20}\n"
        "mailboxes:\n"
        "  alarm: {address: alarm@fw.example, app: main, send: {}, routes: [archive]}\n"
        "routes:\n"
        "  alarm: {match: {subject: Einsatz}, webhooks: [erp], stop: true}\n"
        "  archive: {webhooks: [erp, other]}\n"
        "  strict: {match: {from: ['*@ils.example']}, require: {authenticated: true},"
        " webhooks: [erp]}\n"
        "webhooks: {erp: {url: https://erp.example/hook}, other: {url: https://o.example/hook}}\n"
        f"relay:\n  listen: 127.0.0.1:0{section}"
    )
    return load(file, environ={"S": "abc8Q~made-up-client-secret", "PASSWORD": PASSWORD})


@dataclass(slots=True, kw_only=True)
class Site:
    """A relay at work, and what came of it. ``woken`` counts what wakes dispatchers."""

    config: Config
    store: Store
    relay: Relay
    outbox: Outbox
    stop: asyncio.Event
    serving: asyncio.Task[None]
    waits: list[float]
    woken: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.relay.port

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """Connect, and leave the greeting to be read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def smtp(self, work: Callable[[smtplib.SMTP], Any]) -> Any:
        """Let the standard library's client do something, in a thread."""

        def run() -> Any:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=SECONDS) as client:
                return work(client)

        return await asyncio.to_thread(run)

    async def send(
        self, sender: str, recipients: str | Sequence[str], content: bytes = MAIL
    ) -> Any:
        """Send a mail by the standard library's client; returns the recipients refused."""
        return await self.smtp(lambda smtp: smtp.sendmail(sender, recipients, content))

    async def queued(self) -> list[Delivery]:
        """Take every mail that waits to be sent."""
        return await self._claimed("send:alarm")

    async def routed(self, sink: str = "erp") -> list[Delivery]:
        """Take every mail that waits for a webhook."""
        return await self._claimed(sink)

    async def _claimed(self, sink: str) -> list[Delivery]:
        return list(await self.store.claim(sink, limit=100, max_bytes=10**9, lease=600))


class Talk:
    """A client that says what it likes, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> str:
        """Read one reply, all of its lines; empty at the end of the connection."""
        lines = []
        async with asyncio.timeout(SECONDS):
            while line := (await self._line()).decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    async def _line(self) -> bytes:
        try:
            return await self.reader.readline()
        except ConnectionError:
            return b""

    async def say(self, *lines: str | bytes) -> str:
        """Say lines one after the other, each after the reply to the former; the last reply."""
        reply = ""
        for line in lines:
            self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
            reply = await self.reply()
        return reply

    async def raw(self, content: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(content)
        await self.writer.drain()

    async def end(self) -> list[str]:
        """Return every reply that is still to come, until the other side ends the connection."""
        replies = []
        while reply := await self.reply():
            replies.append(reply)
        return replies

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Begin TLS as a client."""
        await self.writer.start_tls(context, server_hostname="localhost")


@asynccontextmanager
async def relay_at(
    home: Path, section: str = SECTION, *, limits: Limits | None = None, **others: Any
) -> AsyncIterator[Site]:
    """Serve a relay while the block lasts."""
    config = config_of(home, section)
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    store = await Store.open(config.state.database.reveal(), now=others.get("clock", now))
    woken: list[str] = []
    outbox = Outbox(
        config=lambda: config, store=store.sends, wake=woken.append, now=now, run=asyncio.to_thread
    )
    assert config.relay is not None
    relay = Relay(
        config.relay,
        outbox=others.get("outbox", outbox),
        inbound=inbound_of(config, others.get("store", store), woken),
        hostname="relay.test",
        limits=limits,
        wait=wait,
    )
    relay.open()
    stop = asyncio.Event()
    serving = asyncio.create_task(relay.run(stop))
    try:
        yield Site(
            config=config,
            store=store,
            relay=relay,
            outbox=outbox,
            stop=stop,
            serving=serving,
            waits=waits,
            woken=woken,
        )
    finally:
        stop.set()
        async with asyncio.timeout(SECONDS):
            await serving
            await relay.close()
        await store.close()


def inbound_of(config: Config, store: Any, woken: list[str]) -> Inbound:
    """Return what takes mail for the addresses of a configuration."""
    assert config.relay is not None
    routings = {
        address: Routing(router=build_router(config, names), run=asyncio.to_thread, now=now)
        for address, names in config.relay.inbound.items()
    }
    return Inbound(
        store=store, routings=routings, on_accepted=lambda: woken.append("sinks"), now=now
    )


def now() -> datetime:
    return datetime.now(UTC)
