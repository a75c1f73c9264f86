"""IMAP commands about messages: search, fetch, store, copy, move, expunge, append."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.faults import Fault
from mailbridge.sandbox.imap_fetch import (
    Item,
    parse_items,
    plain_value,
    section_of,
)
from mailbridge.sandbox.imap_folders import folder_of, mailbox_of
from mailbridge.sandbox.imap_protocol import (
    Command,
    NumberSet,
    decode_name,
    parse_internal_date,
    text,
    words,
)
from mailbridge.sandbox.imap_search import Search
from mailbridge.sandbox.imap_strikes import unavailable
from mailbridge.sandbox.imap_view import View, flags_line
from mailbridge.sandbox.imap_wire import ProtocolError, Refused
from mailbridge.sandbox.mailstore import Message, known_flags
from mailbridge.sandbox.rendering import placeholder
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_session import Session

_SEEN: Final = "\\Seen"
_DELETED: Final = "\\Deleted"
_CHARSETS: Final = frozenset({"US-ASCII"})


def _view_of(session: Session) -> View:
    if session.view is None:
        raise ProtocolError("Command received in Invalid state.")
    return session.view


def _chosen(session: Session, command: Command) -> list[int]:
    """Return the UIDs that the command's set names and that still exist."""
    view = _view_of(session)
    if not command.args:
        raise ProtocolError("Command Argument Error. 11")
    numbers = NumberSet.parse(text(command.args[0]))
    named = view.select(numbers, by_uid=command.name.startswith("UID "))
    return [uid for uid in named if uid in view.folder.messages]


def _take(session: Session, command: Command, name: str, uids: Collection[int]) -> Fault | None:
    return session.server.faults.take(
        name,
        mailbox=session.address,
        command=command.name,
        folder=_view_of(session).folder.name,
        uids=uids,
    )


def uid_set(uids: Iterable[int]) -> str:
    """Return ``1:3,7`` for 1, 2, 3, 7; neighbours are joined only in ascending order."""
    ranges: list[tuple[int, int]] = []
    for uid in uids:
        if ranges and ranges[-1][1] + 1 == uid:
            ranges[-1] = (ranges[-1][0], uid)
        else:
            ranges.append((uid, uid))
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in ranges)


async def search(session: Session, command: Command) -> str:
    """SEARCH and UID SEARCH, in US-ASCII only."""
    view, args = _view_of(session), list(command.args)
    if args and isinstance(args[0], str) and args[0].upper() == "CHARSET":
        if len(args) < 3 or text(args[1]).upper() not in _CHARSETS:  # noqa: PLR2004 - CHARSET, name, key
            raise Refused("[BADCHARSET (US-ASCII)] The specified charset is not supported.")
        args = args[2:]
    test = Search(args, view).compile()
    by_uid = command.name == "UID SEARCH"
    found = []
    for number, uid in enumerate(view.uids, start=1):
        message = view.folder.messages.get(uid)
        if message is not None and test(message):
            found.append(uid if by_uid else number)
    if session.rev2:
        # What made clients blind that had enabled IMAP4rev2: another kind of answer.
        kind = " UID" if by_uid else ""
        found_all = f" ALL {uid_set(found)}" if found else ""
        await session.untagged(f'ESEARCH (TAG "{command.tag}"){kind}{found_all}')
    else:
        await session.untagged(" ".join(["SEARCH", *map(str, found)]))
    return "OK SEARCH completed."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetch:
    """One FETCH command on its way."""

    session: Session
    command: Command
    view: View
    items: list[Item]

    def take(self, name: str, uid: int) -> Fault | None:
        """Take a fault for one message."""
        return _take(self.session, self.command, name, (uid,))

    async def one(self, message: Message, number: int) -> None:
        """Send the FETCH response of one message."""
        items = self._with_seen(message)
        raw = message.raw
        if self.take("imap.placeholder", message.uid):
            raw = placeholder(message.raw, number, protocol="IMAP4")
        out = bytearray(b"* %d FETCH (" % number)
        for index, item in enumerate(items):
            out += b" " if index else b""
            out += item.name.encode("latin-1") + b" "
            if item.section is None:
                out += self._plain(item, message, raw).encode()
            elif self.take("imap.fetch_nil", message.uid):
                out += b"NIL"
            else:
                await self._literal(out, section_of(item, raw), message.uid)
        out += b")\r\n"
        await self.session.wire.send(bytes(out))

    def _with_seen(self, message: Message) -> list[Item]:
        """Mark as seen when an item is no peek, and then show the flags unasked."""
        reading = any(not item.peek for item in self.items)
        if not reading or self.view.read_only or _SEEN in message.flags:
            return self.items
        self.view.folder.set_flags(message.uid, message.flags | {_SEEN}, by=self.view)
        shown = any(item.name == "FLAGS" for item in self.items)
        return self.items if shown else [*self.items, Item(name="FLAGS")]

    def _plain(self, item: Item, message: Message, raw: bytes) -> str:
        size = len(raw)
        if item.name == "RFC822.SIZE":
            fault = self.take("imap.inexact_size", message.uid)
            size = max(0, size + fault["delta"]) if fault else size
        return plain_value(item, message, raw=raw, size=size)

    async def _literal(self, out: bytearray, data: bytes, uid: int) -> None:
        broken = self.take("imap.broken_literal_size", uid)
        announced = max(0, len(data) + broken["delta"]) if broken else len(data)
        out += b"{%d}\r\n" % announced
        if cut := self.take("imap.drop_mid_literal", uid):
            await self.session.wire.send(bytes(out) + data[: cut["after"]])
            raise Disconnected
        out += data
        if garbage := self.take("imap.literal_garbage", uid):
            out += garbage["garbage"]


