"""The token in hand of one credential, and at most one request for the next.

::

    token() ── young enough ──────────────► the token in hand
            ── getting old ──► one refresh for all who ask ──► the new one
                                   │ fails, and the old one still lives ──► the old one
                                   └ fails ──► the error, again for all who ask during a pause

Nothing here is shared between credentials, so the trouble of one delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter
from typing import Final

import structlog

from mailbridge.errors import MailbridgeError, PermanentError, Throttled
from mailbridge.model import AccessToken
from mailbridge.sign_in.failures import copied

log = structlog.get_logger(__name__)

#: a token is replaced when less than this is left of it, or a fifth of a short life
EARLY: Final = timedelta(minutes=10)
#: an ageing token is still handed out while so much is left of it
USABLE: Final = timedelta(seconds=60)
#: pauses between two requests after a failure, for all mailboxes of the credential together
AFTER_OUTAGE: Final = timedelta(seconds=5)
AFTER_REJECTION: Final = timedelta(seconds=60)
#: between two refreshes that a mail server's refusal asks for: Entra blocks loops (AADSTS50196)
BETWEEN_FORCED: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A token as it came: ``seconds`` of life from ``asked_at`` on. ``facts`` go into the log."""

    value: str = field(repr=False)
    asked_at: datetime
    seconds: int
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return self.asked_at + timedelta(seconds=self.seconds)


#: returns its error instead of raising it, so that no traceback is kept
Fetch = Callable[[], Awaitable[Fetched | MailbridgeError]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The token in hand, and when to look for the next one."""

    token: AccessToken
    refresh_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    error: MailbridgeError
    until: datetime


class TokenKeeper:
    """Keeps a token fresh. ``about`` names the credential in the log; ``fetch`` asks for a token.

    ``token`` and ``force_refresh`` raise what ``fetch`` returns, each caller a copy of its own.
    ``error`` is what the last request came to, ``None`` when it came to a token.
    """

    def __init__(
        self,
        *,
        fetch: Fetch,
        now: Callable[[], datetime],
        about: Mapping[str, str],
        after_rejection: timedelta = AFTER_REJECTION,
    ) -> None:
        self.refreshes = 0
        self.failures = 0
        self.error: MailbridgeError | None = None
        self._fetch = fetch
        self._now = now
        self._about = dict(about)
        self._after_rejection = after_rejection
        self._held: _Held | None = None
        self._pause: _Pause | None = None
        self._forced_at: datetime | None = None
        self._refreshing: asyncio.Task[AccessToken | MailbridgeError] | None = None

    @property
    def pausing(self) -> bool:
        """Whether the last error is repeated instead of a new request."""
        return self._pause is not None and self._now() < self._pause.until

    async def token(self) -> AccessToken:
        """Return a token with enough life left for a new session."""
        held = self._held
        if held is not None and self._now() < held.refresh_at:
            return held.token
        try:
            return await self._next()
        except MailbridgeError:
            # Whatever came of it, ``error`` tells; the token in hand is none the worse for it.
            if held is None or held.token.expires_at - self._now() < USABLE:
                raise
            return held.token

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token newer than the one that a mail server has ``refused``.

        At most one request a minute goes out for this, however many mailboxes are refused;
        in between, the token in hand is returned.
        """
        held, now = self._held, self._now()
        if held is not None and refused is not None and held.token.value != refused.value:
            return held.token
        forced = self._forced_at
        if held is not None and forced is not None and now - forced < BETWEEN_FORCED:
            return held.token
        self._forced_at = now
        return await self._next()

    def resume(self) -> None:
        """Forget the pause after a failure: something has changed, so the next one may ask."""
        self._pause = None

    def expire(self) -> None:
        """Ask for another token with the next call; the one in hand stays until there is one."""
        self.resume()
        if self._held is not None:
            self._held = _Held(token=self._held.token, refresh_at=self._now())

    async def drop(self) -> None:
        """Forget everything, the token in hand too."""
        await self.settle()
        self._held = self._pause = self._forced_at = self.error = None

    async def settle(self, patience: float = 0.0) -> None:
        """Let a request that is under way finish for ``patience`` seconds, then end it."""
        task = self._refreshing
        if task is None or task.done():
            return
        if patience:
            await asyncio.wait({task}, timeout=patience)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _next(self) -> AccessToken:
        """Share one refresh among all who ask; one who gives up does not end it."""
        now = self._now()
        if self._refreshing is None or self._refreshing.done():
            if self._pause is not None and now < self._pause.until:
                raise _again(self._pause, now)
            self._refreshing = asyncio.create_task(self._refresh())
        outcome = await asyncio.shield(self._refreshing)
        if isinstance(outcome, MailbridgeError):
            raise copied(outcome)
        return outcome

    async def _refresh(self) -> AccessToken | MailbridgeError:
        """Make one round. Returns its error, so that each waiter raises its own."""
        begun = perf_counter()
        try:
            outcome = await self._fetch()
        except MailbridgeError as error:
            outcome = copied(error)
        now, took = self._now(), round((perf_counter() - begun) * 1000, 1)
        if isinstance(outcome, MailbridgeError):
            self.failures += 1
            self.error = outcome
            self._pause = _Pause(error=outcome, until=now + self._wait(outcome))
            ready = {"fix": outcome.fix} if outcome.fix else {}
            about = {**self._about, "code": outcome.code, "reason": str(outcome), **ready}
            log.warning("token.failed", **about, took_ms=took)
            return outcome
        life = timedelta(seconds=outcome.seconds)
        token = AccessToken(value=outcome.value, expires_at=outcome.expires_at)
        refresh_at = outcome.asked_at + life - min(EARLY, life / 5)
        self._held = _Held(token=token, refresh_at=refresh_at)
        self._pause = self.error = None
        self.refreshes += 1
        told = {"expires_in": outcome.seconds, "took_ms": took}
        log.info("token.refreshed", **self._about, **outcome.facts, **told)
        return token

    def _wait(self, error: MailbridgeError) -> timedelta:
        if isinstance(error, Throttled):
            return timedelta(seconds=error.retry_after)
        return self._after_rejection if isinstance(error, PermanentError) else AFTER_OUTAGE


def _again(pause: _Pause, now: datetime) -> MailbridgeError:
    error = copied(pause.error)
    if isinstance(error, Throttled):
        error.retry_after = max((pause.until - now).total_seconds(), 1.0)
    return error
