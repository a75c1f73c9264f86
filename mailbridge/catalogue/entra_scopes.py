"""What Entra says about scopes, consent and redirects (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry

ENTRIES: Final[tuple[Entry, ...]] = ()
