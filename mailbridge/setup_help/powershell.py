"""How a text stands in PowerShell, so that it stays a text. Pure."""

from __future__ import annotations

import re
from typing import Final

#: PowerShell takes each of these for a single quote (about_Quoting_Rules; its tokenizer says
#: ``IsSingleQuote``), so each has to be doubled
_QUOTES: Final = re.compile("(['\u2018\u2019\u201a\u201b])")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def quoted(text: str) -> str:
    """Return a literal: nothing in it is expanded, and nothing in it ends it.

    Raises ``ValueError`` for control characters: no address and no id has one.
    """
    if _CONTROL.search(text):
        raise ValueError("a control character cannot stand in a script")
    return "'" + _QUOTES.sub(r"\1\1", text) + "'"


def comment(text: str) -> str:
    """Return a comment of one line, whatever is in the text."""
    return "# " + _CONTROL.sub(" ", text)
