"""SMTP commands about the connection: EHLO, TLS, signing in, leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.exchange import SignIn
from mailbridge.sandbox.smtp_replies import TEXTS

if TYPE_CHECKING:
    from mailbridge.sandbox.smtp_session import Session

ROLE: Final = "SMTP.SendAsApp"
_BAD_SEQUENCE: Final = "503 5.5.1 Bad sequence of commands"


async def ehlo(session: Session, argument: str) -> None:
    """EHLO: forgets a mail under way, as RSET does."""
    if not argument:
        await session.say("501 5.5.4 Invalid domain name")
        return
    session.greeted, session.transaction = True, None
    listed = session.server.capabilities(secure=session.secure)
    await session.say(f"250 {session.server_name} Hello [203.0.113.7]", *listed)


async def helo(session: Session, argument: str) -> None:
    """HELO, without any extension."""
    session.greeted, session.transaction = bool(argument), None
    await session.say(f"250 {session.server_name} Hello [203.0.113.7]")


async def starttls(session: Session, _argument: str) -> None:
    """STARTTLS: whatever was said before counts no more (RFC 3207, 4.2)."""
    context = session.server.context
    if session.secure or context is None:
        await session.say(_BAD_SEQUENCE)
        return
    if session.strike("smtp.starttls_refused"):
        await session.say("454 4.7.0 TLS not available due to temporary reason")
        return
    if fault := session.strike("smtp.starttls_injection"):
        # What somebody on the way would add: it comes in one piece with the 220.
        await session.wire.send(b"220 2.0.0 SMTP server ready\r\n" + fault["text"].encode())
    else:
        await session.say("220 2.0.0 SMTP server ready")
    await session.wire.start_tls(context)
    session.secure, session.greeted, session.transaction = True, False, None


async def auth(session: Session, argument: str) -> None:
    """AUTH XOAUTH2, in one line or two; AUTH LOGIN is heard out and refused."""
    method, _, initial = argument.partition(" ")
    if not session.secure:
        await session.say("530 5.7.0 Must issue a STARTTLS command first")
    elif session.signed_in is not None or not session.greeted:
        await session.say(_BAD_SEQUENCE)
    elif method.upper() == "LOGIN":
        for challenge in ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"):
            await session.say(f"334 {challenge}")
            await session.line(session.server.limits.credential)
        await _refuse(session, TEXTS["smtp.basic_auth"])
    elif method.upper() == "XOAUTH2":
        await _xoauth2(session, initial.strip())
    else:
        await session.say("504 5.7.4 Unrecognized authentication type")


async def _xoauth2(session: Session, initial: str) -> None:
    credential: bytes | None = initial.encode()
    if not initial:
        await session.say("334 ")
        credential = await session.line(session.server.limits.credential)
    if credential is None:
        await session.say("500 5.5.6 Authentication exchange line too long")
        return
    signed_in = session.server.exchange.sign_in(credential, role=ROLE)
    session.signed_in = signed_in  # so that faults of this mailbox strike
    struck = signed_in is not None and await session.answered_by_fault("AUTH")
    if struck or signed_in is None or not _may_submit(signed_in):
        session.signed_in = None
        session.server.refusals += 1
        if not struck:
            await _refused(session)
        return
    server = session.server
    server.logins += 1
    server.most_sessions = max(server.most_sessions, len(server.sessions_of(session.address)))
    await session.say("235 2.7.0 Authentication successful")


def _may_submit(signed_in: SignIn) -> bool:
    """Tell whether it is the own account: people name a shared mailbox in MAIL FROM only."""
    own = not signed_in.upn or signed_in.upn.lower() == signed_in.address.lower()
    return own and signed_in.mailbox is not None


async def _refuse(session: Session, text: str) -> None:
    session.server.refusals += 1
    await session.say(text.replace("HOST", session.server_name))


async def _refused(session: Session) -> None:
    await session.say(TEXTS["smtp.auth_failed"].replace("HOST", session.server_name))


async def noop(session: Session, _argument: str) -> None:
    """NOOP."""
    await session.say("250 2.0.0 OK")


async def leave(session: Session, _argument: str) -> None:
    """QUIT."""
    await session.say("221 2.0.0 Service closing transmission channel")
    session.end()
