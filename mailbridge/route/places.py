"""Where extraction reads: subject, text, html, or one attachment, as text of bounded size.

One ``Reading`` for each mail, so that a PDF from which ten fields come is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from mailbridge.parse.parsed import Attachment, ParsedMessage
from mailbridge.route.pdf import text_of_pdf

#: bytes of an attachment that are read as text or markup
ATTACHMENT_BYTES: Final = 1024 * 1024
#: bytes of a PDF that is looked into at all
PDF_BYTES: Final = 10 * 1024 * 1024

T = TypeVar("T")


class Reading:
    """The texts of one mail; each is made once, when it is first asked for."""

    def __init__(self, message: ParsedMessage) -> None:
        self._message = message
        self._kept: dict[tuple[str, str], object] = {}

    def once(self, kind: str, glob: str, make: Callable[[], T]) -> T:
        """Return what ``make`` gave when it was first asked for."""
        key = (kind, glob)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]

    def text(self, place: str, glob: str = "") -> str | None:
        """Return the text of a place with one kind of line end, ``None`` where there is none."""
        return self.once(place, glob, lambda: _lines(self._text(place, glob)))

    def encoded(self, place: str, glob: str = "") -> bytes | None:
        """Return the same as regexes read it."""
        text = self.text(place, glob)
        if text is None:
            return None
        return self.once(f"bytes {place}", glob, lambda: text.encode("utf-8", "replace"))

    def attachment(self, glob: str) -> Attachment | None:
        """Return the first attachment whose file name fits, without regard to case."""
        wanted = glob.casefold()
        for part in self._message.attachments:
            if part.filename is not None and fnmatchcase(part.filename.casefold(), wanted):
                return part
        return None

    def _text(self, place: str, glob: str) -> str | None:
        message = self._message
        if glob:
            part = self.attachment(glob)
            return None if part is None else _text_of(part)
        if place == "subject":
            return message.subject
        body = message.html if place == "html" else message.text
        return None if body is None else body.content


def is_pdf(part: Attachment) -> bool:
    """Tell a PDF by its first bytes, whatever the sender calls it (ISO 32000-1, 7.5.2)."""
    return b"%PDF-" in part.content[:1024]


def _text_of(part: Attachment) -> str | None:
    if is_pdf(part):
        return text_of_pdf(part.content) if part.size <= PDF_BYTES else None
    return decoded(part.content[:ATTACHMENT_BYTES])


def decoded(content: bytes) -> str:
    """Return bytes as text: UTF-8 if they are that, else as Windows writes in Western Europe."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _lines(text: str | None) -> str | None:
    if text is None or "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")
