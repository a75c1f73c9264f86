"""File names that strangers give to attachments, made fit for being shown and stored.

A cleaned name is still only a label: nothing in mailbridge opens a file by it.
"""

from __future__ import annotations

import re
from typing import Final

from mailbridge.parse.parsed import FILENAME_BYTES

#: controls, and what changes the direction of text so that gnp.exe reads exe.png
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SEPARATORS = re.compile(r'[/\\:*?"<>|\u2044\u2215\u29f8\uff0f\uff3c]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(?:\.|\Z)", re.IGNORECASE)
_EXTENSION_BYTES: Final = 20
_UNNAMED: Final = "unnamed"


def cleaned(name: str) -> str:
    """Return a name without separators, controls, bidi overrides or leading dots; never empty."""
    name = _SEPARATORS.sub("_", _HIDDEN.sub("", name))
    name = " ".join(name.split()).lstrip(". ").rstrip(". ")
    if _RESERVED.match(name):
        name = "_" + name
    return _shortened(name) or _UNNAMED


def _shortened(name: str) -> str:
    if len(name.encode("utf-8", "replace")) <= FILENAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    tail = (dot + extension).encode("utf-8", "replace")
    if not stem or len(tail) > _EXTENSION_BYTES:
        stem, tail = name, b""
    head = stem.encode("utf-8", "replace")[: FILENAME_BYTES - len(tail)]
    return (head.decode("utf-8", "ignore").rstrip(". ")) + tail.decode("utf-8", "ignore")
