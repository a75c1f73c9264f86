"""A readable text from html, for receivers that want only text. Linear, and no renderer."""

from __future__ import annotations

import html
from typing import Final

_BREAKS: Final = frozenset(
    "br p div tr li ul ol h1 h2 h3 h4 h5 h6 table blockquote pre hr section article".split()
)
_CELLS: Final = frozenset({"/td", "/th"})
_HIDDEN: Final = frozenset({"script", "style", "title", "template"})
_NAME_CHARACTERS: Final = 12


def text_of(markup: str) -> str:
    """Return what ``markup`` says, one line per block; tags, scripts and comments are dropped.

    One pass over the tags, so that a page of nothing but brackets costs no more than any other.
    """
    first, *rest = markup.replace("\r", " ").replace("\n", " ").split("<")
    out = [first]
    hidden = ""
    for piece in rest:
        if hidden == "-->":
            _, closed, text = piece.partition(hidden)
            if closed:
                out.append(text)
                hidden = ""
            continue
        tag, closed, text = piece.partition(">")
        name = tag[:_NAME_CHARACTERS].partition(" ")[0].rstrip("/").lower() or tag[:1]
        if hidden:
            if name != hidden:
                continue
            hidden = ""
        elif name.startswith("!--"):
            hidden = "" if "-->" in piece else "-->"
            text = piece.partition("-->")[2]
        elif not closed or not (name[0].isalpha() or name[0] in "/!?"):
            # "a < b" is text.
            text = "<" + piece
        elif name in _HIDDEN:
            hidden = "/" + name
            continue
        elif name.removeprefix("/") in _BREAKS:
            out.append("\n")
        elif name in _CELLS:
            out.append(" ")
        out.append(text)
    return _tidied(html.unescape("".join(out)))


def _tidied(text: str) -> str:
    lines = [
        " ".join(line.split()) if "  " in line or "\t" in line or "\xa0" in line else line.strip()
        for line in text.split("\n")
    ]
    text = "\n".join(lines).strip()
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text
