"""Keep the list of docs/log-events.md complete: ``python -m scripts.manual_log_events``.

Which events there are, at which level and with which fields is read from the code's syntax trees.
What an event means is written in the list, by hand, and kept; an event without that is a fault.
``--check`` writes nothing and exits with 1 when the list is not what the code says.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/log-events.md"
LEVELS = {"exception": "error"} | {
    name: name for name in ("debug", "info", "warning", "error", "critical")
}
BEGIN, END = "<!-- events -->", "<!-- end of events -->"
_FIRST = ("mailbox", "folder", "app", "sink")
_LAST = ("took_ms", "exception", "…")
_HEAD = "| event | level | fields | meaning |\n|---|---|---|---|\n"
_ROW = re.compile(r"^\| `([a-z_.]+)` \| .*? \| .*? \| (.*) \|$", re.MULTILINE)


@dataclass(slots=True)
class Event:
    """An event as the code writes it; an ellipsis stands for fields that only a run can tell."""

    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)


def events(folder: Path = ROOT / "mailbridge") -> Mapping[str, Event]:
    """Return every event that the package logs."""
    found: dict[str, Event] = {}
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "log." not in text:
            continue
        tree = ast.parse(text)
        names = dict(_constants(tree))
        for call, scope in _calls(tree):
            name = _text(call.args[0], names) if call.args else None
            if name is None:
                raise SystemExit(f"{path}:{call.lineno}: the event has no name that can be read")
            event = found.setdefault(name, Event())
            assert isinstance(call.func, ast.Attribute)
            event.levels.add(LEVELS[call.func.attr])
            for one in _fields(call, scope, tree):
                event.fields[one] = None
    return dict(sorted(found.items()))


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Yield the calls of loggers, each with the function that it stands in."""
    for scope in [tree, *(n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS))]:
        for node in _own(scope):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in LEVELS and ast.unparse(node.func.value) in {"log", "self._log"}:
                yield node, scope


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, and not those of functions within."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, _FUNCTIONS):
            yield child
            yield from _own(child)


def _fields(call: ast.Call, scope: ast.AST, tree: ast.Module) -> Iterator[str]:
    assert isinstance(call.func, ast.Attribute)
    if ast.unparse(call.func.value) == "self._log":
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.bind":
                yield from (word.arg for word in node.keywords if word.arg)
    for word in call.keywords:
        if word.arg == "exc_info":
            yield "exception"
        elif word.arg is not None:
            yield word.arg
        else:
            yield from _spread(word.value, scope, tree)
    if call.func.attr == "exception":
        yield "exception"


def _spread(value: ast.AST, scope: ast.AST, tree: ast.Module) -> Iterator[str]:
    """Yield the keys of ``**value``, as far as they stand in the module."""
    found = set(_keys(value, tree))
    if isinstance(value, ast.Name):
        found.update(_assigned(scope, value.id, tree))
    yield from sorted(found) or ["…"]


def _assigned(scope: ast.AST, name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the keys that a function puts into a dictionary of its own."""
    for node in _own(scope):
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                yield from _literal(target.slice)
            elif isinstance(target, ast.Name) and target.id == name:
                yield from _keys(node.value, tree)  # type: ignore[attr-defined]  # as asked above


def _keys(value: ast.AST, tree: ast.Module) -> Iterator[str]:
    """Yield the keys of a dictionary, also of one that a function of the module makes."""
    yield from _literal(value)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        for one in ast.walk(tree):
            if isinstance(one, _FUNCTIONS) and one.name == value.func.id:
                yield from _literal(one)
                for node in _own(one):
                    target = node.targets[0] if isinstance(node, ast.Assign) else None
                    if isinstance(target, ast.Subscript):
                        yield from _literal(target.slice)


def _literal(value: ast.AST) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
        return
    for node in ast.walk(value):
        keys = node.keys if isinstance(node, ast.Dict) else ()
        for key in keys:
            if isinstance(key, ast.Constant):
                yield str(key.value)
            elif key is None:
                yield "…"


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    yield target.id, value.value


def _text(node: ast.AST, names: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return names.get(node.id) if isinstance(node, ast.Name) else None


def page(text: str, found: Mapping[str, Event]) -> str:
    """Return the page with the list as the code says; raises ``SystemExit`` for a lack of words."""
    head, _, rest = text.partition(BEGIN + "\n")
    listed, _, tail = rest.partition(END)
    meanings = dict(_ROW.findall(listed))
    if silent := [name for name in found if not meanings.get(name)]:
        raise SystemExit(
            f"{PAGE.name}: no meaning is given for {', '.join(silent)}."
            " Fix: add a row to its list: | `NAME` |  |  | what it means |"
        )
    rows = "".join(_row(name, event, meanings[name]) for name, event in found.items())
    return f"{head}{BEGIN}\n{_HEAD}{rows}{END}{tail}"


def _row(name: str, event: Event, meaning: str) -> str:
    levels = ", ".join(sorted(event.levels, key=list(LEVELS).index))
    fields = ", ".join(
        one if one == "…" else f"`{one}`" for one in sorted(event.fields, key=_place)
    )
    return f"| `{name}` | {levels} | {fields} | {meaning} |\n"


def _place(name: str) -> tuple[int, str]:
    """Sort by what an event is about; the rest by name, so that moved code changes nothing."""
    if name in _FIRST:
        return _FIRST.index(name), name
    return len(_FIRST) + (_LAST.index(name) + 1 if name in _LAST else 0), name


def main() -> int:
    """Write or check."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text, events())
    if text == wanted:
        return 0
    if sys.argv[1:] == ["--check"]:
        print(f"docs/{PAGE.name} is not what the code logs: make docs")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"docs/{PAGE.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
