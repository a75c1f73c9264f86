"""What ``--help`` says about each command, as plain values for man page and reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An argument or an option: how it is written, and its help text in one line."""

    written: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, or a group of them; ``path`` is empty for the program itself."""

    path: tuple[str, ...]
    usage: str
    paragraphs: tuple[str, ...]
    terms: tuple[Term, ...]
    group: bool

    @property
    def name(self) -> str:
        """As it is typed, without the program's name."""
        return " ".join(self.path)

    @property
    def summary(self) -> str:
        """The first sentence, as the list of commands shows it."""
        return self.paragraphs[0]


def commands() -> Iterator[Command]:
    """Yield the program itself and then every command that ``--help`` shows, groups first."""
    from mailbridge.cli.main import app

    yield from _walk(typer.main.get_command(app), None, ())


def _walk(command: Any, parent: Any, path: tuple[str, ...]) -> Iterator[Command]:
    name = path[-1] if path else "mailbridge"
    ctx = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    yield Command(
        path=path,
        usage=_usage(command.collect_usage_pieces(ctx)),
        paragraphs=_paragraphs(command.help or ""),
        terms=tuple(_terms(command, ctx, whole=not path)),
        group=hasattr(command, "commands"),
    )
    below = getattr(command, "commands", {})
    for child in sorted(below):
        if not below[child].hidden:
            yield from _walk(below[child], ctx, (*path, child))


def _usage(pieces: list[str]) -> str:
    """Return the pieces of a usage line; what may come once more has one ellipsis."""
    text = re.sub(r"\{([^}]*)\}", r"\1", " ".join(pieces))
    return text.replace("…]...", "…]").replace("…...", "…")


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _terms(command: Any, ctx: Any, *, whole: bool) -> Iterator[Term]:
    for param in command.get_params(ctx):
        record = None if param.hidden else param.get_help_record(ctx)
        # Every command has --help; it is told once.
        if record is not None and (whole or param.name != "help"):
            yield Term(written=_written(record[0]), help=" ".join(record[1].split()))


def _written(text: str) -> str:
    """Return an option as a manual writes it: a type that says no more than a name goes away."""
    text = re.sub(r"(\S) <(?:path|str|list\[str\])>$", r"\1", text)
    return re.sub(r"<(?:int range|integer range|int)>", "NUMBER", text)
