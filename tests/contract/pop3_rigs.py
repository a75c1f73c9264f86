"""POP3 servers behind one face, one that says what real ones never say, and a desk with a store."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import trustme

from mailbridge.model import AccessToken, Batch, Fingerprint, MessageRef
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sources.base import Known, Session, Source
from mailbridge.sources.pop3 import Pop3Source
from mailbridge.sources.transport import MailServer, Tls
from mailbridge.store.store import Store
from tests.servers.cyrus import Cyrus
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def mail(
    number: int, *, size: int = 400, received: datetime = NOON, message_id: str | None = None
) -> bytes:
    """Return an alarm mail with a Received field and a Message-ID (none with an empty one)."""
    name = f"<alarm-{number}@ils.example>" if message_id is None else message_id
    head = [
        f"Received: from ils.example by mx.example; {received:%a, %d %b %Y %H:%M:%S +0000}",
        "From: ILS <alarm@ils.example>",
        f"Subject: Einsatz {number}",
        *([f"Message-ID: {name}"] if name else []),
        "",
        "",
    ]
    text = "\r\n".join(head) + f"Stichwort: B3 {number}\r\n"
    return (text + "x" * max(0, size - len(text) - 2) + "\r\n").encode()


def number_of(raw: bytes) -> int:
    """Return the number that ``mail`` was given."""
    for line in raw.split(b"\r\n"):
        if line.startswith(b"Subject: Einsatz "):
            return int(line.rsplit(b" ", 1)[1])
    raise AssertionError(f"no mail of ours: {raw[:80]!r}")


class Rig(Protocol):
    """A mail server with one mailbox, and how to look at it from the other side."""

    server: MailServer
    address: str

    async def token(self) -> AccessToken:
        """Give a token that the server takes."""

    async def deliver(self, raw: bytes) -> None:
        """Let a mail arrive."""

    async def left(self) -> list[int]:
        """Return the numbers of the mails that lie in the mailbox, the oldest first."""


class SandboxRig:
    """The sandbox tenant."""

    def __init__(self, tenant: Tenant, app: App, *, tls: Tls = "implicit") -> None:
        self.tenant, self.app, self.address = tenant, app, "alarm@feuerwehr.example"
        self.box = tenant.add_mailbox(self.address)
        tenant.grant(app, self.box)
        port = tenant.pop3.port if tls == "implicit" else tenant.pop3.stls_port
        self.server = MailServer(host="localhost", port=port, tls=tls, ca=tenant.ca_file)

    async def token(self) -> AccessToken:
        """Mint a token as Entra would."""
        value = self.tenant.tokens.app_token(self.app, audience="https://outlook.office365.com")
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(self, raw: bytes) -> None:
        """Let a mail arrive."""
        self.box.deliver(raw)

    async def left(self) -> list[int]:
        """Return what lies in the mailbox."""
        return [number_of(message.raw) for message in self.box.folder()]

    def commands(self, name: str) -> int:
        """Count the commands of this name that the server got."""
        return sum(one.name == name for one in self.tenant.pop3.commands)


class DovecotRig:
    """The distribution's Dovecot."""

    def __init__(
        self, dovecot: Dovecot, minter: Minter, address: str, *, tls: Tls = "implicit"
    ) -> None:
        self.dovecot, self.minter, self.address = dovecot, minter, address
        # On 127.0.0.1 Dovecot takes cleartext for safe, and would not ask for STLS.
        host, port = (
            ("localhost", dovecot.pop3s_port)
            if tls == "implicit"
            else ("127.0.0.2", dovecot.pop3_port)
        )
        self.server = MailServer(host=host, port=port, tls=tls, ca=Path(dovecot.ca_file))

    async def token(self) -> AccessToken:
        """Mint a token that Dovecot verifies."""
        value = self.minter.mint_app()
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(self, raw: bytes) -> None:
        """Put a mail into the maildir."""
        await asyncio.to_thread(self.dovecot.deliver, self.address, raw)

    async def left(self) -> list[int]:
        """Return what lies in the mailbox."""
        stored = await asyncio.to_thread(self.dovecot.read, self.address)
        return [int(one.message_id.split("-")[1].split("@")[0]) for one in stored]


