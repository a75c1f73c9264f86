"""What is read out of HTML tables and XML: lxml, without network, entities or huge trees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from mailbridge.route.base import RouteFault

if TYPE_CHECKING:
    from lxml import etree

#: characters of a document that are read, and elements that a tree may have
CHARACTERS: Final = 512 * 1024
ELEMENTS: Final = 20_000
#: characters of an XPath, and items of what it finds
XPATH_CHARACTERS: Final = 500
ITEMS: Final = 100

_SPACE: Final = re.compile(r"\s+")
_DECLARATION: Final = re.compile(r"<\?xml[^>]{0,200}\?>")
_START: Final = re.compile(r"<[A-Za-z_]")


def one_line(text: str) -> str:
    """Return ``text`` with every run of white space, also no-break ones, as one blank."""
    return _SPACE.sub(" ", text).strip()


def label_of(text: str) -> str:
    """Return a label as it is compared: small letters, without its colon."""
    return one_line(text).rstrip(": ").casefold()


def pairs_of_tables(html: str) -> list[tuple[str, str]]:
    """Return the cells of all tables as (label, value): the 1st and 2nd of a row, 3rd and 4th.

    A cell that holds a table of its own is a frame, not a value.
    """
    root = _html_tree(html)
    if root is None:
        return []
    found: list[tuple[str, str]] = []
    for row in root.iter("tr"):
        cells = [cell for cell in row if cell.tag in {"td", "th"}]
        if any(cell.find(".//table") is not None for cell in cells):
            continue
        texts = [one_line("".join(_texts(cell))) for cell in cells]
        for at in range(0, len(texts) - 1, 2):
            label = texts[at].rstrip(": ")
            if label:
                found.append((label, texts[at + 1]))
    return found


def _texts(cell: etree._Element) -> Iterator[str]:
    """Yield the texts of a cell; what begins a new line for the eye is white space here."""
    for part in cell.iter():
        if part.tag in {"br", "p", "div", "li"}:
            yield " "
        if isinstance(part.tag, str) and part.tag not in {"script", "style"}:
            yield part.text or ""
        if part is not cell:
            yield part.tail or ""


def _html_tree(html: str) -> etree._Element | None:
    from lxml import etree

    parser = etree.HTMLParser(
        no_network=True, huge_tree=False, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    return _tree(html[:CHARACTERS], parser)


def _tree(text: str, parser: etree._FeedParser) -> etree._Element | None:
    from lxml import etree

    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except (etree.LxmlError, ValueError):
        return None
    if root is None or sum(1 for _ in _first(root, ELEMENTS + 1)) > ELEMENTS:
        return None
    return root


def _first(root: etree._Element, count: int) -> Iterator[etree._Element]:
    for number, element in enumerate(root.iter()):
        if number >= count:
            return
        yield element


class XPath:
    """A compiled XPath 1.0. Names without a prefix fit whatever namespace the document has."""

    def __init__(self, expression: str) -> None:
        """Compile it; raises ``RouteFault``."""
        from lxml import etree

        if not expression.strip() or len(expression) > XPATH_CHARACTERS:
            raise RouteFault(
                f"an XPath has 1 to {XPATH_CHARACTERS} characters",
                "write for example //Einsatznummer/text().",
            )
        try:
            self._find = etree.XPath(expression, smart_strings=False)
            self._find(etree.Element("probe"))
        except (etree.XPathError, ValueError, UnicodeError) as exc:
            said = one_line(str(exc).split("\n", 1)[0])[:80]
            raise RouteFault(
                f"this is not an XPath 1.0 ({said})",
                "write for example //Einsatznummer/text(), without prefixes of namespaces.",
            ) from None

    def find(self, tree: etree._Element) -> Any:
        """Return a text, a number, a truth, a list of texts, or ``None`` when nothing is there."""
        from lxml import etree

        try:
            found = self._find(tree)
        except etree.XPathError:
            return None
        if not isinstance(found, list):
            return found if isinstance(found, bool) else _number_or_text(found)
        texts = [text for item in found[:ITEMS] if (text := _text_of(item))]
        if not texts:
            return None
        return texts[0] if len(texts) == 1 else texts


def _number_or_text(found: object) -> float | str | None:
    if isinstance(found, float):
        return found if found == found and abs(found) != float("inf") else None  # noqa: PLR0124 - NaN
    return one_line(str(found)) or None


def _text_of(item: Any) -> str:
    if isinstance(item, str):
        return one_line(item)
    if isinstance(item, tuple):  # a namespace node
        return str(item[1])
    return one_line("".join(item.itertext()))


def xml_tree(text: str) -> etree._Element | None:
    """Return the tree of the XML in ``text``, also with words around it, without namespaces."""
    from lxml import etree

    text = _DECLARATION.sub("", text[:CHARACTERS], count=1)
    start = _START.search(text)
    if start is None:
        return None
    text = text[start.start() : text.rfind(">") + 1]
    settings: dict[str, Any] = {
        "resolve_entities": False,
        "no_network": True,
        "huge_tree": False,
        "load_dtd": False,
        "remove_comments": True,
        "remove_pis": True,
    }
    root = _tree(text, etree.XMLParser(**settings))
    if root is None:
        root = _tree(text, etree.XMLParser(**settings, recover=True))
    if root is not None:
        for element in root.iter():
            if isinstance(element.tag, str) and element.tag.startswith("{"):
                element.tag = element.tag.rpartition("}")[2]
    return root
