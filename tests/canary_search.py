"""Looks for the suite's secrets in what its processes have written.

Most secrets have a shape by which anything can be searched without knowing one of them: tokens,
codes, the sandbox's client secrets, signing secrets. The rest is registered when it is made.
A finding names the kind and the place, never the secret.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

import re2

#: characters; shorter values stand in ordinary words
SHORTEST: Final = 12
#: bytes of one file that are searched
LARGEST: Final = 64 * 1024 * 1024
#: bytes of what was said that are kept in memory
KEPT: Final = 8 * 1024 * 1024
#: bytes from which on a content is worth an automaton, and spellings that are put in at once
LARGE: Final = 16 * 1024
TOGETHER: Final = 100
#: PostgreSQL's own tables: copies of its templates, which lie in every database
_CATALOGUE: Final = re.compile(
    r"/base/\d+/(?:\d{1,4}|1[0-5]\d{3}|16[0-2]\d\d|163[0-7]\d|1638[0-3])\b|_(vm|fsm)$"
)
#: what is no file of ours to read, or holds nothing: zeros that keep room, sockets, locks
_SKIPPED: Final = frozenset({".reserve", ".sock", ".lock", ".db-shm"})

#: kind, a part that every one has, the whole
SHAPES: Final[tuple[tuple[str, bytes, re.Pattern[bytes]], ...]] = (
    (
        "access or id token",
        b"eyJ",
        re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{20,}\.[\w-]{40,}"),
    ),
    ("refresh token or code", b"1.A", re.compile(rb"1\.A[\w-]{300,}")),
    ("client secret", b"8Q~", re.compile(rb"[\w-]{3}8Q~[\w-]{32}")),
    ("signing secret", b"whsec_", re.compile(rb"whsec_[\w+/-]{32,}")),
    ("answer of a mail login", b"dXNlcj", re.compile(rb"dXNlcj[A-Za-z0-9+/]{80,}")),
    ("bearer", b"auth=Bearer ", re.compile(rb"auth=Bearer [\w.~+/=-]{20,}")),
    # A file of its own may hold one; see ``Canaries.search``.
    ("private key", b" PRIVATE KEY-----", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
)


class Canaries:
    """What must stand nowhere, and where it was found."""

    def __init__(self) -> None:
        self.findings: dict[str, None] = {}
        self._kinds: dict[bytes, str] = {}
        #: those of the first so many spellings in one automaton, which reads a file once
        self._automaton: tuple[int, re2._Regexp] | None = None
        #: files as the tests themselves have written them
        self._own: dict[str, bytes] = {}
        self._texts: list[tuple[str, bytes]] = []
        self._kept = 0

    def register(self, kind: str, value: str) -> None:
        """Look for this value from now on, in plain and in its usual encodings."""
        raw = value.strip().encode("utf-8", "surrogatepass")
        if len(raw) < SHORTEST or raw in self._kinds or _shaped(raw):
            return
        for spelling in (raw, quote(raw, safe="").encode(), base64.b64encode(raw)):
            self._kinds[spelling] = kind

    def wrote(self, path: Path) -> None:
        """Leave a file alone as long as it is what a test has just written."""
        if path.is_file():
            self._own[str(path.absolute())] = _digest(path.read_bytes())

    def heard(self, place: str, said: bytes) -> None:
        """Keep what a process has said, until it is searched together with more."""
        if said:
            self._texts.append((place, said))
            self._kept += len(said)
        if self._kept > KEPT:
            self.search_heard()

    def search_heard(self) -> None:
        """Search what was kept so far."""
        texts, self._texts, self._kept = self._texts, [], 0
        for place, said in texts:
            self.search(place, said)

    def search(self, place: str, content: bytes, *, key_file: bool = False) -> None:
        """Search one text; ``key_file`` may hold a private key, since it is one."""
        for kind in _found(content, self._candidates(content)):
            if not (key_file and kind == "private key"):
                self.findings[f"{kind} in {place}"] = None

    def _candidates(self, content: bytes) -> dict[bytes, str]:
        """Return the spellings that may stand in ``content``: all, or those made lately."""
        if len(content) < LARGE or len(self._kinds) < TOGETHER:
            return self._kinds
        if self._automaton is None or len(self._kinds) - self._automaton[0] >= TOGETHER:
            options = re2.Options()
            options.max_mem = 512 * 1024 * 1024
            options.encoding = re2.Options.Encoding.LATIN1
            spellings = b"|".join(re2.escape(one) for one in self._kinds)
            self._automaton = (len(self._kinds), re2.compile(spellings, options))
        known, automaton = self._automaton
        if automaton.search(content) is not None:
            return self._kinds
        return dict(islice(self._kinds.items(), known, None))

    def search_tree(self, root: Path, shown: str = "") -> None:
        """Search every file below a folder that is not as a test has written it."""
        for path in _files(root):
            try:
                with path.open("rb") as file:
                    content = file.read(LARGEST)
            except OSError:  # gone meanwhile, or of a server that runs as somebody else
                continue
            if self._own.get(str(path.absolute())) == _digest(content):
                continue
            place = f"{shown or root.name}/{path.relative_to(root)}"
            self.search(place, content, key_file=path.suffix in {".pem", ".key"})


def _found(content: bytes, registered: dict[bytes, str]) -> set[str]:
    found = {kind for spelling, kind in registered.items() if spelling in content}
    found |= {kind for kind, part, shape in SHAPES if part in content and shape.search(content)}
    return found


def _shaped(value: bytes) -> bool:
    return any(shape.fullmatch(value) for _, _, shape in SHAPES)


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.suffix in _SKIPPED or _CATALOGUE.search(str(path)):
                continue
            if path.is_file() and not path.is_symlink():
                yield path


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
