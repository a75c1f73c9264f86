"""Delegated access: tokens for a person who has consented once, by refresh tokens that rotate.

::

    grant in the store ──► Entra ──► access token + another refresh token
                                        │
                     committed in place of the one before, which stays as `former`
                                        │
                              only now: the access token

A crash before the commit leaves the former refresh token, which Entra still takes; a crash after
it leaves the new one. Nothing but the person's own logout removes a grant: a network fault, an
outage or a throttle says nothing about it, and a refusal may be taken back by an administrator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.model import AccessToken, Grant
from mailbridge.sign_in.account import Account, scopes_of
from mailbridge.sign_in.application import taken
from mailbridge.sign_in.base import Expiry, Kind, Standing, state_of
from mailbridge.sign_in.credentials import expiries, mark
from mailbridge.sign_in.entra_people import TOKEN_ERRORS, person_state
from mailbridge.sign_in.failures import copied
from mailbridge.sign_in.keeper import USABLE, Fetched, TokenKeeper
from mailbridge.sign_in.registration import Registration
from mailbridge.store.base import GrantStore

log = structlog.get_logger(__name__)

#: how long a refresh token lives without use, and after how long ``keep_alive`` uses it
UNUSED_LIFE: Final = timedelta(days=90)
KEEP_ALIVE: Final = timedelta(days=7)
#: seconds that a refresh gets to commit its token when the daemon stops
LET_FINISH: Final = 10.0

_CONSENT_MISSING: Final = "AADSTS65001"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renewed:
    """A grant as it has to be committed, and the token that waits for that."""

    grant: Grant = field(repr=False)
    #: the refresh token that stood in the store when Entra was asked
    stored: str = field(repr=False)
    token: Fetched | MailbridgeError
    missing: frozenset[str]


class DelegatedSignIn:
    """One account that signs in to one app: see ``SignIn``. ``run`` runs what blocks in a thread.

    ``app`` is used by this sign-in alone, so no other account waits for it.
    """

    kind: Kind = "delegated"

    def __init__(
        self,
        *,
        app: Registration,
        account: Account,
        grants: GrantStore,
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        self.name = app.name
        self.account = account
        self._app = app
        self._grants = grants
        self._now = now
        self._run = run
        about = {"app": app.name, "mailbox": account.mailbox}
        self._keeper = TokenKeeper(fetch=self._fetch, now=now, about=about)
        self._saving = asyncio.Lock()
        self._unsaved: _Renewed | None = None
        self._refused = ""
        self._missing: frozenset[str] = frozenset()
        self._used_at: datetime | None = None

    @property
    def refreshes(self) -> int:
        """How many tokens were fetched."""
        return self._keeper.refreshes

    @property
    def failures(self) -> int:
        """How many attempts to fetch one failed."""
        return self._keeper.failures

    async def token(self) -> AccessToken:
        """Return a token with enough life left for a new session; raises as ``SignIn`` says."""
        if self._keeper.pausing and await self._consented_anew():
            self._keeper.resume()
        return await self._keeper.token()

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token newer than the one that a mail server has ``refused``."""
        return await self._keeper.force_refresh(refused)

    async def reload(self) -> None:
        """Try changed credentials with the next token; the token in hand stays until then."""
        self._keeper.expire()

    async def adopt(self, grant: Grant) -> None:
        """Keep what the person has just consented to, and use it from the next token on.

        When this returns, a crash loses nothing. Raises what the store raises.
        """
        async with self._saving:
            await self._grants.save_grant(grant)
            self._unsaved = None
        self._keeper.expire()

    async def forget(self) -> bool:
        """Remove the grant and the token in hand; tells whether there was a grant."""
        async with self._saving:
            self._unsaved = None
            removed = await self._grants.forget_grant(self.name, self.account.address)
        await self._keeper.drop()
        return removed

    async def keep_alive(self) -> None:
        """Use a grant that has lain for a week, since it dies after 90 days; raises as ``token``.

        For mailboxes that seldom need a token: those that only send.
        """
        grant = await self._grants.grant(self.name, self.account.address)
        if grant is not None and self._now() - grant.refreshed_at >= KEEP_ALIVE:
            self._keeper.expire()
            await self._keeper.token()

    async def close(self) -> None:
        """Let a refresh under way commit what it got, for ten seconds."""
        await self._keeper.settle(LET_FINISH)

    def standing(self) -> Standing:
        """Return how it stands; asks nobody."""
        error = self._keeper.error
        shared: dict[str, Any] = {
            "kind": self.kind,
            "app": self.name,
            "account": self.account.address,
            "credential": self._app.in_use,
            "expiries": self._expiries(),
        }
        if error is not None:
            return Standing(
                **shared,
                state=person_state(error) or state_of(error),
                code=error.code,
                cause=str(error),
                fix=error.fix,
            )
        if self._missing:
            return Standing(
                **shared,
                state="needs_consent",
                code="sign_in.incomplete",
                cause=f"{self.account.address} has not granted {', '.join(sorted(self._missing))}",
                fix=f"Run `{self.account.login}`.",
            )
        return Standing(**shared, state="ok" if self.refreshes else "unknown")

    def _expiries(self) -> tuple[Expiry, ...]:
        of_app = expiries(self._app.credentials)
        if self._used_at is None:
            return of_app
        fix = f"Run `{self.account.login}`: a sign-in ends after 90 days in which it is not used."
        own = Expiry(kind="refresh_token", expires_at=self._used_at + UNUSED_LIFE, fix=fix)
        return (own, *of_app)

    # -- one refresh --------------------------------------------------------------------------

    async def _consented_anew(self) -> bool:
        """Tell whether the store has another grant than the one that was refused."""
        error = self._keeper.error
        if error is None or person_state(error) is None:
            return False
        try:
            grant = await self._grants.grant(self.name, self.account.address)
        except MailbridgeError:
            return False  # the refusal is still the better answer
        return grant is not None and mark(grant.refresh_token.encode()) != self._refused

    async def _fetch(self) -> Fetched | MailbridgeError:
        left_over = self._unsaved
        if left_over is not None:
            outcome = await self._commit(left_over)
            if isinstance(outcome, MailbridgeError) or self._lives(outcome):
                return outcome
        grant = await self._grants.grant(self.name, self.account.address)
        if grant is None:
            return self._no_grant()
        self._used_at = grant.refreshed_at
        asked_at = self._now()
        renewed = await self._run(self._renew, grant, asked_at)
        if isinstance(renewed, MailbridgeError):
            self._refused = mark(grant.refresh_token.encode())
            return renewed
        # Kept until it is committed: the server may not take the former one a second time.
        self._unsaved = renewed
        return await self._commit(renewed)

    def _lives(self, token: Fetched) -> bool:
        return token.expires_at - self._now() >= USABLE

    async def _commit(self, renewed: _Renewed) -> Fetched | MailbridgeError:
        """Make the new refresh token durable; returns the access token, which may be used now."""
        async with self._saving:
            stands = await self._grants.grant(self.name, self.account.address)
            if stands is None:
                self._unsaved = None
                return self._no_grant()
            # A login, or another host, was faster: then its refresh token is the one to keep.
            if stands.refresh_token == renewed.stored:
                await self._grants.save_grant(renewed.grant)
                self._used_at = renewed.grant.refreshed_at
            self._unsaved = None
        self._missing = renewed.missing
        return renewed.token

    def _no_grant(self) -> MailbridgeError:
        self._refused = ""
        return SignInRejected(
            f"{self.account.address} has not signed in yet",
            code="sign_in.no_grant",
            fix=f"Run `{self.account.login}`.",
        )

    # -- in a worker thread -------------------------------------------------------------------

    def _renew(self, grant: Grant, asked_at: datetime) -> _Renewed | MailbridgeError:
        """Ask with the refresh token, and with the one before it if that one is at fault."""
        first: MailbridgeError | None = None
        for refresh_token in (grant.refresh_token, grant.former):
            if not refresh_token:
                continue
            outcome = self._redeem(grant, refresh_token, asked_at)
            if not isinstance(outcome, MailbridgeError):
                if first is not None:
                    log.warning("grant.former_used", app=self.name, mailbox=self.account.mailbox)
                return outcome
            first = first or outcome
            if outcome.code not in TOKEN_ERRORS:
                break
        assert first is not None  # noqa: S101 - a grant has a refresh token
        return first

    def _redeem(
        self, grant: Grant, refresh_token: str, asked_at: datetime
    ) -> _Renewed | MailbridgeError:
        asked = self.account.permissions
        answer = self._ask(refresh_token, asked)
        if isinstance(answer, MailbridgeError) and answer.code == _CONSENT_MISSING:
            granted = self.account.granted(grant.scopes)
            if granted and granted != asked:
                # What the configuration needs since then must not stop what was granted before.
                asked = granted
                answer = self._ask(refresh_token, asked)
        if isinstance(answer, MailbridgeError):
            return answer
        return self._renewed(grant, refresh_token, answer, asked, asked_at)

    def _ask(
        self, refresh_token: str, permissions: Collection[str]
    ) -> Mapping[str, Any] | MailbridgeError:
        scopes = self.account.scopes(permissions)

        def question(client: Any) -> Mapping[str, Any]:
            # Not msal's cache: there, the rotated token would be out of our sight.
            return client.acquire_token_by_refresh_token(refresh_token, scopes)  # type: ignore[no-any-return] # untyped

        return self._app.ask(
            question,
            explain=self.account.explain,
            bare=True,
            hide=lambda text: text.replace(refresh_token, "***"),
        )

    def _renewed(
        self,
        grant: Grant,
        used: str,
        answer: Mapping[str, Any],
        asked: Collection[str],
        asked_at: datetime,
    ) -> _Renewed | MailbridgeError:
        try:
            identity = self.account.refuse_others(answer, grant.object_id)
        except SignInRejected as error:
            return copied(error)
        said = answer.get("refresh_token")
        rotated = said if isinstance(said, str) and said else used
        scopes = scopes_of(answer, self.account.scopes(asked))
        return _Renewed(
            grant=replace(
                grant,
                refresh_token=rotated,
                former=used if rotated != used else None,
                scopes=tuple(dict.fromkeys((*grant.scopes, *scopes))),
                object_id=grant.object_id or identity.object_id,
                tenant_id=grant.tenant_id or identity.tenant_id,
                refreshed_at=asked_at,
            ),
            stored=grant.refresh_token,
            token=taken(answer, asked_at, {"rotated": rotated != used}),
            missing=self.account.permissions - self.account.granted(scopes),
        )
