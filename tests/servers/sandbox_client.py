"""Clients of the sandbox's IMAP server: one that sees every byte, and imapclient in a thread."""

from __future__ import annotations

import asyncio
import base64
import functools
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


class Raw:
    """A client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, text: str) -> None:
        """Send a line."""
        self.writer.write(text.encode() + b"\r\n")

    async def line(self) -> str:
        """Return the next line, without its end."""
        async with asyncio.timeout(5):
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

    async def rest(self) -> bytes:
        """Read until the server has closed."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def connect(tenant: Tenant) -> AsyncIterator[Raw]:
    """Connect; the greeting is still to be read."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        tenant.imap.port,
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
