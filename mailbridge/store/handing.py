"""Handing claims to a caller that may be cancelled while it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from mailbridge.model import Delivery

log = structlog.get_logger(__name__)

GiveBack = Callable[[Sequence[Delivery]], Awaitable[None]]


async def over(
    taking: Coroutine[Any, Any, list[Delivery]],
    give_back: GiveBack,
    background: set[asyncio.Future[None]],
) -> list[Delivery]:
    """Return what ``taking`` claims; a caller that is cancelled meanwhile holds nothing.

    What was claimed for it is given back once the claim is through; ``background`` holds that
    work, to be waited for before the store is closed.
    """
    running = asyncio.ensure_future(taking)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        undo = asyncio.ensure_future(_undo(running, give_back))
        background.add(undo)
        undo.add_done_callback(background.discard)
        raise


async def _undo(running: asyncio.Future[list[Delivery]], give_back: GiveBack) -> None:
    try:
        await give_back(await running)
    except Exception as error:  # noqa: BLE001 - nobody waits; the lease ends by itself
        log.warning("store.claim_not_given_back", error=str(error))
