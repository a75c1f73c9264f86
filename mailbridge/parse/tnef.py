"""winmail.dat: what Outlook hides in a TNEF stream (MS-OXTNEF) comes out again. Bounded.

Read here and not by a library: the one on PyPI has had no release for years, and what a
stranger sends has to be bounded in every dimension. One pass, no recursion, no copy but the
files themselves; a stream that is torn or lies gives what was readable until then.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from mailbridge.parse.parsed import Findings

#: section 2.1.3.2: the first bytes of every stream
SIGNATURE: Final = b"\x78\x9f\x3e\x22"
TYPES: Final = frozenset({"application/ms-tnef", "application/vnd.ms-tnef"})
#: attributes, properties of one attribute, and files of one stream that are read
ATTRIBUTES: Final = 5000
PROPERTIES: Final = 2000
FILES: Final = 100

# Section 2.1.3.3: the low half of an attribute's number.
_RENDER_DATA: Final = 0x9002
_TITLE: Final = 0x8010
_DATA: Final = 0x800F
_ATTACHMENT: Final = 0x9005
_CODEPAGE: Final = 0x9007
_MESSAGE_PROPERTIES: Final = 0x9003
_BODY: Final = 0x800C
# MS-OXPROPS: identifiers of properties.
_LONG_FILENAME: Final = 0x3707
_DISPLAY_NAME: Final = 0x3001
_MIME_TAG: Final = 0x370E
_CONTENT_ID: Final = 0x3712
_DATA_OBJECT: Final = 0x3701
_PLAIN_BODY: Final = 0x1000
_HTML_BODY: Final = 0x1013
# MS-OXCDATA section 2.11.1: bytes of the types of a fixed size.
_FIXED: Final = (
    dict.fromkeys((0x0002, 0x0003, 0x0004, 0x000A, 0x000B), 4)
    | dict.fromkeys((0x0005, 0x0006, 0x0007, 0x0014, 0x0040), 8)
    | {0x0048: 16}
)
_STRING8: Final = 0x001E
_UNICODE: Final = 0x001F
_VARIABLE: Final = frozenset({_STRING8, _UNICODE, 0x000D, 0x0102})
_MANY: Final = 0x1000
_NAMED_FROM: Final = 0x8000


class Inner(NamedTuple):
    """A file of the stream; ``content_type`` and ``content_id`` as far as it tells."""

    name: str
    content: bytes
    content_type: str
    content_id: str


@dataclass(slots=True)
class Unpacked:
    """What came out: the files in their order, and the texts as bytes with their charset."""

    files: list[Inner]
    text: bytes | None = None
    html: bytes | None = None
    charset: str = "cp1252"


class _Torn(Exception):  # noqa: N818 - the end of what can be read
    """The stream ends, or says that it goes on where it does not."""


def is_tnef(content_type: str, content: bytes) -> bool:
    """Tell a stream by its first bytes; the type alone, which mailers change, tells less."""
    return content.startswith(SIGNATURE) and (
        content_type in TYPES or content_type == "application/octet-stream"
    )


def unpack(content: bytes, findings: Findings) -> Unpacked:
    """Return what a stream holds, as far as it can be read. Never raises."""
    found = Unpacked(files=[])
    draft: dict[str, bytes | str] | None = None
    try:
        for number, data in _attributes(content):
            if number == _RENDER_DATA:
                _close(found, draft, findings)
                draft = {}
            elif number in {_TITLE, _DATA, _ATTACHMENT} and draft is not None:
                _attachment(number, data, draft, found.charset)
            else:
                _message(number, data, found)
    except _Torn:
        findings.defect("tnef-torn")
    _close(found, draft, findings)
    return found


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield attributes (section 2.1.3.1): level, number, length, data, checksum."""
    at = len(SIGNATURE) + 2  # the key of the stream means nothing to us
    for _ in range(ATTRIBUTES):
        if at >= len(content):
            return
        if at + 9 > len(content):
            raise _Torn
        number, length = struct.unpack_from("<HxxI", content, at + 1)
        at += 9
        if at + length > len(content):
            raise _Torn
        yield number, content[at : at + length]
        at += length + 2


