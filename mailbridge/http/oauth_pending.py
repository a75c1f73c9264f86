"""Sign-ins on the web that are under way: links, and browsers that were sent to Microsoft.

::

    link (ticket) ── opened, button pressed ──► journey: away ──► saved ──► tested
      good once, ten minutes                       └► refused

All of it is in memory: a restart of the daemon asks for a new link and loses nothing else. It is
bounded in number, and a link can be made by whoever may open the control socket only.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from mailbridge.errors import MailbridgeError, TemporaryError
from mailbridge.http.oauth_desk import Attempt, Offer, Tested

#: how long a link is good, and how long a browser may be away
PATIENCE: Final = timedelta(minutes=10)
#: how long its outcome can be looked at, and an answer that came too late is told from a wrong one
REMEMBERED: Final = timedelta(minutes=30)
#: links, and journeys, that are remembered at most
LINKS: Final = 200
JOURNEYS: Final = 200
#: seconds for answers that are being taken when the daemon stops: a code is good for one time
LET_FINISH: Final = 10.0
#: of chance in a ticket and in a cookie
CHANCE: Final = 32

Phase = Literal["away", "answered", "refused", "saved", "tested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What makes a link good for one person to start one sign-in."""

    value: str = field(repr=False)
    mailbox: str
    expires_at: datetime


@dataclass(slots=True, kw_only=True, eq=False)
class Journey:
    """One browser on its way, and what came of it. ``binding`` is what its cookie has to say."""

    tag: str
    binding: str = field(repr=False)
    offer: Offer
    attempt: Attempt = field(repr=False)
    ticket: Ticket = field(repr=False)
    expires_at: datetime
    phase: Phase = "away"
    error: MailbridgeError | None = None
    #: lets the same browser try again while the link would have been good
    again: str = field(default="", repr=False)
    steps: list[Tested] = field(default_factory=list)

    def belongs_to(self, cookie: str) -> bool:
        """Tell whether a browser with this cookie is the one that was sent away."""
        return hmac.compare_digest(cookie.encode(), self.binding.encode())


class Pending:
    """The links and journeys of a daemon. Use it in one event loop.

    ``outcomes`` counts what became of them, for metrics.
    """

    def __init__(self, *, now: Callable[[], datetime]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._now = now
        self._tickets: dict[str, Ticket] = {}
        self._journeys: dict[str, Journey] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._tests: set[asyncio.Task[None]] = set()

    # -- links --------------------------------------------------------------------------------

    def issue(self, mailbox: str, *, expires_at: datetime | None = None) -> Ticket:
        """Return a ticket for one sign-in; the oldest of too many is forgotten."""
        self._sweep()
        while len(self._tickets) >= LINKS:
            del self._tickets[next(iter(self._tickets))]
        ticket = Ticket(
            value=secrets.token_urlsafe(CHANCE),
            mailbox=mailbox,
            expires_at=expires_at or self._now() + PATIENCE,
        )
        self._tickets[ticket.value] = ticket
        return ticket

    def look(self, mailbox: str, value: str) -> Ticket | None:
        """Return a ticket that is good for this mailbox, and leave it good."""
        self._sweep()
        ticket = self._tickets.get(value)
        return ticket if ticket is not None and ticket.mailbox == mailbox else None

    def spend(self, mailbox: str, value: str) -> Ticket | None:
        """Return a ticket that is good for this mailbox; it is good no more."""
        ticket = self.look(mailbox, value)
        return self._tickets.pop(ticket.value) if ticket is not None else None

    def give_back(self, ticket: Ticket) -> None:
        """Make a ticket good again: nobody was sent away for it."""
        self._tickets[ticket.value] = ticket

    # -- journeys -----------------------------------------------------------------------------

    def require_room(self) -> None:
        """Raise ``TemporaryError`` when as many are on their way as are remembered."""
        self._sweep()
        if sum(one.phase == "away" for one in self._journeys.values()) >= JOURNEYS:
            raise TemporaryError(
                "too many sign-ins are under way",
                code="oauth.busy",
                fix="Try again in ten minutes.",
            )

    def send_away(self, offer: Offer, attempt: Attempt, ticket: Ticket) -> Journey:
        """Remember a browser that goes to Microsoft now."""
        while len(self._journeys) >= JOURNEYS:
            done = (tag for tag, one in self._journeys.items() if one.phase != "away")
            del self._journeys[next(done, next(iter(self._journeys)))]
        journey = Journey(
            tag=secrets.token_hex(8),
            binding=secrets.token_urlsafe(CHANCE),
            offer=offer,
            attempt=attempt,
            ticket=ticket,
            expires_at=self._now() + PATIENCE,
        )
        self._journeys[journey.tag] = journey
        return journey

    def by_state(self, state: str) -> Journey | None:
        """Return the journey that Entra's answer belongs to, also one that is over."""
        self._sweep()
        given = state.encode()
        for journey in self._journeys.values():
            if hmac.compare_digest(given, journey.attempt.state.encode()):
                return journey
        return None

    def by_tag(self, tag: str) -> Journey | None:
        """Return a journey by its public name."""
        self._sweep()
        return self._journeys.get(tag)

    def too_late(self, journey: Journey) -> bool:
        """Tell whether its ten minutes are over."""
        return self._now() >= journey.expires_at

    def refuse(self, journey: Journey, error: MailbridgeError) -> None:
        """Remember why it came to nothing; the same browser may try again for a while."""
        journey.phase, journey.error = "refused", error
        if self._now() < journey.ticket.expires_at:
            ticket = journey.ticket
            journey.again = self.issue(ticket.mailbox, expires_at=ticket.expires_at).value

    def finish(self, answer: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what takes an answer, whatever becomes of the browser that brought it."""
        return _kept(answer, self._answers)

    def test(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the test of what was saved."""
        _kept(work, self._tests)

    async def close(self) -> None:
        """Let answers be saved, for ten seconds, and end the tests: nobody looks at them now."""
        if self._answers:
            await asyncio.wait(self._answers, timeout=LET_FINISH)
        ending = [*self._answers, *self._tests]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _sweep(self) -> None:
        now = self._now()
        for value, ticket in list(self._tickets.items()):
            if now >= ticket.expires_at:
                del self._tickets[value]
        for tag, journey in list(self._journeys.items()):
            if now >= journey.expires_at + REMEMBERED:
                del self._journeys[tag]


def _kept(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
