"""The seam of signing in on the web: what the pages need of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from mailbridge.http.oauth_pending import Pending

#: below ``public_url``; what an app registration has to list, exactly
CALLBACK: Final = "/oauth/callback"
#: begins the ``state`` of an admin consent link; the name of the app follows
CONSENT: Final = "consent-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What somebody is about to sign in for. ``account`` is who has to, ``host`` where."""

    mailbox: str
    address: str
    account: str
    app: str
    host: str


class Attempt(Protocol):
    """A ``Protocol``: one sign-in with Microsoft, good for one answer.

    ``url`` is where the browser is sent; ``state`` (256 bits) comes back with the answer.
    """

    url: str
    state: str

    async def finish(self, answer: Mapping[str, str]) -> None:
        """Check what Entra answered and save the grant; when it returns, a crash loses nothing.

        Raises ``MailbridgeError`` with cause and fix.
        """


class Tested(Protocol):
    """A ``Protocol``: what one step of the test of a mailbox came to (``diagnose.steps.Step``)."""

    @property
    def id(self) -> str:
        """Which step."""

    @property
    def status(self) -> str:
        """``ok``, ``failed``, ``warning`` or ``skipped``."""

    @property
    def detail(self) -> str:
        """What was seen."""

    @property
    def cause(self) -> str:
        """Why it failed."""

    @property
    def fix(self) -> str:
        """What helps."""


class Desk(Protocol):
    """A ``Protocol``: who takes sign-ins. ``public_url`` has no slash at its end."""

    @property
    def public_url(self) -> str:
        """Where browsers reach this daemon."""

    @property
    def pending(self) -> Pending:
        """What is under way."""

    def offer(self, mailbox: str) -> Offer:
        """Return what signing in for a mailbox means; ``PermanentError`` when nobody can."""

    async def begin(self, mailbox: str, redirect_uri: str) -> Attempt:
        """Prepare a sign-in; raises ``MailbridgeError`` when Entra cannot be reached."""

    def test(self, mailbox: str) -> AsyncIterator[Tested]:
        """Try what was saved, by each protocol of the mailbox, step by step."""

    def explain(self, app: str, answer: Mapping[str, str]) -> MailbridgeError:
        """Return why an admin consent was refused, in words of our own.

        ``answer`` may be anybody's invention, so nothing of its text may come back.
        """

    def knows(self, app: str) -> bool:
        """Tell whether there is an app of this name."""
