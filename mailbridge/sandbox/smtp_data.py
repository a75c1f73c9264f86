"""SMTP commands about a mail: MAIL, RCPT, DATA, RSET.

The end of a mail is CRLF.CRLF and nothing else. ``smtp.lenient_ends`` makes the server take
bare CR and LF for line ends too, as servers do that can be smuggled into (CVE-2023-51764).
"""

from __future__ import annotations

import re
from email.utils import parseaddr
from typing import TYPE_CHECKING, Final

from mailbridge.sandbox.smtp_replies import TEXTS
from mailbridge.sandbox.wire import Disconnected, LineTooLong

if TYPE_CHECKING:
    from mailbridge.sandbox.smtp_session import Session

_PATH: Final = re.compile(r"(?:FROM|TO):\s*<([^<>\s]*)>(.*)", re.IGNORECASE | re.DOTALL)
_END: Final = re.compile(rb"(?:\A|\r\n)\.\r\n")
_LENIENT_END: Final = re.compile(rb"(?:\A|\r\n|\r|\n)\.(?:\r\n|\r|\n)")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_FROM: Final = re.compile(rb"^from:((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_SIZE: Final = re.compile(r"\bSIZE=(\d{1,12})", re.IGNORECASE)


async def mail_from(session: Session, argument: str) -> None:
    """MAIL FROM: from an address that the account may send as."""
    server = session.server
    match = _PATH.fullmatch(argument)
    if session.signed_in is None:
        clear = "530 5.7.0 Must issue a STARTTLS command first"
        wanted = "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL"
        await session.say(f"{wanted} FROM [{session.server_name}]" if session.secure else clear)
    elif session.transaction is not None:
        await session.say("503 5.5.2 Sender already specified")
    elif match is None or not argument.upper().startswith("FROM"):
        await session.say("501 5.1.7 Invalid address")
    elif (size := _SIZE.search(match[2])) and int(size[1]) > server.limits.announced:
        await session.say(TEXTS["smtp.too_large"])
    elif not server.exchange.may_send_as(session.signed_in, match[1]):
        await session.say(TEXTS["smtp.send_as_denied"])
    elif server.over_rate(session.address):
        await session.say(TEXTS["smtp.rate_limited"])
        session.end()
    else:
        session.begin(match[1])
        await session.say("250 2.1.0 Sender OK")


async def rcpt_to(session: Session, argument: str) -> None:
    """RCPT TO: anybody, as long as it has the form of an address."""
    match = _PATH.fullmatch(argument)
    if session.transaction is None:
        await session.say("503 5.5.2 Need mail command")
    elif match is None or "@" not in match[1] or not argument.upper().startswith("TO"):
        await session.say("501 5.1.3 Invalid address")
    elif len(session.transaction.recipients) >= session.server.limits.recipients:
        await session.say(TEXTS["smtp.too_many_recipients"])
    else:
        session.transaction.recipients.append(match[1])
        await session.say("250 2.1.5 Recipient OK")


async def rset(session: Session, _argument: str) -> None:
    """RSET."""
    session.transaction = None
    await session.say("250 2.0.0 Resetting")


async def data(session: Session, _argument: str) -> None:
    """Read the mail that follows DATA, and take it or say why not."""
    if session.transaction is None or not session.transaction.recipients:
        await session.say("503 5.5.2 Need rcpt command")
        return
    await session.say("354 Start mail input; end with <CRLF>.<CRLF>")
    raw = await _read(session)
    if session.strike("smtp.drop_after_dot", command="."):
        raise Disconnected
    if fault := session.strike("smtp.slow_answer", command="."):
        await session.wire.hold(fault["seconds"])
    answer = await _judged(session, raw)
    session.transaction = None
    if answer:
        await session.say(answer)


async def _read(session: Session) -> bytes | None:
    """Return the mail with its dots as they were; ``None`` when it is too large."""
    server = session.server
    if fault := session.strike("smtp.drop_in_data", command="DATA"):
        await session.wire.exactly(fault["after"])
        raise Disconnected
    if fault := session.strike("smtp.refuse_in_data", command="DATA"):
        await session.wire.exactly(fault["after"])
        await session.say(fault["text"])
        # Closed at once, with bytes unread, the answer would be lost on the way.
        await session.wire.hold(10)
        raise Disconnected
    lenient = bool(server.faults.active("smtp.lenient_ends"))
    end = _LENIENT_END if lenient else _END
    try:
        # The end counts too, and so do stuffed dots; the exact size is judged afterwards.
        body = await session.wire.through(end, server.limits.size + server.limits.size // 8)
    except LineTooLong:
        return None
    body = body[: -len(b".\r\n")] if body.endswith(b".\r\n") else body[:-2]
    if _BARE.search(body):
        server.violations.append("a mail with a bare CR or LF")
        body = re.sub(rb"\r\n|\r|\n", b"\r\n", body) if lenient else body
    lines = body.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


async def _judged(session: Session, raw: bytes | None) -> str:
    """Take the mail if it may be taken; returns the answer, empty when a fault has answered."""
    server, transaction = session.server, session.transaction
    assert transaction is not None  # noqa: S101 - DATA has seen to it
    if await session.answered_by_fault("."):
        return ""
    if raw is None or len(raw) > server.limits.size:
        return TEXTS["smtp.too_large"]
    if refusal := _over_limits(session, len(transaction.recipients)) or _faulty(session, raw):
        return refusal.replace("HOST", session.server_name)
    session.finish(raw)
    if session.strike("smtp.answer_lost", command="."):
        raise Disconnected
    host = session.server_name
    return f"250 2.0.0 OK <CH2PR14MB{session.number:04}@{host}> [Hostname={host}]"


def _over_limits(session: Session, recipients: int) -> str:
    """Return the refusal of a mailbox that has used up what it may."""
    server = session.server
    if len(server.sessions_of(session.address)) > server.limits.sessions:
        return TEXTS["smtp.thread_limit"]
    return TEXTS["smtp.recipients_used_up"] * server.over_day(session.address, recipients)


def _faulty(session: Session, raw: bytes) -> str:
    """Return the refusal of a mail that may not be sent like this."""
    if _BARE.search(raw):
        return "550 5.6.11 SMTPSEND.BareLinefeedsAreIllegal; message contains bare linefeeds"
    author = _author(raw)
    if not author or session.server.exchange.may_send_as(session.signed_in, author):
        return ""
    denied = f"554 5.2.252 SendAsDenied; {session.address} not allowed to send as {author}; "
    return denied + TEXTS["smtp.send_as_denied_after_data"].partition("info@x; ")[2]


def _author(raw: bytes) -> str:
    """Return the address of the From field; empty when there is none."""
    match = _FROM.search(raw.partition(b"\r\n\r\n")[0])
    return parseaddr(match[1].decode("utf-8", "replace").strip())[1] if match else ""