class CyrusRig:
    """The distribution's Cyrus."""

    def __init__(self, cyrus: Cyrus, minter: Minter, address: str) -> None:
        self.cyrus, self.minter, self.address = cyrus, minter, address
        self.server = MailServer(host="localhost", port=cyrus.pop3s_port, ca=cyrus.ca_file)

    async def token(self) -> AccessToken:
        """Mint a token that the gate verifies."""
        value = self.minter.mint_app()
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(self, raw: bytes) -> None:
        """Append a mail by IMAP."""
        await asyncio.to_thread(self.cyrus.deliver, self.address, raw)

    async def left(self) -> list[int]:
        """Return what lies in the mailbox."""
        stored = await asyncio.to_thread(self.cyrus.read, self.address)
        return [int(one.message_id.split("-")[1].split("@")[0]) for one in stored]


class Cut(bytes):
    """Bytes after which the server hangs up."""


Answer = bytes | Callable[[], bytes]


@dataclass(slots=True)
class Scripted:
    """A POP3 server in the test's event loop whose every answer can be chosen.

    ``mails`` are pairs of UIDL and message; ``answers`` replace what a command line gets (the
    whole line, or its first word); a ``Cut`` answer ends the connection. ``capabilities``
    ``None`` refuses CAPA. ``lines`` are the commands that came, ``credentials`` those that
    followed ``AUTH``, ``waiting`` is how many RETR were under way at once at most.
    """

    mails: list[tuple[str, bytes]] = field(default_factory=list)
    capabilities: list[str] | None = field(default_factory=lambda: ["TOP", "UIDL", "SASL XOAUTH2"])
    answers: dict[str, Answer] = field(default_factory=dict)
    greeting: bytes = b"+OK ready\r\n"
    accept: bytes = b"+OK User successfully authenticated.\r\n"
    lines: list[str] = field(default_factory=list)
    credentials: list[bytes] = field(default_factory=list)
    connections: int = 0
    waiting: int = 0
    port: int = 0
    ca_file: Path = Path()
    _drop: set[int] = field(default_factory=set)
    _snapshot: list[tuple[str, bytes]] = field(default_factory=list)
    _context: ssl.SSLContext | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, home: Path, *, tls: Tls = "implicit") -> AsyncIterator[Scripted]:
        """Listen on loopback until the block ends."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(home / "scripted.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        scripted = cls(ca_file=home / "scripted.pem", _context=context)
        implicit = context if tls == "implicit" else None
        server = await asyncio.start_server(
            scripted._serve, "127.0.0.1", 0, ssl=implicit, limit=2**20
        )
        scripted.port = server.sockets[0].getsockname()[1]
        async with server:
            yield scripted
            server.close()
            await asyncio.sleep(0)

    def server(self, *, tls: Tls = "implicit") -> MailServer:
        """Return how a source finds it."""
        return MailServer(host="localhost", port=self.port, tls=tls, ca=self.ca_file)

    def count(self, name: str) -> int:
        """Count the commands of this name that came."""
        return sum(line.split(" ")[0] == name for line in self.lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._drop, self._snapshot = set(), list(self.mails)
        try:
            with suppress(OSError, EOFError, asyncio.IncompleteReadError):
                await self._send(writer, self.greeting)
                while not isinstance(self.greeting, Cut) and await self._command(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        raw = await reader.readuntil(b"\r\n")
        line = raw[:-2].decode("latin-1")
        self.lines.append(line)
        name = line.split(" ")[0]
        if name == "RETR":
            behind = bytes(reader._buffer).count(b"RETR ")  # type: ignore[attr-defined]
            self.waiting = max(self.waiting, behind + 1)
        chosen = self.answers.get(line, self.answers.get(name))
        if chosen is None:
            chosen = await self._usual(name, line, reader, writer)
        answer = chosen if isinstance(chosen, bytes) else chosen()
        await self._send(writer, answer)
        if name == "STLS" and answer == b"+OK\r\n":
            await writer.start_tls(self._context)  # type: ignore[arg-type]
        return not isinstance(answer, Cut) and name != "QUIT"

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer)
        await writer.drain()

    async def _usual(
        self, name: str, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        if name == "AUTH":
            await self._send(writer, b"+ \r\n")
            self.credentials.append(base64.b64decode(await reader.readuntil(b"\r\n")))
            return self.accept
        if name in {"RETR", "TOP", "DELE"}:
            return self._of_message(name, int(line.split(" ")[1]))
        if name == "QUIT":
            gone = [self._snapshot[number - 1] for number in self._drop]
            self.mails = [one for one in self.mails if one not in gone]
        if name == "CAPA":
            return _lines(self.capabilities)
        if name in {"UIDL", "LIST"}:
            shown = [one[0] if name == "UIDL" else str(len(one[1])) for one in self._snapshot]
            return _lines([f"{number} {text}" for number, text in enumerate(shown, 1)])
        return b"+OK\r\n" if name in {"QUIT", "STLS"} else b"-ERR Protocol error. 19\r\n"

    def _of_message(self, name: str, number: int) -> bytes:
        if not 0 < number <= len(self._snapshot):
            return b"-ERR no such message\r\n"
        raw = self._snapshot[number - 1][1]
        if name == "DELE":
            self._drop.add(number)
            return b"+OK\r\n"
        return b"+OK\r\n" + stuffed(raw if name == "RETR" else _head(raw))


def _lines(lines: Sequence[str] | None) -> bytes:
    if lines is None:
        return b"-ERR unknown\r\n"
    return b"+OK\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b".\r\n"


def _head(raw: bytes) -> bytes:
    return raw.split(b"\r\n\r\n")[0] + b"\r\n\r\n"


def stuffed(raw: bytes) -> bytes:
    """Return the text of an answer of many lines, with its end."""
    dotted = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n..")[2:]
    return dotted + b".\r\n"


def source_for(rig: Any, pool: ThreadPoolExecutor, **changed: Any) -> Pop3Source:
    """Return a source for a rig, or for the address of one; ``changed`` replaces settings."""

    async def refresh(_: AccessToken) -> AccessToken:
        return await settings["token"]()  # type: ignore[no-any-return]

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(pool, function, *args)

    settings: dict[str, Any] = {
        "mailbox": "alarm",
        "address": getattr(rig, "address", "alarm@feuerwehr.example"),
        "server": rig.server() if isinstance(rig, Scripted) else rig.server,
        "token": getattr(rig, "token", some_token),
        "refresh": refresh,
        "run": run,
        "now": lambda: datetime.now(UTC),
        "start": "all",
    }
    return Pop3Source(**{**settings, **changed})


async def some_token() -> AccessToken:
    """Give a token for servers that do not look."""
    return AccessToken(value="a.b.c", expires_at=datetime.now(UTC) + timedelta(hours=1))


@dataclass(slots=True)
class Desk:
    """Plays the intake over a real store, and remembers what came.

    ``raws`` are the mails that were new to the store, in order; ``doubled`` counts those that
    it already had.
    """

    store: Store
    settles: bool = False
    raws: list[bytes] = field(default_factory=list)
    doubled: int = 0
    batches: list[Batch] = field(default_factory=list)
    #: fields of the folder that it stands for
    mailbox: str = "alarm"

    async def look(self, source: Source, *, stop_after: int | None = None) -> None:
        """Open a session, fetch and settle; or leave after so many batches, as by a crash."""
        async with source.session() as session:
            await self.fetch(session, stop_after=stop_after)
            if stop_after is None:
                await self.settle(session)

    async def fetch(self, session: Session, *, stop_after: int | None = None) -> None:
        """Take in all that a session brings, or the first batches only."""
        later = datetime.now(UTC) + timedelta(days=1)
        known = Known(
            checkpoint=await self.store.checkpoint("alarm", "INBOX"),
            gaps=await self.store.gaps_due("alarm", "INBOX", later),
        )
        count = 0
        async with aclosing(_generator(session.fetch(known, self))) as batches:
            async for batch in batches:
                await self.accept(batch)
                count += 1
                if count == stop_after:
                    return

    async def accept(self, batch: Batch) -> None:
        """Store a batch."""
        self.batches.append(batch)
        accepted = await self.store.accept(
            replace(batch, sinks=("erp",)), address="a@b", settles=self.settles
        )
        self.doubled += accepted.known
        self.raws += [message.raw for message in batch.messages]

    async def settle(self, session: Session) -> Sequence[MessageRef]:
        """Settle as the intake does; returns what was left over."""
        while refs := await self.store.unsettled("alarm", "INBOX", 500):
            done = await session.settle(refs)
            await self.store.settled(done)
            if len(done) < len(refs):
                return refs
        return []

    async def fingerprints(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """See ``Memory``."""
        return await self.store.fingerprints("alarm", "INBOX", uidvalidity)

    async def unknown(self, uidvalidity: int, uids: Sequence[int]) -> Sequence[int]:
        """See ``Memory``."""
        return await self.store.unknown("alarm", "INBOX", uidvalidity, uids)

    async def uidls(self) -> Mapping[str, bool]:
        """See ``Memory``."""
        return await self.store.uidls("alarm", "INBOX")

    @property
    def numbers(self) -> list[int]:
        """The numbers of the mails that came, in order."""
        return [number_of(raw) for raw in self.raws]


async def _generator(batches: AsyncIterator[Batch]) -> Any:
    async for batch in batches:
        yield batch
