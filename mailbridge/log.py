"""Logs: one event, one line, and no secret in any of them.

structlog for our own events; the standard library's loggers (imapclient, msal, aiohttp,
apscheduler, alembic) end in the same line writer. Redaction works on the finished line, so it
covers values, nested values, messages of foreign libraries and tracebacks alike. Addresses are
masked above debug in the same way: servers put them into whatever they answer.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote, quote_plus

import orjson

Format = Literal["console", "json"]
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: characters; a longer line is cut, whatever made it long
MAX_LINE: Final = 16 * 1024
#: characters; anything shorter would black out ordinary words
MIN_SECRET: Final = 4
#: fields of one event; ours have about ten
MAX_FIELDS: Final = 64
_MASK: Final = "***"

_NAMES = (
    "client_secret|client_assertion|refresh_token|access_token|id_token|password|passphrase"
    "|signing_secret|device_code|code_verifier|authorization"
)
#: a pattern is tried only when one of its words stands in the line, in any case
_PATTERNS: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...]] = (
    # JSON Web Tokens, and anything else that begins like one
    (("eyj",), re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,4}"), _MASK),
    # the base64 of an XOAUTH2 answer ("user=…")
    (("dxnlcj",), re.compile(r"dXNlcj[A-Za-z0-9+/]{16,}={0,2}"), _MASK),
    (
        ("bearer", "basic"),
        re.compile(r"(?i)\b(bearer|basic)(\s+|%20|\+)(?!\*)[A-Za-z0-9._~+/=-]{8,}"),
        rf"\1\2{_MASK}",
    ),
    (("whsec_",), re.compile(r"whsec_[A-Za-z0-9+/=_-]{8,}"), f"whsec_{_MASK}"),
    # name=value, "name": "value" and both inside of a quoted text
    (
        tuple(_NAMES.split("|")),
        re.compile(
            rf"(?i)({_NAMES})(\\*[\"']?\s*[:=]\s*(?:b?\\*[\"'])?)"
            r"(?!\*\*\*|bearer|basic)[^\s\"'&,;\\}]+"
        ),
        rf"\1\2{_MASK}",
    ),
    (("://",), re.compile(r"://[^\s/?#@\"'<>\\]{1,256}@"), f"://{_MASK}@"),
    (("://",), re.compile(r"(://[^\s?#\"'<>\\]{1,1024}\?)[^\s#\"'<>\\]+"), rf"\1{_MASK}"),
)

#: what names a person in an e-mail address; the rest says which organisation it was
_LOCAL: Final = re.compile(
    r"""(?:\\?"[^"@\\:,{}\[\]]+\\?"|(?<![^\s@<>"'(),:;=«»\\])[^\s@<>"'(),:;=«»\\]+)"""
    r"(?:@|%40)(?=[\w\[])"
)
_HINTS: Final = tuple({hint: None for hints, _, _ in _PATTERNS for hint in hints})


class _Secrets:
    """The values that were registered, longest first, in every spelling a line may have."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spellings: dict[str, None] = {}
        self.ordered: tuple[str, ...] = ()

    def add(self, value: str) -> None:
        if len(value) < MIN_SECRET or value in self._spellings:
            return
        raw = value.encode("utf-8", "surrogatepass")
        spellings = {
            value,
            quote(raw, safe=""),
            quote_plus(raw),
            repr(value)[1:-1],
            orjson.dumps(value.encode("utf-8", "replace").decode())[1:-1].decode(),
            json.dumps(value)[1:-1],
            base64.b64encode(raw).decode(),
        }
        with self._lock:
            self._spellings |= dict.fromkeys(spellings)
            self.ordered = tuple(sorted(self._spellings, key=len, reverse=True))


_SECRETS = _Secrets()


def register_secret(value: str) -> None:
    """Never write this value into a log from now on, in plain or in its usual encodings.

    Values of fewer than four characters are ignored: they stand in ordinary words.
    """
    _SECRETS.add(value)


def redact(text: str) -> str:
    """Return ``text`` without registered secrets, tokens, passwords and what hides in URLs."""
    for secret in _SECRETS.ordered:
        if secret in text:
            text = text.replace(secret, _MASK)
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    for hints, pattern, replacement in _PATTERNS:
        if any(hint in lowered for hint in hints):
            text = pattern.sub(replacement, text)
    return text


def _shown(text: str, level: object) -> str:
    """Return a text of an event: redacted, and above debug without the names in addresses."""
    text = redact(text)
    harmless = level == "debug" or ("@" not in text and "%40" not in text)
    return text if harmless else _LOCAL.sub(f"{_MASK}@", text)


#: C0 and C1 controls, line separators, and the marks that turn the direction of text around
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")  # noqa: PLR2004 - one byte


