"""The commands of the documentation, so that the tests run what a newcomer types."""

from __future__ import annotations

import re
from pathlib import Path

_HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(document: Path) -> dict[str, list[str]]:
    """Return the shell blocks below each heading, in order."""
    _, *parts = _HEADING.split(document.read_text(encoding="utf-8"))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {heading: _BLOCK.findall(text) for heading, text in pairs}
