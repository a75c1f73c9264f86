"""Admin consent, in its first form and in that of v2.0: what "grant admin consent" links open."""

from __future__ import annotations

from aiohttp import web

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_user_errors as user_errors
from mailbridge.sandbox.entra_authorize import Callback, error_fields, registered
from mailbridge.sandbox.entra_browsing import Browsing
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_interaction import Session
from mailbridge.sandbox.entra_scopes import DEFAULT, Asked
from mailbridge.sandbox.entra_state import State


class AdminConsent:
    """Both endpoints. On Accept the app's permissions are granted for the whole tenant."""

    def __init__(self, state: State, browsing: Browsing) -> None:
        self._state = state
        self._browsing = browsing

    async def v1(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/{tenant}/adminconsent``: everything that the registration lists."""
        return self._begin(request, None)

    async def v2(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/{tenant}/v2.0/adminconsent``: what ``scope`` says, ``/.default`` mostly."""
        if not request.query.get("scope"):
            raise errors.missing_parameter("scope")
        return self._begin(request, request.query["scope"])

    def _begin(self, request: web.Request, scope: str | None) -> web.Response:
        tenant = self._state.tenant(request.match_info["tenant"])
        if scope is not None and tenant in {"common", "consumers"}:
            raise errors.unknown_tenant(tenant, discovery=False)
        for name in ("client_id", "redirect_uri"):
            if not request.query.get(name):
                raise errors.missing_parameter(name)
        app = self._state.listed(request.query["client_id"])
        uri, _ = registered(app, request.query["redirect_uri"])
        callback = Callback(uri=uri, mode="query", state=request.query.get("state"))
        asked = None if scope is None else self._state.scopes(scope, app)
        everything = asked is None or _default_of_mail(asked)
        names = [*app.roles, *app.scopes] if everything else (asked.names(app) if asked else [])

        def done(_session: Session) -> web.Response:
            app.installed = True
            if everything:
                app.consented = True
            else:
                app.admin_scopes |= set(names)
            answer = {"admin_consent": "True", "tenant": self._state.directory.tenant_id}
            return callback.answer({**answer, **({} if scope is None else {"scope": scope})})

        def failed(error: EntraError | None) -> web.Response:
            return callback.answer(self._refused(request, error, v1=scope is None))

        return self._browsing.begin(
            request,
            purpose="admin",
            app=app,
            names=names,
            prompt="select_account",
            done=done,
            failed=failed,
        )

    def _refused(
        self, request: web.Request, error: EntraError | None, *, v1: bool
    ) -> dict[str, str]:
        """Return what the app is told when an administrator cancels, or is none."""
        declined = error is not None and error.code == user_errors.declined().code
        if v1 and (declined or error is None):
            text = "The admin canceled the request"
            return {"error": "permission_denied", "error_description": text}
        if declined:
            answer = error_fields(user_errors.admin_declined(), self._state, request)
            return {"admin_consent": "True", **answer}
        return error_fields(error, self._state, request)


def _default_of_mail(asked: Asked) -> bool:
    """Tell whether this is ``/.default`` of Exchange, which stands for its app roles too."""
    return any(scope.kind == "exchange" and scope.name == DEFAULT for scope in asked.scopes)
