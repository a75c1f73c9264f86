"""Regexes that users write: RE2, whose work is linear in the text, and bounded besides.

RE2 knows neither look-around nor backreferences; that is what its promise costs. Its matching
gives the interpreter's lock away, so even a slow one holds no other thread up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mailbridge.route.base import RouteFault

if TYPE_CHECKING:
    import re2

#: characters of one regex
PATTERN_CHARACTERS: Final = 1000
#: bytes of memory of one compiled regex, with the states that matching adds
MEMORY: Final = 8 * 2**20
#: instructions of one compiled regex
PROGRAM: Final = 30_000
#: instructions times bytes of text that one search may cost (at worst 3 s of one core, measured)
WORK: Final = 100_000_000
#: bytes of UTF-8 that are searched at most, and those that every regex gets to see
TEXT_BYTES: Final = 256 * 1024
TEXT_BYTES_AT_LEAST: Final = 4 * 1024


class Found(NamedTuple):
    """Where a regex matched: all of it, and the part that the regex points at."""

    whole: str
    value: str


class Regex:
    """A compiled regex. ``limit`` are the bytes of a text that it reads."""

    __slots__ = ("_group", "_regexp", "limit")

    def __init__(self, regexp: re2._Regexp) -> None:
        names = regexp.groupindex
        self._group = names.get("value", min(names.values(), default=min(regexp.groups, 1)))
        self._regexp = regexp
        size = max(1, regexp.programsize)
        self.limit = max(TEXT_BYTES_AT_LEAST, min(TEXT_BYTES, WORK // size))

    def fits(self, text: str | bytes) -> bool:
        """Whether there is a match in the first ``limit`` bytes; see ``search``."""
        return self._regexp.search(_bytes(text)[: self.limit]) is not None

    def search(self, text: str | bytes) -> Found | None:
        """Return the first match in the first ``limit`` bytes. Bytes are taken as UTF-8."""
        found = self._regexp.search(_bytes(text)[: self.limit])
        if found is None:
            return None
        value = found.group(self._group)
        return Found(_text(found.group(0)), _text(value or b""))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# -- compiling, and saying what is wrong ----------------------------------------------------------


def compile_regex(pattern: str) -> Regex:
    """Return the compiled regex; raises ``RouteFault`` with the position of what is wrong."""
    import re2

    if len(pattern) > PATTERN_CHARACTERS:
        raise RouteFault(
            f"this regex has more than {PATTERN_CHARACTERS} characters", "write a shorter one."
        )
    options = re2.Options()
    options.max_mem = MEMORY
    options.log_errors = False  # it would write to stderr by itself
    try:
        regexp = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as exc:
        said = exc.args[0] if exc.args else b""
        raise _fault(pattern, said.decode() if isinstance(said, bytes) else "") from None
    if regexp.programsize > PROGRAM:
        raise _too_large()
    return Regex(regexp)


_SYNTAX: Final = "see https://github.com/google/re2/wiki/Syntax; a literal character takes a `\\`."


def _too_large() -> RouteFault:
    return RouteFault(
        "this regex is too large: its counted repeats multiply",
        "write `*` or `+` instead of a high count, and \\w instead of \\pL where it will do.",
    )


def _fault(pattern: str, said: str) -> RouteFault:
    """Turn RE2's message into one with a position. Only what cannot be a secret is quoted."""
    kind, _, piece = said.partition(": ")
    if "too large" in said:
        return _too_large()
    for start, name in _LACKING:
        at = _find(pattern, start)
        if kind == "invalid perl operator" and piece and start.startswith(piece) and at >= 0:
            return _lacking(name, at)
    if kind == "invalid escape sequence" and piece[1:].isdigit():
        return _lacking("a backreference", _find(pattern, piece))
    if piece == r"\Z":
        where = _position(_find(pattern, piece))
        return RouteFault(f"{where} stands \\Z, which RE2 does not know", "write \\z.")
    at = _unbalanced(pattern) if kind in _BALANCE else _find(pattern, piece)
    what = _KINDS.get(kind, "this is not a regex")
    return RouteFault(f"{what} {_position(at)}".rstrip(), _SYNTAX)


_LACKING: Final = (
    ("(?=", "look-ahead"),
    ("(?!", "look-ahead"),
    ("(?<=", "look-behind"),
    ("(?<!", "look-behind"),
    ("(?P=", "a backreference"),
    ("(?>", "an atomic group"),
)
_BALANCE: Final = {"missing )", "unexpected )", "missing ]"}
_KINDS: Final = {
    "missing )": "a bracket opens that is not closed",
    "unexpected )": "a bracket closes that was not opened",
    "missing ]": "a bracket opens that is not closed",
    "bad repetition operator": "a repeat of a repeat stands",
    "no argument for repetition operator": "a repeat of nothing stands",
    "invalid repetition size": "a count above 1000, or counts that multiply beyond, stand",
    "invalid escape sequence": "an unknown escape stands",
    "invalid character class range": "an unknown class, or a range that runs backwards, stands",
    "invalid named capture group": "the name of a group is broken",
    "invalid perl operator": "an unknown group stands",
    "trailing \\": "a single \\ stands at the end",
}


def _lacking(name: str, at: int) -> RouteFault:
    return RouteFault(
        f"{_position(at)} stands {name}, which RE2 does not have".lstrip(),
        "match what comes around as well, and take what you want with a (?P<value>…) group; RE2 "
        "leaves such things out so that no mail can make it slow.",
    )


def _position(at: int) -> str:
    return f"at character {at + 1}" if at >= 0 else ""


def _find(pattern: str, piece: str) -> int:
    """Return where a piece stands unescaped, -1 if nowhere."""
    at = 0
    while piece and at < len(pattern):
        if pattern.startswith(piece, at):
            return at
        at += 2 if pattern[at] == "\\" else 1
    return -1


def _unbalanced(pattern: str) -> int:
    """Return where the bracket stands that has no partner."""
    opened: list[int] = []
    at, in_class = 0, -1
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif in_class >= 0:
            if char == "]" and at > in_class + 1:
                in_class = -1
        elif char == "[":
            in_class = at
        elif char == "(":
            opened.append(at)
        elif char == ")":
            if not opened:
                return at
            opened.pop()
        at += 1
    return in_class if in_class >= 0 else (opened[-1] if opened else -1)
