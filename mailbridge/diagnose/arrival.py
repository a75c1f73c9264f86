"""Waiting for a test mail: seen in the mailbox, then by the daemon, then at the webhooks.

Looks are few and far between: the first after a second, the later ones ever further apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from mailbridge.errors import TemporaryError

#: seconds that a mail has to arrive, and then to reach the webhooks
PATIENCE: Final = 120.0
#: seconds before the first look, the factor from one to the next, and the longest pause
FIRST: Final = 1.0
GROWTH: Final = 1.5
LONGEST: Final = 10.0

T = TypeVar("T")


def pauses(patience: float) -> Iterator[float]:
    """Yield the seconds to wait before each look, in all no more than ``patience``."""
    left, pause = patience, FIRST
    while left > 0:
        yield min(pause, left)
        left -= pause
        pause = min(pause * GROWTH, LONGEST)


async def until(look: Callable[[], Awaitable[T | None]], *, patience: float = PATIENCE) -> T | None:
    """Look until something is seen; ``None`` when it is not in time.

    A look that fails for now is followed by another; when the last one fails, that is raised.
    """
    failure: TemporaryError | None = None
    deadline = time.monotonic() + patience
    for pause in pauses(patience):
        await asyncio.sleep(pause)
        try:
            seen = await look()
        except TemporaryError as error:
            failure, seen = error, None
        else:
            failure = None
        if seen is not None:
            return seen
        if time.monotonic() > deadline:
            break
    if failure is not None:
        raise failure
    return None