async def fetch(session: Session, command: Command) -> str:
    """FETCH and UID FETCH."""
    uids, view = _chosen(session, command), _view_of(session)
    items = parse_items(command.args[1:])
    by_uid = command.name == "UID FETCH"
    if by_uid and not any(item.name == "UID" for item in items):
        items.append(Item(name="UID"))
    if _take(session, command, "imap.fetch_bad", uids):
        raise ProtocolError("Command Argument Error. 11")
    if _take(session, command, "imap.fetch_no", uids):
        raise Refused("Server Unavailable. 15")
    if fault := _take(session, command, "imap.server_unavailable", uids):
        await unavailable(session, fault, tag=command.tag)
        raise Disconnected
    running = _Fetch(session=session, command=command, view=view, items=items)
    for index, uid in enumerate(uids):
        await _one_of(running, uid)
        if index == 0:
            await _expunged_meanwhile(running, uids)
    return "OK FETCH completed."


async def _one_of(running: _Fetch, uid: int) -> None:
    view = running.view
    message, number = view.folder.messages.get(uid), view.sequence(uid)
    if message is None or not number or running.take("imap.fetch_ok_no_data", uid):
        return
    noisy = running.take("imap.duplicate_fetch", uid) is not None
    if noisy:
        first = view.folder.messages.get(view.uids[0])
        around = flags_line(1, first.flags if first else set())
        await running.session.wire.send(around + flags_line(number, message.flags))
    await running.one(message, number)
    if noisy:
        await running.session.wire.send(flags_line(number, message.flags, uid))


async def _expunged_meanwhile(running: _Fetch, uids: list[int]) -> None:
    fault = _take(running.session, running.command, "imap.expunge_during_fetch", uids)
    if fault is not None:
        victim = fault["uid"] or uids[-1]
        running.view.folder.remove(victim)
        await running.session.wire.send(running.view.forget(victim))


async def store(session: Session, command: Command) -> str:
    """STORE and UID STORE; keywords that Exchange does not know are ignored."""
    uids, view = _chosen(session, command), _view_of(session)
    if len(command.args) < 3:  # noqa: PLR2004 - set, action, flags
        raise ProtocolError("Command Argument Error. 11")
    if view.read_only:
        raise Refused("Mailbox is read-only.")
    action = text(command.args[1]).upper()
    silent = action.endswith(".SILENT")
    action = action.removesuffix(".SILENT")
    if action not in {"FLAGS", "+FLAGS", "-FLAGS"}:
        raise ProtocolError("Command Argument Error. 11")
    given = known_flags(itertools.chain.from_iterable(words(arg) for arg in command.args[2:]))
    by_uid = command.name == "UID STORE"
    out = bytearray()
    for uid in uids:
        flags = _changed(action, view.folder.flags(uid), given)
        view.folder.set_flags(uid, flags, by=view)
        if not silent:
            out += flags_line(view.sequence(uid), flags, uid if by_uid else None)
    await session.wire.send(bytes(out))
    return "OK STORE completed."


def _changed(action: str, flags: set[str], given: set[str]) -> set[str]:
    if action == "+FLAGS":
        return flags | given
    return flags - given if action == "-FLAGS" else given


async def copy(session: Session, command: Command) -> str:
    """COPY and MOVE, by UID or not. MOVE sends its COPYUID untagged and first, as Exchange does."""
    uids, view = _chosen(session, command), _view_of(session)
    if len(command.args) != 2:  # noqa: PLR2004 - set and folder
        raise ProtocolError("Command Argument Error. 11")
    moving = command.name.endswith("MOVE")
    if moving and view.read_only:
        raise Refused("Mailbox is read-only.")
    if mailbox_of(session).find(decode_name(command.args[1])) is None:
        raise Refused("[TRYCREATE] Mailbox does not exist.")
    target = folder_of(session, command.args[1])
    new = []
    for uid in uids:
        message = view.folder.messages[uid]
        new.append(target.add(message.raw, received_at=message.received_at, flags=message.flags))
    code = f"[COPYUID {target.uidvalidity} {uid_set(uids)} {uid_set(new)}]"
    if not uids or "UIDPLUS" in session.server.hidden(session.address):
        code = ""
    if not moving:
        return f"OK {code} COPY completed." if code else "OK COPY completed."
    if code:
        await session.untagged(f"OK {code}")
    for uid in uids:
        view.folder.remove(uid)
    return "OK MOVE completed."


async def expunge(session: Session, command: Command) -> str:
    """EXPUNGE and UID EXPUNGE."""
    view = _view_of(session)
    if view.read_only:
        raise Refused("Mailbox is read-only.")
    uids = _chosen(session, command) if command.name == "UID EXPUNGE" else view.folder.uids
    for uid in uids:
        if _DELETED in view.folder.flags(uid):
            view.folder.remove(uid)
    return "OK EXPUNGE completed."


async def append(session: Session, command: Command) -> str:
    """APPEND."""
    args = list(command.args)
    if len(args) < 2 or not isinstance(args[-1], bytes):  # noqa: PLR2004 - folder and message
        raise ProtocolError("Command Argument Error. 11")
    if mailbox_of(session).find(decode_name(args[0])) is None:
        raise Refused("[TRYCREATE] Mailbox does not exist.")
    folder = folder_of(session, args[0])
    flags: list[str] = []
    received_at = session.server.now()
    for arg in args[1:-1]:
        if isinstance(arg, list):
            flags = words(arg)
        else:
            received_at = parse_internal_date(text(arg))
    uid = folder.add(args[-1], received_at=received_at, flags=flags)
    if "UIDPLUS" in session.server.hidden(session.address):
        return "OK APPEND completed."
    return f"OK [APPENDUID {folder.uidvalidity} {uid}] APPEND completed."
