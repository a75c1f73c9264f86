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

from mailbridge.catalogue.lookup import mends
from mailbridge.errors import (
    FolderMissing,
    MailbridgeError,
    SessionOver,
    SignInRejected,
    Throttled,
    Unavailable,
)
from mailbridge.network_faults import NoGreeting, connection_code, tls_code
from mailbridge.sources.imap_heard import Heard

P = ParamSpec("P")
R = TypeVar("R")

#: seconds; Exchange asks for up to 300 and means it. What asks for more than this is mistaken
LONGEST_PAUSE: Final = 1800.0
#: seconds to wait when a server throttles and does not say for how long
USUAL_PAUSE: Final = 60.0
TOKEN_EXPIRED: Final = "imap.token_expired"  # noqa: S105 - a code, no secret
#: ends of a connection that may have been explained a line earlier
_ENDS: Final = frozenset({"imap.bye", "imap.connection", "imap.eof", "imap.tls"})
#: characters of a server's words that go into an error
WORDS: Final = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SECRET_LIKE = re.compile(r"[A-Za-z0-9+/=_.\-]{48,}")
_ANSWER = re.compile(r"command error: (?:BAD|NO) \[b?['\"](?P<text>.*)['\"]\]\Z", re.DOTALL)
_REFUSAL = re.compile(r"\A[\w ]+ failed: (?P<text>.*)\Z", re.DOTALL)
_PAUSE = re.compile(
    r"back-?off(?: time)?:? *(?P<count>\d{1,12}) *(?P<unit>ms|milliseconds?|s|seconds?)\b",
    re.IGNORECASE,
)
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


#: how servers of other protocols greet, and Exchange's POP3 answers IMAP
_OTHER_PROTOCOL = re.compile(r"unexpected response: b['\"](?:\+OK|-ERR|220[ -])")
#: by its words, what a refused command comes from
_REFUSALS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"account is blocked", re.IGNORECASE), "imap.account_blocked"),
    (re.compile(r"LOGIN failed", re.IGNORECASE), "imap.basic_auth"),
    (re.compile(r"server unavailable", re.IGNORECASE), "imap.server_unavailable"),
    (re.compile(r"Command Argument Error|message set is invalid"), "imap.bad_argument"),
    (re.compile(r"Command Error\. 10\b"), "imap.command_too_long"),
    (re.compile(r"received in Invalid state", re.IGNORECASE), "imap.wrong_state"),
    (re.compile(r"\[BADCHARSET"), "imap.charset"),
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
        failure = network_error(exc, action)
        failure.__cause__ = exc
        return failure
    return Unavailable(
        f"{action}: the server's answer could not be understood ({type(exc).__name__})",
        code="imap.protocol",
    )


