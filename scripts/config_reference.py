"""Keep the tables of docs/config.md what the models say: ``python -m scripts.config_reference``.

Which keys there are, their types and their defaults come from the JSON Schema of the file. What a
key means is told by the model, too, unless the page has more to say: what stands in its table is
kept, and so is what the page says of a default that depends on other things. ``--check`` writes
nothing and exits with 1 when the page is not what the models say.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/config.md"
#: one table stands between such a line and the next ``END``
BEGIN: Final = re.compile(r"^<!-- keys of ([a-z]+) -->\n", re.MULTILINE)
END: Final = "<!-- end of keys -->"
_HEAD: Final = "| key | type | default | meaning |\n|---|---|---|---|\n"
_ROW: Final = re.compile(r"^\| `([^`|]+)` \| (.*) \|$", re.MULTILINE)
_CELLS: Final = re.compile(r"(?<!\\) \| ")
#: from so many values on, a list that has all of them is told in a word
_MANY: Final = 8
_PATTERNS: Final = (
    ("[smhdw]$", "duration"),
    ("new|all", "`new`, `all` or a date"),
    ("[Bb]$", "size"),
    ("[0-9]{2}$", "date"),
    (":[0-9]{1,5}$", "`HOST:PORT`"),
    ("^https?:", "URL"),
    ("socks5h?", "URL"),
    ("sqlite", "URL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a section, with dots between the levels."""

    name: str
    kind: str
    default: str
    meaning: str


def sections() -> Mapping[str, tuple[Key, ...]]:
    """Return the keys of each section of the file, as the models have them."""
    from mailbridge.config import schema

    document = schema()
    defs = document["$defs"]
    found = {}
    for name, node in document["properties"].items():
        inner = _inner(node, defs) or node["additionalProperties"]
        section = inner if "properties" in inner else defs[inner["$ref"].rpartition("/")[2]]
        found[name] = tuple(_keys(section, defs, "", ""))
    return found


def _keys(
    section: Mapping[str, Any], defs: Mapping[str, Any], above: str, optional: str
) -> Iterator[Key]:
    """Yield the keys of a section and those below; ``optional`` is the nearest that may lack."""
    for name, node in section["properties"].items():
        full = f"{above}{name}"
        inner = _inner(node, defs)
        required = name in section.get("required", ())
        if inner is not None:
            yield from _keys(inner, defs, f"{full}.", optional if required else full)
            continue
        if required:
            default = f"required with `{optional}`" if optional else "required"
        else:
            default = _default(node.get("default"))
        meaning = node.get("description", "")
        yield Key(name=full, kind=_kind(node, defs), default=default, meaning=meaning)


def _inner(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the section that a key holds; ``None`` for a value."""
    for one in (node, *node.get("anyOf", ())):
        if "$ref" in one:
            found: Mapping[str, Any] = defs[one["$ref"].rpartition("/")[2]]
            return found
    return None


def _default(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, list) and len(value) > _MANY:
        return "all"
    if isinstance(value, str):
        return f"`{value}`"
    text = json.dumps(value, ensure_ascii=False).replace('"', "")
    return f"`{text}`"


def _kind(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Return what may be written, in a word or two."""
    if "anyOf" in node:
        kinds = [_kind(one, defs) for one in node["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in node:
        # What YAML reads `off` as is in the schema for other programs' sake.
        return ", ".join(f"`{one}`" for one in node["enum"] if one is not False)
    if "const" in node:
        return _default(node["const"])
    if node.get("type") == "array":
        return f"list of {_kind(node.get('items', {}), defs)}"
    if node.get("type") == "object":
        return _map(node, defs)
    return _scalar(node)


def _scalar(node: Mapping[str, Any]) -> str:
    if node.get("type") == "boolean":
        return "`true`, `false`"
    if node.get("type") == "integer":
        return _range(node)
    pattern = str(node.get("pattern", ""))
    return next((word for part, word in _PATTERNS if part in pattern), "text")


def _range(node: Mapping[str, Any]) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    return "number" if least is None or most is None else f"{least} to {most}"


def _map(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    keys = node.get("properties", {})
    if "credential" in keys:
        return "secret"
    if keys:
        return "`{" + ", ".join(f"{name}: …" for name in keys) + "}`"
    below = node.get("additionalProperties")
    return f"map to {_kind(below, defs)}" if isinstance(below, dict) and below else "map"


def page(text: str) -> str:
    """Return the page with its tables as the models say."""
    found = sections()
    parts = BEGIN.split(text)
    told = parts[1::2]
    if lacking := set(found) - set(told):
        raise SystemExit(f"{PAGE.name} has no table for {', '.join(sorted(lacking))}")
    made = parts[0]
    for name, rest in zip(told, parts[2::2], strict=True):
        table, end, after = rest.partition(END)
        words = {row[0]: _CELLS.split(row[1]) for row in _ROW.findall(table)}
        rows = "".join(_row(key, words.get(key.name, ())) for key in found[name])
        made += f"<!-- keys of {name} -->\n{_HEAD}{rows}{end}{after}"
    return made


def tables(text: str) -> Mapping[str, tuple[Key, ...]]:
    """Return the keys of each section as the page has them, in the page's words."""
    found = {}
    parts = BEGIN.split(text)
    for name, rest in zip(parts[1::2], parts[2::2], strict=True):
        rows = _ROW.findall(rest.partition(END)[0])
        cells = [(row[0], *_CELLS.split(row[1])) for row in rows]
        found[name] = tuple(
            Key(name=key, kind=kind, default=default, meaning=meaning)
            for key, kind, default, meaning in cells
        )
    return found


def _row(key: Key, words: Sequence[str]) -> str:
    """Return the row of a key; ``words`` are the cells of type, default and meaning as they are.

    What is taken when nothing is written often depends on other things. Where the model has no
    default, the page may say what.
    """
    default, meaning = (*words, "", "", "")[1:3]
    if key.default != "none" or default.startswith("required"):
        default = ""
    cells = (key.kind, default or key.default, meaning or key.meaning)
    shown = [re.sub(r"(?<!\\)\|", "\\|", cell) for cell in cells]
    return f"| `{key.name}` | {' | '.join(shown)} |\n"


def main() -> int:
    """Write or check."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if text == wanted:
        return 0
    if sys.argv[1:] == ["--check"]:
        print(f"docs/{PAGE.name} is not what the models say: make docs")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"docs/{PAGE.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
