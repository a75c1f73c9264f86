"""YAML text to plain data that knows its lines.

Only the syntax of YAML is PyYAML's; what a plain word means follows YAML 1.2 and less: ``true``
and ``false`` are booleans, an empty value is null, everything else stays the text that was
written. So ``off``, ``no``, ``2026-11-01``, ``012`` and ``1:30`` never turn into something else.
"""

from __future__ import annotations

import stat
from pathlib import Path as FilePath
from typing import Any

import yaml

from mailbridge.config.problems import Map, Path, Problems, Seq

#: bytes; ten thousand mailboxes fit
MAX_BYTES = 8 * 1024 * 1024
#: values after aliases were followed: a few lines of aliases of aliases could make billions
MAX_VALUES = 500_000
#: the deepest key of the file lies 6 deep
MAX_DEPTH = 32

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {
    _CORE + name
    for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
}
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False} | {
    "FALSE": False
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read(path: FilePath, problems: Problems) -> Map | None:
    """Return the mapping in the file; ``None`` when ``problems`` tells why there is none."""
    raw = _bytes(path, problems)
    text = None if raw is None else _text(raw, problems)
    node = None if text is None else _compose(text, problems)
    if node is None:
        return None
    if not isinstance(node, yaml.MappingNode):
        problems.add(
            (),
            "the file does not hold a map of sections",
            "start with `apps:`, `mailboxes:` and `webhooks:`; see config.example.yaml.",
            line=node.start_mark.line + 1,
        )
        return None
    document: Map = _Builder(problems).build(node, ())
    return document


def _bytes(path: FilePath, problems: Problems) -> bytes | None:
    """Read the file, bounded."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problems.add((), "this is a directory or a device", "name a YAML file.")
            return None
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problems.add((), "the file does not exist", "check the path after --config.")
    except OSError as exc:
        reason = exc.strerror or "error"
        problems.add(
            (),
            f"the file cannot be read ({reason})",
            "let the user that runs mailbridge read it, for example with chown or chmod.",
        )
    else:
        if len(raw) <= MAX_BYTES:
            return raw
        size = MAX_BYTES // 1024 // 1024
        problems.add((), f"the file is larger than {size} MiB", "check that it is the right file.")
    return None


def _text(raw: bytes, problems: Problems) -> str | None:
    """Decode UTF-8, with or without a byte order mark."""
    fix = "save the file as UTF-8 (in Notepad: Save as, Encoding UTF-8)."
    if raw.startswith(_UTF16):
        problems.add((), "the file is UTF-16 or UTF-32 text, not UTF-8", fix, line=1)
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        problems.add((), "the file is not UTF-8 text", fix, line=line)
        return None
    for at, char in enumerate(text):
        if char < " " and char not in "\t\n\r":
            line = text.count("\n", 0, at) + 1
            problems.add((), "a control character stands here", "delete it.", line=line)
            return None
    return text


def _compose(text: str, problems: Problems) -> yaml.Node | None:
    """Return the tree of the text. PyYAML's messages quote the file, so they are not used."""
    loader = _LOADER(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as exc:
        message, fix, line = _syntax(exc, text)
        problems.add((), message, fix, line=line)
        return None
    except (yaml.YAMLError, RecursionError):
        problems.add((), "this is not YAML that can be read", "compare with config.example.yaml.")
        return None
    finally:
        loader.dispose()
    if node is None:
        problems.add((), "the file is empty", "start from config.example.yaml.")
    return node


#: words of PyYAML's message, whether the fault begins where the context does, our words
_SYNTAX = (
    (
        ("undefined alias", "scanning an alias", "scanning an anchor"),
        False,
        "an alias (`*name`) stands here that means nothing",
        "define its anchor (`&name`) above, or put a value that begins with `*` in quotes.",
    ),
    (
        ("another document",),
        False,
        "a second document (`---`) begins here",
        "keep one document a file.",
    ),
    (
        ("mapping values are not allowed",),
        False,
        "a `:` stands where no key can be",
        "check the indentation, and put values that contain `: ` in quotes.",
    ),
    (
        ("cannot start any token",),
        False,
        "a value begins with a character that YAML keeps for itself (`@`, `%`, a backtick)",
        "put the value in quotes.",
    ),
    (("quoted scalar",), True, "a quotation mark opens here and is not closed", "close it."),
    (
        ("parsing a flow",),
        True,
        "a bracket `[` or `{` opens here and is not closed",
        "close it, or check for a missing comma.",
    ),
    (("scanning a tag",), False, "a tag (`!name`) stands here", "put the value in quotes."),
)


def _syntax(exc: yaml.MarkedYAMLError, text: str) -> tuple[str, str, int | None]:
    """Return message, fix and line of a syntax error."""
    mark = exc.problem_mark or exc.context_mark
    rows = text.split("\n")
    # The parser notices some faults only behind the last line.
    last = len(rows) - (not rows[-1])
    line = None if mark is None else max(1, min(mark.line + 1, last))
    row = "" if line is None else rows[line - 1]
    if "\t" in row[: len(row) - len(row.lstrip())] or ("\t" in row and "token" in str(exc.problem)):
        return "a tab stands here, and YAML takes no tabs", "use spaces.", line
    about = f"{exc.problem} {exc.context}"
    for words, at_start, message, fix in _SYNTAX:
        if any(word in about for word in words):
            if at_start and exc.context_mark is not None:
                line = min(exc.context_mark.line + 1, last)
            return message, fix, line
    fix = "indent the keys of one section alike; put values with special characters in quotes."
    return "the YAML is broken here or just above", fix, line


class _Builder:
    """Turns the tree into ``Map``, ``Seq``, text, booleans and ``None``."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Any:
        """Return the data of a node; a part that is refused becomes ``None`` and a problem."""
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0:
            if self._left == -1:
                message = f"aliases make more than {MAX_VALUES:,} values of this file"
                self._problems.add(path[:1], message, "write the values out.", line=line)
            return None
        if id(node) in self._open or len(path) > MAX_DEPTH:
            message = "an alias contains itself, or the nesting is too deep"
            self._problems.add(path[:1], message, "write the values out.", line=line)
            return None
        if node.tag not in _PLAIN_TAGS:
            self._problems.add(
                path,
                "tags (`!name`) are not used in this file",
                "put the value in quotes if it begins with `!`.",
                line=line,
            )
            return None
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self._open.add(id(node))
        try:
            return (
                self._map(node, path)
                if isinstance(node, yaml.MappingNode)
                else self._seq(node, path)
            )
        finally:
            self._open.discard(id(node))

    def _seq(self, node: yaml.Node, path: Path) -> Seq:
        result = Seq(node.start_mark.line + 1, path)
        for index, item in enumerate(node.value):
            result.lines.append(item.start_mark.line + 1)
            result.append(self.build(item, (*path, index)))
        return result

    def _map(self, node: yaml.Node, path: Path) -> Map:
        result = Map(node.start_mark.line + 1, path)
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                fix = "write `key: value`; put values with brackets in quotes."
                self._problems.add(path, "a key must be a plain word", fix, line=line)
                continue
            key = key_node.value
            if key_node.tag == _CORE + "merge":
                merged.append(value_node)
            elif key in result:
                message = f"this key stands here twice (first in line {result.lines[key]})"
                self._problems.add((*path, key), message, "keep one of them.", line=line)
            else:
                result.lines[key] = line
                result[key] = self.build(value_node, (*path, key))
        for value_node in merged:
            self._merge(value_node, result, path)
        return result

    def _merge(self, node: yaml.Node, result: Map, path: Path) -> None:
        """Take over from ``<<: *anchor`` what the map does not have itself."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._problems.add(
                    path,
                    "`<<` takes a map only",
                    "write `<<: *name`, where `&name` marks a map.",
                    line=node.start_mark.line + 1,
                )
                continue
            other = self.build(source, path)
            for key in other or ():
                if key not in result:
                    result.lines[key] = other.lines[key]
                    result[key] = other[key]


def _scalar(node: yaml.ScalarNode) -> str | bool | None:
    """Return what a value means; quoted it is always text."""
    text: str = node.value
    if node.style in ("'", '"', "|", ">"):
        return text
    if text in _NULLS:
        return None
    return _BOOLEANS.get(text, text)
