"""Clients of the sandbox's mail servers: one that sees every byte, and libraries in a thread."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import imaplib
import poplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import imapclient

from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey

ADDRESS = "alarm@feuerwehr.example"
EXCHANGE = "https://outlook.office365.com"
MAIL = b"From: a@ils.example\r\nSubject: Alarm\r\n\r\nB3 Brand\r\n"


@functools.cache
def signing_key() -> SigningKey:
    """Return one key for the whole run; making it takes a while."""
    return SigningKey.generate()


def credential(token: str, address: str = ADDRESS) -> str:
    """Return the base64 XOAUTH2 credential."""
    return base64.b64encode(f"user={address}\x01auth=Bearer {token}\x01\x01".encode()).decode()


def app_of(tenant: Tenant) -> App:
    """Return the first app."""
    return next(iter(tenant.directory.apps.values()))


def token_of(tenant: Tenant) -> str:
    """Return a fresh token of the first app."""
    return tenant.tokens.app_token(app_of(tenant), audience=EXCHANGE)


async def eventually(fact: Callable[[], object]) -> None:
    """Wait until something holds; ``TimeoutError`` when it never does."""
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.01)


class Raw:
    """A client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, text: str) -> None:
        """Send a line."""
        self.writer.write(text.encode() + b"\r\n")

    async def line(self, *, within: float = 5) -> str:
        """Return the next line, without its end; ``TimeoutError`` after so many seconds."""
        async with asyncio.timeout(within):
            return (await self.reader.readline()).decode().removesuffix("\r\n")

    async def until(self, start: str) -> list[str]:
        """Read lines up to the first that begins so; it is the last of the list."""
        lines = [await self.line()]
        while not lines[-1].startswith(start):
            assert self.reader.at_eof() is False, lines
            lines.append(await self.line())
        return lines

    async def do(self, command: str) -> list[str]:
        """Send a tagged command; return the answer's lines, the tagged one last."""
        self.send(command)
        return await self.until(command.split(" ", 1)[0] + " ")

    async def lines(self) -> list[str]:
        """Read a POP3 answer in several lines; without its first line and the dot."""
        first = await self.line()
        assert first.startswith("+OK"), first
        return await self.dotted()

    async def dotted(self) -> list[str]:
        """Read lines up to the lone dot, doubled dots as they come."""
        lines = [await self.line()]
        while lines[-1] != ".":
            assert self.reader.at_eof() is False, lines
            lines.append(await self.line())
        return lines[:-1]

    async def ask(self, command: str) -> str:
        """Send a POP3 command; return the one line that answers it."""
        self.send(command)
        return await self.line()

    async def rest(self) -> bytes:
        """Read until the server has closed."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def connect(tenant: Tenant, *, port: int | None = None) -> AsyncIterator[Raw]:
    """Connect in TLS, to IMAP or another port; the greeting is still to be read."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        tenant.imap.port if port is None else port,
        ssl=tenant.authority.client_context(),
        server_hostname="localhost",
    )
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def signed_in(tenant: Tenant, *, select: bool = True) -> AsyncIterator[Raw]:
    """Connect, sign in, and select INBOX."""
    async with connect(tenant) as raw:
        await raw.line()
        answer = await raw.do(f"L AUTHENTICATE XOAUTH2 {credential(token_of(tenant))}")
        assert answer == ["L OK AUTHENTICATE completed."]
        if select:
            await raw.do("S SELECT INBOX")
        yield raw


@asynccontextmanager
async def pop3(tenant: Tenant, *, token: str | None = None) -> AsyncIterator[Raw]:
    """Connect to POP3 and sign in."""
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask("AUTH XOAUTH2") == "+ "
        answer = await raw.ask(credential(token or token_of(tenant)))
        assert answer == "+OK User successfully authenticated."
        yield raw


async def pop3_answer(tenant: Tenant, blob: str) -> str:
    """Return what POP3 answers to a credential."""
    async with connect(tenant, port=tenant.pop3.port) as raw:
        await raw.line()
        assert await raw.ask("AUTH XOAUTH2") == "+ "
        return await raw.ask(blob)


