"""The one place where what aiosmtplib, sockets and TLS raise becomes an error of ours."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiosmtplib

from mailbridge.errors import (
    MailbridgeError,
    PermanentError,
    SignInRejected,
    Throttled,
    Unavailable,
)
from mailbridge.sinks.smtp_replies import Judgement, Reply
from mailbridge.sinks.smtp_rules import judge

#: what a failed handshake mostly comes from
_PORTS: Final = (
    "Port 587 begins without TLS (tls: starttls), port 465 speaks it from the start "
    "(tls: implicit)."
)


class Undecided(Unavailable):
    """The mail was handed over whole, and the server's word on it is lost.

    Nobody can say whether it was taken. It must not be sent again before somebody has looked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code="smtp.in_doubt")


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Let whatever is raised within leave as an error of ``mailbridge.errors``."""
    try:
        yield
    except MailbridgeError:
        raise
    except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
        failure = _translate(exc, action)
        failure.__cause__ = exc if isinstance(exc, OSError) else None
    else:
        return
    raise failure


def _translate(exc: Exception, action: str) -> MailbridgeError:
    if isinstance(exc, aiosmtplib.SMTPServerDisconnected):
        return Unavailable(f"{action}: the server closed the connection", code="smtp.eof")
    if isinstance(exc, aiosmtplib.SMTPResponseException) and exc.code >= 0:
        return refusal(judge(Reply(code=exc.code, text=exc.message), "connect"), action)
    if isinstance(exc, OSError):
        return _network(exc, action)
    if isinstance(exc, aiosmtplib.SMTPException):
        # Not quoted: what is no SMTP reply may be anything.
        return Unavailable(
            f"{action}: the server's answer could not be understood", code="smtp.protocol"
        )
    return Unavailable(f"{action}: {type(exc).__name__}", code="smtp.unexpected")


def _network(exc: OSError, action: str) -> MailbridgeError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Unavailable(
            f"{action}: the server's certificate is not trusted: {exc.verify_message}",
            code="smtp.certificate",
            fix="Check the host name and the clock; for a private authority set send.server.ca.",
        )
    fix = ""
    if isinstance(exc, socket.gaierror):
        said, code = "the host name has no address", "dns"
    elif isinstance(exc, TimeoutError):
        said, code = "the server did not answer in time", "timeout"
    elif isinstance(exc, ssl.SSLError):
        said, code, fix = f"TLS failed: {exc.reason or type(exc).__name__}", "tls", _PORTS
    else:
        said, code = f"the connection failed: {exc.strerror or type(exc).__name__}", "connection"
    return Unavailable(f"{action}: {said}", code=f"smtp.{code}", fix=fix)


def refusal(judgement: Judgement, action: str) -> MailbridgeError:
    """Return the error for a server that does not let us in."""
    said = f"{action}: {judgement.reason}"
    if judgement.person and judgement.scope == "mailbox":
        return SignInRejected(said, code=judgement.code, fix=judgement.fix)
    if judgement.person:
        return PermanentError(said, code=judgement.code, fix=judgement.fix)
    if judgement.retry_after:
        return Throttled(
            said, retry_after=judgement.retry_after, code=judgement.code, fix=judgement.fix
        )
    return Unavailable(said, code=judgement.code, fix=judgement.fix)
