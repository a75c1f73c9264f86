"""One SMTP connection: reads commands, lets faults strike, answers as Exchange Online does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox import smtp_access, smtp_data
from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.faults import Fault
from mailbridge.sandbox.smtp_replies import REPLIES
from mailbridge.sandbox.wire import Disconnected, LineTooLong, Wire

if TYPE_CHECKING:
    from mailbridge.sandbox.smtp_server import SmtpServer

#: commands whose arguments are nobody's business
_SECRET: Final = frozenset({"AUTH"})

Handler = Callable[["Session", str], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Transaction:
    """A mail under way."""

    sender: str
    recipients: list[str] = field(default_factory=list)


class Session:
    """One connection. Its handlers send their answers themselves."""

    def __init__(self, server: SmtpServer, wire: Wire, *, number: int, secure: bool) -> None:
        self.server = server
        self.wire = wire
        self.number = number
        self.secure = secure
        self.greeted = False
        self.signed_in: SignIn | None = None
        self.transaction: Transaction | None = None
        self._ended = False

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
            self.wire.close()

    async def _greet(self) -> bool:
        faults = self.server.faults
        if faults.take("smtp.refuse"):
            return False
        if fault := faults.take("smtp.no_greeting"):
            await self.wire.hold(fault["seconds"])
        if fault := faults.take("smtp.greeting"):
            await self.say(fault["text"])
            return False
        await self.say(f"220 {self.server.greeting()}")
        return True

    async def _one_command(self) -> None:
        line = await self.line(self.server.limits.line)
        if line is None:
            await self.say("500 5.5.2 Line too long")
            return
        text = line.decode("utf-8", "replace")
        name, _, rest = text.partition(" ")
        name = name.upper()
        known = name in VERBS
        shown = name + (" [blanked]" if name in _SECRET else f" {rest}" * bool(rest))
        self.server.record(
            self.number, self.address, name if known else "", shown if known else "[unknown]"
        )
        if await self._struck(name):
            return
        if known:
            await VERBS[name](self, rest.strip())
        else:
            await self.say(f"500 5.3.3 Unrecognized command '{name[:20]}' [{self.server_name}]")

    @property
    def server_name(self) -> str:
        """What stands in brackets behind many a refusal."""
        return self.server.greeting().partition(" ")[0]

    async def line(self, limit: int) -> bytes | None:
        """Return the next line without its end, ``None`` when it is too long.

        A line that ends in a bare LF is noted as a violation.
        """
        try:
            async with asyncio.timeout(self.server.limits.idle_seconds):
                line = await self.wire.through(b"\n", limit)
        except TimeoutError:
            await self.say("421 4.4.1 Connection timed out")
            raise Disconnected from None
        except LineTooLong:
            return None
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self.server.violations.append("a command line with a bare CR or LF")
        return line.rstrip(b"\r\n")

    async def say(self, *lines: str) -> None:
        """Send a reply; of several lines each begins with the code of the first."""
        code = lines[0][:3]
        texts = [lines[0][4:], *lines[1:]]
        joined = [f"{code}-{text}\r\n" for text in texts[:-1]] + [f"{code} {texts[-1]}\r\n"]
        await self.wire.send("".join(joined).encode())

    def end(self) -> None:
        """End the session after everything written has gone out."""
        self._ended = True
        self.wire.close()

    # --- a mail --------------------------------------------------------------------------------

    def begin(self, sender: str) -> None:
        """Begin a mail."""
        self.transaction = Transaction(sender=sender)

    def finish(self, raw: bytes) -> None:
        """Hand the mail under way to the server."""
        from mailbridge.sandbox.smtp_server import Submitted

        assert self.transaction is not None  # noqa: S101 - DATA has seen to it
        self.server.take(
            Submitted(
                session=self.number,
                address=self.address,
                sender=self.transaction.sender,
                recipients=tuple(self.transaction.recipients),
                at=self.server.now(),
                raw=raw,
            )
        )

    # --- faults --------------------------------------------------------------------------------

    def strike(self, name: str, *, command: str = "") -> Fault | None:
        """Take a fault for a command."""
        return self.server.faults.take(name, mailbox=self.address, command=command)

    async def answered_by_fault(self, command: str) -> bool:
        """Let a named refusal answer in place of what comes now; true when one did."""
        for name, where in REPLIES.items():
            if where != command:
                continue
            if fault := self.strike(name, command=command):
                await self.say(fault["text"].replace("HOST", self.server_name))
                if fault["text"].startswith("421"):
                    self.end()
                return True
        if fault := self.strike("smtp.reply", command=command):
            await self.say(fault["text"])
            if fault["hang_up"]:
                self.end()
            return True
        return False

    async def _struck(self, name: str) -> bool:
        slow = self.strike("smtp.slow", command=name)
        self.wire.pace = slow["bytes_per_second"] if slow else None
        if fault := self.strike("smtp.hang", command=name):
            await self.wire.hold(fault["seconds"])
        if fault := self.strike("smtp.drop_on_command", command=name):
            if fault["reset"]:
                self.wire.reset()
            raise Disconnected
        # AUTH is answered by its faults once the credential has come.
        return name != "AUTH" and await self.answered_by_fault(name)


VERBS: Final[dict[str, Handler]] = {
    "EHLO": smtp_access.ehlo,
    "HELO": smtp_access.helo,
    "STARTTLS": smtp_access.starttls,
    "AUTH": smtp_access.auth,
    "MAIL": smtp_data.mail_from,
    "RCPT": smtp_data.rcpt_to,
    "DATA": smtp_data.data,
    "RSET": smtp_data.rset,
    "NOOP": smtp_access.noop,
    "QUIT": smtp_access.leave,
}
