"""A mail in the form in which it crosses SMTP, and what has to be said about it. Pure.

Every CR, LF and CRLF becomes CRLF before dots are stuffed. A server that takes a bare LF for
the end of a line would else see the end of the mail where the sender only wrote about one, and
take what follows for commands (SMTP smuggling, CVE-2023-51764 and its kin).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mailbridge.sinks.smtp_replies import Judgement

#: RFC 5321, 4.5.3.1: bytes of a local part, and of an address without its brackets
LOCAL_BYTES: Final = 64
ADDRESS_BYTES: Final = 254

_ATOM = r"[^\x00-\x20\x7f-\xa0()<>\[\]:;@\\,\"\u2028\u2029\ud800-\udfff]"
_LOCAL: Final = re.compile(rf"{_ATOM}+(?<!\.)|\"(?:[^\x00-\x1f\x7f-\x9f\"\\]|\\[\x20-\x7e])*\"")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Za-z.:]{{2,60}}\]")
#: letters that the old and the new rules of international names turn into different domains
_TWO_MEANINGS: Final = frozenset("\u00df\u03c2\u200c\u200d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Whom a mail is from and to, as SMTP is told. ``id`` comes back in reports (RFC 3461)."""

    sender: str
    recipients: tuple[str, ...]
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireForm:
    """The bytes that follow DATA, all but the final dot, and what they need.

    ``size`` is of the mail before dots were stuffed, as SIZE counts it (RFC 1870).
    """

    data: bytes = field(repr=False)
    size: int
    #: bytes beyond ASCII anywhere: 8BITMIME
    eight_bit: bool
    #: bytes beyond ASCII in the header of the mail: SMTPUTF8
    international: bool


def wire_form(raw: bytes) -> WireForm:
    """Return a mail as it is sent. Of 30 MB it takes a while: call it in a thread."""
    # Ten times as fast as an expression, and of 30 MB that is seconds.
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if not lines.endswith(b"\r\n"):
        lines += b"\r\n"
    head = lines.partition(b"\r\n\r\n")[0]
    return WireForm(
        data=b"." * lines.startswith(b".") + lines.replace(b"\r\n.", b"\r\n.."),
        size=len(lines),
        eight_bit=not lines.isascii(),
        international=not head.isascii(),
    )


class BadAddress(ValueError):  # noqa: N818 - a finding about what somebody wrote
    """A text that is no address, or none that can be written in a command. It is not repeated."""


def on_the_wire(address: str) -> str:
    """Return an address as a command has it: an international domain in its ASCII form.

    What could end the command or begin another is refused with ``BadAddress``, as is everything
    that is not ``local@domain``. The local part may be international; that needs SMTPUTF8.
    """
    local, at, domain = address.rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or local.startswith(".") or ".." in local:
        raise BadAddress("this is not an address")
    ascii_domain = _ascii(domain)
    if not _DOMAIN.fullmatch(ascii_domain):
        raise BadAddress("this is not an address of a mail domain")
    whole = f"{local}@{ascii_domain}"
    if len(local.encode()) > LOCAL_BYTES or len(whole.encode()) > ADDRESS_BYTES:
        raise BadAddress("this address is longer than any may be")
    return whole


def _ascii(domain: str) -> str:
    if domain.isascii():
        return domain
    if _TWO_MEANINGS.intersection(domain.casefold()) or _TWO_MEANINGS.intersection(domain):
        raise BadAddress("this domain can mean two; write it in its ASCII form (xn--…)")
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        raise BadAddress("this is not an international domain") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """MAIL and RCPT as they are sent; ``recipients`` by the address that was given."""

    mail: bytes
    recipients: Mapping[str, bytes]
    #: recipients that cannot be named to any server
    refused: Mapping[str, Judgement]


def commands(
    envelope: Envelope, form: WireForm, capabilities: Mapping[str, str]
) -> Commands | Judgement:
    """Return what to say to a server of these ``capabilities`` (by small letters).

    A ``Judgement`` when it could not take this mail: said here, it costs nobody 30 MB.
    """
    try:
        sender = on_the_wire(envelope.sender) if envelope.sender else ""
    except BadAddress as bad:
        return _refused("smtp.invalid_address", f"the sender cannot be used: {bad}")
    named, refused = _named(envelope.recipients)
    utf8 = not "".join([sender, *named.values()]).isascii()
    if problem := _impossible(form, utf8=utf8, capabilities=capabilities):
        return problem
    options = []
    if "size" in capabilities:
        options.append(f"SIZE={form.size}")
    if form.eight_bit and "8bitmime" in capabilities:
        options.append("BODY=8BITMIME")
    if (utf8 or form.international) and "smtputf8" in capabilities:
        options.append("SMTPUTF8")
    if envelope.id and "dsn" in capabilities:
        options += ["RET=HDRS", f"ENVID={_xtext(envelope.id)}"]
    mail = " ".join([f"MAIL FROM:<{sender}>", *options]).encode()
    asked = {given: f"RCPT TO:<{address}>".encode() for given, address in named.items()}
    return Commands(mail=mail, recipients=asked, refused=refused)


def _named(recipients: Sequence[str]) -> tuple[dict[str, str], dict[str, Judgement]]:
    named: dict[str, str] = {}
    refused: dict[str, Judgement] = {}
    for recipient in recipients:
        try:
            named[recipient] = on_the_wire(recipient)
        except BadAddress as bad:
            refused[recipient] = Judgement(
                weight="rejected",
                scope="recipient",
                code="smtp.invalid_address",
                cause=f"the recipient cannot be used: {bad}",
            )
    return named, refused


def _impossible(form: WireForm, *, utf8: bool, capabilities: Mapping[str, str]) -> Judgement | None:
    limit = capabilities.get("size", "")
    if limit.isdecimal() and 0 < int(limit) < form.size:
        return _refused(
            "smtp.too_large", f"the mail has {form.size:,} bytes, and the server takes {limit}"
        )
    if utf8 and "smtputf8" not in capabilities:
        return _refused(
            "smtp.no_smtputf8", "an address is international, and the server has no SMTPUTF8"
        )
    if form.eight_bit and "8bitmime" not in capabilities:
        return _refused(
            "smtp.no_8bitmime",
            "the mail has bytes beyond ASCII, and the server has no 8BITMIME",
            "Encode its parts as quoted-printable or base64.",
        )
    return None


def _refused(code: str, cause: str, fix: str = "") -> Judgement:
    return Judgement(weight="rejected", scope="message", code=code, cause=cause, fix=fix)


def _xtext(text: str) -> str:
    """Return a text in the encoding of RFC 3461, 4; at most 100 characters of it."""
    plain = text.encode("ascii", "ignore")[:100]
    return "".join(
        chr(byte) if 33 <= byte <= 126 and byte not in b"+=" else f"+{byte:02X}"  # noqa: PLR2004 - printable ASCII
        for byte in plain
    )
