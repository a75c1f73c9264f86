"""How a person consents: in a browser with a redirect, or on another device with a code.

Both end with a ``Grant`` that is complete and of the right account, or an error that says why
not. The caller saves it first and tries it afterwards.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from mailbridge.errors import MailbridgeError, SignInRejected, TemporaryError, Unavailable
from mailbridge.model import Grant
from mailbridge.sign_in.account import Account
from mailbridge.sign_in.registration import Registration

Run = Callable[..., Awaitable[Any]]
ResponseMode = Literal["query", "form_post"]

#: how long a person has for the pages of one sign-in
PATIENCE: Final = timedelta(minutes=10)
#: of chance in ``state``; msal's own has half of it
STATE_BYTES: Final = 32
#: an address that msal asks Entra to send the answer to in the body of a POST
_FORM_POST: Final = "response_mode=form_post"


class AuthCodeFlow:
    """One sign-in in a browser: authorization code with PKCE, state and nonce. Good for one use.

    ``app`` is used by this flow alone. ``state`` finds the flow again when the answer comes, and
    whoever takes the answer makes sure that it comes from the browser that was sent away.
    """

    def __init__(
        self,
        *,
        app: Registration,
        account: Account,
        now: Callable[[], datetime],
        run: Run,
        response_mode: ResponseMode = "query",
    ) -> None:
        self.account = account
        self._app = app
        self._now = now
        self._run = run
        self._mode = response_mode
        self._flow: dict[str, Any] | None = None
        self._expires_at = now()

    @property
    def state(self) -> str:
        """What Entra sends back; empty before ``start`` and after ``finish``."""
        return str(self._flow["state"]) if self._flow is not None else ""

    @property
    def expires_at(self) -> datetime:
        """Until when the answer is taken."""
        return self._expires_at

    async def start(self, redirect_uri: str, *, prompt: str = "select_account") -> str:
        """Return the URL to open; raises our errors when Entra cannot be reached.

        The default ``prompt`` lets the person choose, so that nobody's browser signs in somebody
        else unseen.
        """

        def question(client: Any) -> Mapping[str, Any]:
            # msal warns of every other mode than form_post, which a loopback cannot always take.
            return client.initiate_auth_code_flow(  # type: ignore[no-any-return] # untyped
                self.account.scopes(self.account.permissions),
                redirect_uri=redirect_uri,
                state=secrets.token_urlsafe(STATE_BYTES),
                prompt=prompt,
                login_hint=self.account.address,
                response_mode="form_post",
            )

        flow = dict(_raised(await self._run(self._app.ask_openly, question)))
        self._flow = flow
        self._expires_at = self._now() + PATIENCE
        return str(flow["auth_uri"]).replace(_FORM_POST, f"response_mode={self._mode}")

    async def finish(self, answer: Mapping[str, str]) -> Grant:
        """Return the grant for what Entra sent to the redirect URI, its query or form.

        Raises ``SignInRejected`` with the reason; ``Unavailable`` when Entra did not answer, and
        then too a new sign-in is needed, for a code is good for one time.
        """
        flow = self._flow
        given = str(answer.get("state", ""))
        if flow is None or not hmac.compare_digest(given.encode(), self.state.encode()):
            raise SignInRejected(
                "this answer belongs to no sign-in that is under way",
                code="sign_in.state",
                fix=f"Run `{self.account.login}` again, and open its link once.",
            )
        self._flow = None
        if self._now() >= self._expires_at:
            raise SignInRejected(
                "the sign-in took longer than ten minutes",
                code="sign_in.too_late",
                fix=f"Run `{self.account.login}` again.",
            )
        if answer.get("error"):
            raise self.account.explain(answer)
        if not answer.get("code"):
            raise SignInRejected("Entra sent no code", code="sign_in.no_code")

        def question(client: Any) -> Mapping[str, Any]:
            # msal takes things out of the flow.
            return client.acquire_token_by_auth_code_flow(dict(flow), dict(answer))  # type: ignore[no-any-return] # untyped

        return self.account.checked_grant(
            _raised(await self._run(lambda: self._ask(question))), self._now()
        )

    def _ask(self, question: Callable[[Any], Mapping[str, Any]]) -> Any:
        return self._app.ask(question, explain=self.account.explain, bare=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What a person is told: open ``verification_uri`` and type in ``user_code``."""

    message: str
    user_code: str
    verification_uri: str
    expires_at: datetime