async def poplib_session(tenant: Tenant, work: Callable[[poplib.POP3], Any], *, stls: bool) -> Any:
    """Run ``work`` with a signed-in poplib client in a thread, then QUIT."""
    blob, context = credential(token_of(tenant)), tenant.authority.client_context()

    def run() -> Any:
        client: poplib.POP3
        if stls:
            client = poplib.POP3("localhost", tenant.pop3.stls_port, timeout=10)
            client.stls(context)
        else:
            client = poplib.POP3_SSL("localhost", tenant.pop3.port, context=context, timeout=10)
        try:
            client._putcmd("AUTH XOAUTH2")  # type: ignore[attr-defined]
            assert client._getline() == (b"+ ", 4)  # type: ignore[attr-defined]
            client._shortcmd(blob)  # type: ignore[attr-defined]
            result = work(client)
        except BaseException:
            client.close()
            raise
        client.quit()
        return result

    return await asyncio.to_thread(run)


async def imaplib_session(tenant: Tenant, work: Callable[[imaplib.IMAP4], Any]) -> Any:
    """Run ``work`` with a signed-in imaplib client in a thread."""
    blob, context = (
        base64.b64decode(credential(token_of(tenant))),
        tenant.authority.client_context(),
    )

    def run() -> Any:
        client = imaplib.IMAP4_SSL("localhost", tenant.imap.port, ssl_context=context, timeout=10)
        try:
            client.authenticate("XOAUTH2", lambda _: blob)
            return work(client)
        finally:
            client.shutdown()

    return await asyncio.to_thread(run)


class Records:
    """An IMAP client that sees which bytes came in one TLS record."""

    def __init__(
        self, tenant: Tenant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.tenant, self.reader, self.writer = tenant, reader, writer
        self.received, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tenant.authority.client_context().wrap_bio(
            self.received, self.sent, server_hostname="localhost"
        )

    async def sign_in(self) -> None:
        """Shake hands, read the greeting, sign in, select INBOX."""
        done = False
        while not done:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                self.writer.write(self.sent.read())
                await self._next()
        self.writer.write(self.sent.read())
        await self.records_of(None, until=b"]\r\n")
        blob = credential(token_of(self.tenant))
        await self.records_of(f"L AUTHENTICATE XOAUTH2 {blob}", until=b"completed.\r\n")
        await self.records_of("S SELECT INBOX", until=b"SELECT completed.\r\n")

    async def _next(self) -> None:
        async with asyncio.timeout(5):
            head = await self.reader.readexactly(5)
            self.received.write(head + await self.reader.readexactly(int.from_bytes(head[3:])))

    async def records_of(self, command: str | None, *, until: bytes) -> list[bytes]:
        """Send a line, if one is given; return the records up to the one that ends so."""
        if command is not None:
            self.tls.write(command.encode() + b"\r\n")
            self.writer.write(self.sent.read())
        records: list[bytes] = []
        while not b"".join(records).endswith(until):
            await self._next()
            # A session ticket is a record, too, but says nothing.
            with contextlib.suppress(ssl.SSLWantReadError):
                records.append(self.tls.read(65_536))
        return records


@asynccontextmanager
async def tls_records(tenant: Tenant) -> AsyncIterator[Records]:
    """Connect a client that counts TLS records; it has still to sign in."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tenant.imap.port)
    try:
        yield Records(tenant, reader, writer)
    finally:
        writer.transport.abort()


async def imap(tenant: Tenant, work: Callable[[imapclient.IMAPClient], Any]) -> Any:
    """Run ``work`` with a signed-in imapclient in a thread."""
    token, context = token_of(tenant), tenant.authority.client_context()

    def run() -> Any:
        client = imapclient.IMAPClient(
            "localhost", tenant.imap.port, ssl_context=context, timeout=10
        )
        try:
            client.sasl_login("XOAUTH2", lambda _: f"user={ADDRESS}\x01auth=Bearer {token}\x01\x01")
            result = work(client)
        except BaseException:
            client.shutdown()
            raise
        client.logout()
        return result

    return await asyncio.to_thread(run)
