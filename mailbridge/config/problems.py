"""Collects the faults of a configuration, each with its line, its path and its fix.

No message of this package repeats a value of the file: whatever stands in a wrong place may be
a secret. What is shown of the file are its keys, and those only when they look like keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic_core import PydanticCustomError

from mailbridge.errors import Problem

#: what a key of the file, or the name of a mailbox, may look like to be shown
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")

Path = tuple[str | int, ...]


class Map(dict[str, Any]):
    """A mapping of the file that knows its place: ``lines`` gives the line of each key."""

    __slots__ = ("line", "lines", "path")

    def __init__(self, line: int, path: Path) -> None:
        """Start empty at ``line`` (counted from 1)."""
        super().__init__()
        self.line = line
        self.path = path
        self.lines: dict[str, int] = {}


class Seq(list[Any]):
    """A list of the file that knows its place: ``lines`` gives the line of each item."""

    __slots__ = ("line", "lines", "path")

    def __init__(self, line: int, path: Path) -> None:
        """Start empty at ``line`` (counted from 1)."""
        super().__init__()
        self.line = line
        self.path = path
        self.lines: list[int] = []


def line_of(document: Any, path: Iterable[str | int]) -> int | None:
    """Return the line of the deepest part of ``path`` that the document has."""
    line = None
    for part in path:
        if isinstance(document, Map) and part in document:
            line, document = document.lines[str(part)], document[str(part)]
        elif isinstance(document, Seq) and isinstance(part, int) and part < len(document):
            line, document = document.lines[part], document[part]
        else:
            break
    return line


def shown(key: str) -> str:
    """Return a key as it may be printed: one that looks like none could be a pasted secret."""
    return key if _KEY.fullmatch(key) and not looks_secret(key) else "(unreadable key)"


def looks_secret(text: str) -> bool:
    """Tell whether a word is more likely a secret than a name: long, and of mixed characters."""
    kinds = (str.isupper, str.islower, str.isdigit)
    mixed = all(any(kind(char) for char in text) for kind in kinds)
    return text.startswith("whsec_") or "~" in text or (len(text) >= 16 and mixed)  # noqa: PLR2004 - names of people are shorter


def dotted(path: Iterable[str | int]) -> str:
    """Return ``mailboxes.alarm.fetch.folders[0]`` for a path."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shown(part)}" if text else shown(part)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is closest to a misspelt one, if any is close."""
    import difflib

    plain = word.lower().replace("-", "_")
    by_plain = {name.lower().replace("-", "_"): name for name in known}
    if plain in by_plain:
        return by_plain[plain]
    matches = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.6)
    return by_plain[matches[0]] if matches else None


def fault(
    message: str, fix: str, *, key: str | None = None, inner: str | None = None
) -> PydanticCustomError:
    """Return an error for a validator to raise.

    ``key`` points below the value that is judged, ``inner`` below that.
    """
    below = tuple(part for part in (key, inner) if part is not None)
    return PydanticCustomError(
        "fault", "{message}", {"message": message, "fix": fix, "key": key, "below": below}
    )


def fault_at(message: str, fix: str, *below: str | int) -> PydanticCustomError:
    """Return the same for what lies any number of steps below the value that is judged."""
    context = {"message": message, "fix": fix, "key": None, "below": below}
    return PydanticCustomError("fault", "{message}", context)


def _place(problem: Problem) -> tuple[bool, int, str]:
    """Return what problems are sorted by: the line, and those without one last."""
    return (problem.line is None, problem.line or 0, problem.path)


class Problems:
    """The faults and warnings of one file, in the order of its lines."""

    def __init__(self, file: str) -> None:
        """``file`` is the name that the messages show."""
        self.file = file
        self.document: Any = None
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def add(self, path: Path, message: str, fix: str = "", *, line: int | None = None) -> None:
        """Note a fault that keeps the configuration from being used."""
        self.errors.append(self._problem(path, message, fix, line))

    def warn(self, path: Path, message: str, fix: str = "", *, line: int | None = None) -> None:
        """Note something that works, but hardly as it was meant."""
        self.warnings.append(self._problem(path, message, fix, line))

    def _problem(self, path: Path, message: str, fix: str, line: int | None) -> Problem:
        place = line if line is not None else line_of(self.document, path)
        return Problem(
            file=self.file, line=place, path=dotted(path), message=f"{message}.", fix=fix
        )

    def sort(self) -> None:
        """Order both lists as a reader meets them in the file, without repeats."""
        for name in ("errors", "warnings"):
            unique = dict.fromkeys(getattr(self, name))
            setattr(self, name, sorted(unique, key=_place))
