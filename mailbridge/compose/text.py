"""Text in the header of a mail (RFC 5322, RFC 2047): what comes out is one field, never two."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Final

#: characters of a line that holds an encoded word, and of the word (RFC 2047, section 2)
LINE: Final = 76
WORD: Final = 75
#: bytes of a line without its end (RFC 5322, section 2.1.1)
LONGEST_LINE: Final = 998
#: characters of a display name
NAME_LENGTH: Final = 255

_PRINTABLE: Final = re.compile(r"[ -~]*")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_BREAK: Final = re.compile(r" *[^ ]+")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: what an encoded word may hold as it is, wherever it stands (RFC 2047, section 5 (3))
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/")
#: what is around a word, and what base64 may fill up its end with
_FRAME: Final = len("=?utf-8?q??=") + 3


def broken(text: str) -> str:
    """Return why a text can stand in no field at all, nothing when it can."""
    if "\r" in text or "\n" in text or "\0" in text:
        return "this holds a CR, LF or NUL"
    if _SURROGATE.search(text):
        return "this is not Unicode text"
    return ""


def unstructured(name: str, text: str) -> str:
    """Return the value of a field such as Subject, folded; ``text`` is not ``broken``."""
    used = len(name) + 2
    if _is_plain(text) and text == text.strip():
        folded = _folded(text, used)
        if max(map(len, folded.split("\r\n"))) + used <= LONGEST_LINE:
            return folded
    return "\r\n ".join(encoded_words(text, used))


def phrase(name: str, used: int) -> str:
    """Return a display name; ``used`` characters of its line stand in front."""
    if not _is_plain(name):
        return "\r\n ".join(encoded_words(name, used))
    if _ATOMS.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def addresses(name: str, parties: Iterable[tuple[str, str]]) -> str:
    """Return the value of a field of addresses, on a new line where the line is full."""
    value = ""
    used = len(name) + 2
    for display, address in parties:
        shown = f"{phrase(display, used)} <{address}>" if display else address
        first, _, rest = shown.partition("\r\n")
        if not value:
            value = shown
        elif rest or used + 2 + len(value.rpartition("\r\n")[2]) + len(first) > LINE:
            value += f",\r\n {shown}"
        else:
            value += f", {shown}"
        used = 0 if "\r\n" in value else used
    return value


def encoded_words(text: str, used: int) -> Iterator[str]:
    """Yield encoded words of whole characters; the first stands behind ``used`` characters."""
    kind, size, form = _Q if _quoted_size(text) <= _base64_size(text) else _B
    room = max(WORD - _FRAME - used, 24)
    word, length = "", 0.0
    for character in text:
        more = size(character)
        if length + more > room:
            yield f"=?utf-8?{kind}?{form(word)}?="
            word, length, room = "", 0.0, WORD - _FRAME
        word += character
        length += more
    if word:
        yield f"=?utf-8?{kind}?{form(word)}?="


def _quoted(text: str) -> str:
    return "".join(
        one if one in _PLAIN else "_" if one == " " else "".join(f"={b:02X}" for b in one.encode())
        for one in text
    )


def _quoted_size(text: str) -> float:
    return len(_quoted(text))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _base64_size(text: str) -> float:
    """Return what a text adds to a word; its end adds up to three characters more."""
    return len(text.encode()) * 4 / 3


_Q: Final = ("q", _quoted_size, _quoted)
_B: Final = ("b", _base64_size, _base64)


def _is_plain(text: str) -> bool:
    """Tell whether a text stands for itself; what looks like an encoded word does not."""
    return _PRINTABLE.fullmatch(text) is not None and "=?" not in text


def _folded(text: str, used: int) -> str:
    """Break lines in front of white space, where that is possible."""
    lines = [""]
    for match in _BREAK.finditer(text):
        piece = match[0]
        if lines[-1] and used + len(lines[-1]) + len(piece) > LINE:
            lines.append(piece)
            used = 0
        else:
            lines[-1] += piece
    return "\r\n".join(lines)


def shown(text: str) -> str:
    """Return a text from elsewhere as a display name: on one line, without what confuses."""
    return " ".join(_CONTROL.sub(" ", text).split())[:NAME_LENGTH]
