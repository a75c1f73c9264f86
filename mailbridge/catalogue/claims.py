"""What a token lacks that Entra issued without complaint."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry

ENTRIES: Final[tuple[Entry, ...]] = ()
