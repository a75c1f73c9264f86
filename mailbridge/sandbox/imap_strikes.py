"""The faults that may strike any IMAP command, a greeting or a sign-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.faults import Fault
from mailbridge.sandbox.imap_protocol import Command, decode_name
from mailbridge.sandbox.mailstore import Folder
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_session import Session

#: what a session is told when its access token has expired
EXPIRED: Final = "Session invalidated - AccessTokenExpired"
#: what it is told when the reason was told before, or is none of its business
CLOSED: Final = "Connection closed. 14"
#: to these Exchange says NO where it says BAD to others
_NO_RATHER_THAN_BAD: Final = frozenset({"APPEND", "SEARCH", "UID SEARCH"})


async def greeting_struck(session: Session) -> bool:
    """Let faults end the connection before its greeting; true when one did."""
    faults = session.server.faults
    if faults.take("imap.refuse"):
        session.wire.close()
        return True
    if fault := faults.take("imap.no_greeting"):
        await session.wire.hold(fault["seconds"])
    if fault := faults.take("imap.throttled_greeting"):
        await throttle(session, fault, tag="*")
        return True
    return False


async def after_sign_in(session: Session) -> None:
    """Let faults strike right behind the OK of a sign-in."""
    fault = session.server.faults.take("imap.throttled_after_ok", mailbox=session.address)
    if fault is not None:
        await throttle(session, fault, tag="*")


async def struck(session: Session, command: Command) -> bool:
    """Let faults answer in place of a command; true when one did."""
    slow = _strike(session, "imap.slow", command)
    session.wire.pace = slow["bytes_per_second"] if slow else None
    if fault := _strike(session, "imap.hang", command):
        await session.wire.hold(fault["seconds"])
    if fault := _strike(session, "imap.drop_on_command", command):
        if fault["reset"]:
            session.wire.reset()
        raise Disconnected
    _renumber(session, command)
    return await _said_goodbye(session, command) or await _answered(session, command)


async def _said_goodbye(session: Session, command: Command) -> bool:
    if _strike(session, "imap.token_expired", command):
        await session.bye(EXPIRED)
        return True
    if fault := _strike(session, "imap.bye_on_command", command):
        await session.bye(fault["text"])
        return True
    if fault := _strike(session, "imap.reason_before_bye", command):
        await session.untagged(fault["text"])
        await session.bye(CLOSED)
        return True
    return False


async def _answered(session: Session, command: Command) -> bool:
    if fault := _strike(session, "imap.throttled", command):
        await throttle(session, fault, tag=command.tag, name=command.name)
        return True
    if fault := _strike(session, "imap.reply", command):
        await session.wire.send(f"{command.tag} {fault['text']}\r\n".encode())
        if fault["hang_up"]:
            await session.bye(CLOSED)
        return True
    if fault := _strike(session, "imap.server_unavailable", command):
        await unavailable(session, fault, tag=command.tag)
        return True
    return False


def _strike(session: Session, name: str, command: Command, *, folder: str = "") -> Fault | None:
    selected = session.view.folder.name if session.view else ""
    return session.server.faults.take(
        name, mailbox=session.address, command=command.name, folder=folder or selected
    )


def _renumber(session: Session, command: Command) -> None:
    folder = _meant(session, command)
    if folder is not None and (
        fault := _strike(session, "imap.uidvalidity_changed", command, folder=folder.name)
    ):
        folder.reset_uidvalidity(first_uid=fault["first_uid"], cut=fault["cut"])


def _meant(session: Session, command: Command) -> Folder | None:
    """Return the folder that a command opens, or the one that is open."""
    if command.name in {"SELECT", "EXAMINE"} and session.box is not None and command.args:
        return session.box.find(decode_name(command.args[0]))
    return session.view.folder if session.view else None


async def throttle(session: Session, fault: Fault, *, tag: str, name: str = "") -> None:
    """Ask for a pause, as NO, BAD or BYE; an untagged notice ends the session."""
    form = fault["form"] or ("NO" if name in _NO_RATHER_THAN_BAD else "BAD")
    notice = f"Request is throttled. Suggested Backoff Time: {fault['milliseconds']} milliseconds"
    if form == "BYE":
        await session.bye(notice)
        return
    await session.wire.send(f"{tag} {form} {notice}\r\n".encode())
    if tag == "*" or fault["hang_up"]:
        await session.bye(CLOSED)


async def unavailable(session: Session, fault: Fault, *, tag: str) -> None:
    """Report a fault of the backend, in one of the three forms that were seen."""
    head = "" if fault["form"] == "untagged" else f"{tag} {fault['form']} "
    await session.wire.send(f"{head}Server Unavailable. 15\r\n".encode())
    if fault["hang_up"]:
        await session.bye("Connection closed.")
