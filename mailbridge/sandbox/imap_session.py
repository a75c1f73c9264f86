"""One IMAP connection: reads commands, lets faults strike, answers as Exchange does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from mailbridge.sandbox import (
    imap_access,
    imap_folders,
    imap_idle,
    imap_messages,
    imap_strikes,
)
from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.imap_protocol import Command, parse, text
from mailbridge.sandbox.imap_strikes import CLOSED, EXPIRED
from mailbridge.sandbox.imap_view import View
from mailbridge.sandbox.imap_wire import (
    LINE_LIMIT,
    LITERAL_LIMIT,
    Answered,
    ProtocolError,
    Refused,
    read_line,
    read_parts,
    tag_of,
)
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.wire import Disconnected, Wire

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_server import ImapServer

_INVALID_STATE: Final = "Command received in Invalid state."
_NOT_CONNECTED: Final = "User is authenticated but not connected."
#: capability without which a command does not exist
_NEEDS: Final = {
    "IDLE": "IDLE",
    "MOVE": "MOVE",
    "UID MOVE": "MOVE",
    "UID EXPUNGE": "UIDPLUS",
    "UNSELECT": "UNSELECT",
    "NAMESPACE": "NAMESPACE",
    "ID": "ID",
}
#: in answer to these no EXPUNGE may be sent (RFC 3501 section 7.4.1)
_KEEP_NUMBERS: Final = frozenset({"FETCH", "STORE", "SEARCH"})

State = Literal["any", "anonymous", "signed-in", "selected"]
Handler = Callable[["Session", Command], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command that the server knows: its handler, and the state that it belongs to."""

    handler: Handler
    state: State


