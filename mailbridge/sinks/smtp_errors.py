"""The one place where what aiosmtplib, sockets and TLS raise becomes an error of ours."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiosmtplib

from mailbridge.catalogue.lookup import mends
from mailbridge.errors import (
    MailbridgeError,
    PermanentError,
    SignInRejected,
    Throttled,
    Unavailable,
)
from mailbridge.network_faults import NoGreeting, connection_code, tls_code
from mailbridge.sinks.smtp_replies import Judgement, Reply
from mailbridge.sinks.smtp_rules import judge

#: the port of TLS from the start, which Exchange Online does not have
_SUBMISSIONS: Final = 465
#: how servers of other protocols greet
_OTHER_GREETING = re.compile(r"response line: (?:\+OK|\* (?:OK|BYE))")


class Undecided(Unavailable):
    """The mail was handed over whole, and the server's word on it is lost.

    Nobody can say whether it was taken. It must not be sent again before somebody has looked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code="smtp.in_doubt")


@contextmanager
def translated(action: str, *, port: int = 0) -> Iterator[None]:
    """Let whatever is raised within leave as an error of ``mailbridge.errors``.

    ``port`` is that of a server which is being connected to.
    """
    try:
        yield
    except MailbridgeError:
        raise
    except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
        failure = _translate(exc, action, port)
        failure.__cause__ = exc if isinstance(exc, OSError) else None
    else:
        return
    raise failure


def _translate(exc: Exception, action: str, port: int) -> MailbridgeError:
    if isinstance(exc, aiosmtplib.SMTPServerDisconnected):
        return Unavailable(f"{action}: the server closed the connection", code="smtp.eof")
    if isinstance(exc, aiosmtplib.SMTPResponseException) and exc.code >= 0:
        return refusal(judge(Reply(code=exc.code, text=exc.message), "connect"), action)
    if isinstance(exc, OSError):
        return _network(exc, action, port)
    if isinstance(exc, aiosmtplib.SMTPException) and _OTHER_GREETING.search(str(exc)):
        code = "smtp.wrong_port"
        return Unavailable(f"{action}: this is no SMTP server", code=code, fix=mends(code))
    if isinstance(exc, aiosmtplib.SMTPException):
        # Not quoted: what is no SMTP reply may be anything.
        return Unavailable(
            f"{action}: the server's answer could not be understood", code="smtp.protocol"
        )
    return Unavailable(f"{action}: {type(exc).__name__}", code="smtp.unexpected")


def _network(exc: OSError, action: str, port: int) -> MailbridgeError:
    words = exc.strerror or type(exc).__name__
    if isinstance(exc, ssl.SSLCertVerificationError):
        code, said = tls_code(exc), f"the server's certificate is not trusted: {exc.verify_message}"
    elif isinstance(exc, socket.gaierror):
        code, said = "smtp.dns", "the host name has no address"
    elif isinstance(exc, NoGreeting):
        code, said = "smtp.no_greeting", "the server is connected and says nothing"
    elif code := connection_code(exc):
        said = f"no connection: {words}"
        if port == _SUBMISSIONS and code in {"tcp.refused", "tcp.timeout"}:
            code = "smtp.port_465"
    elif isinstance(exc, TimeoutError):
        code, said = "smtp.timeout", "the server did not answer in time"
    elif isinstance(exc, ssl.SSLError):
        code, said = tls_code(exc) or "smtp.tls", f"TLS failed: {exc.reason or type(exc).__name__}"
    else:
        code, said = "smtp.connection", f"the connection failed: {words}"
    return Unavailable(f"{action}: {said}", code=code, fix=mends(code))


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
