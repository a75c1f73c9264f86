"""The seam between a sink and the form of what it sends."""

from __future__ import annotations

from typing import Protocol

from mailbridge.model import Delivery, Outcome


class Format(Protocol):
    """A ``Protocol``: one body format. Both functions are pure and never raise because of a mail.

    The same delivery gives the same bytes at every attempt.
    """

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the exact bytes to sign and send, and their content type."""

    def judge(self, status: int, body: bytes) -> Outcome | None:
        """Judge an answer whose status does not tell; ``None`` leaves it to the status.

        ``body`` is at most the first 64 KiB of the answer. What it says must reach no outcome
        uncut: a receiver's words are shown to people as an extract.
        """