class Session:
    """One connection. Its handlers return what follows the tag, ``OK NOOP completed.`` say."""

    def __init__(self, server: ImapServer, wire: Wire, *, number: int) -> None:
        self.server = server
        self.wire = wire
        self.number = number
        self.signed_in: SignIn | None = None
        self.box: Mailbox | None = None
        self.view: View | None = None
        self.rev2 = False
        self._bad = 0
        self._ended = False
        self._expiry: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The mailbox that the client signed in to, or empty."""
        return self.signed_in.address if self.signed_in else ""

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            if await self._greet():
                while not self._ended:
                    await self._one_command()
        except Disconnected:
            self._ended = True
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            self.unselect()
            self.wire.close()

    async def _greet(self) -> bool:
        if await imap_strikes.greeting_struck(self):
            return False
        await self.untagged(self.server.greeting())
        return True

    async def _one_command(self) -> None:
        limits = self.server.limits
        patience = limits.idle_seconds if self.signed_in else limits.sign_in_seconds
        try:
            async with asyncio.timeout(patience):
                line = await read_line(self.wire)
        except TimeoutError:
            await self.bye("Connection is closed. 13")
            return
        except ProtocolError as error:
            await self.bad(error.tag, error.text)
            return
        await self._handle(line)

    async def _handle(self, line: bytes) -> None:
        try:
            limit = LITERAL_LIMIT if self.signed_in else LINE_LIMIT
            command = parse(await read_parts(self.wire, line, limit=limit))
        except ProtocolError as error:
            await self.bad(tag_of(line), error.text)
            if error.fatal:
                await self.bye(CLOSED)
            return
        self._log(command, line)
        if self._expired():
            await self.bye(EXPIRED)
            return
        if await imap_strikes.struck(self, command):
            return
        try:
            answer = await self._dispatch(command)
        except ProtocolError as error:
            await self.bad(command.tag, error.text)
        except Refused as refusal:
            await self.finish(command, f"NO {refusal.text}")
        except Answered:
            return
        else:
            await self.finish(command, answer)
            if command.name == "AUTHENTICATE":
                await imap_strikes.after_sign_in(self)

    async def _dispatch(self, command: Command) -> str:
        verb = VERBS.get(command.name)
        hidden = self.server.hidden(self.address)
        if verb is None or _NEEDS.get(command.name) in hidden:
            raise ProtocolError("Command Error. 10")
        if verb.state == "anonymous" and self.signed_in is not None:
            raise ProtocolError(_INVALID_STATE)
        if verb.state in {"signed-in", "selected"}:
            if self.signed_in is None:
                raise ProtocolError(_INVALID_STATE)
            if self.box is None:
                raise ProtocolError(_NOT_CONNECTED)
            if verb.state == "selected" and self.view is None:
                raise ProtocolError(_INVALID_STATE)
        return await verb.handler(self, command)

    def _log(self, command: Command, line: bytes) -> None:
        shown = line.decode("latin-1").partition(" ")[2]
        if command.name in {"AUTHENTICATE", "LOGIN"}:
            method = (
                text(command.args[0]) if command.name == "AUTHENTICATE" and command.args else ""
            )
            shown = f"{command.name} {method} [blanked]".replace("  ", " ")
        self.server.record(self.number, self.address, command.name, shown)

    # --- answers -------------------------------------------------------------------------------

    async def untagged(self, line: str) -> None:
        """Send ``* line``."""
        await self.wire.send(f"* {line}\r\n".encode())

    async def finish(self, command: Command, answer: str) -> None:
        """Send what is new in the folder, then the tagged answer."""
        out = b""
        if self.view is not None:
            if self.view.lost:
                await self.bye(CLOSED)
                return
            out = self.view.news(expunges=command.name not in _KEEP_NUMBERS)
        await self.wire.send(out + f"{command.tag} {answer}\r\n".encode())

    async def bad(self, tag: str, reason: str) -> None:
        """Send BAD, and hang up when there were too many."""
        await self.wire.send(f"{tag} BAD {reason}\r\n".encode())
        self._bad += 1
        limits = self.server.limits
        limit = limits.bad_before_sign_in if self.box is None else limits.bad_after_sign_in
        if self._bad >= limit:
            await self.bye(CLOSED)

    async def bye(self, reason: str) -> None:
        """Send BYE and end the session."""
        await self.untagged(f"BYE {reason}")
        self._ended = True
        self.wire.close()

    def unselect(self) -> None:
        """Leave the selected folder."""
        if self.view is not None:
            self.view.close()
            self.view = None

    # --- the token's end -----------------------------------------------------------------------

    def enter(self, signed_in: SignIn) -> None:
        """Remember who signed in, and end the session when the token ends."""
        self.signed_in = signed_in
        self._expiry = asyncio.create_task(self._end_with_token(signed_in.expires_at))

    def _expired(self) -> bool:
        return self.signed_in is not None and self.server.now() >= self.signed_in.expires_at

    async def _end_with_token(self, expires_at: datetime) -> None:
        remaining = expires_at - self.server.now()
        await asyncio.sleep(max(0.0, remaining.total_seconds()))
        try:
            await self.bye(EXPIRED)
        except Disconnected:
            self._ended = True


def _verb(handler: Handler, state: State) -> Verb:
    return Verb(handler=handler, state=state)


VERBS: Final = {
    "CAPABILITY": _verb(imap_access.capability, "any"),
    "ID": _verb(imap_access.identify, "any"),
    "NOOP": _verb(imap_access.noop, "any"),
    "LOGOUT": _verb(imap_access.logout, "any"),
    "AUTHENTICATE": _verb(imap_access.authenticate, "anonymous"),
    "LOGIN": _verb(imap_access.login, "anonymous"),
    "NAMESPACE": _verb(imap_access.namespace, "signed-in"),
    "ENABLE": _verb(imap_access.enable, "signed-in"),
    "IDLE": _verb(imap_idle.idle, "signed-in"),
    "LIST": _verb(imap_folders.list_folders, "signed-in"),
    "LSUB": _verb(imap_folders.list_subscribed, "signed-in"),
    "STATUS": _verb(imap_folders.status, "signed-in"),
    "SELECT": _verb(imap_folders.select, "signed-in"),
    "EXAMINE": _verb(imap_folders.select, "signed-in"),
    "CREATE": _verb(imap_folders.create, "signed-in"),
    "DELETE": _verb(imap_folders.delete, "signed-in"),
    "RENAME": _verb(imap_folders.rename, "signed-in"),
    "SUBSCRIBE": _verb(imap_folders.subscribe, "signed-in"),
    "UNSUBSCRIBE": _verb(imap_folders.subscribe, "signed-in"),
    "APPEND": _verb(imap_messages.append, "signed-in"),
    "CHECK": _verb(imap_access.noop, "selected"),
    "CLOSE": _verb(imap_folders.close, "selected"),
    "UNSELECT": _verb(imap_folders.close, "selected"),
    "EXPUNGE": _verb(imap_messages.expunge, "selected"),
    "UID EXPUNGE": _verb(imap_messages.expunge, "selected"),
    "SEARCH": _verb(imap_messages.search, "selected"),
    "UID SEARCH": _verb(imap_messages.search, "selected"),
    "FETCH": _verb(imap_messages.fetch, "selected"),
    "UID FETCH": _verb(imap_messages.fetch, "selected"),
    "STORE": _verb(imap_messages.store, "selected"),
    "UID STORE": _verb(imap_messages.store, "selected"),
    "COPY": _verb(imap_messages.copy, "selected"),
    "UID COPY": _verb(imap_messages.copy, "selected"),
    "MOVE": _verb(imap_messages.copy, "selected"),
    "UID MOVE": _verb(imap_messages.copy, "selected"),
}
