"""The way to an SMTP server: its addresses, and a socket to whichever answers first."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import aiohappyeyeballs

from mailbridge.network_faults import Unanswered

#: seconds after which the next address is tried beside the one before (RFC 8305, section 5)
NEXT_ADDRESS: Final = 0.25


async def reach(host: str, port: int, seconds: float) -> socket.socket:
    """Connect, within so many seconds; the daemon's event loop, uvloop, has no happy eyeballs."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return await aiohappyeyeballs.start_connection(
                places, happy_eyeballs_delay=NEXT_ADDRESS
            )
    except TimeoutError as exc:
        raise Unanswered(*exc.args) from None


async def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the order of the system."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
