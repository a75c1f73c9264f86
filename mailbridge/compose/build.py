"""From a request to the bytes of a mail, which are final. Pure: chance and time are handed in.

::

    multipart/mixed ─┬─ multipart/alternative ─┬─ text/plain
                     │                         └─ multipart/related ─┬─ text/html
                     │                                               └─ inline images
                     └─ attachments

Each level is there only when there is something for it. The tree is built by the standard
library's ``EmailMessage``, the fields of its header by ``compose.text``: the library's own way to
fold them takes ten times as long as all the rest, and has let line ends through before
(CVE-2024-6923). Everything is 7 bit, so that every server takes it as it is; only an address that
is itself international brings UTF-8 into the header.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage, MIMEPart
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import Any, Final

from mailbridge.compose import text
from mailbridge.compose.addresses import Party, each_once, read_all
from mailbridge.compose.draft import Built, Draft, Fault, File
from mailbridge.compose.fields import MARK, custom

#: what Exchange Online takes of a mailbox as it is set up (MaxSendSize, 35 MB), in bytes
LARGEST: Final = 35 * 1024 * 1024
RECIPIENTS: Final = 500
FILES: Final = 100
SUBJECT_LENGTH: Final = 2000
FILENAME_BYTES: Final = 255

_TYPE: Final = re.compile(
    r"\s*([a-z0-9][a-z0-9!#$&^_.+-]{0,126})/([a-z0-9][a-z0-9!#$&^_.+-]{0,126})\s*(;.*)?",
    re.IGNORECASE,
)
_PARAMETER: Final = re.compile(
    r"""\s*;\s*([a-z0-9-]{1,64})=(?:"([ !#-\[\]-~]*)"|([!-:<-~]+))\s*""", re.IGNORECASE
)
_CONTENT_ID: Final = re.compile(r"<?([A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200})>?")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_AUTO: Final = {"generated": "auto-generated", "replied": "auto-replied"}


class _Policy(EmailPolicy):
    """Header fields stay as they were written: each value is folded and safe already."""

    def header_max_count(self, name: str) -> int | None:
        """Let any number of fields have one name."""
        del name
        return None

    def header_store_parse(self, name: str, value: Any) -> tuple[str, Any]:
        """Take a field as it is."""
        return name, value

    def header_fetch_parse(self, name: str, value: str) -> Any:
        """Give a field as it is."""
        del name
        return value

    def fold_binary(self, name: str, value: str) -> bytes:
        """Return a field with its end."""
        return f"{name}: {value}\r\n".encode()


_POLICY: Final = _Policy(cte_type="7bit", linesep="\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """An attachment, decoded and checked."""

    content: bytes = field(repr=False)
    maintype: str
    subtype: str
    parameters: tuple[tuple[str, str], ...]
    filename: str
    content_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A draft that was found good, without its sender."""

    draft: Draft = field(repr=False)
    to: list[Party]
    cc: list[Party]
    bcc: list[Party]
    reply_to: list[Party]
    headers: list[tuple[str, str]]
    parts: list[_Part] = field(repr=False)

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody who gets it, each once."""
        return each_once(one.address for one in (*self.to, *self.cc, *self.bcc))


def check(draft: Draft, faults: list[Fault]) -> Letter:
    """Read a draft; every fault is added to ``faults``. With one, the letter is not to be sent."""
    letter = Letter(
        draft=draft,
        to=read_all(draft.to, "to", faults),
        cc=read_all(draft.cc, "cc", faults),
        bcc=read_all(draft.bcc, "bcc", faults),
        reply_to=read_all(draft.reply_to, "reply_to", faults),
        headers=custom(draft.headers, faults),
        parts=_parts(draft.files, faults),
    )
    if len(letter.recipients) > RECIPIENTS:
        faults.append(Fault(where="to", detail=f"there are more than {RECIPIENTS} recipients"))
    if not (draft.to or draft.cc or draft.bcc):
        faults.append(Fault(where="to", detail="there is no recipient"))
    if len(letter.reply_to) > RECIPIENTS:
        faults.append(Fault(where="reply_to", detail=f"there are more than {RECIPIENTS}"))
    if fault := text.broken(draft.subject):
        faults.append(Fault(where="subject", detail=fault))
    elif len(draft.subject) > SUBJECT_LENGTH:
        detail = f"this is longer than {SUBJECT_LENGTH} characters"
        faults.append(Fault(where="subject", detail=detail))
    for where, body in (("text", draft.text), ("html", draft.html)):
        if "\0" in (body or ""):
            faults.append(Fault(where=where, detail="this holds a NUL"))
        elif text.broken((body or "").replace("\r", "").replace("\n", "")):
            faults.append(Fault(where=where, detail="this is not Unicode text"))
    return letter


def write(letter: Letter, *, sender: Party, mark: str, date: datetime) -> Built:
    """Return the mail; ``mark`` is its id here. Of 25 MB it takes seconds: call it in a thread."""
    draft = letter.draft
    message_id = f"<{mark}@{sender.domain}>"
    mail = EmailMessage(policy=_POLICY)
    mail[MARK] = mark
    mail["From"] = text.addresses("From", [sender])
    for name, parties in (("Reply-To", letter.reply_to), ("To", letter.to), ("Cc", letter.cc)):
        if parties:
            mail[name] = text.addresses(name, parties)
    if not (letter.to or letter.cc):
        mail["To"] = "undisclosed-recipients:;"
    mail["Subject"] = text.unstructured("Subject", draft.subject)
    mail["Date"] = format_datetime(date)
    mail["Message-ID"] = message_id
    if draft.auto in _AUTO:
        mail["Auto-Submitted"] = _AUTO[draft.auto]
    for name, value in letter.headers:
        mail[name] = value
    _fill(mail, draft, letter.parts)
    return Built(raw=mail.as_bytes(), message_id=message_id, recipients=letter.recipients)


def _fill(mail: EmailMessage, draft: Draft, parts: Sequence[_Part]) -> None:
    shown = draft.html is not None
    inline = [one for one in parts if shown and one.content_id]
    if draft.html is None:
        mail.set_content(draft.text or "")
    elif draft.text is None:
        mail.set_content(draft.html, subtype="html")
        _relate(mail, inline)
    else:
        mail.set_content(draft.text)
        mail.add_alternative(draft.html, subtype="html")
        [*_, html] = mail.iter_parts()
        _relate(html, inline)
    for one in parts:
        if not (shown and one.content_id):
            mail.add_attachment(one.content, **_named(one), disposition="attachment")
            _finish(mail, one)


def _relate(html: MIMEPart, inline: Sequence[_Part]) -> None:
    for one in inline:
        html.add_related(one.content, **_named(one), disposition="inline")
        _finish(html, one)
    if inline:
        html.set_param("type", "text/html")  # RFC 2387, section 3.1: of the part to begin with


def _named(part: _Part) -> dict[str, Any]:
    named: dict[str, Any] = {"maintype": part.maintype, "subtype": part.subtype}
    if part.content_id:
        named["cid"] = f"<{part.content_id}>"
    if part.filename:
        named["filename"] = part.filename
    if part.maintype == "message":
        named["cte"] = "7bit"  # RFC 2046, section 5.2.1: it may not be encoded
    return named


def _finish(holder: MIMEPart, part: _Part) -> None:
    [*_, made] = holder.iter_parts()
    for name, value in part.parameters:
        made.set_param(name, value)


# --- attachments


def _parts(files: tuple[File, ...], faults: list[Fault]) -> list[_Part]:
    if len(files) > FILES:
        faults.append(Fault(where="attachments", detail=f"there are more than {FILES}"))
        return []
    parts = []
    seen: set[str] = set()
    for number, one in enumerate(files):
        place = f"attachments.{number}"
        before = len(faults)
        content = _decoded(one.content_base64, place, faults)
        kind = _kind(one.content_type, content, place, faults)
        content_id = _content_id(one.content_id, place, faults)
        if content_id and content_id in seen:
            faults.append(Fault(where=f"{place}.content_id", detail="another one has this id"))
        seen.add(content_id)
        _check_filename(one.filename, place, faults)
        if len(faults) == before:
            maintype, subtype, parameters = kind
            parts.append(
                _Part(
                    content=content,
                    maintype=maintype,
                    subtype=subtype,
                    parameters=parameters,
                    filename=one.filename,
                    content_id=content_id,
                )
            )
    return parts


def _decoded(encoded: str, place: str, faults: list[Fault]) -> bytes:
    try:
        plain = encoded.encode("ascii").translate(None, b"\r\n")
        return binascii.a2b_base64(plain, strict_mode=True)
    except ValueError:
        faults.append(Fault(where=f"{place}.content_base64", detail="this is not base64"))
        return b""


def _kind(
    content_type: str, content: bytes, place: str, faults: list[Fault]
) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return the type of an attachment; without one it is a stream of bytes."""
    unnamed = ("application", "octet-stream", ())
    if not content_type:
        return unnamed
    match = _TYPE.fullmatch(content_type)
    rest = (match[3] or "") if match else ""
    parameters = [
        (m[1].lower(), m[2] if m[2] is not None else m[3]) for m in _PARAMETER.finditer(rest)
    ]
    whole = "".join(m[0] for m in _PARAMETER.finditer(rest)) == rest
    if match is None or not whole or len(content_type) > FILENAME_BYTES:
        faults.append(Fault(where=f"{place}.content_type", detail="this is not a media type"))
        return unnamed
    maintype, subtype = match[1].lower(), match[2].lower()
    if maintype == "multipart":
        detail = "an attachment has one part; use application/octet-stream"
        faults.append(Fault(where=f"{place}.content_type", detail=detail))
    if maintype == "message" and not (subtype == "rfc822" and _clean(content)):
        return unnamed
    kept = {name: value for name, value in parameters if name not in {"name", "boundary"}}
    return maintype, subtype, tuple(kept.items())


def _clean(content: bytes) -> bool:
    """Tell whether bytes can stand in a mail as they are."""
    lines = content.splitlines()
    return (
        content.isascii()
        and b"\0" not in content
        and max(map(len, lines), default=0) <= text.LONGEST_LINE
    )


def _content_id(given: str, place: str, faults: list[Fault]) -> str:
    match = _CONTENT_ID.fullmatch(given)
    if given and match is None:
        faults.append(Fault(where=f"{place}.content_id", detail="this is not a content id"))
    return match[1] if match else ""


def _check_filename(filename: str, place: str, faults: list[Fault]) -> None:
    detail = text.broken(filename)
    if not detail and _CONTROLS.search(filename):
        detail = "this holds a control character"
    elif not detail and ("/" in filename or "\\" in filename):
        detail = "this is a path, not a name"
    elif not detail and len(filename.encode()) > FILENAME_BYTES:
        detail = f"this is longer than {FILENAME_BYTES} bytes"
    if detail:
        faults.append(Fault(where=f"{place}.filename", detail=detail))
