"""The one place where what imaplib, imapclient, sockets and TLS raise becomes ours.

Matched on the words that Exchange Online and other servers are known to answer with. Two
things are never passed on: long runs of base64 (a server may echo a token), and the text of
a parser's complaint (it quotes the mail that it could not parse).
"""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from imapclient.exceptions import InvalidCriteriaError, LoginError

from mailbridge.errors import (
    FolderMissing,
    MailbridgeError,
    SignInRejected,
    Throttled,
    Unavailable,
)

P = ParamSpec("P")
R = TypeVar("R")

#: seconds; a server may ask for more, but an alarm mailbox must not be silent any longer
LONGEST_PAUSE: Final = 600.0
#: seconds to wait when a server throttles and does not say for how long
USUAL_PAUSE: Final = 60.0
#: characters of a server's words that go into an error
WORDS: Final = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SECRET_LIKE = re.compile(r"[A-Za-z0-9+/=_.\-]{48,}")
_ANSWER = re.compile(r"command error: (?:BAD|NO) \[b?['\"](?P<text>.*)['\"]\]\Z", re.DOTALL)
_REFUSAL = re.compile(r"\A[\w ]+ failed: (?P<text>.*)\Z", re.DOTALL)
_PAUSE = re.compile(r"backoff time: *(\d{1,12}) *milliseconds", re.IGNORECASE)
_LATER = re.compile(
    r"\[(?:UNAVAILABLE|LIMIT|INUSE|SERVERBUG|OVERQUOTA)\]"
    r"|server unavailable|temporar|try again|too many|timed? ?out|not available|maximum number",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"\[NONEXISTENT\]|(?:doesn'?t|does not|no longer) exist|not found|no such|unknown (?:mailbox"
    r"|folder)|nonexistent",
    re.IGNORECASE,
)


class Refused(Unavailable):
    """The server answered NO or BAD to this one command; the connection is still good.

    ``transient`` when its words say that the same command may work later.
    """

    def __init__(self, message: str, *, transient: bool, code: str = "imap.refused") -> None:
        """Keep whether waiting may help."""
        super().__init__(message, code=code)
        self.transient = transient


def words(text: object) -> str:
    """Return what a server said, fit for an error: one line, bounded, nothing token-like."""
    line = _CONTROL.sub(" ", str(text)).strip()
    return _SECRET_LIKE.sub("[removed]", line)[:WORDS]


