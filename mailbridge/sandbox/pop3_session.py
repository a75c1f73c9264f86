"""One POP3 connection: reads commands, lets faults strike, answers as Exchange does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from mailbridge.sandbox import pop3_access, pop3_messages
from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.faults import Fault
from mailbridge.sandbox.pop3_maildrop import Entry, Maildrop
from mailbridge.sandbox.wire import Disconnected, LineTooLong, Wire

if TYPE_CHECKING:
    from mailbridge.sandbox.pop3_server import Pop3Server

_INVALID_STATE: Final = "Command is not valid in this state."
_UNKNOWN: Final = "Protocol error. 19"
_FATAL: Final = "Protocol error. Connection is closed. 10"
_TIME_OUT: Final = "Connection is closed. 10"
#: commands whose arguments are nobody's business
_SECRET: Final = frozenset({"AUTH", "PASS", "APOP"})

State = Literal["any", "authorization", "transaction"]
Handler = Callable[["Session", Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command that the server knows: its handler, the state it belongs to, how many words."""

    handler: Handler
    state: State = "transaction"
    words: range = range(1)


class Session:
    """One connection. Its handlers send their answers themselves."""

    def __init__(self, server: Pop3Server, wire: Wire, *, number: int, secure: bool) -> None:
        self.server = server
        self.wire = wire
        self.number = number
        self.secure = secure
        self.signed_in: SignIn | None = None
        self.maildrop: Maildrop | None = None
        self._ended = False

    @property
    def address(self) -> str:
        """The mailbox that the client signed in to, or empty."""
        return self.signed_in.address if self.signed_in else ""

    async def run(self) -> None:
        """Serve the connection until it ends. However it ends, only QUIT deletes."""
        try:
            if await self._greet():
                while not self._ended:
                    await self._one_command()
        except Disconnected:
            self._ended = True
        finally:
            self.wire.close()

    async def _greet(self) -> bool:
        faults = self.server.faults
        if faults.take("pop3.refuse"):
            return False
        if fault := faults.take("pop3.no_greeting"):
            await self.wire.hold(fault["seconds"])
        await self.ok(self.server.greeting())
        return True

    async def _one_command(self) -> None:
        line = await self.line(self.server.limits.line - len("\r\n"))
        words = line.decode("latin-1").split()
        name = words[0].upper() if words else ""
        self._record(name, words[1:])
        if not await self._struck(name):
            await self._dispatch(name, words[1:])

    async def line(self, limit: int) -> bytes:
        """Return the next line; hangs up when it is too long or does not come in time."""
        limits = self.server.limits
        patience = limits.idle_seconds if self.signed_in else limits.sign_in_seconds
        try:
            async with asyncio.timeout(patience):
                return await self.wire.line(limit)
        except TimeoutError:
            await self.hang_up(_TIME_OUT)
        except LineTooLong:
            await self.fatal()
        raise Disconnected

    def _record(self, name: str, args: list[str]) -> None:
        known = name in VERBS
        shown = " ".join([name, *args]) if known else "[unknown]"
        if name in _SECRET:
            shown = " ".join([name, *args[: name == "AUTH"], *["[blanked]"][: len(args) > 1]])
        self.server.record(self.number, self.address, name if known else "", shown)
        if self.wire.waiting:
            self.server.pipelined += 1

    async def _dispatch(self, name: str, args: list[str]) -> None:
        verb = VERBS.get(name)
        if verb is None:
            await self.err(_UNKNOWN)
        elif verb.state != "any" and (verb.state == "transaction") is not bool(self.maildrop):
            await self.err(_INVALID_STATE)
        elif len(args) not in verb.words:
            await self.err(_UNKNOWN)
        else:
            await verb.handler(self, args)

    # --- answers -------------------------------------------------------------------------------

    async def ok(self, text: str = "") -> None:
        """Send ``+OK text``."""
        await self.wire.send(f"+OK {text}".rstrip().encode() + b"\r\n")

    async def err(self, text: str) -> None:
        """Send ``-ERR text``."""
        await self.wire.send(f"-ERR {text}\r\n".encode())

    async def lines(self, lines: Iterable[str]) -> None:
        """Send ``+OK``, the lines, and the lone dot."""
        await self.wire.send("".join(f"{line}\r\n" for line in ("+OK", *lines, ".")).encode())

    async def unknown(self) -> None:
        """Answer as to a command that does not exist."""
        await self.err(_UNKNOWN)

    async def not_now(self) -> None:
        """Answer as to a command that is out of place."""
        await self.err(_INVALID_STATE)

    async def fatal(self) -> None:
        """Answer to what cannot be understood, and hang up."""
        await self.hang_up(_FATAL)

    async def hang_up(self, reason: str) -> None:
        """Send ``-ERR reason`` and end the session."""
        await self.err(reason)
        self.end()

    def end(self) -> None:
        """End the session after everything written has gone out."""
        self._ended = True
        self.wire.close()

    # --- faults --------------------------------------------------------------------------------

    def strike(self, name: str, *, command: str = "", entry: Entry | None = None) -> Fault | None:
        """Take a fault for a command, or for one message."""
        return self.server.faults.take(
            name,
            mailbox=self.address,
            command=command,
            folder="INBOX",
            uids=(entry.message.uid,) if entry else (),
        )

    async def _struck(self, name: str) -> bool:
        """Let faults answer in place of the command; true when one did."""
        slow = self.strike("pop3.slow", command=name)
        self.wire.pace = slow["bytes_per_second"] if slow else None
        if fault := self.strike("pop3.hang", command=name):
            await self.wire.hold(fault["seconds"])
        if fault := self.strike("pop3.drop_on_command", command=name):
            if fault["reset"]:
                self.wire.reset()
            raise Disconnected
        if fault := self.strike("pop3.err_on_command", command=name):
            await self.err(fault["text"])
            if fault["hang_up"]:
                self.end()
            return True
        return False


_NUMBER: Final = range(1, 2)
_PERHAPS: Final = range(2)

VERBS: Final = {
    "CAPA": Verb(handler=pop3_access.capa, state="any"),
    "STLS": Verb(handler=pop3_access.stls, state="authorization"),
    "AUTH": Verb(handler=pop3_access.auth, state="authorization", words=range(9)),
    "USER": Verb(handler=pop3_access.user, state="authorization", words=range(9)),
    "PASS": Verb(handler=pop3_access.password, state="authorization", words=range(9)),
    "QUIT": Verb(handler=pop3_access.quit_session, state="any"),
    "NOOP": Verb(handler=pop3_messages.noop),
    "STAT": Verb(handler=pop3_messages.stat),
    "LIST": Verb(handler=pop3_messages.list_sizes, words=_PERHAPS),
    "UIDL": Verb(handler=pop3_messages.list_uidls, words=_PERHAPS),
    "TOP": Verb(handler=pop3_messages.top_of, words=range(2, 3)),
    "RETR": Verb(handler=pop3_messages.retrieve, words=_NUMBER),
    "DELE": Verb(handler=pop3_messages.delete, words=_NUMBER),
    "RSET": Verb(handler=pop3_messages.reset),
}
