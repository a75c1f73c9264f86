"""Addresses as routes compare them: the whole of it, in one spelling, and closed when in doubt."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from mailbridge.route.base import AddressPattern, RouteFault
from mailbridge.route.regex import compile_regex

#: characters of an address or a glob that are looked at; RFC 5321 section 4.5.3.1 has 254
CHARACTERS: Final = 512


class Spelling(NamedTuple):
    """An address in the one spelling that is compared: local part and domain."""

    local: str
    domain: str

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.local}@{self.domain}"


@lru_cache(maxsize=1024)
def spelling(address: str) -> Spelling | None:
    """Return an address in the spelling that is compared, ``None`` for what is none.

    Case is no difference, in the local part neither: no mail service makes one. A domain in
    punycode and one in letters are the same. Letters that only look alike stay different.
    """
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain or len(address) > CHARACTERS:
        return None
    labels = [_label(label) for label in domain.removesuffix(".").split(".")]
    return Spelling(folded(local), ".".join(labels))


def folded(text: str) -> str:
    """Return a text as it is compared without regard to case."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFC", text).lower()
    # The Kelvin sign and its like would turn into ASCII letters that they only resemble.
    return text if _ascii(folded) > _ascii(text) else folded


def _ascii(text: str) -> int:
    return sum(char < "\x80" for char in text)


def _label(label: str) -> str:
    """Return a label of a domain in letters, if it is the punycode of just these letters."""
    label = folded(label)
    if not label.startswith("xn--") or "*" in label or "?" in label:
        return label
    try:
        letters = label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return letters if not letters.isascii() and folded(letters) == letters else label


class Addresses:
    """The compiled patterns of one address list."""

    __slots__ = ("_tests",)

    def __init__(self, patterns: Sequence[AddressPattern]) -> None:
        """Compile; raises ``RouteFault`` with ``at`` below the list."""
        tests: list[Callable[[Spelling], bool]] = []
        for index, pattern in enumerate(patterns):
            try:
                tests.append(_regex(pattern.regex) if pattern.regex else _glob(pattern.glob))
            except RouteFault as fault:
                inner = ("regex",) if pattern.regex else ()
                raise fault.below(index, *inner) from None
        self._tests = tests

    def fit(self, address: Spelling) -> bool:
        """Return whether an address fits one of the patterns."""
        return any(test(address) for test in self._tests)


def _glob(glob: str) -> Callable[[Spelling], bool]:
    """Compile ``*@ils.example``: local part and domain are compared each by itself."""
    wanted = _checked(glob)
    local, domain = compile_glob(wanted.local), compile_glob(wanted.domain)
    return lambda address: domain(address.domain) and local(address.local)


def _checked(glob: str) -> Spelling:
    if "@" not in glob:
        raise RouteFault(
            "this pattern has no @, so no address can fit it",
            "write a whole address, or *@ils.example for everybody at ils.example.",
        )
    wanted = spelling(glob)
    if glob.count("@") > 1 or wanted is None or any(char.isspace() for char in glob):
        raise RouteFault(
            "this is not the pattern of one address",
            "write one address in each item, like alarm@ils.example or *@ils.example, without "
            "name and angle brackets.",
        )
    if set(glob) & set("[]{}\\^$|<>()"):
        raise RouteFault(
            "this pattern has characters that mean nothing here",
            "use only * and ?, or write {regex: '…'}.",
        )
    return wanted


def _regex(pattern: str) -> Callable[[Spelling], bool]:
    compile_regex(pattern)  # by itself, so that the position of a fault is the user's
    whole = compile_regex(rf"(?i)\A(?:{pattern})\z")
    return lambda address: whole.search(str(address)) is not None


def compile_glob(glob: str) -> Callable[[str], bool]:
    """Return a test for a folded text: ``*`` is anything, ``?`` one character, all of it counts.

    Each ``*`` goes once through the text, and never back.
    """
    pieces = [folded(piece) for piece in glob.split("*")]
    if len(pieces) == 1:
        return lambda text: _fits(pieces[0], text)
    if "?" not in glob and len(pieces) == 2:  # noqa: PLR2004 - one star: nearly all globs
        head, tail = pieces
        least = len(head) + len(tail)
        return lambda text: len(text) >= least and text.startswith(head) and text.endswith(tail)
    return lambda text: _in_order(pieces, text)


def _in_order(pieces: list[str], text: str) -> bool:
    """Return whether the pieces stand in a text one after the other, the last at its end."""
    first, *middle, last = pieces
    at, end = len(first), len(text) - len(last)
    if end < at or not _fits(first, text[:at]) or not _fits(last, text[end:]):
        return False
    for piece in middle:
        found = _find(piece, text, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _find(piece: str, text: str, at: int, end: int) -> int:
    if "?" not in piece:
        return text.find(piece, at, end)
    places = range(at, end - len(piece) + 1)
    return next((place for place in places if _fits(piece, text[place : place + len(piece)])), -1)


def _fits(piece: str, text: str) -> bool:
    return len(piece) == len(text) and all(
        wanted in ("?", char) for wanted, char in zip(piece, text, strict=True)
    )
