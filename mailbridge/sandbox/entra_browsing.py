"""Browsers at the login service: their cookies, and the sign-ins that are under way in them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from mailbridge.sandbox import entra_pages as pages
from mailbridge.sandbox.entra_errors import EntraError, mixed_up_browser
from mailbridge.sandbox.entra_http import correlation
from mailbridge.sandbox.entra_interaction import Interaction, Profile
from mailbridge.sandbox.entra_state import State

_COOKIE: Final = "ESTSAUTHPERSISTENT"
_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
#: how long a page may be left open, and how many may be open at once
_PATIENCE: Final = timedelta(hours=1)
_OPEN: Final = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Browsing:
    """What is remembered of browsers. A page is good in the one that it was shown in only."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._profiles: dict[str, Profile] = {}
        self._open: dict[str, Interaction] = {}

    def guarded(self, handler: Handler) -> Handler:
        """Wrap a handler of pages: loopback names only, and errors are pages too.

        A name of somebody else's that leads to loopback (DNS rebinding) is refused.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            host = urlsplit(f"//{request.host}").hostname
            if host not in _HOSTS:
                return web.Response(status=403, text="This page is for loopback only.\n")
            try:
                return await handler(request)
            except EntraError as error:
                return self.error_page(request, error)

        return handle

    def error_page(self, request: web.Request, error: EntraError) -> web.Response:
        """Return the page that says what is wrong, with the ids that support asks for."""
        body = error.body(moment=self._state.now(), correlation_id=correlation(request))
        return pages.failure(error, body["error_description"])

    def begin(self, request: web.Request, **given: Any) -> web.Response:
        """Open a sign-in for this browser and return its first page."""
        identity = request.cookies.get(_COOKIE, "")
        if identity not in self._profiles:
            identity = secrets.token_urlsafe(24)
            self._profiles[identity] = Profile()
        moment = self._state.now()
        old = [c for c, one in self._open.items() if moment - one.begun_at > _PATIENCE]
        for context in old or list(self._open)[: max(0, len(self._open) - _OPEN)]:
            del self._open[context]
        context = secrets.token_urlsafe(32)
        interaction = Interaction(
            state=self._state,
            profile=self._profiles[identity],
            context=context,
            begun_at=moment,
            **given,
        )
        self._open[context] = interaction
        response = self._kept(interaction, interaction.begin())
        response.set_cookie(_COOKIE, identity, secure=True, httponly=True, samesite="Lax", path="/")
        return response

    async def step(self, request: web.Request) -> web.StreamResponse:
        """Take a page that was filled in."""
        form = await fields(request)
        interaction = self._open.get(form.get("ctx", ""))
        profile = self._profiles.get(request.cookies.get(_COOKIE, ""))
        if interaction is None or interaction.profile is not profile:
            raise mixed_up_browser()
        return self._kept(interaction, interaction.take(form))

    def _kept(self, interaction: Interaction, response: web.Response) -> web.Response:
        """Forget the sign-in once its answer is no page of its own."""
        if interaction.over:
            self._open.pop(interaction.context, None)
        return response


async def fields(request: web.Request) -> dict[str, str]:
    """Return the posted text fields."""
    posted = await request.post()
    return {key: value for key, value in posted.items() if isinstance(value, str)}
