"""How long a folder waits after a failure. Pure."""

from __future__ import annotations

import random
from typing import Final

from mailbridge.errors import MailbridgeError, PermanentError, StoreFull, Throttled

#: seconds: first wait, longest wait, and the wait after a permanent error
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 300.0
PARKED_WAIT: Final = 900.0
#: seconds between two tries while the disk is full: the space may come back any time
FULL_WAIT: Final = 10.0
#: seconds to wait after "authenticated but not connected": the first, second, further times.
#: It may pass by itself, and fast reconnects prolong it
NOT_CONNECTED_WAITS: Final = (60.0, 300.0, 900.0)
#: so many times in a row it is taken for a missing permission, and said so
NOT_CONNECTED_TIMES: Final = 3
NOT_CONNECTED: Final = "imap.not_connected"


def backoff(failures: int, error: MailbridgeError | None, rng: random.Random) -> float:
    """Return the seconds to wait after the ``failures``-th failure of its kind in a row (from 1).

    Doubling from one second to five minutes, +-20 % so that a thousand mailboxes don't come
    back together; never before a server's own ``retry_after``.
    """
    jitter = rng.uniform(0.8, 1.2)
    if isinstance(error, PermanentError):
        return PARKED_WAIT * jitter
    if isinstance(error, StoreFull):
        return FULL_WAIT * jitter
    if isinstance(error, Throttled):
        return error.retry_after + rng.uniform(0.0, 0.1 * error.retry_after)
    if is_not_connected(error):
        return NOT_CONNECTED_WAITS[min(failures, len(NOT_CONNECTED_WAITS)) - 1] * jitter
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 20)) * jitter


def is_not_connected(error: BaseException | None) -> bool:
    """Tell Exchange's "authenticated but not connected", which is a state of its own."""
    return isinstance(error, MailbridgeError) and error.code == NOT_CONNECTED
