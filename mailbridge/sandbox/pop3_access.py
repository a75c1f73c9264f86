"""POP3 commands about the connection: capabilities, TLS, signing in, leaving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.exchange import SignIn, parse_xoauth2
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.pop3_maildrop import Maildrop
from mailbridge.sandbox.wire import Disconnected

if TYPE_CHECKING:
    from mailbridge.sandbox.pop3_session import Session

ROLE: Final = "POP.AccessAsApp"
#: bytes; the one line that may be longer than a command
_CREDENTIAL_LIMIT: Final = 65_536
_REFUSED: Final = "Authentication failure: unknown user name or bad password."
#: to passwords, and to everybody while the server wants a pause
_LOGON_FAILURE: Final = "Logon failure: unknown user name or bad password."
_SIGN_OFF: Final = "Microsoft Exchange Server POP3 server signing off."


async def capa(session: Session, _args: Sequence[str]) -> None:
    """CAPA (RFC 2449)."""
    await session.lines(session.server.capabilities(session.address, secure=session.secure))


async def stls(session: Session, _args: Sequence[str]) -> None:
    """STLS (RFC 2595); refused where TLS is on already, as on port 995."""
    context = session.server.context
    if session.secure or context is None:
        await session.not_now()
        return
    await session.ok("Begin TLS negotiation.")
    await session.wire.start_tls(context)
    session.secure = True


async def auth(session: Session, args: Sequence[str]) -> None:
    """AUTH (RFC 5034): in two lines only; Exchange hangs up on an initial response."""
    if not session.secure:
        await session.not_now()
    elif not args:
        await session.lines(["PLAIN", "XOAUTH2"])
    elif len(args) > 1:
        await session.fatal()
    elif args[0].upper() in {"XOAUTH2", "PLAIN"}:
        await _exchange(session, args[0].upper())
    else:
        await session.unknown()


async def _exchange(session: Session, method: str) -> None:
    await session.wire.send(b"+ \r\n")
    credential = await session.line(_CREDENTIAL_LIMIT)
    if method == "PLAIN":
        # Passwords were switched off for good at the end of 2022.
        await _refuse(session, _LOGON_FAILURE)
    elif _too_long(session, credential):
        await session.fatal()
    else:
        await _xoauth2(session, credential)


def _too_long(session: Session, credential: bytes) -> bool:
    parsed = parse_xoauth2(credential)
    new = session.server.faults.active("pop3.new_front_end")
    return bool(new and parsed and len(parsed[1]) > session.server.limits.token)


async def _refuse(session: Session, text: str) -> None:
    session.server.refusals += 1
    await session.err(text)


async def _xoauth2(session: Session, credential: bytes) -> None:
    server = session.server
    signed_in = server.exchange.sign_in(credential, role=ROLE)
    address = signed_in.address if signed_in else ""
    # Unlike IMAP, POP3 does not tell a refused mailbox from a refused token.
    box = _open(signed_in)
    if (
        signed_in is None
        or box is None
        or server.faults.take("pop3.auth_failed", mailbox=address, command="AUTH")
    ):
        await _refuse(session, _REFUSED)
    elif fault := server.faults.take("pop3.credential_reply", mailbox=address, command="AUTH"):
        server.refusals += 1
        await session.hang_up(fault["text"])
    elif _throttled(session, address):
        await _refuse(session, _LOGON_FAILURE)
    elif _crowded(session, address):
        await session.hang_up("BYE Connection refused")
    else:
        if server.faults.take("pop3.uidl_changed", mailbox=address, command="AUTH"):
            box.move_to_other_server()
        server.logins += 1
        session.signed_in, session.maildrop = signed_in, Maildrop.open(box)
        await session.ok("User successfully authenticated.")


def _open(signed_in: SignIn | None) -> Mailbox | None:
    box = signed_in.mailbox if signed_in else None
    return box if box is not None and box.pop_enabled else None


def _throttled(session: Session, address: str) -> bool:
    spent = session.server.spent[address.lower()]
    armed = session.server.faults.active("pop3.throttled", mailbox=address)
    if not any(spent >= fault["commands"] for fault in armed):
        return False
    return bool(session.server.faults.take("pop3.throttled", mailbox=address, command="AUTH"))


def _crowded(session: Session, address: str) -> bool:
    crowd = len(session.server.sessions_of(address))
    limits = session.server.faults.active("pop3.connection_limit", mailbox=address)
    return any(crowd >= fault["limit"] for fault in limits)


async def user(session: Session, _args: Sequence[str]) -> None:
    """USER: taken from everybody; the answer comes with PASS."""
    if session.secure:
        await session.ok()
    else:
        await session.not_now()


async def password(session: Session, _args: Sequence[str]) -> None:
    """PASS: basic authentication is gone."""
    if session.secure:
        await _refuse(session, _LOGON_FAILURE)
    else:
        await session.not_now()


async def quit_session(session: Session, _args: Sequence[str]) -> None:
    """QUIT: deletes what was marked, then says goodbye. Nothing else deletes (RFC 1939, 6)."""
    if session.strike("pop3.quit_dropped", command="QUIT"):
        raise Disconnected
    if session.maildrop is not None:
        session.server.deleted += session.maildrop.commit()
    if session.strike("pop3.quit_answer_lost", command="QUIT"):
        raise Disconnected
    await session.ok(_SIGN_OFF)
    session.end()
