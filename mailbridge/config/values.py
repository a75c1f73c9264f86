"""The kinds of values that stand in the file: durations, sizes, addresses, paths, hosts, cron."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from mailbridge.config.problems import fault
from mailbridge.config.secrets import is_guid, reading

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"([0-9]{1,9}) ?([A-Za-z]{1,3})")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})+")
_LOCAL = re.compile(r"[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f]{1,64}")
_WEEKDAY = re.compile(r"(^|,)[0-9]")


def _text(value: Any, what: str, fix: str) -> str:
    """Return ``value`` if it is text; say what it should be otherwise."""
    if value is None:
        raise fault("this has no value", fix)
    if not isinstance(value, str):
        raise fault(f"this is not {what}", fix)
    return value


def duration_in_words(value: timedelta) -> str:
    """Return ``60s``, ``5m``, ``2h`` or ``7d`` for a duration, as the file would write it."""
    seconds = int(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds % _UNITS[unit] == 0 and seconds > _UNITS[unit]:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _duration(least: timedelta, most: timedelta) -> Callable[[Any], timedelta]:
    bounds = f"{duration_in_words(least)} to {duration_in_words(most)}"

    def parse(value: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        fix = "write a whole number and its unit: 90s, 5m, 2h or 7d."
        match = _DURATION.fullmatch(_text(value, "a duration", fix).strip())
        if match is None:
            raise fault("this is not a duration", fix)
        parsed = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        if not least <= parsed <= most:
            raise fault(f"this duration is outside of {bounds}", "write one within.")
        return parsed

    return parse


_DURATION_SCHEMA = WithJsonSchema(
    {"type": "string", "pattern": "^[0-9]{1,9}[smhdw]$", "examples": ["90s", "5m", "2h", "7d"]}
)
#: how often a mailbox is looked at
Interval = Annotated[
    timedelta,
    BeforeValidator(_duration(timedelta(seconds=5), timedelta(days=7))),
    _DURATION_SCHEMA,
]
#: how long something is kept
Retention = Annotated[
    timedelta,
    BeforeValidator(_duration(timedelta(hours=1), timedelta(days=36500))),
    _DURATION_SCHEMA,
]
#: how old a mail may be, or how long another counts as its duplicate
Span = Annotated[
    timedelta,
    BeforeValidator(_duration(timedelta(seconds=1), timedelta(days=30))),
    _DURATION_SCHEMA,
]


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    fix = "write a whole number and its unit: 500KB, 25MB or 10MiB."
    match = _SIZE.fullmatch(_text(value, "a size", fix).strip())
    if match is None or match[2].lower() not in _SIZES:
        raise fault("this is not a size", fix)
    parsed = int(match[1]) * _SIZES[match[2].lower()]
    if parsed > 150 * 2**20:
        raise fault("this is more than any mail may have (150MiB)", "write a smaller size.")
    return parsed


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {"type": "string", "pattern": "^[0-9]{1,9} ?([KkMmGg][Ii]?)?[Bb]$", "examples": ["25MB"]}
    ),
]


def whole(least: int, most: int) -> BeforeValidator:
    """Return a validator for a whole number within bounds."""

    def parse(value: Any) -> int:
        fix = f"write a whole number from {least} to {most}."
        if value is None:
            raise fault("this has no value", fix)
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)):
            raise fault("this is not a whole number", fix)
        if not least <= int(value) <= most:
            raise fault(f"this number is outside of {least} to {most}", fix)
        return int(value)

    return BeforeValidator(parse)


def later(*values: str, what: str) -> BeforeValidator:
    """Return a validator that knows the values which only later versions understand."""

    def parse(value: Any) -> Any:
        if value in values:
            raise fault(
                f"this {what} is known, but not in this version yet",
                "use another one until you update.",
            )
        return value

    return BeforeValidator(parse)


def _address(value: Any) -> str:
    fix = "write the mailbox's primary address, like alarm@feuerwehr.example."
    text = _text(value, "an address", fix)
    local, _, domain = text.rpartition("@")
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise fault("this is not a mail address", fix)
    return text


Address = Annotated[str, BeforeValidator(_address)]


def _guid(value: Any) -> str:
    fix = "copy the Application (client) ID from the app registration's overview in Entra."
    text = _text(value, "a GUID", fix).strip()
    if not is_guid(text):
        raise fault("this is not a GUID", fix)
    return text.lower()


ClientId = Annotated[str, BeforeValidator(_guid), WithJsonSchema({"type": "string"})]


def is_domain(text: str) -> bool:
    """Tell whether a text is a domain name with at least one dot."""
    return _DOMAIN.fullmatch(text) is not None


def _host(value: Any) -> str:
    fix = "write a host name or an IP address, without scheme and port."
    text = _text(value, "a host name", fix)
    if not is_host(text):
        raise fault("this is not a host name", fix)
    return text


def is_host(text: str) -> bool:
    """Tell whether a text is the name or the address of a host."""
    return is_ip(text) or (_HOST.fullmatch(text) is not None and len(text) < 254)  # noqa: PLR2004 - RFC 1035, 2.3.4


def is_ip(text: str) -> bool:
    """Tell whether a text is an IPv4 or IPv6 address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Host = Annotated[str, BeforeValidator(_host)]
