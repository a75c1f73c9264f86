"""Fault proxies on an event loop of their own, for campaigns that are plain threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Self

from tests.servers.faultproxy import FaultProxy


class Proxies:
    """One proxy for each name, in front of the ports given; broken and healed from any thread."""

    def __init__(self, targets: Mapping[str, int]) -> None:
        self._targets = dict(targets)
        self._proxies: dict[str, FaultProxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def ports(self) -> dict[str, int]:
        """Where each of them listens."""
        return {name: proxy.port for name, proxy in self._proxies.items()}

    def connections(self, name: str) -> int:
        """How many connections the client has made since the start."""
        return self._proxies[name].connections

    def bytes_down(self, name: str) -> int:
        """How many bytes were passed on from the server since the start."""
        return self._proxies[name].bytes_down

    def active(self, name: str) -> int:
        """How many connections are open now."""
        return self._proxies[name].active

    def set(self, name: str, **changes: Any) -> None:
        """Change some of the faults of one proxy."""
        self._call(self._apply(name, changes))

    def heal(self, name: str) -> None:
        """Take its faults away."""
        self._call(self._heal(name))

    def kill(self, name: str, *, reset: bool = True) -> None:
        """End its open connections."""
        self._call(self._kill(name, reset=reset))

    async def _apply(self, name: str, changes: Mapping[str, Any]) -> None:
        self._proxies[name].set(**changes)

    async def _heal(self, name: str) -> None:
        self._proxies[name].heal()

    async def _kill(self, name: str, *, reset: bool) -> None:
        self._proxies[name].kill_all(reset=reset)

    async def _up(self) -> None:
        for name, port in self._targets.items():
            proxy = FaultProxy("127.0.0.1", port)
            await proxy.start()
            self._proxies[name] = proxy

    async def _down(self) -> None:
        for proxy in self._proxies.values():
            await proxy.down()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._call(self._up())
        return self

    def __exit__(self, *_: object) -> None:
        """Cut everything and end the loop."""
        self._call(self._down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
