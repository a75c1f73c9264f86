"""The reference of the command line, ``docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from scripts.manual_pages import Command, Term
from scripts.manual_words import ENVIRONMENT, EXIT, INTRO, SIGNALS

_COMPLETION = """\
## Completion

    mailbridge --install-completion

sets up the shell that you are in (bash, zsh or fish); `--show-completion` prints the script
instead. The wheel brings the scripts too, below `share/` of where it is installed
(`bash-completion/completions`, `zsh/site-functions`, `fish/vendor_completions.d`), where shells
look by themselves when that is `/usr` or `/usr/local`. Names of mailboxes, webhooks, routes and
apps are completed from the configuration file; no secret is read for it.

The man page is in `share/man/man1`: `man mailbridge`."""


def page(found: Sequence[Command]) -> str:
    """Return the whole page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Sequence[Command]) -> Iterator[str]:
    program, *rest = found
    yield "<!-- made by `make docs` from the help texts of the commands; do not edit -->"
    yield "# The command line\n"
    yield f"    mailbridge {program.usage}\n"
    for paragraph in INTRO:
        yield f"{paragraph}\n"
    yield from _table("option, before the command", program.terms)
    yield from _table("exit code", (Term(written=name, help=text) for name, text in EXIT))
    yield from _table("signal", (Term(written=name, help=text) for name, text in SIGNALS))
    yield from _table("variable", (Term(written=name, help=text) for name, text in ENVIRONMENT))
    yield _COMPLETION + "\n"
    yield "## Commands\n"
    told = [command for command in rest if not command.group]
    yield "| command | what it does |\n|---|---|"
    for command in told:
        anchor = command.name.replace(" ", "-")
        yield f"| [`{command.name}`](#{anchor}) | {_cell(command.summary)} |"
    for command in told:
        yield f"\n### {command.name}\n"
        yield f"    mailbridge {command.name} {command.usage}\n"
        yield "\n\n".join(command.paragraphs)
        if command.terms:
            yield ""
            yield from _table("argument or option", command.terms, last="")


def _table(title: str, terms: Iterable[Term], last: str = "\n") -> Iterator[str]:
    yield f"| {title} | meaning |\n|---|---|"
    rows = [f"| `{_cell(term.written)}` | {_cell(term.help)} |" for term in terms]
    yield "\n".join(rows) + last


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
