"""A readable text from html, for receivers that want only text. Linear, and no renderer."""

from __future__ import annotations

import html
from typing import Final

_BREAKS: Final = frozenset(
    {"br", "p", "div", "tr", "li", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6"}
    | {"table", "blockquote", "pre", "hr", "section", "article"}
)
_CELLS: Final = frozenset({"/td", "/th"})
_HIDDEN: Final = frozenset({"script", "style", "title", "template"})
_COMMENT_END: Final = "-->"
_NAME_CHARACTERS: Final = 12
#: tags that are looked at; real pages of half a megabyte have a tenth of that
_TAGS: Final = 100_000


def text_of(markup: str) -> tuple[str, bool]:
    """Return what ``markup`` says, one line per block, and whether that is all of it.

    Tags, scripts and comments are dropped, in one pass and up to a number of tags, so that a
    page of nothing but brackets costs no more than any other.
    """
    # Splitting and joining finds the line ends once; replacing counts them first.
    flat = " ".join(markup.split("\r\n")) if "\r" in markup else markup
    if "\n" in flat or "\r" in flat:
        flat = flat.replace("\n", " ").replace("\r", " ")
    at = flat.find("<")
    out = [flat[:at] if at >= 0 else flat]
    # What ends the part that is not shown: the end of a comment, or the name of a closing tag.
    until = ""
    for _ in range(_TAGS):
        if at < 0:
            break
        after = flat.find("<", at + 1)
        piece = flat[at + 1 : after if after >= 0 else len(flat)]
        at = after
        if until == _COMMENT_END:
            shown, until = _behind_comment(piece)
        elif until:
            tag, _, text = piece.partition(">")
            shown, until = (text, "") if _name(tag) == until else ("", until)
        else:
            shown, until = _shown(piece)
        out.append(shown)
    return _tidied(html.unescape("".join(out))), at < 0


def _shown(piece: str) -> tuple[str, str]:
    """Return what is seen of ``<piece``, and until when nothing more is seen."""
    if piece.startswith("!--"):
        return _behind_comment(piece)
    tag, closed, text = piece.partition(">")
    name = _name(tag)
    if not closed or not name or not (name[0].isalpha() or name[0] in "/!?"):
        # "a < b" is text.
        return "<" + piece, ""
    if name in _HIDDEN:
        return "", "/" + name
    if name.removeprefix("/") in _BREAKS:
        return "\n" + text, ""
    return (" " + text if name in _CELLS else text), ""


def _behind_comment(piece: str) -> tuple[str, str]:
    _, ended, text = piece.partition(_COMMENT_END)
    return (text, "") if ended else ("", _COMMENT_END)


def _name(tag: str) -> str:
    words = tag[:_NAME_CHARACTERS].split(None, 1)
    return words[0].lower().rstrip("/") if words and not tag[:1].isspace() else ""


def _tidied(text: str) -> str:
    lines = [
        " ".join(line.split()) if "  " in line or "\t" in line or "\xa0" in line else line.strip()
        for line in text.split("\n")
    ]
    if len(lines) == 1:
        return lines[0]
    # One blank line at most, and none at the ends; the lines themselves are stripped.
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    if kept and not kept[-1]:
        kept.pop()
    return "\n".join(kept)
