"""The blocking verbs of POP3, each raising the errors of ``mailbridge.errors`` and no others.

One thread at a time; ``cut`` may be called from any other. What must be known of Exchange
Online: lines are short, ``PIPELINING`` is not offered, sizes are estimates, and what was marked
by DELE is deleted only by QUIT.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mailbridge.errors import MailbridgeError, PermanentError, Unavailable
from mailbridge.sources.pop3_errors import (
    NotOk,
    Oversized,
    Refused,
    guarded,
    no_xoauth2,
    not_understood,
    sign_in_error,
)
from mailbridge.sources.pop3_plan import Listing, read_listing
from mailbridge.sources.pop3_wire import Wire, capabilities
from mailbridge.sources.transport import Line, MailServer
from mailbridge.tls import tls_context

#: seconds
CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 60.0
QUIT_TIMEOUT: Final = 5.0
#: commands that may be under way at once where the server offers PIPELINING (RFC 2449, 6.6)
IN_FLIGHT: Final = 50
#: bytes of messages that may be under way, as the server estimates them
BYTES_IN_FLIGHT: Final = 8 * 1024 * 1024

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Messages that are wanted, in this order. Those in ``alone`` are asked for by themselves.

    ``sizes`` are bytes as the server estimates them.
    """

    numbers: Sequence[int]
    sizes: Mapping[int, int]
    alone: Collection[int] = ()


