"""IMAP commands about folders: list, status, select, create and so on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.imap_protocol import Command, decode_name, text, wire_name, words
from mailbridge.sandbox.imap_view import View
from mailbridge.sandbox.imap_wire import ProtocolError, Refused
from mailbridge.sandbox.mailstore import FLAGS, Folder, Mailbox

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_session import Session

_FLAG_LIST: Final = "(" + " ".join(FLAGS) + ")"
_STATUS_ITEMS: Final = ("MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN")


def mailbox_of(session: Session) -> Mailbox:
    """Return the session's mailbox; the dispatcher lets nobody here without one."""
    if session.box is None:
        raise ProtocolError("User is authenticated but not connected.")
    return session.box


def folder_of(session: Session, arg: object) -> Folder:
    """Return the folder that an argument names, or refuse."""
    name = decode_name(arg)
    folder = mailbox_of(session).find(name)
    if folder is None:
        raise Refused(f"{name} doesn't exist.".encode("ascii", "replace").decode("ascii"))
    return folder


def _expect(command: Command, count: int) -> None:
    if len(command.args) != count:
        raise ProtocolError("Command Argument Error. 12")


def _matcher(reference: str, pattern: str) -> re.Pattern[str]:
    pieces = {"*": ".*", "%": "[^/]*"}
    source = "".join(pieces.get(char, re.escape(char)) for char in reference + pattern)
    return re.compile(source, re.IGNORECASE if pattern.upper() == "INBOX" else 0)


def _attributes(box: Mailbox, folder: Folder, *, plain: bool = False) -> str:
    children = "\\HasChildren" if box.has_children(folder.name) else "\\HasNoChildren"
    # INBOX carries its mark before, the special-use ones after.
    if folder.special == "\\Marked":
        return f"(\\Marked {children})"
    return f"({children} {folder.special})" if folder.special and not plain else f"({children})"


async def list_folders(session: Session, command: Command) -> str:
    """LIST; neither selection options nor RETURN are known."""
    _expect(command, 2)
    box = mailbox_of(session)
    pattern = decode_name(command.args[1])
    if not pattern:
        await session.untagged('LIST (\\Noselect) "/" ""')
        return "OK LIST completed."
    matcher = _matcher(decode_name(command.args[0]), pattern)
    shown = {name: _shown(session, folder) for name, folder in box.folders.items()}
    if session.server.faults.active("imap.files_folder", mailbox=session.address):
        shown["Files"] = '(\\HasNoChildren) "/" Files'
    for name, line in sorted(shown.items()):
        if matcher.fullmatch(name):
            await session.untagged(f"LIST {line}")
    return "OK LIST completed."


def _shown(session: Session, folder: Folder) -> str:
    faults, box = session.server.faults, mailbox_of(session)
    plain = bool(faults.active("imap.no_special_use", mailbox=session.address))
    name = folder.name
    if name == "INBOX" and faults.active("imap.inbox_in_mixed_case", mailbox=session.address):
        name = "Inbox"
    return f'{_attributes(box, folder, plain=plain)} "/" {wire_name(name)}'


async def list_subscribed(session: Session, command: Command) -> str:
    """LSUB; broken once a client has enabled IMAP4rev2."""
    _expect(command, 2)
    if session.rev2:
        raise ProtocolError("Command Error. 10")
    box = mailbox_of(session)
    matcher = _matcher(decode_name(command.args[0]), decode_name(command.args[1]))
    for name in sorted(box.subscribed):
        if matcher.fullmatch(name):
            attributes = _attributes(box, box.folders[name])
            await session.untagged(f'LSUB {attributes} "/" {wire_name(name)}')
    return "OK LSUB completed."


async def subscribe(session: Session, command: Command) -> str:
    """SUBSCRIBE and UNSUBSCRIBE."""
    _expect(command, 1)
    folder = folder_of(session, command.args[0])
    box = mailbox_of(session)
    if command.name == "SUBSCRIBE":
        box.subscribed.add(folder.name)
    else:
        box.subscribed.discard(folder.name)
    return f"OK {command.name} completed."


async def status(session: Session, command: Command) -> str:
    """STATUS."""
    _expect(command, 2)
    folder = folder_of(session, command.args[0])
    values = {
        "MESSAGES": len(folder),
        "RECENT": 0,
        "UIDNEXT": folder.uidnext,
        "UIDVALIDITY": folder.uidvalidity,
        "UNSEEN": sum("\\Seen" not in message.flags for message in folder),
    }
    asked = [word.upper() for word in words(command.args[1])]
    if not asked or any(word not in _STATUS_ITEMS for word in asked):
        raise ProtocolError("Command Argument Error. 11")
    shown = " ".join(f"{word} {values[word]}" for word in asked)
    await session.untagged(f"STATUS {wire_name(folder.name)} ({shown})")
    return "OK STATUS completed."


async def select(session: Session, command: Command) -> str:
    """SELECT and EXAMINE."""
    _expect(command, 1)
    session.unselect()
    folder = folder_of(session, command.args[0])
    read_only = command.name == "EXAMINE"
    session.view = View(folder, read_only=read_only)
    permanent = "()" if read_only else _FLAG_LIST
    lines = (
        f"{len(session.view.uids)} EXISTS",
        "0 RECENT",
        f"FLAGS {_FLAG_LIST}",
        f"OK [PERMANENTFLAGS {permanent}] Permanent flags",
        f"OK [UIDVALIDITY {folder.uidvalidity}] UIDVALIDITY value",
        f"OK [UIDNEXT {folder.uidnext}] The next unique identifier value",
    )
    await session.wire.send("".join(f"* {line}\r\n" for line in lines).encode())
    mode = "READ-ONLY" if read_only else "READ-WRITE"
    return f"OK [{mode}] {command.name} completed."


async def close(session: Session, command: Command) -> str:
    """CLOSE, which expunges without a word, and UNSELECT, which does not."""
    view = session.view
    if view is not None and command.name == "CLOSE" and not view.read_only:
        for message in view.folder:
            if "\\Deleted" in message.flags:
                view.folder.remove(message.uid)
    session.unselect()
    return f"OK {command.name} completed."


async def create(session: Session, command: Command) -> str:
    """CREATE."""
    _expect(command, 1)
    box, name = mailbox_of(session), decode_name(command.args[0])
    if name.lower() == "files":
        raise Refused("Folder name is reserved")
    if not name.strip("/"):
        raise ProtocolError("Command Argument Error. 11")
    if box.find(name.rstrip("/")) is not None:
        raise Refused("Mailbox already exists.")
    box.create(name)
    return "OK CREATE completed."


async def delete(session: Session, command: Command) -> str:
    """DELETE; default folders stay."""
    _expect(command, 1)
    folder = folder_of(session, command.args[0])
    if folder.special:
        raise Refused("Cannot delete a default folder.")
    if session.view is not None and session.view.folder is folder:
        session.unselect()
    mailbox_of(session).delete(folder.name)
    return "OK DELETE completed."


async def rename(session: Session, command: Command) -> str:
    """RENAME; default folders keep their names."""
    _expect(command, 2)
    folder = folder_of(session, command.args[0])
    box, name = mailbox_of(session), decode_name(command.args[1])
    if folder.special:
        raise Refused("Cannot rename a default folder.")
    if not text(command.args[1]).strip("/"):
        raise ProtocolError("Command Argument Error. 11")
    if box.find(name.rstrip("/")) is not None:
        raise Refused("Mailbox already exists.")
    box.rename(folder.name, name)
    return "OK RENAME completed."
