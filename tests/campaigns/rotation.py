"""The sandbox's Entra as three kinds of servers, which differ in what ends a refresh token.

::

    keeps     a replaced refresh token lives on (Entra)
    retires   it ends as soon as anything that came in its place was used
    forgets   the same, and a new token that nobody has used is lost with a failover at the kill

No client survives a server that ends the old token while its answer may still be lost on the
way (RFC 9700, 4.14.2, without any grace), so that one is not among them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, Literal, get_args

from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_grants import TokenCall
from mailbridge.sandbox.entra_ledger import SignedIn
from tests.campaigns.harness import Tenant
from tests.campaigns.refresher import ADDRESS, RESOURCE, digest

Server = Literal["keeps", "retires", "forgets"]
SERVERS: tuple[Server, ...] = get_args(Server)
#: what only this side sees: the request is there; the token is replaced and nobody has the answer
Moment = Literal["asked", "answered"]

#: seconds
PATIENCE = 60.0
SCOPE = f"{RESOURCE}/IMAP.AccessAsUser.All offline_access openid profile"


class LoginService(Tenant):
    """The sandbox's Entra with one person, which knows what came of each refresh token."""

    def __init__(self) -> None:
        super().__init__()
        self.client = self.directory.add(App(name="desktop", public_flows=True))
        self.client.add_redirect("http://localhost", "public")
        self.person = self.directory.add_user(User(upn=ADDRESS))
        self.server: Server = "keeps"
        #: which process to kill at which of the two steps that only this side sees
        self.trap: tuple[Moment, int] | None = None
        self._older: dict[str, str] = {}
        self._came_with: dict[str, str] = {}
        self._unused: set[str] = set()
        self._refresh = self._entra.grants["refresh_token"]
        self._entra.grants["refresh_token"] = self._watched

    async def _watched(self, call: TokenCall) -> dict[str, Any]:
        """Replace a refresh token, unless the process is to die here; then nobody is answered."""
        self._spring("asked")
        answer = await self._refresh(call)
        used, new = call.form["refresh_token"], str(answer["refresh_token"])
        self._older[new] = used
        self._came_with[digest(str(answer["access_token"]))] = new
        self._unused.add(new)
        self._retire(used)
        self._spring("answered")
        return answer

    def _spring(self, moment: Moment) -> None:
        if self.trap is not None and self.trap[0] == moment:
            os.kill(self.trap[1], signal.SIGKILL)
            self.trap = None

    def _retire(self, used: str) -> None:
        """End what came before a token that was used."""
        self._unused.discard(used)
        if self.server == "keeps":
            return
        ledger, older = self._entra.state.ledger.refresh_tokens, self._older.get(used)
        while older is not None:
            ledger.pop(older, None)
            older = self._older.get(older)

    def login(self) -> str:
        """Let the person sign in anew; returns the refresh token."""
        state = self._entra.state

        async def sign_in() -> str:
            signed_in = SignedIn(
                app=self.client,
                user=self.person,
                asked=state.scopes(SCOPE, self.client),
                amr=("pwd",),
                at=state.now(),
                tenant=self.directory.tenant_id,
            )
            return state.ledger.add_refresh(signed_in)

        return str(self._called(sign_in()))

    def used(self, token: str) -> str:
        """Take note that an access token was used; returns the refresh token that came with it."""
        new = self._came_with[token]

        async def retire() -> None:
            self._retire(new)

        self._called(retire())
        return new

    def fail_over(self) -> None:
        """Forget the new refresh tokens that nobody has used, where the server does so."""

        async def forget() -> None:
            for token in self._unused:
                self._entra.state.ledger.refresh_tokens.pop(token, None)
            self._unused.clear()

        if self.server == "forgets":
            self._called(forget())

    def end_others(self, kept: str) -> None:
        """End every refresh token but one: a new login replaces the former one."""

        async def end() -> None:
            ledger = self._entra.state.ledger.refresh_tokens
            for token in list(ledger):
                if token != kept:
                    del ledger[token]

        self._called(end())

    def _called(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