class Connection:
    """A connection; ``start`` comes first."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._line = Line(server.proxy)
        self._busy = threading.Lock()
        self._wire: Wire | None = None
        self._capabilities: frozenset[bytes] = frozenset()
        self._order = Order(numbers=(), sizes={})
        self._wanted: deque[int] = deque()
        self._asked: deque[int] = deque()
        self._failure: MailbridgeError | None = None

    # -- life ---------------------------------------------------------------------------------

    def exclusively(self, verb: Callable[..., R], *args: Any) -> R:
        """Call a verb once no other thread is in one."""
        with self._busy:
            return verb(*args)

    def start(self, address: str, token: str, worked_before: bool) -> None:  # noqa: FBT001 - passed on by position
        """Connect and sign in; ``worked_before`` helps to tell a throttle from a refusal."""
        self.open()
        self.sign_in(address, token, worked_before=worked_before)

    def open(self) -> None:
        """Connect, under TLS in any case."""
        self._wire = guarded(f"connect to {self._server.host}", self._connect)

    def sign_in(self, address: str, token: str, *, worked_before: bool) -> None:
        """Authenticate by XOAUTH2 in Exchange's two lines, and ask what the server can do."""
        self._authenticate(address, token, worked_before=worked_before)
        # Asked for only now: before TLS anybody could have answered, and after the sign-in
        # another set may hold (RFC 2449, 3).
        with contextlib.suppress(Refused):
            offered = guarded("ask for capabilities", self._many, b"CAPA\r\n")
            self._capabilities = capabilities(offered)

    def _connect(self) -> Wire:
        server = self._server
        context = tls_context(server.ca)
        wire = Wire.open(
            server.host,
            server.port,
            context=context,
            tls=server.tls,
            line=self._line,
            timeout=CONNECT_TIMEOUT,
        )
        wire.patience(READ_TIMEOUT)
        return wire

    def _authenticate(self, address: str, token: str, *, worked_before: bool) -> None:
        wire, challenge = self._pop, b""
        failure: MailbridgeError
        try:
            guarded("sign in", wire.offer_xoauth2)
        except Refused as refused:
            failure = no_xoauth2(refused)
        else:
            try:
                challenge = guarded("sign in", wire.give_credential, address, token)
                if not challenge:
                    return
                guarded("sign in", wire.status)
                failure = not_understood("sign in")
            except Refused as refused:
                failure = sign_in_error(
                    refused,
                    challenge=challenge,
                    token_length=len(token),
                    worked_before=worked_before,
                )
        raise failure

    def cut(self) -> None:
        """Break the connection; a verb under way in another thread ends at once."""
        self._line.cut()

    def close(self, *, politely: bool) -> None:
        """Close; with a QUIT if ``politely`` and nothing is under way."""
        ready, wire = self.ready, self._wire
        self._wire = None
        if wire is None:
            return
        if politely and ready:
            # The work is done: whether the server hears the farewell changes nothing.
            with contextlib.suppress(OSError, EOFError, NotOk, Oversized):
                wire.patience(QUIT_TIMEOUT)
                wire.send(b"QUIT\r\n")
                wire.status()
        wire.close()

    @property
    def ready(self) -> bool:
        """Whether it is open and every command has had its answer."""
        there = self._wire is not None and not self._line.is_cut
        return there and not self._asked and self._failure is None

    @property
    def pipelines(self) -> bool:
        """Whether the server takes commands before it has answered those before them."""
        return b"PIPELINING" in self._capabilities

    @property
    def _pop(self) -> Wire:
        if self._wire is None or self._line.is_cut:
            raise Unavailable("the connection is closed", code="pop3.closed")
        return self._wire

    # -- reading ------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Return what lies in the mailbox: the UIDL and the size of each message.

        Raises ``PermanentError`` when the server gives no UIDLs: without them nobody can tell
        a new mail from one that was delivered.
        """
        try:
            uidls = guarded("list the UIDLs", self._many, b"UIDL\r\n")
        except Refused as refused:
            if refused.transient:
                raise
            failure = PermanentError(
                f"the server gives no unique ids (UIDL), so new mail cannot be told from old: "
                f"{refused}",
                code="pop3.no_uidl",
                fix="Use `protocol: imap` for this mailbox.",
            )
        else:
            sizes = guarded("list the sizes", self._many, b"LIST\r\n")
            return guarded("list the UIDLs", read_listing, uidls, sizes)
        raise failure

    def _many(self, command: bytes) -> bytes:
        self._pop.send(command)
        return self._pop.block()

    def expect(self, order: Order) -> None:
        """Say what ``take`` is going to be asked for."""
        self._order = order
        self._wanted = deque(order.numbers)

    def take(self, count: int) -> list[bytes | Refused]:
        """Return the next ``count`` messages of the order, or why the server refused one.

        Fewer when the connection is lost on the way: the next call then raises why.
        """
        taken: list[bytes | Refused] = []
        while len(taken) < count and self._failure is None:
            try:
                taken.append(guarded("fetch", self._next))
            except Refused as refused:
                taken.append(refused)
            except MailbridgeError as failure:
                self._failure = failure
        if not taken and self._failure is not None:
            raise self._failure
        return taken

    def under_way(self) -> tuple[int, ...]:
        """Return the messages that were asked for and have not come, the next one first."""
        return tuple(self._asked)

    def _next(self) -> bytes:
        wire = self._pop
        self._ask()
        try:
            text = wire.block()
        except NotOk as answer:
            if answer.refusal:
                self._asked.popleft()
            raise
        self._asked.popleft()
        return text

    def _ask(self) -> None:
        """Send the commands that may go out now, in one write."""
        asked, order = self._asked, self._order
        if len(asked) > IN_FLIGHT // 2:
            return
        room = BYTES_IN_FLIGHT - sum(order.sizes.get(number, 0) for number in asked)
        lines = []
        while self._wanted and len(asked) < (IN_FLIGHT if self.pipelines else 1):
            number = self._wanted[0]
            room -= order.sizes.get(number, 0)
            if asked and (room < 0 or number in order.alone or asked[-1] in order.alone):
                break
            asked.append(self._wanted.popleft())
            lines.append(b"RETR %d\r\n" % number)
        if lines:
            self._pop.send(b"".join(lines))

    def heads(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the headers of messages, as far as the server gives them."""
        return guarded("read the headers", self._each, b"TOP %d 0\r\n", numbers, Wire.block)

    # -- settling -----------------------------------------------------------------------------

    def delete(self, numbers: Sequence[int]) -> set[int]:
        """Mark messages for deletion; returns those that the server took. QUIT deletes them."""
        return set(guarded("delete", self._each, b"DELE %d\r\n", numbers, Wire.status))

    def quit(self) -> bool:
        """End the session; returns whether the server says that it deleted what was marked."""
        wire = self._pop

        def farewell() -> bytes:
            wire.send(b"QUIT\r\n")
            return wire.status()

        try:
            guarded("end the session", farewell)
        except Refused:
            return False
        finally:
            self.close(politely=False)
        return True

    def _each(
        self, command: bytes, numbers: Sequence[int], read: Callable[[Wire], R]
    ) -> dict[int, R]:
        """Send a command for each message, as many at once as the server likes.

        A message for which the server refuses it has no answer in the result.
        """
        wire = self._pop
        answers: dict[int, R] = {}
        width = IN_FLIGHT if self.pipelines else 1
        for start in range(0, len(numbers), width):
            some = numbers[start : start + width]
            wire.send(b"".join(command % number for number in some))
            for number in some:
                try:
                    answers[number] = read(wire)
                except NotOk as answer:
                    if not answer.refusal:
                        raise
        return answers
