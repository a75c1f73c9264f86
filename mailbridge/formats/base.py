"""The seam between a sink and the form of what it sends."""

from __future__ import annotations

from typing import Protocol

from mailbridge.model import Delivery, Outcome


class Format(Protocol):
    """A ``Protocol``: one body format. Both functions are pure and never raise because of a mail.

    The same delivery gives the same bytes at every attempt. ``content_type`` is that of all of
    its bodies.
    """

    content_type: str

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the exact bytes to sign and send, and their content type.

        Raises ``TemporaryError`` when the configuration fails: a template that cannot cope with
        this mail, or an event that this form has no words for. The delivery waits, nothing is
        sent.
        """

    def judge(self, status: int, body: bytes) -> Outcome | None:
        """Judge an answer whose status does not tell; ``None`` leaves it to the status.

        ``body`` is at most the first 64 KiB of the answer. What it says must reach no outcome
        uncut: a receiver's words are shown to people as an extract.
        """


def is_success(status: int) -> bool:
    """Tell whether a status claims success (RFC 9110 section 15.3)."""
    return 200 <= status < 300  # noqa: PLR2004 - the class of success
