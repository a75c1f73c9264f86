"""A TLS gate that does XOAUTH2 for a mail server that knows only passwords.

It verifies the token, signs in with a password of its own, and from then on only copies bytes:
every word before and after the sign-in is the server's own, its refusals included. It runs in
a thread, so that code with and without an event loop can use it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Self

import jwt

from tests.servers.gate_dialects import Command, Dialect, Imap, Pop3
from tests.servers.tokens import TokenRules

CHUNK: Final = 65536
#: bytes of one line; a token in the same line as the command is several thousand
LONGEST_LINE: Final = 1 << 20
#: as Exchange Online asks for another token
CHALLENGE: Final = b'{"status":"401","schemes":"bearer","scope":"https://outlook.office.com"}'

#: why a token does not open a mailbox; empty when it does
Verdict = Callable[[str, str], str]


def verdict(rules: TokenRules, granted: str) -> Verdict:
    """Return what judges the token with which somebody signs in to a mailbox.

    A delegated token opens the mailbox of the person that it names, an application's token
    every address that ``granted`` lets through: patterns, those behind a ``!`` excluded.
    """
    patterns = granted.split()

    def judge(address: str, token: str) -> str:
        try:
            claims = jwt.decode(
                token,
                rules.public_key,
                algorithms=["RS256"],
                audience=rules.audience or None,
                issuer=rules.issuer or None,
                options={"verify_aud": bool(rules.audience), "require": ["exp"]},
            )
        except jwt.InvalidTokenError as error:
            return str(error)
        if jwt.get_unverified_header(token).get("kid") != rules.kid:
            return "unknown key"
        if claims.get("idtyp") != "app":
            own = str(claims.get("preferred_username", "")).lower() == address.lower()
            return "" if own else "token of another user"
        shut = any(fnmatch(address, one[1:]) for one in patterns if one.startswith("!"))
        return "" if not shut and any(fnmatch(address, one) for one in patterns) else "not granted"

    return judge


@dataclass(slots=True)
class Peer:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def line(self) -> bytes:
        """Read one line; ``EOFError`` at the end of the connection."""
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    async def say(self, data: bytes) -> None:
        """Send."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection by a RST, as one that broke does."""
        own = self.writer.get_extra_info("socket")  # none any more once it is closed
        closing = own is None or self.writer.transport.is_closing()
        if not closing and own.family != socket.AF_UNIX:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Door:
    """One listening port of a gate: a dialect, and the server's socket behind it."""

    def __init__(
        self, dialect: Dialect, server: Path, judge: Verdict, password: str, refusals: list[str]
    ) -> None:
        self._dialect, self._server, self._judge = dialect, server, judge
        self._password, self._refusals = password, refusals
        self._open: dict[asyncio.Task[None], list[Peer]] = {}
        self.port = 0
        #: connections taken since the start
        self.connections = 0

    async def open(self, context: ssl.SSLContext) -> asyncio.Server:
        """Listen; after ``close`` on the same port as before."""
        server = await asyncio.start_server(
            self._take, "127.0.0.1", self.port, ssl=context, backlog=1024, limit=LONGEST_LINE
        )
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def close(self) -> None:
        """Reset every connection and wait until all are gone."""
        tasks = dict(self._open)
        for peers in tasks.values():
            for peer in peers:
                peer.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        client = Peer(reader, writer)
        peers = self._open[task] = [client]
        try:
            server = await self._behind(peers)
            await self._serve(client, server)
        except EOFError:
            pass  # one side is gone before anybody signed in: the other one follows
        except (OSError, ValueError):
            client.reset()
        except asyncio.CancelledError:
            pass  # by close() alone, which reset both sides; streams would report it as an error
        finally:
            del self._open[task]
            for peer in peers:
                peer.writer.close()
                with contextlib.suppress(OSError):
                    await peer.writer.wait_closed()

    async def _behind(self, peers: list[Peer]) -> Peer:
        """Connect to the server; a connection that comes after ``close`` is closed, not lost."""
        way = asyncio.open_unix_connection(self._server, limit=LONGEST_LINE)
        connecting = asyncio.ensure_future(way)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                peers.append(Peer(*await connecting))
            raise
        peers.append(Peer(*connecting.result()))
        return peers[-1]

    async def _serve(self, client: Peer, server: Peer) -> None:
        await client.say(self._dressed(await server.line()))
        while True:
            command = self._dialect.parse(await client.line())
            mechanism, _, initial = command.rest.partition(b" ")
            if command.verb == self._dialect.sasl and mechanism.upper() == b"XOAUTH2":
                if await self._authenticate(client, server, command, initial):
                    break
            elif command.verb in self._dialect.others | {self._dialect.sasl}:
                await client.say(self._dialect.refuse(command))
            else:
                whole = b" ".join(
                    part for part in (command.tag, command.verb, command.rest) if part
                )
                await server.say(whole + b"\r\n")
                await self._relay(client, server, command)
        await _copy_both_ways(client, server)

    async def _authenticate(
        self, client: Peer, server: Peer, command: Command, initial: bytes
    ) -> bool:
        """Do XOAUTH2 with the client and PLAIN with the server; whether the server agreed."""
        if not initial:
            await client.say(b"+ \r\n")
            initial = (await client.line()).strip()
        await server.say(self._dialect.authenticate(command))
        await server.line()
        try:
            address, token = _credentials(initial)
        except ValueError:
            # "*" to cancel, or rubbish: the server has words for both.
            await server.say(initial + b"\r\n")
            return await self._relay(client, server, command)
        reason = self._judge(address, token)
        password = self._password
        if reason:
            self._refusals.append(f"{address}: {reason}")
            await client.say(b"+ " + base64.b64encode(CHALLENGE) + b"\r\n")
            await client.line()
            password = "wrong"  # so that the refusal is the server's own
        plain = base64.b64encode(f"\0{address}\0{password}".encode())
        await server.say(plain + b"\r\n")
        return await self._relay(client, server, command) and not reason

    async def _relay(self, client: Peer, server: Peer, command: Command) -> bool:
        """Pass one answer on; whether it agreed to what was asked."""
        first = True
        while True:
            line = await server.line()
            await client.say(self._dressed(line))
            if self._dialect.ends(command, line, first=first):
                return line.startswith((b"+OK", command.tag + b" OK"))
            first = False

    def _dressed(self, line: bytes) -> bytes:
        return line.replace(self._dialect.offer, self._dialect.offer.replace(b"PLAIN", b"XOAUTH2"))


