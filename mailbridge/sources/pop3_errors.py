"""The one place where what sockets, TLS and the server say becomes an error of ours.

POP3 has two answers, ``+OK`` and ``-ERR``; what to do about a refusal stands in its words, or
in a response code in brackets (RFC 2449, 3206). Never passed on: token-like runs of
characters, and lines that could not be understood (they may be a part of somebody's mail).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final, ParamSpec, TypeVar

from mailbridge.catalogue.lookup import mends
from mailbridge.errors import MailbridgeError, SignInRejected, Throttled, Unavailable
from mailbridge.sources.imap_errors import LONGEST_PAUSE, USUAL_PAUSE, network_error, words

P = ParamSpec("P")
R = TypeVar("R")

#: characters of a token beyond which Exchange Online's newer front end hangs up
TOKEN_LIMIT: Final = 4096
#: how long after a success "unknown user name or bad password" means "too many commands"
TRUSTED: Final = timedelta(hours=1)
#: seconds to wait then
LOGON_PAUSE: Final = 600.0
_SECONDS = re.compile(r"(\d{1,9}) *s(?:ec|\b)", re.IGNORECASE)
_MILLISECONDS = re.compile(r"backoff time: *(\d{1,12}) *milliseconds", re.IGNORECASE)
_LATER = re.compile(
    r"\[(?:SYS/TEMP|IN-USE|LIMIT|UNAVAILABLE)\]|connection (?:is closed|refused)"
    r"|server unavailable|temporar|try again|too many|timed? ?out|not available"
    r"|maximum number|lock",
    re.IGNORECASE,
)


#: how servers of other protocols greet
_OTHER_GREETINGS: Final = (b"* ", b"220 ", b"220-")
#: by its words, what a refused command comes from
_REFUSALS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"Protocol error\. 19\b"), "pop3.wrong_port"),
    (re.compile(r"not valid in this state", re.IGNORECASE), "pop3.wrong_state"),
    (re.compile(r"BYE Connection refused|too many|maximum number"), "pop3.too_many_sessions"),
    # Behind "Protocol error." the same words mean something else.
    (re.compile(r"(?<!error\. )Connection is closed", re.IGNORECASE), "pop3.server_closed"),
    (re.compile(r"server unavailable", re.IGNORECASE), "pop3.server_unavailable"),
)


class Refused(Unavailable):
    """The server answered -ERR to this one command; the connection is still good.

    ``transient`` when its words say that the same command may work later.
    """

    def __init__(
        self, message: str, *, transient: bool, code: str = "pop3.refused", fix: str = ""
    ) -> None:
        """Keep whether waiting may help."""
        super().__init__(message, code=code, fix=fix)
        self.transient = transient


class NotOk(Exception):  # noqa: N818 - never leaves the adapter
    """The server said something else than ``+OK``: its line."""

    def __init__(self, line: bytes) -> None:
        """Keep the line out of the text: it may be a part of somebody's mail."""
        super().__init__()
        self.line = line

    @property
    def refusal(self) -> bool:
        """Whether it is ``-ERR``, and not something that nobody understands."""
        return self.line.startswith(b"-ERR")


class NoTls(Exception):  # noqa: N818 - never leaves the adapter
    """The server does not offer STLS."""


class Oversized(Exception):  # noqa: N818 - never leaves the adapter
    """An answer is longer than anything that a mailbox can hold."""


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


def translate(exc: Exception, action: str) -> MailbridgeError:
    """Return our error for what was raised while we did ``action``."""
    if isinstance(exc, NotOk):
        return _not_ok(exc, action)
    if isinstance(exc, NoTls):
        return Unavailable(
            f"{action}: the server offers no STLS",
            code="pop3.no_starttls",
            fix=mends("pop3.no_starttls"),
        )
    if isinstance(exc, EOFError):
        return Unavailable(f"{action}: the server closed the connection", code="pop3.eof")
    if isinstance(exc, Oversized):
        return Unavailable(f"{action}: {exc}", code="pop3.too_large")
    if isinstance(exc, OSError):
        failure = network_error(exc, action, protocol="pop3")
        failure.__cause__ = exc
        return failure
    return not_understood(action)


