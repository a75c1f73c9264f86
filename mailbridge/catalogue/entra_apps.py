"""What Entra says about an app, its credential and its tenant (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry

ENTRIES: Final[tuple[Entry, ...]] = ()
