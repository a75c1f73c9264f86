"""What a route reads out of a mail: regexes, key and value lines, tables, XML, PDF. Pure.

Compiled once for each configuration. Every dimension is bounded; a field that is not found is
``None``, and nothing that a mail contains raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from mailbridge.parse.parsed import ParsedMessage
from mailbridge.route.base import (
    Extractor,
    FieldSpec,
    HtmlTableField,
    KeyValuesField,
    RegexField,
    RouteFault,
    XPathField,
)
from mailbridge.route.key_values import VALUE_CHARACTERS, key_values
from mailbridge.route.markup import XPath, label_of, one_line, pairs_of_tables, xml_tree
from mailbridge.route.places import Reading
from mailbridge.route.regex import compile_regex

#: fields of one route, and characters of a separator
FIELDS: Final = 100
SEPARATOR_CHARACTERS: Final = 5
#: bytes of JSON of all fields of one mail; beyond, the largest are left out
FIELDS_BYTES: Final = 64 * 1024

_Find = Callable[[Reading], Any]


def compile_extract(fields: Mapping[str, FieldSpec]) -> Extractor:
    """Return the extractor of a route; raises ``RouteFault`` with the place below ``extract``."""
    if len(fields) > FIELDS:
        raise RouteFault(f"more than {FIELDS} fields", "extract fewer.")
    finds: dict[str, _Find] = {}
    for name, spec in fields.items():
        try:
            finds[name] = _compile(spec)
        except RouteFault as fault:
            raise fault.below(name) from None
    return _Fields(finds)


class _Fields:
    """The compiled fields of one route."""

    def __init__(self, finds: Mapping[str, _Find]) -> None:
        self._finds = finds

    def extract(self, message: ParsedMessage) -> Mapping[str, Any]:
        """See ``Extractor``."""
        reading = Reading(message)
        found = {name: find(reading) for name, find in self._finds.items()}
        sizes = {name: len(orjson.dumps(value)) for name, value in found.items()}
        while sum(sizes.values()) > FIELDS_BYTES:
            largest = max(sizes, key=sizes.__getitem__)
            found[largest], sizes[largest] = None, 4
        return found


def _compile(spec: FieldSpec) -> _Find:
    match spec:
        case RegexField():
            return _regex(spec)
        case KeyValuesField():
            return _key_values(spec)
        case HtmlTableField():
            return _html_table(spec)
        case XPathField():
            return _xpath(spec)


def _regex(spec: RegexField) -> _Find:
    try:
        regex = compile_regex(spec.regex)
    except RouteFault as fault:
        raise fault.below("regex") from None

    def find(reading: Reading) -> str | None:
        text = reading.encoded(spec.place, spec.attachment)
        found = None if text is None else regex.search(text)
        return None if found is None else found.value.strip()[:VALUE_CHARACTERS] or None

    return find


def _key_values(spec: KeyValuesField) -> _Find:
    if not spec.separator.strip() or len(spec.separator) > SEPARATOR_CHARACTERS:
        raise RouteFault(
            f"a separator has 1 to {SEPARATOR_CHARACTERS} characters that are no blanks",
            "write `key_values: ':'`.",
            at=("key_values",),
        )

    def find(reading: Reading) -> dict[str, str | list[str]] | None:
        text = reading.text("text", spec.attachment)
        if text is None:
            return None
        return (
            reading.once(
                f"key_values {spec.separator}",
                spec.attachment,
                lambda: key_values(text, spec.separator),
            )
            or None
        )

    return find


def _html_table(spec: HtmlTableField) -> _Find:
    wanted = label_of(spec.label)

    def find(reading: Reading) -> str | dict[str, str] | None:
        html = reading.text("html", spec.attachment)
        if html is None:
            return None
        pairs = reading.once("tables", spec.attachment, lambda: pairs_of_tables(html))
        if wanted:
            values = (value for label, value in pairs if label_of(label) == wanted)
            # A label may head a section before it names a value.
            return next((value[:VALUE_CHARACTERS] for value in values if value), None)
        found: dict[str, str] = {}
        for label, value in pairs:
            if value or label not in found:
                found[label] = found.get(label) or value[:VALUE_CHARACTERS]
        return found or None

    return find


def _xpath(spec: XPathField) -> _Find:
    try:
        xpath = XPath(spec.xpath)
    except RouteFault as fault:
        raise fault.below("xpath") from None

    def find(reading: Reading) -> Any:
        places = ("text",) if spec.attachment else ("text", "html")
        for place in places:
            text = reading.text(place, spec.attachment)
            if text is None:
                continue
            tree = reading.once(f"xml {place}", spec.attachment, functools.partial(xml_tree, text))
            found = None if tree is None else xpath.find(tree)
            if found is not None:
                return _bounded(found)
        return None

    return find


def _bounded(found: Any) -> Any:
    if isinstance(found, str):
        return one_line(found)[:VALUE_CHARACTERS]
    if isinstance(found, list):
        return [item[:VALUE_CHARACTERS] for item in found]
    return found