Port = Annotated[int, whole(1, 65535)]


def _folder(value: Any) -> str:
    fix = "write the folder's name, like INBOX or Archive/2026; put odd names in quotes."
    text = _text(value, "the name of a folder", fix)
    if not text.strip() or len(text) > 255 or any(char < " " or char == "\x7f" for char in text):  # noqa: PLR2004 - far beyond what Exchange permits
        raise fault("this is not the name of a folder", fix)
    return "INBOX" if text.upper() == "INBOX" else text


#: RFC 9051, 5.1: INBOX is the one name without regard to case
Folder = Annotated[str, BeforeValidator(_folder)]


def _folders(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise fault("this is not a list of folders", "write it in brackets: [INBOX].")
    return value


Folders = Annotated[tuple[Folder, ...], BeforeValidator(_folders)]


def _start(value: Any) -> Literal["new", "all"] | date:
    fix = "write new, all, or a date like 2026-11-01."
    if isinstance(value, date):
        return value
    text = _text(value, "a start", fix)
    if text == "new":
        return "new"
    if text == "all":
        return "all"
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise fault("this is neither new nor all nor a date", fix) from None


Start = Annotated[
    Literal["new", "all"] | date,
    BeforeValidator(_start),
    WithJsonSchema({"type": "string", "pattern": "^(new|all|[0-9]{4}-[0-9]{2}-[0-9]{2})$"}),
]


def _day(value: Any) -> date:
    fix = "write the date as 2028-11-20."
    if isinstance(value, date):
        return value
    text = _text(value, "a date", fix)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise fault("this is not a date", fix) from None


Day = Annotated[
    date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
]


def _cron(value: Any) -> str:
    fix = 'write five fields in quotes, like "*/5 6-20 * * mon-fri".'
    text = " ".join(_text(value, "a cron expression", fix).split())
    fields = text.split(" ")
    if len(fields) != 5:  # noqa: PLR2004 - minute, hour, day, month, weekday
        raise fault("a cron expression has five fields", fix)
    if _WEEKDAY.search(fields[4]):
        raise fault(
            "weekdays as numbers mean different days in different programs",
            "write them as names: mon-fri, sat,sun.",
        )
    from datetime import UTC, datetime

    from apscheduler.triggers.cron import CronTrigger

    try:
        trigger = CronTrigger.from_crontab(text, timezone=UTC)
    except (ValueError, TypeError):
        raise fault("this is not a cron expression", fix) from None
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise fault("no day fits this cron expression", "check the day and the month.")
    return text


Cron = Annotated[str, BeforeValidator(_cron), WithJsonSchema({"type": "string"})]


def resolved(value: Any, info: ValidationInfo) -> Path:
    """Return a path; a relative one lies beside the configuration file."""
    text = value if isinstance(value, Path) else _text(value, "a path", "write a path.")
    return reading(info).base / text


def _pem(value: Any, info: ValidationInfo, marker: str, what: str) -> Path:
    path = resolved(value, info)
    fix = f"name a PEM file with {what} that the user who runs mailbridge can read."
    try:
        with path.open("rb") as file:
            text = file.read(4 * 2**20)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a path"
        raise fault(f"the file cannot be read ({reason})", fix) from None
    if marker.encode() not in text:
        raise fault(f"the file holds no {what} in PEM form", fix)
    return path


def _certificates(value: Any, info: ValidationInfo) -> Path:
    return _pem(value, info, "-----BEGIN CERTIFICATE-----", "certificate")


def _private_key(value: Any, info: ValidationInfo) -> Path:
    return _pem(value, info, "PRIVATE KEY-----", "private key")


_PATH_SCHEMA = WithJsonSchema({"type": "string", "minLength": 1})
Certificates = Annotated[Path, BeforeValidator(_certificates), _PATH_SCHEMA]
PrivateKey = Annotated[Path, BeforeValidator(_private_key), _PATH_SCHEMA]
