"""What routes extracted, made fit to be kept: JSON of a bounded size, whatever a mail says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

#: bytes of all that one route extracted from one mail, as JSON; more is cut
LARGEST: Final = 64 * 1024
#: what is left of it then: characters of a text, entries of a list or an object, and how deep
_TEXT: Final = 4096
_ENTRIES: Final = 200
_DEPTH: Final = 6


def bounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain JSON; what is none becomes its text, and what is too large is cut.

    Never raises: a mail is not refused for what was found in it. In texts, what is no character
    (a lone surrogate) becomes U+FFFD, since no database and no receiver takes it.
    """
    try:
        fits = len(orjson.dumps(dict(fields))) <= LARGEST
    except orjson.JSONEncodeError:
        fits = False
    kept: dict[str, Any] = dict(fields) if fits else _Cut().value(fields, 0)
    return kept


class _Cut:
    """One pass over a value that spends what is left of ``LARGEST``."""

    def __init__(self) -> None:
        self._left = LARGEST

    def value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            fits = not isinstance(value, float) or math.isfinite(value)
            return value if fits and abs(value) < 1 << 63 else None
        if isinstance(value, Mapping | list | tuple):
            return None if depth >= _DEPTH else self._several(value, depth)
        return self._text(str(value))

    def _several(self, value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> Any:
        if isinstance(value, Mapping):
            entries = {}
            for name, one in list(value.items())[:_ENTRIES]:
                if self._left <= 0:
                    break
                entries[self._text(str(name))] = self.value(one, depth + 1)
            return entries
        return [self.value(one, depth + 1) for one in value[:_ENTRIES] if self._left > 0]

    def _text(self, text: str) -> str:
        text = text[: max(0, min(_TEXT, self._left))]
        # As JSON, each of these may become six bytes.
        self._left -= len(text) if text.isprintable() and text.isascii() else 6 * len(text)
        pairs = text.encode("utf-16", "surrogatepass")
        return pairs.decode("utf-16", "replace")
