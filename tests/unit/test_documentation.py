"""What the documentation says exists: links, commands, events, metrics, tests."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import pytest
import typer
from typer.core import TyperGroup

from mailbridge import config
from mailbridge.cli.main import app
from tests.pages import DOCS, ROOT, Page, pages, read, words

PAGES: Final = pages()
SCHEMAS: Final = ROOT / "mailbridge" / "schemas"
#: words between backticks that begin like an event and are something else
NO_EVENTS: Final = re.compile(
    r"\.(md|py|json|yaml|service|d|key|token|eml|pdf|xml|pem|db|log|conf|svg|timer|socket)$"
)


# --- links


@cache
def anchors(file: Path) -> frozenset[str]:
    """Return what can stand behind ``#`` in a link to a page."""
    return frozenset(read(file).anchors())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Page) -> None:
    """A link to a file finds it, and a link to a heading finds the heading."""
    dead = []
    for line, target in page.links():
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        if not file.exists():
            dead.append(f"{page.name}:{line}: {target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            dead.append(f"{page.name}:{line}: {target}: no such heading")
    assert dead == []


def test_the_index_names_every_page() -> None:
    """Whoever opens docs/README.md finds everything that there is to read."""
    index = read(DOCS / "README.md")
    named = {(DOCS / target.partition("#")[0]).resolve() for _, target in index.links()}
    there = {page.path for page in PAGES if DOCS in page.path.parents} - {index.path}
    assert sorted(str(path.relative_to(DOCS)) for path in there - named) == []


# --- commands


@cache
def tree() -> TyperGroup:
    """Return the commands that there are."""
    return cast("TyperGroup", typer.main.get_command(app))


def typed(page: Page) -> Iterator[tuple[str, str]]:
    """Give the place and the text of every ``mailbridge …`` that a page shows."""
    for block in page.blocks:
        if block.language in {"sh", "console", "bash", "shell"}:
            for command in block.commands():
                yield block.place, command
    for line, span in page.spans():
        if re.match(r"mailbridge [a-z-]", span):
            yield f"{page.name}:{line}", span


def calls(command: str) -> Iterator[list[str]]:
    """Give the words behind each ``mailbridge`` that a shell would start."""
    for part in re.split(r"\||;|&&|\$\(|`", command.splitlines()[0]):
        split = words(re.sub(r"[\[\]()]", " ", part))
        while split and (split[0] in {"sudo", "env", "exec", "-u"} or "=" in split[0]):
            split = split[2:] if split[0] == "-u" else split[1:]
        if split and re.fullmatch(r"(\S*/)?mailbridge", split[0]):
            yield split[1:]


def options_of(command: Any) -> dict[str, Any]:
    """Return the options of a command by each of their names."""
    return {name: one for one in command.params for name in (*one.opts, *one.secondary_opts)}


def fault(arguments: list[str]) -> str | None:
    """Say what is wrong with a command line; ``None`` when such a one exists."""
    command: Any = tree()
    path, options = "mailbridge", options_of(command)
    rest = iter(arguments)
    for word in rest:
        if word in {">", "2>", "<", ">>", "2>&1", "&"} or re.match(r"\d?[<>]", word):
            return None
        name, equals, _ = word.partition("=")
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+|-+…?", word):
            if command.name == "sendmail":  # which takes whatever Postfix's takes
                continue
            if name not in options and name not in {"-h", "--help"}:
                return f"{path} has no option {name}"
            taken = options.get(name)
            if taken is not None and not taken.is_flag and not equals:
                next(rest, None)
        elif isinstance(command, TyperGroup):
            found = command.commands.get(word)
            if found is None:
                return None if re.match(r"[A-Z…]", word) else f"{path} has no command {word}"
            command, path = found, f"{path} {word}"
            options |= options_of(command)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_exists(page: Page) -> None:
    """Each ``mailbridge`` that is shown names a command and options of this version."""
    faults = [
        f"{place}: {said}: {command.splitlines()[0]}"
        for place, command in typed(page)
        for arguments in calls(command)
        if (said := fault(arguments))
    ]
    assert faults == []


def test_a_wrong_command_line_is_seen() -> None:
    """The check before this one tells a slip from a command."""
    assert fault(["status", "--josn"]) == "mailbridge status has no option --josn"
    assert fault(["que", "list"]) == "mailbridge has no command que"
    assert fault(["queue", "lst"]) == "mailbridge queue has no command lst"
    assert fault(["--config", "lst", "queue", "list", "--state", "held"]) is None
    assert [*calls("sudo -u x mailbridge secret key | sudo tee k")] == [["secret", "key"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Page) -> None:
    """``make …`` in the documentation names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = [span for _, span in page.spans()] + [line for _, line in typed(page)]
    named = {found[1] for line in shown if (found := re.match(r"make ([a-z-]+)", line))}
    assert sorted(named - targets) == []


# --- events and metrics


@cache
def literals() -> frozenset[str]:
    """Return every text that stands in the package's own code."""
    found = set()
    for file in (ROOT / "mailbridge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


@cache
def keys() -> frozenset[str]:
    """Return the keys of the configuration and of events: what stands behind a dot as well."""
    schemas = [config.schema()]
    schemas += [json.loads(file.read_text("utf-8")) for file in SCHEMAS.glob("*.json")]
    return frozenset(re.findall(r'"(\w+)": \{', json.dumps(schemas)))


def exists(name: str) -> bool:
    """Tell whether the code knows an event, or the second part of a code put together of two."""
    second = name.partition(".")[2]
    return name in literals() or bool({second, f".{second}"} & literals())


@cache
def first_words() -> frozenset[str]:
    """Return what the names of events and codes begin with."""
    kinds = {file.stem for file in SCHEMAS.glob("*.json")}
    return frozenset(kind.partition(".")[0] for kind in kinds) | {
        *("imap", "pop3", "smtp", "relay", "oauth", "mailbox", "probe"),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_event_and_code_exists(page: Page) -> None:
    """What is written like an event, a log line or an error code is one of this version."""
    unknown = []
    for line, span in page.spans():
        if not re.fullmatch(r"[a-z0-9]+\.[a-z_0-9]+", span) or NO_EVENTS.search(span):
            continue
        first, _, second = span.partition(".")
        if page.name == "docs/formats/template.md" and first == "mail":
            continue  # what templates see; tests/unit/test_formats_template.py has an eye on it
        if first in first_words() and second not in keys() and not exists(span):
            unknown.append(f"{page.name}:{line}: {span}")
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_exists(page: Page) -> None:
    """A rule that is copied from the documentation is about a metric that is there."""
    text = page.prose + "".join(block.text for block in page.blocks)
    unknown = set()
    for name in re.findall(r"\bmailbridge_([a-z_]+[a-z])\b", text):
        bare = re.sub(r"_(total|bucket|sum|count|created)$", "", name)
        there = {name, bare, f"mailbridge_{name}", f"mailbridge_{bare}"} & literals()
        if not there and not name.startswith("process_"):
            unknown.add(name)
    assert sorted(unknown) == []


# --- proofs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Page) -> None:
    """A proof that a page refers to can be run."""
    missing = []
    for line, span in page.spans():
        if not (found := re.fullmatch(r"(tests/[\w/]+(?:\.py)?)(?:::(test_\w+))?", span)):
            continue
        file, name = ROOT / found[1], found[2]
        if not file.exists() or (name and f"def {name}(" not in file.read_text("utf-8")):
            missing.append(f"{page.name}:{line}: {span}")
    assert missing == []


# --- two languages


def what_is_done(page: Path) -> list[str]:
    """Return everything of a page that is typed or copied, without its comments."""
    done = []
    for block in read(page).blocks:
        lines = [re.sub(r"\s+#.*", "", line).rstrip() for line in block.text.splitlines()]
        done += [" ".join(block.info), *(line for line in lines if line)]
    return done


@pytest.mark.parametrize(
    ("english", "german"), [("docs/quick-start.md", "docs/quick-start.de.md")], ids=str
)
def test_both_languages_say_to_do_the_same(english: str, german: str) -> None:
    """The German quick start has the same commands and the same file, in the same order."""
    assert what_is_done(ROOT / german) == what_is_done(ROOT / english)
    assert len(what_is_done(ROOT / english)) > 50


def figures(text: str, *, german: bool) -> set[str]:
    """Return the numbers of a text, as English writes them."""
    found = set(re.findall(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])", text))
    return {one.translate(str.maketrans(".,", ",.")) for one in found} if german else found


def test_the_german_readme_has_no_figures_of_its_own() -> None:
    """What was measured anew changes both pages, or this test says where they differ."""
    english = figures((ROOT / "README.md").read_text("utf-8"), german=False)
    german = (ROOT / "README.de.md").read_text("utf-8").partition("## Gemessen")[2]
    measured = german.partition("\n## ")[0]
    assert sorted(figures(measured, german=True) - english) == []
    assert len(figures(measured, german=True)) > 25