def _credentials(answer: bytes) -> tuple[str, str]:
    """Return address and token of an XOAUTH2 answer; ``ValueError`` if it is none."""
    try:
        text = base64.b64decode(answer, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("not base64") from None
    fields = dict(part.partition("=")[::2] for part in text.split("\x01") if part)
    kind, _, token = fields.get("auth", "").partition(" ")
    if kind.lower() != "bearer" or not fields.get("user") or "\0" in text:
        raise ValueError("not XOAUTH2")
    return fields["user"], token


async def _copy_both_ways(client: Peer, server: Peer) -> None:
    """Copy until the server has ended; a side that breaks breaks the other one."""
    up = asyncio.create_task(_copy_up(client, server))
    try:
        await _copy(server.reader, client.writer)
    except OSError:
        client.reset()
        server.reset()
    finally:
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)


async def _copy_up(client: Peer, server: Peer) -> None:
    try:
        await _copy(client.reader, server.writer)
        server.writer.write_eof()
    except OSError:
        server.reset()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


class Gate:
    """The doors of one server, and the judge of the passwords that come through them.

    ``refusals`` collects why tokens were refused: "address: reason". ``answer_at`` is the
    socket where the server asks about passwords, by the protocol of saslauthd.
    """

    def __init__(self, judge: Verdict, *, password: str, imap: Path, pop3: Path) -> None:
        self.refusals: list[str] = []
        self._password = password
        self.imap = Door(Imap(), imap, judge, password, self.refusals)
        self.pop3 = Door(Pop3(), pop3, judge, password, self.refusals)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, context: ssl.SSLContext, answer_at: Path) -> Self:
        """Listen; returns when the doors are open."""
        opened = threading.Event()
        self._failure = None
        answers = socket.socket(socket.AF_UNIX)
        answers.bind(str(answer_at))
        answer_at.chmod(0o777)

        def run() -> None:
            try:
                asyncio.run(self._run(context, answers, opened))
            except BaseException as error:  # noqa: BLE001 - handed to whoever started the thread
                self._failure = error
            finally:
                opened.set()

        self._thread = threading.Thread(target=run, name="xoauth2-gate", daemon=True)
        self._thread.start()
        opened.wait()
        self._raise_failure()
        return self

    def stop(self) -> None:
        """Close the doors, reset all connections, wait for the end of the thread."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise RuntimeError("the gate in front of the mail server broke") from failure

    async def _run(
        self, context: ssl.SSLContext, answers: socket.socket, opened: threading.Event
    ) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback((await asyncio.start_unix_server(self._answer, sock=answers)).close)
            for door in (self.imap, self.pop3):
                stack.push_async_callback(door.close)
                stack.callback((await door.open(context)).close)
            opened.set()
            await self._stop.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell the server whether a password is ours; see saslauthd's ipc_unix.c for the form."""
        fields = []
        for _ in ("login", "password", "service", "realm"):
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            fields.append(await reader.readexactly(length))
        answer = b"OK" if fields[1] == self._password.encode() else b"NO"
        writer.write(struct.pack(">H", len(answer)) + answer)
        writer.close()
        await writer.wait_closed()
