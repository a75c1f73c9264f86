"""Who really wrote a mail, as far as its headers can tell. Pure, and closed when in doubt.

A sender can write any header. Exchange Online renames the Authentication-Results that a mail
brings along and puts its own on top, without the authserv-id that RFC 8601 asks for. So the
topmost one counts, and only when it stands where Exchange Online writes it: above the Received
field of the hop by which the mail entered, with nothing but Exchange Online's own Received
fields above it. A mail without such a field is authenticated by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from mailbridge.parse.parsed import Address, Header, ParsedMessage

#: host names that only Exchange Online's servers write into ``by`` (all clouds)
EXCHANGE_ONLINE: Final = (
    ".outlook.com",
    ".outlook.office365.com",
    ".exchangelabs.com",
    ".office365.us",
    ".outlook.office365.us",
    ".outlook.cn",
)
_BY = re.compile(r"(?:\A|\s)by\s+([A-Za-z0-9.-]{1,255})(?=[\s;(]|\Z)", re.IGNORECASE)
_FROM = re.compile(r"\Afrom\s+([A-Za-z0-9.\[\]:_-]{1,255})", re.IGNORECASE)
_COMMENT = re.compile(r"\([^()]*\)")
_RESULT = re.compile(
    r"\s*(spf|dkim|dmarc|compauth)\s*=\s*([A-Za-z]{1,30})(?![A-Za-z.@-])", re.IGNORECASE
)
_PROPERTY = re.compile(
    r"(?:\A|\s)(smtp\.mailfrom|header\.d|header\.from)=(\S{1,255})", re.IGNORECASE
)
_AUTHSERV = re.compile(r"\s*([A-Za-z0-9.-]{1,255})(?:\s+\d{1,3})?\s*\Z")
_COMMENTS_DEEP: Final = 5


_TELLING: Final = frozenset(
    {
        "authentication-results",
        "auto-submitted",
        "list-id",
        "list-post",
        "list-unsubscribe",
        "precedence",
        "return-path",
        "x-failed-recipients",
    }
)


class Authentication(NamedTuple):
    """What the receiving service found out; ``None`` where it says nothing or two things.

    ``aligned`` is the one to decide by: there is exactly one author, and DMARC passed for the
    author's domain, or a passed DKIM or SPF result names that domain or a parent of it, and
    neither DMARC nor the composite authentication failed. What Exchange Online guesses
    (``bestguesspass``, ``compauth=pass`` without any of these) proves nothing, and neither does
    ``X-MS-Exchange-Organization-AuthAs``, which only Exchange's header firewall keeps strangers
    from writing: mail within an organisation is authenticated by nobody.
    """

    source: str | None = None
    authserv_id: str | None = None
    spf: str | None = None
    dkim: str | None = None
    dmarc: str | None = None
    compauth: str | None = None
    aligned: bool = False


class Verdict(NamedTuple):
    """The ``auth``, ``trust`` and ``auto`` objects of an event."""

    auth: dict[str, Any]
    trust: dict[str, Any]
    auto: dict[str, Any]


def judge(message: ParsedMessage, *, own_hosts: Sequence[str] = EXCHANGE_ONLINE) -> Verdict:
    """Judge a message by its headers. ``own_hosts`` are suffixes of the servers we believe."""
    named: dict[str, list[Header]] = {}
    for header in message.headers:
        key = header[3]
        if key in _TELLING:
            named.setdefault(key, []).append(header)
    found = (
        authentication(message, own_hosts=own_hosts)
        if "authentication-results" in named
        else _NOBODY
    )
    return Verdict(
        auth=found._asdict(),
        trust=_trust(message),
        auto=_auto(message, named),
    )


_NOBODY: Final = Authentication()


def authentication(
    message: ParsedMessage, *, own_hosts: Sequence[str] = EXCHANGE_ONLINE
) -> Authentication:
    """Return the results that our own mail service wrote, or nothing at all."""
    field = _believed(message.headers, tuple(own_hosts))
    if field is None:
        return _NOBODY
    results = _results(field)
    spf, dkim = results.get("spf", []), results.get("dkim", [])
    dmarc, compauth = results.get("dmarc", []), results.get("compauth", [])
    passed = next((result for result in dkim if result.value == "pass"), None)
    said = Authentication(
        source="authentication-results",
        authserv_id=_authserv_id(field),
        spf=_only(spf),
        # A mail may carry several signatures, and one that holds is enough.
        dkim=passed.value if passed else (dkim[0].value if dkim else None),
        dmarc=_only(dmarc),
        compauth=_only(compauth),
    )
    return said if not _aligned(message, said, results) else said._replace(aligned=True)


def _believed(headers: Iterable[Header], own_hosts: tuple[str, ...]) -> str | None:
    """Return the topmost Authentication-Results if only our own hops stand around it."""
    field: str | None = None
    for _, _, raw, name in headers:
        if name == "authentication-results" and field is None:
            field = raw
        elif name == "received":
            by = _BY.search(raw)
            if by is None or not _ours(by[1], own_hosts):
                return None
            if field is not None:
                return field
            sender = _FROM.match(raw)
            outside = sender is not None and not _ours(sender[1], own_hosts)
            if outside or ".protection." in by[1].lower():
                # Here the mail entered, by whatever name its sender gave himself; all that stands
                # below was written by him.
                return None
    return None


def _ours(host: str, own_hosts: tuple[str, ...]) -> bool:
    return host.lower().rstrip(".").endswith(own_hosts)


class _Result(NamedTuple):
    value: str
    properties: dict[str, str]


def _results(field: str) -> dict[str, list[_Result]]:
    """Split tolerantly: no authserv-id needed, several dkim, pieces that say nothing."""
    text = field
    for _ in range(_COMMENTS_DEEP):
        text, removed = _COMMENT.subn(" ", text)
        if not removed:
            break
    found: dict[str, list[_Result]] = {}
    if "(" in text or '"' in text:
        # Exchange Online writes neither, so somebody else's text is in here.
        return found
    for piece in text.split(";"):
        match = _RESULT.match(piece)
        if match is None:
            continue
        properties: dict[str, str] = {}
        for prop in _PROPERTY.finditer(piece, match.end()):
            properties.setdefault(prop[1].lower(), prop[2].strip('"').lower())
        result = _Result(value=match[2].lower(), properties=properties)
        found.setdefault(match[1].lower(), []).append(result)
    return found


def _only(results: list[_Result]) -> str | None:
    # Two results where there can be one: somebody got his own text in there.
    return results[0].value if len(results) == 1 else None


def _authserv_id(field: str) -> str | None:
    match = _AUTHSERV.match(field.partition(";")[0])
    return match[1] if match else None


def _aligned(
    message: ParsedMessage, said: Authentication, results: dict[str, list[_Result]]
) -> bool:
    if message.from_ambiguous or len(message.from_) != 1:
        return False
    for single in ("spf", "dmarc", "compauth"):
        found = results.get(single, ())
        # A fail is final, and of two where there can be one, one is somebody else's.
        if len(found) > 1 or (single != "spf" and any(one.value == "fail" for one in found)):
            return False
    domain = (message.from_[0].address or "").rpartition("@")[2].lower().rstrip(".")
    if not domain:
        return False
    if said.dmarc == "pass" and results["dmarc"][0].properties.get("header.from") == domain:
        return True
    if said.spf == "pass":
        sender = results["spf"][0].properties.get("smtp.mailfrom", "").rpartition("@")[2]
        if _covers(sender, domain):
            return True
    return any(
        result.value == "pass" and _covers(result.properties.get("header.d", ""), domain)
        for result in results.get("dkim", ())
    )


def _covers(authenticated: str, domain: str) -> bool:
    # Only downwards: whoever holds the parent's DNS speaks for its children. Upwards would
    # need the public suffix list, or user.hoster.example could speak for hoster.example.
    return "." in authenticated and (
        domain == authenticated or domain.endswith("." + authenticated)
    )


# -- tricks that are played on readers ----------------------------------------------------------

_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SCRIPTS: Final = (
    re.compile(r"[A-Za-z\u00c0-\u024f]"),
    re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    re.compile(r"[\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f]"),
    re.compile(r"[\u0530-\u058f]"),
    re.compile(r"[\u13a0-\u13ff\uab70-\uabbf]"),
)
_LETTERS = re.compile(r"[^\W\d_]+")
_PUNYCODE = re.compile(r"xn--[a-z0-9-]{1,59}")
#: the sign itself, and the two that look like it
_AT = re.compile("[@\uff20\ufe6b]")
_ADDRESS_LIKE = re.compile(r"[^\s@<>]@[^\s@<>]+\.[^\s@<>]")
_SUBJECT_CHARACTERS: Final = 2000
#: characters of a name up to which its judgement is remembered
_REMEMBERED: Final = 200


def _trust(message: ParsedMessage) -> dict[str, Any]:
    authors = message.from_
    shown = [text for author in authors for text in author if text]
    seen = [*shown, (message.subject or "")[:_SUBJECT_CHARACTERS]]
    seen += [part.filename_raw for part in message.attachments if part.filename_raw]
    # Only what is not ASCII can play these tricks, save for punycode.
    foreign = [text for text in seen if not text.isascii()]
    return {
        "from_count": max(len(authors), message.from_fields),
        "from_ambiguous": message.from_ambiguous,
        "bidi_controls": any(_BIDI.search(text) for text in foreign),
        "mixed_script": any([_remembered(text) for text in shown]),  # noqa: C419 - two, nearly always
        "display_name_has_address": any(_names_another(author) for author in authors),
    }


def _names_another(author: Address) -> bool:
    """Tell whether the display name shows an address that is not the author's own."""
    if not author.name or not _AT.search(author.name):
        return False
    shown = _AT.sub("@", author.name).strip().strip("'\"").lower()
    return shown != (author.address or "").lower() and bool(_ADDRESS_LIKE.search(shown))