class DeviceFlow:
    """One sign-in on another device (RFC 8628). Good for one use.

    ``app`` is used by this flow alone. ``sleep`` waits between two polls.
    """

    def __init__(
        self,
        *,
        app: Registration,
        account: Account,
        now: Callable[[], datetime],
        run: Run,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.account = account
        self._app = app
        self._now = now
        self._run = run
        self._sleep = sleep
        self._flow: dict[str, Any] | None = None

    async def start(self) -> DeviceCode:
        """Return the code to show; raises our errors."""

        def question(client: Any) -> Mapping[str, Any]:
            return client.initiate_device_flow(self.account.scopes(self.account.permissions))  # type: ignore[no-any-return] # untyped

        explain = self.account.explain
        flow = dict(
            _raised(await self._run(lambda: self._app.ask_openly(question, explain=explain)))
        )
        if not flow.get("device_code") or not flow.get("user_code"):
            raise Unavailable("Entra's answer holds no device code", code="entra.no_device_code")
        self._flow = flow
        return DeviceCode(
            message=str(flow.get("message", "")),
            user_code=str(flow["user_code"]),
            verification_uri=str(flow.get("verification_uri", "")),
            expires_at=datetime.fromtimestamp(flow["expires_at"], UTC),
        )

    async def poll(self) -> Grant | None:
        """Ask once whether the person is done; ``None`` while not, or when it is too soon to ask.

        Raises ``SignInRejected`` with the reason when it will never be; ``TemporaryError`` for
        trouble on the way, after which it may be asked again.
        """
        flow = self._flow
        if flow is None:
            raise SignInRejected(
                "no sign-in is under way",
                code="sign_in.state",
                fix=f"Run `{self.account.login} --device`.",
            )
        if self._pause() > 0:
            return None

        def question(client: Any) -> Mapping[str, Any]:
            # msal warns of a second try within the interval, as it is made without the credential.
            flow["latest_attempt_at"] = 0
            answer: dict[str, Any] = client.acquire_token_by_device_flow(
                flow, exit_condition=lambda _: True
            )
            # "Not yet" is an answer, not a refusal.
            waits = answer.get("error") in ("authorization_pending", "slow_down")
            return {} if waits else answer

        try:
            answer = _raised(await self._run(lambda: self._ask(question)))
        except SignInRejected:
            self._flow = None
            raise
        if not answer:
            return None
        self._flow = None
        return self.account.checked_grant(answer, self._now())

    async def wait(self) -> Grant:
        """Poll until the person is done; raises ``SignInRejected`` when it will never be."""
        while True:
            await self._sleep(max(self._pause(), 0.0))
            try:
                grant = await self.poll()
            except TemporaryError:
                if self._flow is None or time.time() >= self._flow["expires_at"]:
                    raise
                # The next poll asks no sooner than this one would have (RFC 8628, 3.5).
                self._flow["latest_attempt_at"] = time.time()
                continue
            if grant is not None:
                return grant

    def _pause(self) -> float:
        """Return the seconds until the next poll is due, by the clock that msal uses."""
        flow = self._flow or {}
        due: float = flow.get("latest_attempt_at", 0.0) + flow.get("interval", 5)
        return due - time.time()

    def _ask(self, question: Callable[[Any], Mapping[str, Any]]) -> Any:
        return self._app.ask(question, explain=self.account.explain, bare=True)


def _raised(outcome: Mapping[str, Any] | MailbridgeError) -> Mapping[str, Any]:
    if isinstance(outcome, MailbridgeError):
        raise outcome
    return outcome
