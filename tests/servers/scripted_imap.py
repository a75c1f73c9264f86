"""An IMAP server over TLS that behaves until a test says how it shall misbehave, byte by byte.

Each ``send`` is a TLS record of its own, so that a test decides what comes in one piece.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from mailbridge.model import AccessToken
from mailbridge.sources.transport import MailServer

UIDVALIDITY = 14
Script = Callable[["Talk", str], Awaitable[None]]


class Talk:
    """One connection, as its script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *lines: str) -> None:
        """Send lines, together in one record."""
        await self.send_bytes("".join(f"{line}\r\n" for line in lines).encode())

    async def send_bytes(self, data: bytes) -> None:
        """Send these bytes in one record."""
        self._writer.write(data)
        await self._writer.drain()

    async def line(self) -> str:
        """Return the client's next line; ``ConnectionError`` at the end."""
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        return line.decode().rstrip("\r\n")

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with suppress(OSError):
            while await self._reader.read(4096):
                pass

    def end(self) -> None:
        """Close in good order (TLS' farewell and FIN)."""
        self._writer.close()

    def reset(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


class ScriptedImap:
    """Signs anybody in; ``uids`` lie in every folder. ``scripts`` replace answers by name.

    A script is called with the connection and the command's tag, and has to answer; names are
    ``IDLE``, ``NOOP``, ``UID SEARCH`` and so on. ``commands`` are the lines that came.
    """

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.address = "alarm@feuerwehr.example"
        self.uids: list[int] = []
        self.capabilities = "IMAP4rev1 AUTH=XOAUTH2 IDLE ID"
        self.scripts: dict[str, Script] = {}
        self.commands: list[str] = []
        self.talks: list[Talk] = []
        #: connections whose client is there
        self.open = 0

    @classmethod
    @asynccontextmanager
    async def start(cls, home: Path) -> AsyncIterator[ScriptedImap]:
        """Listen on loopback; ``home`` takes the authority's certificate."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(home / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        scripted = cls(MailServer(host="localhost", ca=home / "ca.pem"))
        tasks: set[asyncio.Task[None]] = set()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(scripted._serve(Talk(reader, writer)))
            tasks.add(task)

        listening = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context, limit=2**20)
        port = listening.sockets[0].getsockname()[1]
        scripted.server = MailServer(host="localhost", port=port, ca=home / "ca.pem")
        try:
            yield scripted
        finally:
            listening.close()
            for talk in scripted.talks:
                talk.reset()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def token(self) -> AccessToken:
        """Give a token; any will do."""
        return AccessToken(value="t0ken", expires_at=datetime.now(UTC) + timedelta(hours=1))

    def names(self, *wanted: str) -> list[str]:
        """Return the names of the commands that came, in order; only those ``wanted``."""
        found = [_name(line) for line in self.commands]
        return [name for name in found if not wanted or name in wanted]

    async def _serve(self, talk: Talk) -> None:
        self.talks.append(talk)
        self.open += 1
        try:
            await talk.send(f"* OK [CAPABILITY {self.capabilities}] ready")
            while True:
                line = await talk.line()
                self.commands.append(line)
                tag = line.split(" ", 1)[0]
                name = _name(line)
                own: Script = getattr(self, "_" + name.lower().replace(" ", "_"), _unknown)
                await self.scripts.get(name, own)(talk, tag)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            talk.reset()

    async def _capability(self, talk: Talk, tag: str) -> None:
        await talk.send(f"* CAPABILITY {self.capabilities}", f"{tag} OK done")

    async def _authenticate(self, talk: Talk, tag: str) -> None:
        await talk.send("+ ")
        await talk.line()
        await talk.send(f"{tag} OK signed in")

    async def _id(self, talk: Talk, tag: str) -> None:
        await talk.send('* ID ("name" "script")', f"{tag} OK done")

    async def _examine(self, talk: Talk, tag: str) -> None:
        await talk.send(
            f"* {len(self.uids)} EXISTS",
            f"* OK [UIDVALIDITY {UIDVALIDITY}] as ever",
            f"* OK [UIDNEXT {max(self.uids, default=0) + 1}] next",
            f"{tag} OK [READ-ONLY] done",
        )

    async def _noop(self, talk: Talk, tag: str) -> None:
        await talk.send(f"{tag} OK done")

    async def _uid_search(self, talk: Talk, tag: str) -> None:
        """As servers do for ``UID n:*``: what lies there from n on, or the last one."""
        first = int(self.commands[-1].rsplit(" ", 1)[1].split(":")[0])
        found = [uid for uid in self.uids if uid >= first] or self.uids[-1:]
        await talk.send("* SEARCH" + "".join(f" {uid}" for uid in found), f"{tag} OK done")

    async def _idle(self, talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        await self.done(talk, tag)

    async def done(self, talk: Talk, tag: str) -> None:
        """Take DONE and answer it."""
        line = await talk.line()
        self.commands.append(line)
        assert line == "DONE", line
        await talk.send(f"{tag} OK done")

    async def _logout(self, talk: Talk, tag: str) -> None:
        await talk.send("* BYE bye", f"{tag} OK done")
        raise ConnectionResetError


def _name(line: str) -> str:
    words = line.upper().split(" ")
    if len(words) < 2:
        return words[0]
    return " ".join(words[1:3]) if words[1] == "UID" else words[1]


async def _unknown(talk: Talk, tag: str) -> None:
    await talk.send(f"{tag} BAD what?")
