"""The seam between the dispatch loop and a destination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mailbridge.model import Delivery, Outcome, Rendered


class Sink(Protocol):
    """A ``Protocol``: one destination.

    ``render`` is a pure function of a claimed delivery, called in a worker thread for a whole
    batch; it never raises because of what a mail contains. ``deliver`` makes one attempt and
    returns what came of it; an answer of any kind is an ``Outcome``, only a bug raises.
    """

    name: str
    concurrency: int

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        """Turn claimed deliveries into the exact bytes to send, in the same order."""

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        """Make one attempt (``attempt`` counts from 1), within the sink's own deadlines."""
