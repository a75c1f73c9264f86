"""IDLE (RFC 2177): pushes what happens in the folder, and everything odd that was seen there."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.faults import Fault
from mailbridge.sandbox.imap_protocol import Command
from mailbridge.sandbox.imap_strikes import CLOSED
from mailbridge.sandbox.imap_wire import ProtocolError, read_line
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_session import Session

_CONTINUATION: Final = b"+ IDLE accepted, awaiting DONE command.\r\n"
_STILL_HERE: Final = b"* OK Still here\r\n"


async def idle(session: Session, command: Command) -> str:
    """IDLE until the client says DONE, the time is up, or a fault strikes."""
    await _accept(session, command)
    if _take(session, "imap.idle_black_hole", command):
        await session.wire.hold(None)
    idling = _Idle(
        session=session,
        silent=_take(session, "imap.silent_idle", command) is not None,
        split=_take(session, "imap.idle_split", command),
        still_here=_take(session, "imap.idle_still_here", command),
        drop=_take(session, "imap.idle_drop", command),
        bye=_take(session, "imap.idle_bye", command),
    )
    reading = asyncio.create_task(read_line(session.wire))
    try:
        line = await idling.until(reading)
    finally:
        reading.cancel()
    if line.strip().upper() != b"DONE":
        raise ProtocolError("Command Argument Error. 12")
    return "OK IDLE completed."


def _take(session: Session, name: str, command: Command) -> Fault | None:
    return session.server.faults.take(
        name,
        mailbox=session.address,
        command=command.name,
        folder=session.view.folder.name if session.view else "",
    )


def _news(session: Session) -> bytes:
    """Return what is due, or at least how many messages there are."""
    if session.view is None:
        return b""
    return session.view.news() or b"* %d EXISTS\r\n" % len(session.view.uids)


async def _accept(session: Session, command: Command) -> None:
    if _take(session, "imap.exists_before_idle", command):
        await session.wire.send(_news(session))
    if _take(session, "imap.exists_with_idle", command):
        await session.wire.send(_CONTINUATION + _news(session))
        return
    await session.wire.send(_CONTINUATION)
    if _take(session, "imap.exists_behind_idle", command):
        await session.wire.send(_news(session))


@dataclass(slots=True, kw_only=True, eq=False)
class _Idle:
    """One IDLE on its way, with the faults that were armed when it began."""

    session: Session
    silent: bool
    split: Fault | None
    still_here: Fault | None
    drop: Fault | None
    bye: Fault | None

    async def until(self, reading: asyncio.Task[bytes]) -> bytes:
        """Push until the client has said something, and return that."""
        clock = asyncio.get_running_loop().time
        began = clock()
        next_sign = began + self.still_here["seconds"] if self.still_here else math.inf
        end = began + min(self.session.server.limits.idle_seconds, self._lasts())
        while not await self._happened(reading, within=min(next_sign, end) - clock()):
            if clock() >= end:
                await self._end()
            if clock() >= next_sign and self.still_here:
                next_sign += self.still_here["seconds"]
                await self.session.wire.send(_STILL_HERE)
        return await reading

    async def _happened(self, reading: asyncio.Task[bytes], *, within: float) -> bool:
        """Wait for the client, for news (which are sent), or in vain; true for the client."""
        view = None if self.silent else self.session.view
        waited = {reading}
        changed = asyncio.create_task(view.changed.wait()) if view else None
        if changed is not None:
            waited.add(changed)  # type: ignore[arg-type]
        try:
            await asyncio.wait(
                waited, timeout=max(0.0, within), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if changed is not None:
                changed.cancel()
        if reading.done():
            return True
        if view is not None and view.lost:
            await self.session.bye(CLOSED)
            raise Disconnected
        if view is not None and view.changed.is_set():
            await self._push(view.news())
        return False

    async def _push(self, news: bytes) -> None:
        wire = self.session.wire
        if self.split is None:
            await wire.send(news)
        else:
            await wire.send_in_pieces(news, size=self.split["size"], pause=self.split["pause"])

    def _lasts(self) -> float:
        """Return the seconds until a fault ends it."""
        return min((fault["seconds"] for fault in (self.drop, self.bye) if fault), default=math.inf)

    async def _end(self) -> None:
        if self.drop is not None and self.drop["reset"]:
            self.session.wire.reset()
        elif self.drop is None:
            await self.session.bye(self.bye["text"] if self.bye else "Connection is closed. 13")
        raise Disconnected
