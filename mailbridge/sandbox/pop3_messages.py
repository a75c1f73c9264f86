"""POP3 commands about messages: count, list, retrieve, delete (RFC 1939 section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.pop3_maildrop import Entry, Maildrop, octets, stuffed, top
from mailbridge.sandbox.rendering import placeholder
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.pop3_session import Session

_NO_SUCH: Final = "The specified message is out of range."
_GONE: Final = "The requested message is no longer available."


def _maildrop_of(session: Session) -> Maildrop:
    # The dispatcher lets nobody here without one.
    assert session.maildrop is not None  # noqa: S101 - states what the dispatcher has checked
    return session.maildrop


def _size(session: Session, entry: Entry) -> int:
    size = octets(entry.message.raw)
    fault = session.strike("pop3.inexact_size", entry=entry)
    return max(0, size + fault["delta"]) if fault else size


async def noop(session: Session, _args: Sequence[str]) -> None:
    """NOOP."""
    await session.ok()


async def stat(session: Session, _args: Sequence[str]) -> None:
    """STAT."""
    live = _maildrop_of(session).live
    await session.ok(f"{len(live)} {sum(_size(session, entry) for entry in live)}")


async def list_sizes(session: Session, args: Sequence[str]) -> None:
    """LIST, of all or of one."""
    await _listing(session, args, lambda entry: str(_size(session, entry)))


async def list_uidls(session: Session, args: Sequence[str]) -> None:
    """UIDL, of all or of one."""
    if session.server.faults.active("pop3.no_uidl", mailbox=session.address):
        await session.unknown()
    else:
        await _listing(session, args, lambda entry: entry.uidl)


async def _listing(session: Session, args: Sequence[str], shown: Callable[[Entry], str]) -> None:
    maildrop = _maildrop_of(session)
    if not args:
        await session.lines(f"{entry.number} {shown(entry)}" for entry in maildrop.live)
    elif (entry := maildrop.find(args[0])) is not None:
        await session.ok(f"{entry.number} {shown(entry)}")
    else:
        await session.err(_NO_SUCH)


async def _body(session: Session, number: str) -> tuple[Entry, bytes] | None:
    """Return a message and its bytes, or send why not."""
    maildrop = _maildrop_of(session)
    entry = maildrop.find(number)
    if entry is None:
        await session.err(_NO_SUCH)
        return None
    if not maildrop.here(entry):
        await session.err(_GONE)
        return None
    if fault := session.strike("pop3.retr_error", entry=entry):
        await session.err(fault["text"])
        return None
    if session.strike("pop3.placeholder", entry=entry):
        return entry, placeholder(entry.message.raw, entry.number, protocol="POP3")
    return entry, entry.message.raw


async def retrieve(session: Session, args: Sequence[str]) -> None:
    """RETR; the size that it names is that of LIST."""
    found = await _body(session, args[0])
    if found is None:
        return
    entry, raw = found
    head = f"+OK {_size(session, entry)}\r\n".encode()
    if cut := session.strike("pop3.drop_mid_message", entry=entry):
        await session.wire.send(head + stuffed(raw)[: cut["after"]])
        raise Disconnected
    await session.wire.send(head + stuffed(raw))


async def top_of(session: Session, args: Sequence[str]) -> None:
    """TOP."""
    if not args[1].isascii() or not args[1].isdigit():
        await session.unknown()
        return
    found = await _body(session, args[0])
    if found is not None:
        await session.wire.send(b"+OK\r\n" + stuffed(top(found[1], int(args[1]))))


async def delete(session: Session, args: Sequence[str]) -> None:
    """DELE: marks only."""
    entry = _maildrop_of(session).find(args[0])
    if entry is None:
        await session.err(_NO_SUCH)
    else:
        entry.deleted = True
        await session.ok()


async def reset(session: Session, _args: Sequence[str]) -> None:
    """RSET."""
    _maildrop_of(session).reset()
    await session.ok()
