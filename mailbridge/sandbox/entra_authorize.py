"""``/authorize``: the request that a browser brings, and the answer that it takes back.

What is wrong with client or redirect URI is said on a page; everything else goes to the app.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_grant_errors as grant_errors
from mailbridge.sandbox import entra_pages as pages
from mailbridge.sandbox.directory import LOOPBACK, App, Platform
from mailbridge.sandbox.entra_browsing import Browsing, fields
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_http import correlation, located
from mailbridge.sandbox.entra_interaction import Session
from mailbridge.sandbox.entra_ledger import CODE_LIFETIME, Code, SignedIn
from mailbridge.sandbox.entra_scopes import Asked
from mailbridge.sandbox.entra_state import State
from mailbridge.sandbox.entra_user_grants import encoded_ids

_MODES: Final = frozenset({"query", "fragment", "form_post"})
_PROMPTS: Final = frozenset({"", "none", "login", "consent", "select_account"})
#: characters of PKCE's challenge (RFC 7636, 4.2)
_CHALLENGE: Final = range(43, 129)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """Where the answer goes, and how."""

    uri: str
    mode: str
    state: str | None

    def answer(self, answer: dict[str, str]) -> web.Response:
        """Send the browser back with these fields; ``state`` comes along unchanged."""
        back = {**answer, **({} if self.state is None else {"state": self.state})}
        if self.mode == "form_post":
            return pages.post_back(self.uri, back)
        location = located(self.uri, back, fragment=self.mode == "fragment")
        headers = {"Location": location, "Cache-Control": "no-store, no-cache"}
        return web.Response(status=302, headers=headers)


def error_fields(error: EntraError | None, state: State, request: web.Request) -> dict[str, str]:
    """Return what the app is told; without an error, that the sign-in page was left."""
    if error is None:
        return {"error": "access_denied", "error_subcode": "cancel"}
    body = error.body(moment=state.now(), correlation_id=correlation(request))
    # What the token endpoint calls a bad grant, a browser calls a denied access.
    name = "access_denied" if error.error == "invalid_grant" else error.error
    answer = {"error": name, "error_description": body["error_description"]}
    return {**answer, "error_uri": body["error_uri"]}


def registered(app: App, asked: str) -> tuple[str, Platform]:
    """Return the redirect URI and its platform; raises ``EntraError`` (AADSTS50011, 900971).

    Compared character by character, except for the port of http on loopback, which a program
    may choose as it likes (RFC 8252, 7.3).
    """
    if not asked:
        if not app.redirects:
            raise errors.no_redirect()
        return app.redirects[0].uri, app.redirects[0].platform
    for redirect in app.redirects:
        if asked == redirect.uri or _portless(asked) == _portless(redirect.uri) is not None:
            return asked, redirect.platform
    raise errors.wrong_redirect(asked, app.client_id)


def _portless(uri: str) -> tuple[str, str, str] | None:
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme != "http" or host not in LOOPBACK or parts.username is not None:
        return None
    return host, parts.path or "/", parts.query


class Authorize:
    """The authorize endpoint."""

    def __init__(self, state: State, browsing: Browsing) -> None:
        self._state = state
        self._browsing = browsing

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take the request, by GET or POST; ``EntraError`` becomes a page."""
        asked = dict(request.query) if request.method == "GET" else await fields(request)
        tenant = self._state.tenant(request.match_info["tenant"])
        if not asked.get("client_id"):
            raise errors.missing_parameter("client_id")
        app = self._state.app(asked["client_id"])
        uri, platform = registered(app, asked.get("redirect_uri", ""))
        mode = asked.get("response_mode") or "query"
        callback = Callback(
            uri=uri, mode=mode if mode in _MODES else "query", state=asked.get("state")
        )
        try:
            self._state.check_shared(app, tenant)
            scopes = self._checked(app, asked)
        except EntraError as error:
            return callback.answer(error_fields(error, self._state, request))
        begun = _Begun(app, tenant, platform, callback, scopes, asked)
        return self._begin(request, begun)

    def _checked(self, app: App, asked: dict[str, str]) -> Asked:
        """Judge the rest of the request; return the scopes."""
        kind = asked.get("response_type", "")
        if not kind:
            raise errors.missing_parameter("response_type")
        if kind != "code":
            raise errors.unsupported_response(kind)
        for name, known in (("response_mode", {"", *_MODES}), ("prompt", _PROMPTS)):
            if asked.get(name, "") not in known:
                raise errors.unsupported_value(name, asked[name])
        challenge = asked.get("code_challenge", "")
        if challenge and len(challenge) not in _CHALLENGE:
            raise grant_errors.challenge_size()
        if asked.get("code_challenge_method", "plain") not in {"plain", "S256"}:
            raise errors.unsupported_value("code_challenge_method", asked["code_challenge_method"])
        return self._state.scopes(asked.get("scope", ""), app)

    def _begin(self, request: web.Request, begun: _Begun) -> web.StreamResponse:
        state, callback = self._state, begun.callback

        def failed(error: EntraError | None) -> web.Response:
            if error is not None and error.kept:
                return self._browsing.error_page(request, error)
            return callback.answer(error_fields(error, state, request))

        def done(session: Session) -> web.Response:
            answer = {"code": state.ledger.add_code(begun.code(session, state))}
            if begun.asked.get("client_info") == "1":
                answer["client_info"] = encoded_ids(state.directory, session.user)
            return callback.answer({**answer, "session_state": secrets.token_hex(16)})

        return self._browsing.begin(
            request,
            purpose="authorize",
            app=begun.app,
            names=begun.scopes.names(begun.app),
            offline="offline_access" in begun.scopes.reserved,
            prompt=begun.asked.get("prompt", ""),
            login_hint=begun.asked.get("login_hint", ""),
            done=done,
            failed=failed,
        )


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request that was found good."""

    app: App
    tenant: str
    platform: Platform
    callback: Callback
    scopes: Asked
    asked: dict[str, str]

    def code(self, session: Session, state: State) -> Code:
        """Return what the app gets for it."""
        challenge = self.asked.get("code_challenge", "")
        return Code(
            signed_in=SignedIn(
                app=self.app,
                user=session.user,
                asked=self.scopes,
                amr=session.amr,
                at=session.at,
                tenant=self.tenant,
                platform=self.platform,
                confidential=self.platform == "web",
            ),
            redirect_uri=self.callback.uri,
            challenge=challenge,
            method=self.asked.get("code_challenge_method", "plain"),
            nonce=self.asked.get("nonce", ""),
            expires_at=state.now() + CODE_LIFETIME,
        )
