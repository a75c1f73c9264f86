"""IMAP commands about the connection: capabilities, signing in, IDLE, leaving."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.imap_protocol import Command, text
from mailbridge.sandbox.imap_strikes import throttle
from mailbridge.sandbox.imap_wire import Answered, ProtocolError, read_line
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.imap_session import Session

_SIGN_OFF: Final = "Microsoft Exchange Server IMAP4 server signing off."
#: bytes; a credential is longer than commands may be when a token carries many groups
_CREDENTIAL_LIMIT: Final = 65_536
#: what Gmail sends ahead of its NO, and RFC 7628 asks for
_CHALLENGE: Final = b'{"status":"400","schemes":"Bearer","scope":"https://outlook.office.com/"}'


async def authenticate(session: Session, command: Command) -> str:
    """AUTHENTICATE, with or without an initial response."""
    if not command.args:
        raise ProtocolError("Command Argument Error. 12")
    method = text(command.args[0]).upper()
    credential = text(command.args[1]).encode("latin-1") if len(command.args) > 1 else None
    if credential is not None and "SASL-IR" in session.server.hidden(""):
        raise ProtocolError("Command Argument Error. 12")
    if method not in {"XOAUTH2", "PLAIN"}:
        raise ProtocolError("Command Argument Error. 12")
    if credential is None:
        await session.wire.send(b"+ \r\n")
        credential = await read_line(session.wire, _CREDENTIAL_LIMIT)
        if credential == b"*":
            raise ProtocolError("AUTHENTICATE cancelled.")
    if method == "PLAIN":
        # Passwords were switched off for good at the end of 2022.
        return _refuse(session, "AUTHENTICATE")
    return await _xoauth2(session, command, credential)


def _refuse(session: Session, name: str) -> str:
    session.server.refusals += 1
    return f"NO {name} failed."


async def _xoauth2(session: Session, command: Command, credential: bytes) -> str:
    server = session.server
    signed_in = server.exchange.sign_in(credential, role="IMAP.AccessAsApp")
    address = signed_in.address if signed_in else ""
    if signed_in is None or server.faults.take("imap.auth_failed", mailbox=address):
        if server.faults.active("imap.challenge_on_failure", mailbox=address):
            await session.wire.send(b"+ " + base64.b64encode(_CHALLENGE) + b"\r\n")
            await read_line(session.wire)
        return _refuse(session, "AUTHENTICATE")
    if fault := server.faults.take("imap.throttled_sign_in", mailbox=address):
        await throttle(session, fault, tag=command.tag)
        raise Answered
    server.note_login(address)
    session.enter(signed_in)
    session.box = _open(session, signed_in)
    return "OK AUTHENTICATE completed."


def _open(session: Session, signed_in: SignIn) -> Mailbox | None:
    """Return the mailbox, or ``None``: authenticated but not connected."""
    server, address = session.server, signed_in.address
    faults, box = server.faults, signed_in.mailbox
    if box is None or not box.imap_enabled:
        return None
    limits = faults.active("imap.session_limit", mailbox=address)
    if any(len(server.sessions_of(address)) > fault["limit"] for fault in limits):
        return None
    hasty = faults.active("imap.fast_reconnects", mailbox=address)
    if any(server.logins_within(address, fault["seconds"]) > fault["logins"] for fault in hasty):
        return None
    return None if faults.take("imap.not_connected", mailbox=address) else box


async def login(session: Session, _command: Command) -> str:
    """LOGIN: basic authentication is gone."""
    return _refuse(session, "LOGIN")


async def capability(session: Session, _command: Command) -> str:
    """CAPABILITY; the list is longer once signed in."""
    signed_in = session.signed_in is not None
    listed = session.server.capabilities(session.address, signed_in=signed_in)
    await session.untagged("CAPABILITY " + " ".join(listed))
    return "OK CAPABILITY completed."


async def identify(session: Session, _command: Command) -> str:
    """ID (RFC 2971)."""
    await session.untagged('ID ("name" "Microsoft.Exchange.Imap4.Imap4Server" "version" "15.20")')
    return "OK ID completed"


async def noop(_session: Session, command: Command) -> str:
    """NOOP and CHECK: the answer carries the news."""
    return f"OK {command.name} completed."


async def logout(session: Session, command: Command) -> str:
    """LOGOUT."""
    await session.untagged(f"BYE {_SIGN_OFF}")
    await session.wire.send(f"{command.tag} OK LOGOUT completed.\r\n".encode())
    raise Disconnected


async def namespace(session: Session, _command: Command) -> str:
    """NAMESPACE (RFC 2342)."""
    await session.untagged('NAMESPACE (("" "/")) NIL NIL')
    return "OK NAMESPACE completed."


async def enable(session: Session, command: Command) -> str:
    """ENABLE, which only the new front end has."""
    if not session.server.faults.active("imap.new_front_end", mailbox=session.address):
        raise ProtocolError("Command Error. 10")
    session.rev2 = session.rev2 or any(text(arg).upper() == "IMAP4REV2" for arg in command.args)
    await session.untagged("ENABLED IMAP4rev2" if session.rev2 else "ENABLED")
    return "OK ENABLE completed."
