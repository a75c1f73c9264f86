"""Name and password (RFC 6749 section 4.3, ROPC), for those who still depend on it.

Microsoft has deprecated it: it works for accounts without a second factor, where no policy
forbids it, until it is switched off. See ``config.rules`` for the warning.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.model import AccessToken
from mailbridge.sign_in.account import Account, scopes_of
from mailbridge.sign_in.application import taken
from mailbridge.sign_in.base import Kind, Standing, state_of
from mailbridge.sign_in.credentials import ClientSecret, expiries
from mailbridge.sign_in.entra_people import person_state
from mailbridge.sign_in.keeper import Fetched, TokenKeeper
from mailbridge.sign_in.registration import Registration

#: after a refusal: ten wrong passwords in a row lock the account (AADSTS50053)
AFTER_REFUSAL: Final = timedelta(minutes=15)


class PasswordSignIn:
    """One account that signs in by its password: see ``SignIn``.

    ``password`` is read again with every request, as a client secret is.
    """

    kind: Kind = "password"

    def __init__(
        self,
        *,
        app: Registration,
        account: Account,
        password: ClientSecret,
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        self.name = app.name
        self.account = account
        self._app = app
        self._password = password
        self._now = now
        self._run = run
        self._missing: frozenset[str] = frozenset()
        self._refused = ""
        self._keeper = TokenKeeper(
            fetch=self._fetch,
            now=now,
            about={"app": app.name, "mailbox": account.mailbox},
            after_rejection=AFTER_REFUSAL,
        )

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
        if self._keeper.pausing and await self._run(self._changed):
            self._keeper.resume()
        return await self._keeper.token()

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token newer than the one that a mail server has ``refused``."""
        return await self._keeper.force_refresh(refused)

    async def reload(self) -> None:
        """Try a changed password with the next token; the token in hand stays until then."""
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
            "account": self.account.address,
            "credential": "password",
            "expiries": expiries(self._app.credentials),
        }
        if error is not None:
            state = person_state(error) or state_of(error)
            return Standing(
                **shared,
                # Nobody signs in interactively here, so nothing but a change of settings helps.
                state="rejected" if state == "needs_consent" else state,
                code=error.code,
                cause=str(error),
                fix=error.fix,
            )
        if self._missing:
            return Standing(
                **shared,
                state="needs_admin_consent",
                code="sign_in.incomplete",
                cause=f"{', '.join(sorted(self._missing))} was not granted",
                fix=f"Send the administrator what `mailbridge consent-url {self.name}` prints.",
            )
        return Standing(**shared, state="ok" if self.refreshes else "unknown")

    async def _fetch(self) -> Fetched | MailbridgeError:
        asked_at = self._now()
        answer = await self._run(self._ask)
        if isinstance(answer, MailbridgeError):
            return answer
        # Whose token it is, is not compared: Entra has checked the name that was sent, and where
        # the tenant allows another name for signing in, the token holds the account's own.
        scopes = scopes_of(answer, self.account.scopes(self.account.permissions))
        self._missing = self.account.permissions - self.account.granted(scopes)
        return taken(answer, asked_at, {"credential": "password"})

    # -- in a worker thread -------------------------------------------------------------------

    def _changed(self) -> bool:
        """Tell whether the password is another one than the one that was refused."""
        return bool(self._refused) and self._password.proof().mark != self._refused

    def _ask(self) -> Mapping[str, Any] | MailbridgeError:
        proof = self._password.proof()
        scopes = self.account.scopes(self.account.permissions)

        def question(client: Any) -> Mapping[str, Any]:
            return client.acquire_token_by_username_password(  # type: ignore[no-any-return] # untyped
                self.account.address, proof.value, scopes
            )

        answer = self._app.ask(
            question, explain=self.account.explain, bare=True, hide=self._password.hide
        )
        rejected = isinstance(answer, SignInRejected)
        self._refused = proof.mark if rejected else ""
        return answer
