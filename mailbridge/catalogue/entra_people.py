"""What Entra says about people: passwords, second factors, policies, expiry (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry

ENTRIES: Final[tuple[Entry, ...]] = ()
