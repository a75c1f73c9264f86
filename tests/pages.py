"""The project's own Markdown, taken apart for tests: links, headings, blocks, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
_FENCE: Final = re.compile(r"^( *)(`{3,})(.*)$")
_CODE: Final = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK: Final = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_SOURCE: Final = re.compile(r"<(?:img|source)[^>]* (?:src|srcset)=\"([^\"]+)\"")
_HERE: Final = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. ``info`` is what follows the fence, ``line`` where the fence stands."""

    page: Path
    line: int
    info: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """Tell where it is, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def language(self) -> str:
        """Return the first word behind the fence."""
        return self.info[0] if self.info else ""

    def commands(self) -> list[str]:
        """Return what is typed: of a ``console`` block what stands behind ``$``, else each line.

        A command that goes on (a backslash, a here-document) is one; comments are none.
        """
        lines = iter(self.text.splitlines())
        found = []
        for line in lines:
            typed = line.strip()
            if self.language == "console":
                if not typed.startswith("$ "):
                    continue
                typed = typed[2:]
            while typed.endswith("\\"):
                typed = f"{typed[:-1]} {next(lines).strip().removeprefix('> ')}"
            if end := _HERE.search(typed):
                rest = list(iter(lambda: next(lines), end[1]))
                typed = "\n".join([typed, *rest, end[1]])
            if typed and not typed.startswith("#"):
                found.append(typed)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One file. ``prose`` is its text with fenced blocks blanked out, line by line."""

    path: Path
    prose: str
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """Return the path as people write it."""
        return str(self.path.relative_to(ROOT))

    def links(self) -> Iterator[tuple[int, str]]:
        """Give the line and the target of every link and picture that leads to a file."""
        text = _CODE.sub(_blank, self.prose)
        for found in (*_LINK.finditer(text), *_SOURCE.finditer(text)):
            if not re.match(r"[a-z]+:", found[1]):
                yield text.count("\n", 0, found.start()) + 1, unquote(found[1])

    def spans(self) -> Iterator[tuple[int, str]]:
        """Give the line and the text of everything between backticks."""
        for found in _CODE.finditer(self.prose):
            yield self.prose.count("\n", 0, found.start()) + 1, " ".join(found[2].split())

    def anchors(self) -> set[str]:
        """Return what can stand behind ``#``, as GitHub names headings."""
        found: dict[str, int] = {}
        anchors = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", self.prose))
        for title in re.findall(r"^#{1,6} +(.+?) *#*$", self.prose, re.MULTILINE):
            slug = _slug(title)
            count = found.get(slug, 0)
            found[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
        return anchors


def pages() -> list[Page]:
    """Return every page of the project."""
    paths = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "systemd").glob("*.md")]
    return [read(path) for path in sorted(paths)]


def read(path: Path) -> Page:
    """Take a page apart."""
    prose: list[str] = []
    blocks: list[Block] = []
    fence, indent, inside = "", 0, list[str]()
    begun, info = 0, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = _FENCE.match(line)
        prose.append("" if fence or found else line)
        if fence and found and found[2] == fence and not found[3].strip():
            text = "\n".join(inside) + "\n"
            blocks.append(Block(page=path, line=begun, info=tuple(info.split()), text=text))
            fence, inside = "", []
        elif fence:
            inside.append(line[min(indent, len(line) - len(line.lstrip())) :])
        elif found:
            indent, fence, info, begun = len(found[1]), found[2], found[3], number
    return Page(path=path, prose="\n".join(prose), blocks=tuple(blocks))


def words(command: str) -> list[str]:
    """Split a command as a shell would; quotes that a person wrote as prose do no harm."""
    try:
        return shlex.split(command.splitlines()[0], comments=True)
    except ValueError:
        return command.split()


def _slug(title: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.strip()).lower()
    text = re.sub(r"[^\w\- ]", "", text.replace("`", ""))
    return text.replace(" ", "-")


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])