def guarded(action: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function``; whatever it raises leaves as an error of ``mailbridge.errors``.

    The cause is chained only where its text is harmless. A plain ``raise`` inside ``except``
    would keep the foreign error reachable, and with it the bytes of somebody's mail.
    """
    try:
        return function(*args, **kwargs)
    except MailbridgeError:
        raise
    except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
        failure = translate(exc, action)
    raise failure


def original(exc: Exception) -> Exception:
    """Return what imaplib raised where imapclient puts an error of its own in its place.

    To imapclient, BAD to a SEARCH is always a wrong criterion, and everything that ends an
    AUTHENTICATE a failed login: a throttle and a lost connection, too.
    """
    before = exc.__context__
    replaced = isinstance(exc, (InvalidCriteriaError, LoginError))
    return before if replaced and isinstance(before, imaplib.IMAP4.error) else exc


def translate(exc: Exception, action: str) -> MailbridgeError:
    """Return our error for what a library raised while it did ``action``."""
    exc = original(exc)
    if isinstance(exc, imaplib.IMAP4.error):
        return _protocol_error(exc, action)
    if isinstance(exc, OSError):
        failure = _network_error(exc, action)
        failure.__cause__ = exc
        return failure
    return Unavailable(
        f"{action}: the server's answer could not be understood ({type(exc).__name__})",
        code="imap.protocol",
    )


def _network_error(exc: OSError, action: str) -> MailbridgeError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Unavailable(
            f"{action}: the server's certificate is not trusted: {words(exc.verify_message)}",
            code="imap.certificate",
            fix="Check the host name and the clock; for a private authority set server.ca.",
        )
    if isinstance(exc, socket.gaierror):
        return Unavailable(f"{action}: the host name has no address: {exc}", code="imap.dns")
    if isinstance(exc, TimeoutError) or "timed out" in str(exc):
        return Unavailable(f"{action}: the server did not answer in time", code="imap.timeout")
    if isinstance(exc, ssl.SSLError):
        return Unavailable(f"{action}: TLS failed: {words(exc)}", code="imap.tls")
    return Unavailable(f"{action}: the connection failed: {words(exc)}", code="imap.connection")


def _protocol_error(exc: imaplib.IMAP4.error, action: str) -> MailbridgeError:
    text = str(exc)
    if isinstance(exc, imaplib.IMAP4.readonly):
        return SignInRejected(
            f"{action}: the folder may only be read",
            code="imap.read_only",
            fix="Give the app FullAccess, or set `after: keep`.",
        )
    if isinstance(exc, imaplib.IMAP4.abort):
        return _lost(text, action)
    for pattern in (_ANSWER, _REFUSAL):
        match = pattern.search(text)
        if match:
            return answer_error(match["text"], action)
    if type(exc) is imaplib.IMAP4.error and "got more than" not in text:
        return answer_error(text, action)
    # imapclient's ProtocolError quotes what it could not parse: that may be a whole mail.
    return Unavailable(
        f"{action}: the server's answer could not be understood ({type(exc).__name__})",
        code="imap.protocol",
    )


def _lost(text: str, action: str) -> MailbridgeError:
    said = answer_error(text, action)
    if isinstance(said, Throttled) or said.code in {"imap.not_connected", "imap.too_large"}:
        return said
    if "socket error" in text and "EOF" not in text and "unterminated" not in text:
        return Unavailable(
            f"{action}: the connection failed: {words(text)}", code="imap.connection"
        )
    if "EOF" in text or "unterminated line" in text:
        return Unavailable(f"{action}: the server closed the connection", code="imap.eof")
    if "unexpected response" in text and "server unavailable" not in text.lower():
        return Unavailable(
            f"{action}: the server's answer could not be understood", code="imap.protocol"
        )
    if "accesstokenexpired" in text.lower():
        return Unavailable(f"{action}: the token of this session ended", code="imap.token_expired")
    return Unavailable(f"{action}: the server hung up: {words(text)}", code="imap.bye")


def answer_error(text: str, action: str) -> MailbridgeError:
    """Return the error for the text of a NO, BAD or BYE."""
    lowered = text.lower()
    said = words(text)
    if "throttled" in lowered:
        match = _PAUSE.search(text)
        pause = int(match[1]) / 1000 if match else USUAL_PAUSE
        return Throttled(
            f"{action}: the server throttles: {said}",
            retry_after=min(max(pause, 1.0), LONGEST_PAUSE),
            code="imap.throttled",
        )
    if "authenticated but not connected" in lowered:
        return Unavailable(
            f"{action}: signed in, but the mailbox is not opened: {said}",
            code="imap.not_connected",
            fix="When it lasts: enable IMAP for the mailbox (Set-CASMailbox -ImapEnabled $true) "
            "and give the app FullAccess (Add-MailboxPermission); that takes up to an hour.",
        )
    if "literal of" in lowered and "too large" in lowered:
        return Unavailable(f"{action}: {said}", code="imap.too_large")
    return Refused(f"{action}: the server refused: {said}", transient=bool(_LATER.search(text)))


def sign_in_error(failure: MailbridgeError, challenges: list[bytes]) -> MailbridgeError:
    """Return what a failed AUTHENTICATE means: only a plain refusal is a rejected credential."""
    if not isinstance(failure, Refused) or failure.transient:
        return failure
    asked = next((one for one in challenges[1:] if one), b"")
    detail = f" ({words(asked.decode('utf-8', 'replace'))})" if asked else ""
    return SignInRejected(
        f"{failure}{detail}",
        code="imap.authenticate_failed",
        fix="Run `mailbridge test-mailbox`: it reads the token and names what is missing.",
    )


def folder_error(failure: MailbridgeError, folder: str, others: list[str]) -> MailbridgeError:
    """Return what a failed SELECT of ``folder`` means."""
    if not isinstance(failure, Refused) or failure.transient:
        return failure
    text = str(failure)
    if "[NOPERM]" in text:
        return SignInRejected(text, code="imap.no_permission", fix="Give the app FullAccess.")
    if _MISSING.search(text) and "[INUSE]" not in text:
        there = ", ".join(words(name) for name in others[:20])
        fix = f"The mailbox has: {there}." if there else "Check the folder's name."
        return FolderMissing(
            f"There is no folder {words(folder)!r}: {text}", code="imap.folder_missing", fix=fix
        )
    return failure
