"""Application access (client credentials, RFC 6749 section 4.4) for all mailboxes of one app.

::

    token() ── young enough ──────────────► the token in hand
            ── getting old ──► one refresh for all who ask ──► the new one
                                   │ fails for now, and the old one still lives ──► the old one
                                   └ fails ──► the error, again for all who ask during a pause

Only what Entra says about the app itself counts as a rejected credential; networks, outages
and throttling never do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from mailbridge import __version__
from mailbridge.errors import (
    MailbridgeError,
    SignInRejected,
    TemporaryError,
    Throttled,
    Unavailable,
)
from mailbridge.model import AccessToken
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.credentials import ClientSecret, Credential
from mailbridge.sign_in.entra_errors import SECRET_ERRORS, refusal
from mailbridge.sign_in.token_http import TokenHttp

log = structlog.get_logger(__name__)

#: a token is replaced when less than this is left of it, or a fifth of a short life
EARLY: Final = timedelta(minutes=10)
#: an ageing token is still handed out while so much is left of it
USABLE: Final = timedelta(seconds=60)
#: pauses between two requests after a failure, for all mailboxes of the app together
AFTER_OUTAGE: Final = timedelta(seconds=5)
AFTER_REJECTION: Final = timedelta(seconds=60)
#: between two refreshes that a mail server's refusal asks for: Entra blocks loops (AADSTS50196)
BETWEEN_FORCED: Final = timedelta(seconds=60)
#: seconds; what a token without ``expires_in`` lives, and the longest that is believed
SHORT_LIFE: Final = 300
LONG_LIFE: Final = 86_400

_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The token in hand, and when to look for the next one."""

    token: AccessToken
    refresh_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    error: MailbridgeError
    until: datetime