def _attachment(number: int, data: bytes, draft: dict[str, bytes | str], charset: str) -> None:
    if number == _TITLE:
        draft["title"] = _string(data, charset)
    elif number == _DATA:
        draft["data"] = data
    else:
        for kind, name, value in _properties(data):
            if name in {_LONG_FILENAME, _DISPLAY_NAME, _MIME_TAG, _CONTENT_ID}:
                draft[f"{name:x}"] = _text(kind, value, charset)
            elif name == _DATA_OBJECT and "data" not in draft and len(value) > 16:  # noqa: PLR2004 - a GUID stands in front
                draft["data"] = value[16:]


def _message(number: int, data: bytes, found: Unpacked) -> None:
    if number == _CODEPAGE and len(data) >= 4:  # noqa: PLR2004 - a 32 bit number
        found.charset = _codec(struct.unpack_from("<I", data)[0])
    elif number == _BODY:
        found.text = data.rstrip(b"\0")
    elif number == _MESSAGE_PROPERTIES:
        for kind, name, value in _properties(data):
            if name == _HTML_BODY:
                found.html = value
            elif name == _PLAIN_BODY:
                found.text = _text(kind, value, found.charset).encode(found.charset, "replace")


def _properties(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, identifier, value) of a list of properties (section 2.1.3.4)."""
    at = 4
    for _ in range(min(_number(data, 0), PROPERTIES)):
        kind, name = _number(data, at, "<H"), _number(data, at + 2, "<H")
        at += 4
        if name >= _NAMED_FROM:
            named_by = _number(data, at + 16)
            length = 4 + _padded(_number(data, at + 20)) if named_by else 4
            at += 20 + length
        count = 1
        basic = kind & ~_MANY
        if kind & _MANY or basic in _VARIABLE:
            count = _number(data, at)
            at += 4
        for _ in range(min(count, PROPERTIES)):
            size = _FIXED.get(basic)
            if basic in _VARIABLE:
                size = _number(data, at)
                at += 4
            if size is None or at + size > len(data):
                raise _Torn
            yield kind, name, data[at : at + size]
            at += _padded(size)


def _number(data: bytes, at: int, form: str = "<I") -> int:
    if at + struct.calcsize(form) > len(data):
        raise _Torn
    value: int = struct.unpack_from(form, data, at)[0]
    return value


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _text(kind: int, value: bytes, charset: str) -> str:
    if kind & ~_MANY == _UNICODE:
        return value.decode("utf-16-le", "replace").rstrip("\0")
    return _string(value, charset)


def _string(value: bytes, charset: str) -> str:
    return value.rstrip(b"\0").decode(charset, "replace")


def _codec(codepage: int) -> str:
    """Return the codec of a Windows codepage; one that nobody knows is read as Western."""
    name = {65001: "utf-8", 20127: "ascii"}.get(codepage, f"cp{codepage}")
    try:
        found = codecs.lookup(name)
    except LookupError:
        return "cp1252"
    return found.name if codepage in {65001, 20127} or 400 <= codepage < 2000 else "cp1252"  # noqa: PLR2004 - those are single texts


def _close(found: Unpacked, draft: dict[str, bytes | str] | None, findings: Findings) -> None:
    """Add the file that the attributes since its beginning describe."""
    if draft is None or "data" not in draft:
        return
    if len(found.files) >= FILES:
        findings.limit("tnef")
        return
    names = (draft.get(f"{_LONG_FILENAME:x}"), draft.get("title"), draft.get(f"{_DISPLAY_NAME:x}"))
    data = draft["data"]
    found.files.append(
        Inner(
            name=str(next((name for name in names if name), "")),
            content=data if isinstance(data, bytes) else b"",
            content_type=str(draft.get(f"{_MIME_TAG:x}", "")),
            content_id=str(draft.get(f"{_CONTENT_ID:x}", "")),
        )
    )