def _remembered(text: str) -> bool:
    return _short(text) if len(text) < _REMEMBERED else _mixed(text)


@lru_cache(maxsize=1024)
def _short(text: str) -> bool:
    # A mailbox gets mail from the same senders, each with the same name.
    return _mixed(text)


def _mixed(text: str) -> bool:
    """Tell whether one word has letters of two alphabets that look alike."""
    if "xn--" in text:
        text = _PUNYCODE.sub(_unicode_label, text)
    if text.isascii():
        return False
    return any(
        sum(1 for script in _SCRIPTS if script.search(word)) > 1
        for word in _LETTERS.findall(text)
        if not word.isascii()
    )


def _unicode_label(match: re.Match[str]) -> str:
    try:
        return match[0][4:].encode("ascii").decode("punycode")
    except ValueError:
        return match[0]


# -- mail that no person wrote -------------------------------------------------------------------


def _auto(message: ParsedMessage, named: dict[str, list[Header]]) -> dict[str, Any]:
    """Read RFC 3834 (automatic), RFC 3464 (bounces) and RFC 2369/2919 (lists)."""
    submitted = _first(named, "auto-submitted").partition(";")[0].strip().lower()
    precedence = _first(named, "precedence").strip().lower()
    report = (message.report_type or "").strip().lower()
    return {
        "auto_submitted": submitted[:40] or "no",
        "bounce": _first(named, "return-path").strip() == "<>"
        or report == "delivery-status"
        or "x-failed-recipients" in named,
        "list": precedence in {"list", "bulk"}
        or any(name in named for name in ("list-id", "list-post", "list-unsubscribe")),
    }


def _first(named: dict[str, list[Header]], name: str) -> str:
    fields = named.get(name)
    return fields[0].value if fields else ""