def network_error(exc: OSError, action: str, *, protocol: str = "imap") -> MailbridgeError:
    """Return our error for what a socket or TLS raised; its code begins with ``protocol``."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        code = tls_code(exc)
        said = f"the server's certificate is not trusted: {words(exc.verify_message)}"
    elif isinstance(exc, socket.gaierror):
        code, said = f"{protocol}.dns", f"the host name has no address: {exc}"
    elif isinstance(exc, NoGreeting):
        code, said = f"{protocol}.no_greeting", "the server is connected and says nothing"
    elif code := connection_code(exc):
        said = f"no connection: {words(exc)}"
    elif isinstance(exc, TimeoutError) or "timed out" in str(exc):
        code, said = f"{protocol}.timeout", "the server did not answer in time"
    elif isinstance(exc, ssl.SSLError):
        code, said = tls_code(exc) or f"{protocol}.tls", f"TLS failed: {words(exc)}"
    else:
        code, said = f"{protocol}.connection", f"the connection failed: {words(exc)}"
    return Unavailable(f"{action}: {said}", code=code, fix=mends(code))


def _protocol_error(exc: imaplib.IMAP4.error, action: str) -> MailbridgeError:
    text = str(exc)
    if isinstance(exc, imaplib.IMAP4.readonly):
        return SignInRejected(
            f"{action}: the folder may only be read",
            code="imap.read_only",
            fix=mends("imap.read_only"),
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
    if said := _known(text, action):
        return said
    if "socket error" in text and "EOF" not in text and "unterminated" not in text:
        return Unavailable(
            f"{action}: the connection failed: {words(text)}", code="imap.connection"
        )
    if "EOF" in text or "unterminated line" in text:
        return Unavailable(f"{action}: the server closed the connection", code="imap.eof")
    if _OTHER_PROTOCOL.search(text):
        return Unavailable(
            f"{action}: this is no IMAP server: {words(text)}",
            code="imap.wrong_port",
            fix=mends("imap.wrong_port"),
        )
    if "unexpected response" in text and "server unavailable" not in text.lower():
        return Unavailable(
            f"{action}: the server's answer could not be understood", code="imap.protocol"
        )
    return Unavailable(f"{action}: the server hung up: {words(text)}", code="imap.bye")


def answer_error(text: str, action: str) -> MailbridgeError:
    """Return the error for the text of a NO, BAD or BYE."""
    if said := _known(text, action):
        return said
    code = next((code for means, code in _REFUSALS if means.search(text)), "imap.refused")
    refused = f"{action}: the server refused: {words(text)}"
    return Refused(refused, transient=bool(_LATER.search(text)), code=code)


def _known(text: str, action: str) -> MailbridgeError | None:
    """Return the error for words that mean the same wherever a server says them."""
    said = words(text)
    return next((made(text, action, said) for means, made in _MEANINGS if means.search(text)), None)


def _throttled(text: str, action: str, said: str) -> Throttled:
    match = _PAUSE.search(text)
    seconds = USUAL_PAUSE
    if match is not None:
        seconds = int(match["count"]) / (1000 if match["unit"].lower().startswith("m") else 1)
    return Throttled(
        f"{action}: the server throttles: {said}",
        retry_after=min(max(seconds, 1.0), LONGEST_PAUSE),
        code="imap.throttled",
    )


def _not_connected(_text: str, action: str, said: str) -> Unavailable:
    return Unavailable(
        f"{action}: signed in, but the mailbox is not opened: {said}",
        code="imap.not_connected",
        fix=f"When it lasts: {mends('imap.not_connected')}",
    )


def _token_over(_text: str, action: str, _said: str) -> SessionOver:
    return SessionOver(f"{action}: the token of this session ended", code=TOKEN_EXPIRED)


def _idled(_text: str, action: str, said: str) -> SessionOver:
    return SessionOver(
        f"{action}: the server ended an idle session: {said}", code="imap.idle_timeout"
    )


def _crowded(_text: str, action: str, said: str) -> Unavailable:
    return Unavailable(
        f"{action}: too many sessions: {said}",
        code="imap.too_many_sessions",
        fix=mends("imap.too_many_sessions"),
    )


def _too_large(_text: str, action: str, said: str) -> Unavailable:
    return Unavailable(f"{action}: {said}", code="imap.too_large")


_MEANINGS: Final[tuple[tuple[re.Pattern[str], Callable[[str, str, str], MailbridgeError]], ...]] = (
    (re.compile(r"throttled|suggested backoff", re.IGNORECASE), _throttled),
    (re.compile(r"authenticated but not connected", re.IGNORECASE), _not_connected),
    (re.compile(r"accesstokenexpired", re.IGNORECASE), _token_over),
    (
        re.compile(
            r"connection (?:is )?closed\. 13\b|for inactivity|auto-?logout"
            r"|idled? (?:for )?too long",
            re.IGNORECASE,
        ),
        _idled,
    ),
    (
        re.compile(
            r"maximum number of connections|connection limit"
            r"|too many (?:\w+ ){0,3}(?:connections|sessions|logins|clients)",
            re.IGNORECASE,
        ),
        _crowded,
    ),
    (re.compile(r"literal of.*too large", re.IGNORECASE | re.DOTALL), _too_large),
)


def explained(failure: MailbridgeError, heard: Heard, action: str) -> MailbridgeError:
    """Return what a failure really was, by what the server said shortly before.

    A wish for a pause counts whatever came behind it: a NO to a sign-in, for instance, is no
    rejected credential then. The end of a connection gets the reason that was given for it.
    """
    if heard.throttle and not isinstance(failure, Throttled):
        return answer_error(heard.throttle, action)
    if failure.code not in _ENDS:
        return failure
    known = (_known(said, action) for said in reversed(heard.lines))
    if meant := next((error for error in known if error is not None), None):
        return meant
    told = [said for said in heard.lines if words(said.partition(" ")[2]) not in str(failure)]
    if not told:
        return failure
    better = Unavailable(f"{failure} (before that: {words('; '.join(told))})", code=failure.code)
    better.__cause__ = failure.__cause__
    return better


#: refusals of a sign-in that say more than no
_SIGN_INS: Final = frozenset({"imap.account_blocked", "imap.basic_auth"})


def sign_in_error(failure: MailbridgeError, challenges: list[bytes]) -> MailbridgeError:
    """Return what a failed AUTHENTICATE means: only a plain refusal is a rejected credential."""
    if failure.code == TOKEN_EXPIRED:
        # Of a session that has not begun, this is said of the credential.
        return _rejected(f"{failure}, says the server. Is the clock right?")
    if isinstance(failure, Refused) and "[LIMIT]" in str(failure).upper():
        return _crowded("", "sign in", str(failure))
    if not isinstance(failure, Refused) or failure.transient:
        return failure
    asked = next((one for one in challenges[1:] if one), b"")
    detail = f" ({words(asked.decode('utf-8', 'replace'))})" if asked else ""
    known = failure.code if failure.code in _SIGN_INS else "imap.authenticate_failed"
    return _rejected(f"{failure}{detail}", known)


def _rejected(message: str, code: str = "imap.authenticate_failed") -> SignInRejected:
    fix = mends(code)
    if code == "imap.authenticate_failed":
        fix = f"Run `mailbridge test-mailbox`: it reads the token and names what is missing. {fix}"
    return SignInRejected(message, code=code, fix=fix)


def folder_missing(message: str, others: list[str]) -> FolderMissing:
    """Return the error for a folder that is not there; the ``others`` are."""
    there = ", ".join(words(name) for name in others[:20])
    if there:
        message = f"{message}. The mailbox has: {there}"
    fix = f"Write one of these to `fetch.folders`: {there}." if there else "Check its name."
    return FolderMissing(message, code="imap.folder_missing", fix=fix)


def folder_error(failure: MailbridgeError, folder: str, others: list[str]) -> MailbridgeError:
    """Return what a failed SELECT of ``folder`` means."""
    if not isinstance(failure, Refused) or failure.transient:
        return failure
    text = str(failure)
    if "[NOPERM]" in text:
        code = "imap.no_permission"
        return SignInRejected(text, code=code, fix=mends(code))
    if _MISSING.search(text) and "[INUSE]" not in text:
        return folder_missing(f"There is no folder {words(folder)!r}: {text}", others)
    return failure