def escape(text: str) -> str:
    """Return ``text`` on one line, with nothing in it that a terminal would obey."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(_escaped, text)


def format_exception(exc: BaseException) -> str:
    """Return the traceback of an exception, without local variables and redacted."""
    lines = traceback.TracebackException.from_exception(exc, capture_locals=False).format()
    return redact("".join(lines))


def _plain(value: Any) -> Any:
    """Return what orjson does not know as text; a ``repr`` that fails is no reason to fail."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def _json_line(event: Mapping[str, Any]) -> str:
    try:
        plain = orjson.dumps(event, _plain, _OPTIONS).decode()
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, integers beyond 64 bits, cycles: say what can be said of each value.
        return _json_words(event, MAX_LINE // 8)
    if len(plain) > MAX_LINE:
        return _json_words(event, 1024)
    text = _shown(plain, event.get("level"))
    if not (text.isascii() and text.isprintable()):
        text = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if text is not plain and not _is_json(text):
        return _json_words(event, 1024)
    return text


def _is_json(text: str) -> bool:
    """Tell whether a redacted line is still JSON: a secret could have been ``true`` or ``1234``."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _json_words(event: Mapping[str, Any], limit: int) -> str:
    """Return the line with every value as text, redacted first and then cut to ``limit``."""
    words = {}
    for key, value in list(event.items())[:MAX_FIELDS]:
        text = escape(_shown(_shortly(value), event.get("level")))
        # The end of a traceback says what happened.
        words[escape(str(key))[:64]] = text[-8 * limit :] if key == "exception" else text[:limit]
    return orjson.dumps(words).decode()


def _shortly(value: Any) -> str:
    try:
        return str(value)[:MAX_LINE]
    except Exception as exc:  # noqa: BLE001 - a foreign __str__ may raise anything; the line must be written
        return f"<unprintable {type(exc).__name__}>"


_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_COLOURS |= {"critical": "\x1b[31m"}


def _console_line(event: Mapping[str, Any], *, colour: bool) -> str:
    fields = dict(event)
    level = str(fields.pop("level", "info"))
    clock = str(fields.pop("timestamp", ""))[11:19]
    name = str(fields.pop("event", ""))
    trace = fields.pop("exception", None)
    parts = [f"{escape(str(key))}={_word(value)}" for key, value in fields.items()]
    text = _shown(f"{escape(name)}  {' '.join(parts)}".rstrip(), level)[:MAX_LINE]
    if trace is not None:
        # A person reads this; the lines of a traceback stay lines, indented under their event.
        rows = [escape(row) for row in _shown(str(trace), level)[-4 * MAX_LINE :].splitlines()]
        text += "".join(f"\n    {row}" for row in rows)
    if not colour:
        return f"{clock} {level:<7} {text}"
    return f"\x1b[2m{clock}\x1b[0m {_COLOURS.get(level, '')}{level:<7}\x1b[0m {text}"


def _word(value: Any) -> str:
    text = escape(_shortly(_plain(value) if isinstance(value, bytes | BaseException) else value))
    return text if text and " " not in text else f'"{text}"'


class _Writer:
    """Puts finished lines onto a stream; a stream that is gone is no reason to stop."""

    def __init__(self, form: Format, stream: TextIO | None) -> None:
        self._stream = stream
        self._form = form

    def render(self, event: Mapping[str, Any]) -> str:
        """Return the line of an event, redacted and escaped."""
        if self._form == "json":
            return _json_line(event)
        return _console_line(event, colour=self._out.isatty())

    @property
    def _out(self) -> TextIO:
        return self._stream if self._stream is not None else sys.stderr

    def msg(self, line: str) -> None:
        """Write one event in one call, so that threads do not mix their lines."""
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            # Standard error is closed or full; there is no other place to say so, and mail goes on.
            return

    debug = info = warning = warn = error = critical = exception = fatal = log = failure = msg


class _Stdlib(logging.Handler):
    """Takes what the standard library's loggers say into the same lines."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as an event."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's broken format string must not stop mailbridge
            message = str(record.msg)
        event: dict[str, Any] = {"event": message, "logger": record.name}
        event["level"] = record.levelname.lower()
        event["timestamp"] = _stamp(record.created)
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = format_exception(record.exc_info[1])
        self._writer.msg(self._writer.render(event))


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _stamped(
    now: Callable[[], datetime],
) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    def stamp(
        _logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Add time and level, and turn ``exc_info`` into a traceback without locals."""
        event["level"] = "error" if method == "exception" else method
        event["timestamp"] = now().isoformat(timespec="milliseconds")[:-6] + "Z"
        given = event.pop("exc_info", None)
        if given:
            exc = given[1] if isinstance(given, tuple) else given
            exc = exc if isinstance(exc, BaseException) else sys.exc_info()[1]
            if exc is not None:
                event["exception"] = format_exception(exc)
        return event

    return stamp


def _utc() -> datetime:
    return datetime.now(UTC)


def configure(
    format: Format | None = None,  # noqa: A002 - the name of the option that users type
    level: str = "info",
    *,
    stream: TextIO | None = None,
    now: Callable[[], datetime] = _utc,
) -> None:
    """Set up structlog and the standard library's logging, for the whole process.

    ``format`` defaults to console on a terminal and to JSON lines elsewhere; ``stream`` to
    standard error, looked up at each line. Foreign loggers are heard from WARNING on, from DEBUG
    on when ``level`` is ``debug``. Calling it again replaces the former set-up.
    """
    import structlog

    out = stream if stream is not None else sys.stderr
    writer = _Writer(format or ("console" if out.isatty() else "json"), stream)
    threshold = LEVELS[level.lower()]

    def render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        return writer.render(event)

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _stamped(now), render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Stdlib)]:
        root.removeHandler(handler)
    root.addHandler(_Stdlib(writer))
    root.setLevel(logging.DEBUG if threshold == logging.DEBUG else max(threshold, logging.WARNING))
