"""Gets portions of messages from the server, whatever it takes.

A portion that the server refuses is halved until the guilty message stands alone and becomes
a gap. A portion that costs the connection is remembered by the source (``Suspects``) and
comes in smaller ones on the next. What comes without bytes is asked for again. While one
portion is on its way the next is asked for, as long as no loss has to be explained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import islice, takewhile
from typing import Any, Final, Literal

from mailbridge.errors import Unavailable
from mailbridge.model import Batch, Checkpoint, Gap, MessageRef, RawMessage
from mailbridge.sources.imap_connection import Body
from mailbridge.sources.imap_driver import Driver
from mailbridge.sources.imap_errors import Refused
from mailbridge.sources.imap_flights import Order
from mailbridge.sources.imap_plan import (
    FetchLimits,
    Suspects,
    batches,
    halves,
    is_stand_in,
    next_gap,
    total,
    windows,
)

Start = Literal["new", "all"] | date
Settling = Literal["keep", "seen", "delete", "move"]

#: refusals without a single success after which the server, not a message, is at fault
REFUSALS: Final = 2
#: how a connection ends that may have died of the message it carried
FATAL: Final = frozenset(
    {
        "imap.bye",
        "imap.connection",
        "imap.eof",
        "imap.protocol",
        "imap.timeout",
        "imap.tls",
        "imap.too_large",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a session needs to know of its source. ``fetch_room`` bounds bodies in hand."""

    mailbox: str
    folder: str
    start: Start
    after: Settling
    #: the folder for ``move``
    move_to: str
    limits: FetchLimits
    fetch_room: AbstractAsyncContextManager[Any]
    now: Callable[[], datetime]
    suspects: Suspects
    #: when the watch began, however long it took until the mailbox could be seen
    begun: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Messages that are fetched with one command, and what is asked for before it is answered.

    ``size`` is in bytes, as the server estimates it.
    """

    uids: tuple[int, ...]
    size: int = 0
    ahead: tuple[Order, ...] = ()


class Fetcher:
    """Fetches portions over one connection; see the module's text."""

    def __init__(self, watch: Watch, driver: Driver) -> None:
        self._watch = watch
        self._call = driver.call
        self._server = driver.connection
        self._served = False
        watch.suspects.enter(self._server.uidvalidity)

    def begin(self) -> None:
        """Forget what earlier looks showed about the server's health."""
        self._served = False

    def ref(self, uid: int) -> MessageRef:
        """Return the place of a UID in this folder."""
        watch = self._watch
        return MessageRef(
            mailbox=watch.mailbox,
            folder=watch.folder,
            uidvalidity=self._server.uidvalidity,
            uid=uid,
        )

    def batch(self, checkpoint: Checkpoint, **parts: Any) -> Batch:
        """Return a batch of this folder."""
        watch = self._watch
        return Batch(mailbox=watch.mailbox, folder=watch.folder, checkpoint=checkpoint, **parts)

    async def portions(
        self, uids: Sequence[int], sizes: Mapping[int, int] | None = None
    ) -> AsyncGenerator[Portion, None]:
        """Cut ``uids`` into portions, asking for the ``sizes`` where they are not given.

        Each names what may be asked for ahead of it. One message alone needs no size.
        """
        limits, suspects = self._watch.limits, self._watch.suspects
        rest = deque(windows(uids, limits.list_window))
        ready: deque[Portion] = deque()
        if len(uids) == 1:
            sizes = {}
        while rest or ready:
            due = len(ready) < limits.in_flight and rest and self._known(rest[0], sizes)
            if due or not ready:
                window = rest.popleft()
                known = await self.sizes(window) if sizes is None else sizes
                cut = batches(window, known, limits, caution=suspects.losses)
                ready.extend(Portion(uids=one, size=total(one, known)) for one in cut)
                continue
            portion = ready.popleft()
            ahead = self._ahead(portion, ready, rest if sizes is None else ())
            yield replace(portion, ahead=ahead)
            if not ready:
                suspects.calm()

    def _known(self, window: tuple[int, ...], sizes: Mapping[int, int] | None) -> bool:
        return sizes is not None or self._server.here(Order("sizes", window))

    def _ahead(
        self, portion: Portion, ready: Iterable[Portion], rest: Iterable[tuple[int, ...]]
    ) -> tuple[Order, ...]:
        """Return what may be asked for while ``portion`` is on its way.

        Nothing while a lost connection is not explained: then it has to be plain what was
        being fetched. No more than ``in_flight`` portions, and none that is oversized.
        """
        limits = self._watch.limits
        if limits.in_flight <= 1 or self._watch.suspects.wary or portion.size > limits.bytes:
            return ()
        close = takewhile(lambda one: one.size <= limits.bytes, ready)
        bodies = (Order("bodies", one.uids) for one in islice(close, limits.in_flight - 1))
        # The sizes first: with them, the next window is planned before this one is through.
        return (*(Order("sizes", window) for window in islice(rest, 1)), *bodies)

    async def sizes(self, window: Sequence[int]) -> dict[int, int]:
        """Ask for the sizes, but not of suspects: theirs may be what costs the connection."""
        suspects = self._watch.suspects
        asked = tuple(uid for uid in window if uid not in suspects.losses)
        if not asked:
            return {}
        try:
            sizes: dict[int, int] = await self._call(self._server.sizes, asked)
        except Refused:
            return {}
        except Unavailable as exc:
            if exc.code in FATAL:
                suspects.lost(asked)
                suspects.doubted(self._server.under_way)
            raise
        return sizes

    async def fetched(
        self, portion: Portion, checkpoint: Checkpoint, *, advance: bool
    ) -> AsyncGenerator[Batch, None]:
        """Fetch a portion, in as many batches as it takes; each one's checkpoint holds."""
        parts = [portion.uids]
        held: list[tuple[int, Refused]] = []
        while parts:
            part = parts.pop()
            try:
                bodies = await self._bodies(part, portion.ahead if part is portion.uids else ())
            except Refused as refused:
                if len(part) > 1:
                    parts.extend(reversed(halves(part)))
                    continue
                held.append((part[0], refused))
                if refused.transient and not self._served:
                    if len(held) >= REFUSALS or not parts:
                        self._strike(held)
                    else:
                        continue
                bodies, part = {}, ()
            messages, gaps, vanished = await self._sorted(part, bodies)
            gaps += [self.gap(uid, str(refused)) for uid, refused in held]
            last = max([*part, *(uid for uid, _ in held)])
            held.clear()
            if advance:
                checkpoint = replace(checkpoint, uid=last)
            yield self.batch(checkpoint, messages=messages, gaps=tuple(gaps), vanished=vanished)

    def _strike(self, held: list[tuple[int, Refused]]) -> None:
        """Count refusals against their messages; raise until they are hopeless."""
        suspects = self._watch.suspects
        for uid, _ in held:
            suspects.lost([uid])
        if not all(suspects.hopeless(uid) for uid, _ in held):
            raise Unavailable(str(held[-1][1]), code="imap.server_unavailable")

    async def _bodies(
        self, part: tuple[int, ...], ahead: tuple[Order, ...] = ()
    ) -> dict[int, Body]:
        watch = self._watch
        if len(part) == 1 and watch.suspects.hopeless(part[0]):
            raise Refused("the connection was lost each time it was fetched", transient=False)
        async with watch.fetch_room:
            try:
                bodies: dict[int, Body] = await self._call(self._server.bodies, part, ahead)
            except Unavailable as exc:
                if exc.code in FATAL:
                    watch.suspects.lost(part, surely=exc.code == "imap.too_large")
                    watch.suspects.doubted(self._server.under_way.difference(part))
                raise
        watch.suspects.cleared(part)
        self._served = self._served or bool(bodies)
        return bodies

    async def _sorted(
        self, part: tuple[int, ...], bodies: dict[int, Body]
    ) -> tuple[tuple[RawMessage, ...], list[Gap], tuple[MessageRef, ...]]:
        """Tell messages, gaps and vanished ones apart; what is missing is asked for again."""
        missing = [uid for uid in part if uid not in bodies or not bodies[uid].raw]
        there = await self._call(self._server.present, missing) if missing else set()
        messages, gaps = [], []
        for uid in part:
            if uid in missing and uid not in there:
                continue
            outcome = await self.again(uid) if uid in missing else judged(bodies[uid])
            if isinstance(outcome, str):
                gaps.append(self.gap(uid, outcome))
            else:
                messages.append(self.message(uid, outcome))
        vanished = tuple(self.ref(uid) for uid in missing if uid not in there)
        return tuple(messages), gaps, vanished

    async def again(self, uid: int) -> Body | str:
        """Ask for one message that came without bytes; returns it, or why there is none."""
        try:
            body = (await self._bodies((uid,))).get(uid)
            if body is None:
                return "the server answers OK without the message"
            if body.raw:
                return judged(body)
            size = (await self._call(self._server.sizes, [uid])).get(uid)
        except Refused as refused:
            return str(refused)
        return body if size == 0 else "the server gives no bytes of the message"

    def message(self, uid: int, body: Body) -> RawMessage:
        """Return what the store is given of a body."""
        return RawMessage(ref=self.ref(uid), raw=body.raw, received_at=body.received_at)

    def gap(self, uid: int, reason: str, before: Gap | None = None) -> Gap:
        """Return the gap for a message that would not come, once more if it had one ``before``."""
        gap = next_gap(self.ref(uid), reason, self._watch.now(), before)
        self._watch.suspects.cleared([uid])
        return gap


def judged(body: Body) -> Body | str:
    """Return the message, or why these bytes are not it."""
    if is_stand_in(body.raw):
        return "the server cannot convert the message and sent a notice instead"
    return body
