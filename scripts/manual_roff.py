"""The man page ``mailbridge.1``, in the macros of man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from scripts.manual_pages import Command, Term
from scripts.manual_words import ENVIRONMENT, EXIT, FILES, INTRO, SEE, SIGNALS, TITLE


def page(found: Sequence[Command]) -> str:
    """Return the whole page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Sequence[Command]) -> Iterator[str]:
    program, *rest = found
    yield '.\\" made by `make docs` from the help texts of the commands; do not edit'
    yield '.TH MAILBRIDGE 1 "" mailbridge "mailbridge manual"'
    yield ".SH NAME"
    yield f"mailbridge \\- {text(TITLE)}"
    yield ".SH SYNOPSIS"
    yield f".B mailbridge\n{text(program.usage)}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(INTRO)
    yield ".SH OPTIONS"
    yield "They stand before the command."
    yield from _terms(program.terms)
    yield ".SH COMMANDS"
    for command in rest:
        if not command.group:
            yield from _command(command)
    for title, terms in (
        ("EXIT STATUS", EXIT),
        ("SIGNALS", SIGNALS),
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
    ):
        yield f".SH {title}"
        yield from _terms(Term(written=name, help=words) for name, words in terms)
    yield ".SH SEE ALSO"
    yield ",\n".join(f".BR {name.replace('(', ' (')}" for name in SEE).replace(",\n", " ,\n")


def _command(command: Command) -> Iterator[str]:
    yield f'.SS "{text(f"{command.name} {command.usage}")}"'
    yield from _paragraphs(command.paragraphs)
    yield from _terms(command.terms)


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for number, paragraph in enumerate(texts):
        if number:
            yield ".PP"
        yield text(paragraph)


def _terms(terms: Iterable[Term]) -> Iterator[str]:
    for term in terms:
        yield ".TP"
        yield f"\\fB{text(term.written)}\\fR"
        # A term without any words still needs a line of its own.
        yield text(term.help) or "\\&"


def text(words: str) -> str:
    """Return a text with nothing in it that roff would obey; `code` becomes bold."""
    made = words.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    made = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", made)
    made = re.sub("[^\x00-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", made)
    return f"\\&{made}" if made.startswith((".", "'")) else made
