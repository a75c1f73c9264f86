"""A conversation on an IMAP connection in the event loop: short questions, and listening.

imaplib blocks a thread; a thousand mailboxes that wait for mail must not hold one each.
``QuietLine`` borrows the socket of a ``Wire`` that has nothing under way, talks in lines, and
gives it back with whatever it has read and not used. It never brings mail.

Nothing that the server says is lost on the way: not what imaplib's reader or the TLS layer
had read before, not what comes ahead of an answer, behind it, or in pieces.
"""

from __future__ import annotations

import asyncio
import imaplib
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.sources.imap_errors import Refused, answer_error, explained, translate
from mailbridge.sources.imap_lines import Responses, TooLong, Untagged, numbers, untagged
from mailbridge.sources.imap_wire import LONGEST_LINE, Wire
from mailbridge.sources.loop_socket import LoopSocket

#: seconds for the answer to one question, and for the end of IDLE
ANSWER_WITHIN: Final = 15.0

_WELL: Final = frozenset({b"DONE", b"OK"})

#: what a tagged answer says: OK, NO or BAD, and the words behind it; ``+`` for a continuation
Answer = tuple[bytes, bytes]


class QuietLine:
    """Holds the socket of ``wire`` until ``hand_back``. One question at a time.

    ``failure`` is why it cannot be used any more: the line is cut then, nothing watches the
    socket, and every further call raises it. ``cut`` breaks the connection.
    """

    def __init__(self, wire: Wire, *, uidvalidity: int, cut: Callable[[], None]) -> None:
        self.failure: MailbridgeError | None = None
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._uidvalidity = uidvalidity
        self._cut = cut
        self._responses = Responses()
        self._received = 0
        self._action = "stand by"
        self._asked = 0
        #: of the commands under way, and the first refusal among their answers
        self._tags: set[bytes] = set()
        self._refusal: Answer | None = None
        self._step: asyncio.Future[Answer | None] | None = None
        self._continues = False
        self._found: list[int] | None = None
        self._clock: asyncio.Timeout | None = None
        self._line: LoopSocket
        self._take_over()

    def check(self) -> None:
        """Raise ``failure`` if there is one."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    # -- questions ----------------------------------------------------------------------------

    async def search_from(self, uid: int, *, refresh: bool) -> list[int] | None:
        """Return the UIDs from ``uid`` on, ``None`` if the server gave no list.

        With ``refresh`` the server is made to look at the folder (NOOP). Both commands go out
        together, and a server may do them in any order: if ``Wire.changes`` grew meanwhile, the
        list proves nothing. "n:*" always means the last message as well (RFC 3501, 6.4.8); that
        one is left out.
        """
        self._found = None
        search = b"UID SEARCH UID %d:*" % uid
        self._begin("look for new mail", *([b"NOOP", search] if refresh else [search]))
        status, words = await self._answer()
        if status != b"OK" or self._wire.heard.throttle:
            raise self._refused(words)
        return None if self._found is None else [one for one in self._found if one >= uid]

    def _begin(self, action: str, *commands: bytes) -> None:
        self.check()
        self._action = action
        self._refusal = None
        lines = []
        for command in commands:
            self._asked += 1
            # imaplib's tags are made of the letters A to P.
            tag = b"QQQQ%d" % self._asked
            self._tags.add(tag)
            lines.append(tag + b" " + command + b"\r\n")
        self._expect()
        self._line.send(b"".join(lines))

    def _expect(self) -> None:
        self._received = 0
        self._step = self._loop.create_future()

    async def _answer(self) -> Answer:
        """Wait for what was expected. A task that is cancelled meanwhile breaks the line."""
        step = self._step
        assert step is not None  # noqa: S101 - set by _expect
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await step
        except TimeoutError:
            self._fail(
                Unavailable(
                    f"{self._action}: no answer within {ANSWER_WITHIN:.0f} s", code="imap.timeout"
                )
            )
        except asyncio.CancelledError:
            self.abandon()
            raise
        self.check()
        answer = step.result()
        assert answer is not None  # noqa: S101 - only a failure leaves none
        return answer

    # -- waiting ------------------------------------------------------------------------------

    async def wait(self, woken: asyncio.Event, until: float, heard: int) -> None:
        """Wait for ``woken``, for a change since ``heard``, for a failure, or until ``until``.

        ``until`` is the loop's time, ``heard`` a value of ``Wire.changes``.
        """
        if woken.is_set() or self.failure or self._wire.changes != heard:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until) as self._clock:
                    await woken.wait()
        finally:
            self._clock = None

    async def idle(
        self, woken: asyncio.Event, until: float, heard: int, listening: Callable[[], None]
    ) -> bool:
        """Wait as ``wait`` does, in IDLE (RFC 2177); ``False`` if the server will not have it.

        ``listening`` is called once the server listens. What goes wrong becomes ``failure``.
        """
        try:
            self._begin("stand by", b"IDLE")
            self._continues = True
            status, words = await self._answer()
            if status == b"+":
                self._expect()
                listening()
                status, words = await self._listen(woken, until, heard)
        except MailbridgeError:
            return True
        if status not in _WELL or self._wire.heard.throttle:
            error = self._refused(words)
            if not isinstance(error, Refused):
                self._fail(error)
        return status == b"DONE"

    async def _listen(self, woken: asyncio.Event, until: float, heard: int) -> Answer:
        """Listen, then say DONE; returns ``DONE`` if all went well, else the server's answer."""
        try:
            if self._tags:
                await self.wait(woken, until, heard)
        except asyncio.CancelledError:
            self.abandon()
            raise
        self.check()
        if not self._tags:
            return self._refusal or (b"OK", b"")  # the server has ended it by itself
        self._received = 0
        self._line.send(b"DONE\r\n")
        status, words = await self._answer()
        return (b"DONE", b"") if status == b"OK" else (status, words)

    # -- the socket ---------------------------------------------------------------------------

    def _take_over(self) -> None:
        wire = self._wire
        sock = cast("ssl.SSLSocket", wire.sock)
        if sock.fileno() < 0:
            raise Unavailable("the connection is closed", code="imap.closed")
        told, wire.untagged_responses = wire.untagged_responses, {}
        held = wire.lend()
        self._line = LoopSocket(sock, heard=self._take, lost=self._lost)
        for number in told.get("UIDVALIDITY", [])[-1:]:
            if isinstance(number, bytes) and number.isdigit():
                self._expect_number(int(number))
        self._take(held)
        self._line.drain()

    def hand_back(self) -> None:
        """Give the socket back to ``wire``; raises ``failure`` if there is one."""
        if self._tags or self._line.unsent:
            self.abandon()
        self.check()
        self._line.let_go()
        self._wire.take_back(self._responses.rest)

    def abandon(self) -> None:
        """Break the line; nobody can tell any more where the server's answers begin."""
        self._fail(Unavailable("the connection was given up", code="imap.closed"))

    def _lost(self, reason: OSError | None) -> None:
        if reason is None:
            self._hung_up(b"")
        else:
            self._end(reason)

    def _end(self, reason: Exception) -> None:
        """Give up; the reason for a hang-up often comes a line earlier, and counts."""
        failure = translate(reason, self._action)
        self._fail(explained(failure, self._wire.heard, self._action))

    def _refused(self, words: bytes) -> MailbridgeError:
        error = answer_error(words.decode("utf-8", "replace"), self._action)
        return explained(error, self._wire.heard, self._action)

    def _fail(self, failure: MailbridgeError) -> None:
        if self.failure is None:
            self.failure = failure
        self._line.let_go()
        self._cut()
        self._resolve(None)
        self._end_wait()

    def _resolve(self, answer: Answer | None) -> None:
        if self._step is not None and not self._step.done():
            self._step.set_result(answer)

    def _end_wait(self) -> None:
        clock, self._clock = self._clock, None
        if clock is not None and not clock.expired():
            clock.reschedule(self._loop.time())

    # -- what the server says -----------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        try:
            responses = self._responses.feed(data) if self._received <= LONGEST_LINE else None
        except TooLong:
            responses = None
        if responses is None:
            self._fail(Unavailable(f"{self._action}: an answer without end", code="imap.protocol"))
            return
        for response in responses:
            if self.failure is None:
                self._hear(response)

    def _hear(self, response: bytes) -> None:
        self._wire.heard.line(response)
        if response.startswith(b"* "):
            said = untagged(response)
            if said is None:
                self._puzzled(response)
            else:
                self._hear_untagged(said)
        elif response.startswith(b"+"):
            if self._continues:
                self._continues = False
                self._resolve((b"+", b""))
        else:
            self._hear_tagged(response)

    def _hear_tagged(self, response: bytes) -> None:
        tag, _, rest = response.partition(b" ")
        status, _, words = rest.partition(b" ")
        status = status.upper()
        if tag not in self._tags or status not in {b"OK", b"NO", b"BAD"}:
            self._puzzled(response)
            return
        self._tags.discard(tag)
        if status != b"OK":
            self._refusal = self._refusal or (status, words)
        if not self._tags:
            self._resolve(self._refusal or (status, words))
            self._end_wait()

    def _hear_untagged(self, said: Untagged) -> None:
        if said.is_change:
            self._wire.changes += 1
            self._end_wait()
        elif said.name == "SEARCH":
            found = numbers(said.text)
            if found is None:
                self._puzzled(b"* SEARCH " + said.text)
            else:
                self._found = (self._found or []) + found
        elif said.name == "BYE":
            self._hung_up(said.text)
        elif said.name == "OK" and said.uidvalidity is not None:
            self._expect_number(said.uidvalidity)

    def _expect_number(self, uidvalidity: int) -> None:
        if uidvalidity != self._uidvalidity:
            self._fail(Unavailable("UIDVALIDITY changed in this session", code="imap.renumbered"))

    def _hung_up(self, words: bytes) -> None:
        said = words.decode("utf-8", "replace")
        self._end(imaplib.IMAP4.abort(said or "socket error: EOF"))

    def _puzzled(self, response: bytes) -> None:
        self._end(imaplib.IMAP4.abort(f"unexpected response: {response!r}"))