def _not_ok(exc: NotOk, action: str) -> MailbridgeError:
    if exc.refusal:
        return answer_error(exc.line[len(b"-ERR") :].decode("utf-8", "replace"), action)
    # Later, a line like this may be a part of somebody's mail.
    if action.startswith("connect") and exc.line.startswith(_OTHER_GREETINGS):
        said = words(exc.line.decode("ascii", "replace"))
        code = "pop3.wrong_port"
        return Unavailable(f"{action}: this is no POP3 server: {said}", code=code, fix=mends(code))
    return not_understood(action)


def not_understood(action: str) -> Unavailable:
    """Return the error for an answer that is not POP3. It is not quoted: it may be mail."""
    return Unavailable(
        f"{action}: the server's answer could not be understood", code="pop3.protocol"
    )


def answer_error(text: str, action: str) -> MailbridgeError:
    """Return the error for what stands behind an ``-ERR``."""
    said, lowered = words(text), text.lower()
    if "throttled" in lowered or "backoff time" in lowered or "[login-delay]" in lowered:
        return Throttled(
            f"{action}: the server asks for a pause: {said}",
            retry_after=_pause(text),
            code="pop3.throttled",
        )
    code = next((code for means, code in _REFUSALS if means.search(text)), "pop3.refused")
    return Refused(
        f"{action}: the server refused: {said}",
        transient=bool(_LATER.search(text)),
        code=code,
        fix="" if code == "pop3.refused" else mends(code),
    )


def _pause(text: str) -> float:
    pause = USUAL_PAUSE
    if match := _MILLISECONDS.search(text):
        pause = int(match[1]) / 1000
    elif match := _SECONDS.search(text):
        pause = float(match[1])
    return min(max(pause, 1.0), LONGEST_PAUSE)


def no_xoauth2(refused: Refused) -> MailbridgeError:
    """Return what it means that ``AUTH XOAUTH2`` was refused before any credential was sent."""
    # Where TLS is on already, not to know the command and to find it out of place are the same.
    if refused.transient or refused.code not in {"pop3.refused", "pop3.wrong_state"}:
        return refused
    return SignInRejected(
        f"the server does not take XOAUTH2 here: {refused}",
        code="pop3.no_xoauth2",
        fix=mends("pop3.no_xoauth2"),
    )


def sign_in_error(
    refused: Refused, *, challenge: bytes, token_length: int, worked_before: bool
) -> MailbridgeError:
    """Return what the answer to the credential means; Exchange gives few words for many causes.

    ``worked_before``: a sign-in of this mailbox has succeeded within ``TRUSTED``.
    """
    text = str(refused)
    if "Protocol error" in text:
        if token_length <= TOKEN_LIMIT:
            code = "pop3.protocol_error"
            return Unavailable(text, code=code, fix=mends(code))
        return SignInRejected(
            f"{text}: the token has {token_length:,} characters, and Exchange Online's POP3 front "
            f"end takes {TOKEN_LIMIT:,}",
            code="pop3.token_too_long",
            fix=mends("pop3.token_too_long"),
        )
    if refused.transient:
        return refused
    if "Logon failure" in text and worked_before:
        return Throttled(
            f"{text}: the same sign-in worked less than an hour ago; this is how Exchange "
            "answers too many commands",
            retry_after=LOGON_PAUSE,
            code="pop3.throttled",
        )
    reason = _challenge(challenge)
    code = "pop3.basic_auth" if "Logon failure" in text else "pop3.authenticate_failed"
    return SignInRejected(
        f"{text} ({reason})" if reason else text,
        code=code,
        fix=f"Run `mailbridge test-mailbox`: it reads the token and names what is missing. "
        f"{mends(code)}",
    )


def _challenge(line: bytes) -> str:
    try:
        text = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return words(text.decode("utf-8", "replace"))
