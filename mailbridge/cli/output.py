"""What commands print: tables on a terminal, plain text in a pipe, JSON when asked for.

Results go to standard output, everything else to standard error. Nothing that is printed makes
a terminal do anything: mails, servers and receivers write into these tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from mailbridge.errors import ConfigError, MailbridgeError
from mailbridge.log import escape, redact


def emit_json(document: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on standard output; times become ISO 8601 in UTC."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=indent, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def cell(value: object) -> str:
    """Return a value as a table shows it; nothing is ``-``, times are UTC to the second."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return escape(str(value))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    empty: str = "nothing",
    styles: Mapping[str, str] | None = None,
) -> None:
    """Print rows: a rich table on a terminal, aligned plain text otherwise.

    ``styles`` gives a rich style for cells with exactly that text (``{"failed": "red"}``); on a
    terminal only. ``empty`` is printed instead of a table without rows.
    """
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        typer.echo(f"{title}: {empty}" if title else empty)
    elif sys.stdout.isatty():
        _rich(columns, cells, title, styles or {})
    else:
        _aligned(columns, cells, title)


def _aligned(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    if title:
        typer.echo(title)
    grid = [[name.upper() for name in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    for row in grid:
        typer.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _rich(
    columns: Sequence[str], cells: Sequence[Sequence[str]], title: str, styles: Mapping[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: square brackets in a subject are no markup.
    grid = Table(title=title or None, title_justify="left", header_style="bold", box=None)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in cells:
        grid.add_row(*(Text(value, style=styles.get(value, "")) for value in row))
    Console(highlight=False).print(grid)


def say(text: str = "") -> None:
    """Print a line of a result on standard output."""
    typer.echo(escape(text))


def tell(text: str) -> None:
    """Print a line about the work on standard error."""
    typer.echo(escape(text), err=True)


def complain(error: MailbridgeError) -> int:
    """Print what is wrong on standard error, one line each, and return the exit code."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            tell(redact(str(problem)))
        return 78
    tell(redact(f"mailbridge: {error}" + (f" Fix: {error.fix}" if error.fix else "")))
    return 1
