"""One IMAP connection: reads commands, lets faults strike, answers as Exchange does."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from mailbridge.sandbox import imap_folders, imap_messages
from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.imap_protocol import (
    LINE_LIMIT,
    LITERAL_LIMIT,
    Command,
    Disconnected,
    ProtocolError,
    Refused,
    Wire,
    parse,
    read_parts,
    tag_of,
    text,
)
from mailbridge.sandbox.imap_view import View
from mailbridge.sandbox.mailstore import Mailbox

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_server import ImapServer

_INVALID_STATE: Final = "Command received in Invalid state."
_NOT_CONNECTED: Final = "User is authenticated but not connected."
_SIGN_OFF: Final = "Microsoft Exchange Server IMAP4 server signing off."
_EXPIRED: Final = "Session invalidated - AccessTokenExpired"
#: bytes; a credential is longer than commands may be when a token carries many groups
_CREDENTIAL_LIMIT: Final = 65_536
#: what Gmail sends ahead of its NO, and RFC 7628 asks for
_CHALLENGE: Final = b'{"status":"400","schemes":"Bearer","scope":"https://outlook.office.com/"}'
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
    """One connection. Handlers return what follows the tag: ``OK NOOP completed.``"""

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
        faults = self.server.faults
        if faults.take("imap.refuse"):
            return False
        if fault := faults.take("imap.no_greeting"):
            await faults.hold(fault)
        await self.untagged(self.server.greeting())
        return True

    async def _one_command(self) -> None:
        limits = self.server.limits
        patience = limits.idle_seconds if self.signed_in else limits.sign_in_seconds
        try:
            async with asyncio.timeout(patience):
                line = await self.wire.line()
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
                await self.bye("Connection closed. 14")
            return
        self._log(command, line)
        if self._expired():
            await self.bye(_EXPIRED)
            return
        if await self._struck(command):
            return
        try:
            answer = await self._dispatch(command)
        except ProtocolError as error:
            await self.bad(command.tag, error.text)
        except Refused as refusal:
            await self.finish(command, f"NO {refusal.text}")
        else:
            await self.finish(command, answer)

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
                await self.bye("Connection closed. 14")
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
            await self.bye("Connection closed. 14")

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

    # --- faults --------------------------------------------------------------------------------

    async def _struck(self, command: Command) -> bool:
        """Let faults answer in place of the command; true when one did."""
        faults = self.server.faults
        where = {
            "mailbox": self.address,
            "command": command.name,
            "folder": self.view.folder.name if self.view else "",
        }
        slow = faults.take("imap.slow", **where)
        self.wire.pace = slow["bytes_per_second"] if slow else None
        if fault := faults.take("imap.hang", **where):
            await faults.hold(fault)
        if faults.take("imap.token_expired", **where):
            await self.bye(_EXPIRED)
            return True
        if fault := faults.take("imap.drop_on_command", **where):
            if fault["reset"]:
                self.wire.abort()
            raise Disconnected
        if fault := faults.take("imap.bye_on_command", **where):
            await self.bye(fault["text"])
            return True
        if fault := faults.take("imap.throttled", **where):
            await self.throttle(command.tag, fault["milliseconds"], hang_up=fault["hang_up"])
            return True
        if fault := faults.take("imap.server_unavailable", **where):
            await self.unavailable(command.tag, fault["form"], hang_up=fault["hang_up"])
            return True
        return False

    async def throttle(self, tag: str, milliseconds: int, *, hang_up: bool) -> None:
        """Ask for a pause."""
        notice = f"Request is throttled. Suggested Backoff Time: {milliseconds} milliseconds"
        await self.wire.send(f"{tag} BAD {notice}\r\n".encode())
        if hang_up:
            await self.bye("Connection closed. 14")

    async def unavailable(self, tag: str, form: str, *, hang_up: bool) -> None:
        """Report a fault of the backend, in one of the three forms that were seen."""
        head = "" if form == "untagged" else f"{tag} {form} "
        await self.wire.send(f"{head}Server Unavailable. 15\r\n".encode())
        if hang_up:
            await self.bye("Connection closed.")

    # --- signing in ----------------------------------------------------------------------------

    def _expired(self) -> bool:
        return self.signed_in is not None and self.server.now() >= self.signed_in.expires_at

    async def _end_with_token(self) -> None:
        assert self.signed_in is not None  # noqa: S101 - started by sign_in only
        remaining = self.signed_in.expires_at - self.server.now()
        await asyncio.sleep(max(0.0, remaining.total_seconds()))
        try:
            await self.bye(_EXPIRED)
        except Disconnected:
            self._ended = True

    async def authenticate(self, command: Command) -> str:
        """AUTHENTICATE, with or without an initial response."""
        if not command.args:
            raise ProtocolError("Command Argument Error. 12")
        method = text(command.args[0]).upper()
        credential = text(command.args[1]).encode("latin-1") if len(command.args) > 1 else None
        if credential is not None and "SASL-IR" in self.server.hidden(""):
            raise ProtocolError("Command Argument Error. 12")
        if method not in {"XOAUTH2", "PLAIN"}:
            raise ProtocolError("Command Argument Error. 12")
        if credential is None:
            await self.wire.send(b"+ \r\n")
            credential = await self.wire.line(_CREDENTIAL_LIMIT)
            if credential == b"*":
                raise ProtocolError("AUTHENTICATE cancelled.")
        if method == "PLAIN":
            # Passwords were switched off for good at the end of 2022.
            return self._refuse("AUTHENTICATE")
        return await self._sign_in(credential)

    def _refuse(self, name: str) -> str:
        self.server.refusals += 1
        return f"NO {name} failed."

    async def _sign_in(self, credential: bytes) -> str:
        server = self.server
        signed_in = server.exchange.sign_in(credential, role="IMAP.AccessAsApp")
        address = signed_in.address if signed_in else ""
        if signed_in is None or server.faults.take("imap.auth_failed", mailbox=address):
            if server.faults.active("imap.challenge_on_failure", mailbox=address):
                await self.wire.send(b"+ " + base64.b64encode(_CHALLENGE) + b"\r\n")
                await self.wire.line()
            return self._refuse("AUTHENTICATE")
        server.logins += 1
        self.signed_in = signed_in
        self.box = self._open(signed_in)
        self._expiry = asyncio.create_task(self._end_with_token())
        return "OK AUTHENTICATE completed."

    def _open(self, signed_in: SignIn) -> Mailbox | None:
        faults, address = self.server.faults, signed_in.address
        box = signed_in.mailbox
        if box is None or not box.imap_enabled:
            return None
        crowd = len(self.server.sessions_of(address))
        limits = faults.active("imap.session_limit", mailbox=address)
        if any(crowd > fault["limit"] for fault in limits):
            return None
        return None if faults.take("imap.not_connected", mailbox=address) else box

    async def login(self, _command: Command) -> str:
        """LOGIN: basic authentication is gone."""
        return self._refuse("LOGIN")

    # --- commands of any state -----------------------------------------------------------------

    async def capability(self, _command: Command) -> str:
        """CAPABILITY."""
        listed = self.server.capabilities(self.address, signed_in=self.signed_in is not None)
        await self.untagged("CAPABILITY " + " ".join(listed))
        return "OK CAPABILITY completed."

    async def identify(self, _command: Command) -> str:
        """ID (RFC 2971)."""
        await self.untagged('ID ("name" "Microsoft.Exchange.Imap4.Imap4Server" "version" "15.20")')
        return "OK ID completed"

    async def noop(self, command: Command) -> str:
        """NOOP and CHECK: the answer carries the news."""
        return f"OK {command.name} completed."

    async def logout(self, command: Command) -> str:
        """LOGOUT."""
        await self.untagged(f"BYE {_SIGN_OFF}")
        await self.wire.send(f"{command.tag} OK LOGOUT completed.\r\n".encode())
        raise Disconnected

    async def namespace(self, _command: Command) -> str:
        """NAMESPACE (RFC 2342)."""
        await self.untagged('NAMESPACE (("" "/")) NIL NIL')
        return "OK NAMESPACE completed."

    async def enable(self, command: Command) -> str:
        """ENABLE, which only the new front end has."""
        if not self.server.faults.active("imap.new_front_end", mailbox=self.address):
            raise ProtocolError("Command Error. 10")
        self.rev2 = self.rev2 or any(text(arg).upper() == "IMAP4REV2" for arg in command.args)
        await self.untagged("ENABLED IMAP4rev2" if self.rev2 else "ENABLED")
        return "OK ENABLE completed."

    async def idle(self, _command: Command) -> str:
        """IDLE (RFC 2177): pushes news until the client says DONE."""
        faults = self.server.faults
        if self.view is not None and faults.take("imap.exists_before_idle", mailbox=self.address):
            await self.untagged(f"{len(self.view.uids)} EXISTS")
        silent = faults.take("imap.silent_idle", mailbox=self.address) is not None
        await self.wire.send(b"+ IDLE accepted, awaiting DONE command.\r\n")
        reading = asyncio.create_task(self.wire.line())
        try:
            async with asyncio.timeout(self.server.limits.idle_seconds):
                line = await self._push_until(reading, None if silent else self.view)
        except TimeoutError:
            await self.bye("Connection is closed. 13")
            raise Disconnected from None
        finally:
            reading.cancel()
        if not re.fullmatch(rb"done", line.strip(), re.IGNORECASE):
            raise ProtocolError("Command Argument Error. 12")
        return "OK IDLE completed."

    async def _push_until(self, reading: asyncio.Task[bytes], view: View | None) -> bytes:
        while view is not None:
            changed = asyncio.create_task(view.changed.wait())
            try:
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if reading.done():
                break
            if view.lost:
                await self.bye("Connection closed. 14")
                raise Disconnected
            await self.wire.send(view.news())
        return await reading


def _verb(handler: Handler, state: State) -> Verb:
    return Verb(handler=handler, state=state)


VERBS: Final = {
    "CAPABILITY": _verb(Session.capability, "any"),
    "ID": _verb(Session.identify, "any"),
    "NOOP": _verb(Session.noop, "any"),
    "LOGOUT": _verb(Session.logout, "any"),
    "AUTHENTICATE": _verb(Session.authenticate, "anonymous"),
    "LOGIN": _verb(Session.login, "anonymous"),
    "NAMESPACE": _verb(Session.namespace, "signed-in"),
    "ENABLE": _verb(Session.enable, "signed-in"),
    "IDLE": _verb(Session.idle, "signed-in"),
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
    "CHECK": _verb(Session.noop, "selected"),
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
