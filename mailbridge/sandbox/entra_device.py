"""The device code flow (RFC 8628): how a device begins, and the page where its code is typed in."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_grant_errors as grant_errors
from mailbridge.sandbox import entra_pages as pages
from mailbridge.sandbox.entra_browsing import Browsing, fields
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_interaction import Session
from mailbridge.sandbox.entra_ledger import DEVICE_LIFETIME, Device, SignedIn
from mailbridge.sandbox.entra_scopes import one_resource
from mailbridge.sandbox.entra_state import State
from mailbridge.sandbox.entra_user_errors import admin_needed, declined

#: refusals by the person rather than by a policy: Cancel at consent, or no administrator at hand
_DECLINED: Final = frozenset({declined().code, admin_needed().code})


def start(state: State, form: dict[str, str], tenant: str) -> dict[str, Any]:
    """Begin a device's sign-in; raises ``EntraError``.

    Whether the app may do this at all is told by the first poll only (AADSTS7000218).
    """
    for name in ("client_id", "scope"):
        if not form.get(name):
            raise errors.missing_parameter(name)
    app = state.app(form["client_id"])
    state.check_shared(app, tenant)
    asked = one_resource(state.scopes(form["scope"], app))
    value, device = state.ledger.add_device(app, asked, tenant)
    page = state.base_url + pages.DEVICE_PATH
    return {
        "user_code": device.user_code,
        "device_code": value,
        "verification_uri": page,
        "expires_in": int(DEVICE_LIFETIME.total_seconds()),
        "interval": state.device_interval,
        "message": (
            f"To sign in, use a web browser to open the page {page} and enter the code "
            f"{device.user_code} to authenticate."
        ),
    }


class DevicePage:
    """The page where somebody types in the code that a device shows."""

    def __init__(self, state: State, browsing: Browsing) -> None:
        self._state = state
        self._browsing = browsing

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """Return the page."""
        return pages.question("device", "")

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Take the code; what is wrong, old or used is asked for again."""
        typed = (await fields(request)).get("otc", "")
        device = self._state.ledger.by_user_code(typed)
        if device is None:
            return pages.question("device", "", value=typed, error=grant_errors.user_code())
        return self._begin(request, device)

    def _begin(self, request: web.Request, device: Device) -> web.Response:
        def done(session: Session) -> web.Response:
            device.state = "approved"
            device.signed_in = SignedIn(
                app=device.app,
                user=session.user,
                asked=device.asked,
                amr=session.amr,
                at=session.at,
                tenant=device.tenant,
            )
            text = "You have signed in to the application on your device. You may close this."
            return pages.message("done", device.app.name, text)

        def failed(error: EntraError | None) -> web.Response:
            device.state, device.error = "refused", _told(error)
            if error is None or error.code in _DECLINED:
                return pages.message("declined", device.app.name, "Sign-in was cancelled.")
            return self._browsing.error_page(request, error)

        return self._browsing.begin(
            request,
            purpose="device",
            app=device.app,
            names=device.asked.names(device.app),
            offline="offline_access" in device.asked.reserved,
            done=done,
            failed=failed,
        )


def _told(error: EntraError | None) -> EntraError:
    """Return what the device hears: that the person declined, or which policy forbids it."""
    if error is None or error.code in _DECLINED:
        return grant_errors.device_declined()
    return EntraError(
        error.status,
        "access_denied" if error.error == "invalid_grant" else error.error,
        error.code,
        error.text,
        suberror=error.suberror,
        claims=error.claims,
    )
