"""Every test of this folder runs on both event loops: the standard one, and the daemon's uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give pytest-asyncio the loops to choose from."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
