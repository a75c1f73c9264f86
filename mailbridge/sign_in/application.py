"""Application access (client credentials, RFC 6749 section 4.4) for all mailboxes of one app.

Only what Entra says about the app itself counts as a rejected credential; networks, outages
and throttling never do.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.model import AccessToken
from mailbridge.sign_in.base import Expiry, Kind, Standing, state_of
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.credentials import Credential, expiries
from mailbridge.sign_in.keeper import Fetched, TokenKeeper

#: seconds; what a token without ``expires_in`` lives, and the longest that is believed
SHORT_LIFE: Final = 300
LONG_LIFE: Final = 86_400

_PRINTABLE = re.compile(r"[\x21-\x7e]+")

Run = Callable[..., Awaitable[Any]]


class AppTokens(Protocol):
    """A ``Protocol``: what gives app-only tokens, a registration or a managed identity."""

    name: str
    in_use: str
    number: int | None

    @property
    def credentials(self) -> Sequence[Credential]:
        """Its credentials, the newest first."""

    def app_token(self, scope: str) -> Mapping[str, Any] | MailbridgeError:
        """Ask for a token; blocks. Returns msal's answer, or the error."""


class ApplicationSignIn:
    """One Entra app registration that signs in by itself: see ``SignIn``.

    ``run`` runs a blocking function in a worker thread. ``roles`` are the permissions that its
    mailboxes need; a token without them is handed out all the same, and ``standing`` says so.
    """

    kind: Kind = "application"

    def __init__(
        self,
        *,
        app: AppTokens,
        scope: str,
        now: Callable[[], datetime],
        run: Run,
        roles: Collection[str] = (),
    ) -> None:
        self.name = app.name
        self._app = app
        self._scope = scope
        self._now = now
        self._run = run
        self._roles = frozenset(roles)
        self._missing: frozenset[str] = frozenset()
        self._keeper = TokenKeeper(fetch=self._fetch, now=now, about={"app": app.name})

    @property
    def refreshes(self) -> int:
        """How many tokens were fetched."""
        return self._keeper.refreshes

    @property
    def failures(self) -> int:
        """How many attempts to fetch one failed."""
        return self._keeper.failures

    @property
    def secret_index(self) -> int | None:
        """Which credential Entra took last; 0 is the newest."""
        return self._app.number

    async def token(self) -> AccessToken:
        """Return a token with enough life left for a new session; raises as ``SignIn`` says."""
        return await self._keeper.token()

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token newer than the one that a mail server has ``refused``."""
        return await self._keeper.force_refresh(refused)

    async def reload(self) -> None:
        """Try changed credentials with the next token; the token in hand stays until then."""
        self._keeper.expire()

    async def close(self) -> None:
        """End a refresh that is under way."""
        await self._keeper.settle()

    def standing(self) -> Standing:
        """Return how it stands; asks nobody."""
        error = self._keeper.error
        shared: dict[str, Any] = {
            "kind": self.kind,
            "app": self.name,
            "credential": self._app.in_use,
            "expiries": self._expiries(),
        }
        if error is not None:
            return Standing(
                **shared,
                state=state_of(error),
                code=error.code,
                cause=str(error),
                fix=error.fix,
            )
        if self._missing:
            return Standing(
                **shared,
                state="needs_admin_consent",
                code="sign_in.roles_missing",
                cause=f"the app has no permission for {', '.join(sorted(self._missing))}",
                fix=f"Send the administrator what `mailbridge consent-url {self.name}` prints.",
            )
        return Standing(**shared, state="ok" if self.refreshes else "unknown")

    def _expiries(self) -> tuple[Expiry, ...]:
        return expiries(self._app.credentials)

    async def _fetch(self) -> Fetched | MailbridgeError:
        asked_at = self._now()
        answer = await self._run(self._app.app_token, self._scope)
        if isinstance(answer, MailbridgeError):
            return answer
        fetched = taken(
            answer,
            asked_at,
            {"credential": self._app.in_use, "secret_index": self._app.number},
        )
        if isinstance(fetched, Fetched):
            said = claims(fetched.value)
            roles = said.get("roles") or []
            self._missing = self._roles - frozenset(map(str, roles)) if said else frozenset()
        return fetched


def taken(
    answer: Mapping[str, Any], asked_at: datetime, facts: Mapping[str, object]
) -> Fetched | MailbridgeError:
    """Return the token of an answer, or the error that it holds none."""
    value = answer.get("access_token")
    # It becomes part of a SASL answer, where a control character ends a field.
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
        return Unavailable("Entra's answer holds no usable token", code="entra.no_token")
    try:
        seconds = int(answer.get("expires_in", SHORT_LIFE))
    except (TypeError, ValueError):
        seconds = SHORT_LIFE
    seconds = min(max(seconds, 1), LONG_LIFE)
    return Fetched(value=value, asked_at=asked_at, seconds=seconds, facts=facts)
