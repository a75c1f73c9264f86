"""How a webhook's receiver is reached: at judged addresses, or through a proxy.

What a proxy that looks names up itself would connect to cannot be pinned. So the name is
looked up here as well, and what this machine knows about it is judged:

===============================  =================================================
here the name is                 through an ``http`` or ``socks5h`` proxy
===============================  =================================================
an address                       judged like any other
known, one address refused       refused
known, nothing refused           the proxy is asked for the name
unknown                          left to the proxy if the configuration names that,
                                 and only for https://, whose certificate has to
                                 bear the name that is in the URL
===============================  =================================================

A ``socks5`` proxy is asked for an address that was judged here, so pinning holds. A proxy of
the environment is left out for a receiver all of whose addresses are inside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mailbridge.errors import Unavailable
from mailbridge.proxy.environment import is_inside
from mailbridge.proxy.place import Proxy
from mailbridge.sinks.address import Guard, Resolve, check_host, is_ip, pinned

#: seconds for a look-up that only serves the judgement, where the proxy does without
GLANCE_SECONDS: Final = 1.0
#: seconds for which such a name stays unknown: networks with a proxy often have no outside DNS
UNKNOWN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Either addresses to connect to, or a proxy and what it is asked for."""

    addresses: Sequence[str] = ()
    proxy: Proxy | None = None
    target: str = ""


class Passages:
    """Finds the way to one webhook's receiver, anew for every connection."""

    def __init__(self, *, guard: Guard, resolve: Resolve, proxy: Proxy | None) -> None:
        self._guard = guard
        self._resolve = resolve
        self._proxy = proxy
        self._unknown_until = 0.0

    async def find(self, host: str, port: int) -> Passage:
        """Return the way to ``host``; raises ``Unavailable`` and ``OSError`` as ``pinned`` does."""
        proxy = self._proxy
        if proxy is None:
            return Passage(addresses=await self._pinned(host, port))
        if proxy.variable:
            return await self._unless_inside(proxy, host, port)
        if not proxy.resolves:
            return Passage(proxy=proxy, target=(await self._pinned(host, port))[0])
        return await self._by_name(proxy, host, port)

    async def _pinned(self, host: str, port: int) -> list[str]:
        return await pinned(host, port, guard=self._guard, resolve=self._resolve)

    async def _unless_inside(self, proxy: Proxy, host: str, port: int) -> Passage:
        try:
            addresses = await self._pinned(host, port)
        except OSError as exc:
            raise Unavailable(
                f"{host}: DNS has no address for it here; if a proxy is to look it up, write"
                " `proxy:` for this webhook",
                code="webhook.dns",
            ) from exc
        if all(is_inside(address) for address in addresses):
            return Passage(addresses=addresses)
        outside = next(address for address in addresses if not is_inside(address))
        if not proxy.resolves:
            return Passage(proxy=proxy, target=outside)
        return await self._by_name(proxy, host, port)

    async def _by_name(self, proxy: Proxy, host: str, port: int) -> Passage:
        problem = check_host(
            host, scheme=self._guard.scheme, allow_private=self._guard.allow_private
        )
        if problem is not None:
            raise Unavailable(problem, code="webhook.address_refused")
        name = host.rstrip(".")
        known = () if is_ip(name) else await self._glance(name, port)
        refusal = next(filter(None, map(self._guard.refusal, known)), None)
        if refusal is not None:
            raise Unavailable(f"{host}: {refusal}", code="webhook.address_refused")
        if not known and not is_ip(name) and self._guard.scheme != "https":
            raise Unavailable(
                f"{host}: only the proxy could look it up, so nobody can say that it is private,"
                " and http:// is only for private addresses",
                code="webhook.address_refused",
            )
        return Passage(proxy=proxy, target=name)

    async def _glance(self, name: str, port: int) -> Sequence[str]:
        """Look a name up that the proxy will look up again; nothing when that is not known."""
        if time.monotonic() < self._unknown_until:
            return ()
        found: Sequence[str] = ()
        try:
            async with asyncio.timeout(GLANCE_SECONDS):
                found = await self._resolve(name, port)
        except OSError:
            # A time-out too. Whether that is a fault, the proxy will tell.
            found = ()
        if not found:
            self._unknown_until = time.monotonic() + UNKNOWN_SECONDS
        return found