class ApplicationSignIn:
    """One Entra app registration with its client secrets, the newest first.

    ``token`` and ``force_refresh`` raise ``SignInRejected``, ``Throttled`` and ``Unavailable``.
    ``run`` runs a blocking function in a worker thread. ``refreshes`` and ``failures`` count;
    ``secret_index`` tells which secret Entra took last (0 is the newest).
    """

    def __init__(  # noqa: PLR0913 - the fields of an app registration, and time and threads
        self,
        *,
        name: str,
        authority_url: str,
        client_id: str,
        secrets: Sequence[str],
        scope: str,
        ca: Path | None,
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
        proxy: Proxy | None = None,
    ) -> None:
        self.name = name
        self.refreshes = 0
        self.failures = 0
        self.secret_index: int | None = None
        self._authority_url = authority_url
        self._client_id = client_id
        self._credentials: list[Credential] = [ClientSecret(value=one) for one in secrets]
        self._scope = scope
        self._ca = ca
        self._proxy = proxy
        self._now = now
        self._run = run
        self._held: _Held | None = None
        self._pause: _Pause | None = None
        self._forced_at: datetime | None = None
        self._refreshing: asyncio.Task[AccessToken | MailbridgeError] | None = None
        self._apps: dict[int, Any] = {}

    async def token(self) -> AccessToken:
        """Return a token with enough life left for a new session."""
        held = self._held
        if held is not None and self._now() < held.refresh_at:
            return held.token
        try:
            return await self._next()
        except TemporaryError:
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

    async def _next(self) -> AccessToken:
        """Share one refresh among all who ask; one who gives up does not end it."""
        now = self._now()
        if self._refreshing is None or self._refreshing.done():
            if self._pause is not None and now < self._pause.until:
                raise _again(self._pause, now)
            self._refreshing = asyncio.create_task(self._refresh())
        outcome = await asyncio.shield(self._refreshing)
        if isinstance(outcome, MailbridgeError):
            raise _copied(outcome)
        return outcome

    async def _refresh(self) -> AccessToken | MailbridgeError:
        """Make one round with Entra. Returns its error, so that each waiter raises its own."""
        asked_at = self._now()
        index, outcome = await self._run(self._acquire)
        now = self._now()
        if isinstance(outcome, MailbridgeError):
            self.failures += 1
            self._pause = _Pause(error=outcome, until=now + _wait(outcome))
            log.warning("token.failed", app=self.name, code=outcome.code, reason=str(outcome))
            return outcome
        value, seconds = outcome
        life = timedelta(seconds=seconds)
        token = AccessToken(value=value, expires_at=asked_at + life)
        self._held = _Held(token=token, refresh_at=asked_at + life - min(EARLY, life / 5))
        self._pause = None
        self.refreshes += 1
        self.secret_index = index
        log.info("token.refreshed", app=self.name, expires_in=seconds, secret_index=index)
        return token

    async def close(self) -> None:
        """End a refresh that is under way."""
        task, self._refreshing = self._refreshing, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- in a worker thread -------------------------------------------------------------------

    def _acquire(self) -> tuple[int, tuple[str, int] | MailbridgeError]:
        """Try the secrets, the newest first; tells which one it was and what came of it."""
        if not self._credentials:
            return 0, SignInRejected(
                f"the app {self.name} has no credential", code="app.no_credential"
            )
        first: MailbridgeError | None = None
        for index, credential in enumerate(self._credentials):
            outcome = self._ask(index, credential)
            if not isinstance(outcome, MailbridgeError):
                return index, outcome
            first = first or outcome
            if outcome.code not in SECRET_ERRORS:
                return index, outcome
        assert first is not None  # noqa: S101 - there was at least one credential
        return 0, first

    def _ask(self, index: int, credential: Credential) -> tuple[str, int] | MailbridgeError:
        """Ask Entra once. Foreign errors end here, without their cause (see ``token_http``)."""
        try:
            app = self._app(index, credential)
            # It is time for another token, and msal would serve its own copy of the last one.
            app.remove_tokens_for_client()
            answer = app.acquire_token_for_client([self._scope])
        except MailbridgeError as error:
            self._apps.pop(index, None)
            return _copied(error, credential)
        except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
            self._apps.pop(index, None)
            return Unavailable(
                f"msal could not ask for a token: {_harmless(exc, credential)}", code="entra.msal"
            )
        if "access_token" in answer:
            return _taken(answer)
        self._apps.pop(index, None)
        return _copied(refusal(answer), credential)

    def _app(self, index: int, credential: Credential) -> Any:
        """Return the msal app; a new one after a failure, since msal remembers refusals."""
        if index not in self._apps:
            import msal

            http = TokenHttp(self._ca, self._proxy)
            failure: MailbridgeError | None = None
            try:
                # The constructor fetches the discovery document. Without instance discovery,
                # msal asks no other host than the authority.
                app = msal.ConfidentialClientApplication(
                    self._client_id,
                    client_credential=credential.for_msal(),
                    authority=self._authority_url,
                    instance_discovery=False,
                    http_client=http,
                    app_name="mailbridge",
                    app_version=__version__,
                )
            except ValueError:
                # msal says "check your tenant" whatever it was; the answer says what it was.
                if http.refused is None:
                    raise
                failure = refusal(http.refused)
            if failure is not None:
                raise failure
            self._apps[index] = app
        return self._apps[index]


def _taken(answer: dict[str, Any]) -> tuple[str, int] | MailbridgeError:
    value = answer["access_token"]
    # It becomes part of a SASL answer, where a control character ends a field.
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
        return Unavailable("Entra's answer holds no usable token", code="entra.no_token")
    try:
        seconds = int(answer.get("expires_in", SHORT_LIFE))
    except (TypeError, ValueError):
        seconds = SHORT_LIFE
    return value, min(max(seconds, 1), LONG_LIFE)


def _copied(error: MailbridgeError, credential: Credential | None = None) -> MailbridgeError:
    """Return the same error without its traceback, whose frames hold the secret."""
    text = str(error) if credential is None else credential.hide(str(error))
    if isinstance(error, Throttled):
        return Throttled(text, retry_after=error.retry_after, code=error.code, fix=error.fix)
    return type(error)(text, code=error.code, fix=error.fix)


def _harmless(exc: Exception, credential: Credential) -> str:
    text = credential.hide(str(exc))[:200] if type(exc) is ValueError else ""
    return f"{type(exc).__name__} {text}".strip()


def _wait(error: MailbridgeError) -> timedelta:
    if isinstance(error, Throttled):
        return timedelta(seconds=error.retry_after)
    return AFTER_REJECTION if isinstance(error, SignInRejected) else AFTER_OUTAGE


def _again(pause: _Pause, now: datetime) -> MailbridgeError:
    """Return a copy of an error: one instance raised by many tasks would mix their traces."""
    error = _copied(pause.error)
    if isinstance(error, Throttled):
        error.retry_after = max((pause.until - now).total_seconds(), 1.0)
    return error
