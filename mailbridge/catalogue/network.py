"""DNS, TCP, TLS, proxies: what comes before any server has spoken."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry

ENTRIES: Final[tuple[Entry, ...]] = ()
