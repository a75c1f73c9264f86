"""``Key: value`` lines, as control centres write them: aligned, in columns, continued below.

::

    Einsatznummer: 3210000123                      one pair
    Name       : Mustermann      Rufnummer : 0171  two pairs, a gap of three blanks between them
    Meldung: Rauch aus dem Dach,                   continued until an empty line,
      Personen im Haus                             a line of dashes or the next pair
"""

from __future__ import annotations

import re
from typing import Final

#: characters of a key, of a value, and pairs of one text
KEY_CHARACTERS: Final = 60
VALUE_CHARACTERS: Final = 4096
PAIRS: Final = 300
#: characters and lines of a text that are read, and characters of one line
TEXT_CHARACTERS: Final = 256 * 1024
LINES: Final = 5000
LINE_CHARACTERS: Final = 2000

_GAP: Final = re.compile(r"\s{3,}")
_RULE: Final = re.compile(r"\s*[-=_*#]{3,}")
#: ``X= 4468503,33``: a pair of another kind, which continues nothing
_OTHER: Final = re.compile(r"\s*\w{1,20}\s*[=:]")


def key_values(text: str, separator: str) -> dict[str, str | list[str]]:
    """Return the pairs in their order; a key that comes again has the list of its values."""
    found: dict[str, list[str]] = {}
    last = ""
    count = 0
    for line in text[:TEXT_CHARACTERS].split("\n")[:LINES]:
        # Most lines of most texts are no pairs, and this alone says so.
        pairs = _pairs(line[:LINE_CHARACTERS], separator) if separator in line else []
        for key, value in pairs:
            if count == PAIRS:
                break
            count += 1
            found.setdefault(key, []).append(value[:VALUE_CHARACTERS])
            last = key
        if not pairs and last:
            last = _continued(found, last, line[:LINE_CHARACTERS])
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _continued(found: dict[str, list[str]], last: str, line: str) -> str:
    """Add a line to the value above it; returns the key that the next one may belong to."""
    said = line.strip()
    if not said or _RULE.match(line) or _OTHER.match(line):
        return ""
    held = found[last][-1]
    if len(held) < VALUE_CHARACTERS:
        found[last][-1] = (f"{held}\n{said}" if held else said)[:VALUE_CHARACTERS]
    return last


def _pairs(line: str, separator: str) -> list[tuple[str, str]]:
    """Return the pairs of a line. A gap parts two pairs only if a pair follows it."""
    pairs: list[tuple[str, str]] = []
    for piece in _GAP.split(line.strip()):
        pair = _pair(piece, separator)
        if pair is not None:
            pairs.append(pair)
        elif pairs:
            key, value = pairs[-1]
            # ``Name          : Mustermann``: the separator stands behind the gap.
            pairs[-1] = (key, f"{value} {piece}".strip())
        elif (late := _late(line, separator)) is not None:
            return late
        else:
            return []
    return pairs


def _late(line: str, separator: str) -> list[tuple[str, str]] | None:
    """Return the pairs of a line whose keys are padded, so that gaps stand before separators."""
    tightened = re.sub(rf"\s+{re.escape(separator)}", separator, line.strip())
    if tightened == line.strip():
        return None
    return _pairs(tightened, separator)


def _pair(piece: str, separator: str) -> tuple[str, str] | None:
    key, parted, value = piece.partition(separator)
    key, value = key.strip(), value.strip()
    if not parted or not key or len(key) > KEY_CHARACTERS or not any(map(str.isalpha, key)):
        return None
    if separator == ":" and value.startswith("//"):
        return None  # an address on the web
    return key, value
