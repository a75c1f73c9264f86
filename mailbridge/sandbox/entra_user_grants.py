"""The grants of people: authorization code, device code, refresh token, password.

A refresh token is replaced on every use. The old one stays valid, as at Entra, unless the
directory's ``revoke_on_reuse`` is set; then its second use ends all that descend from it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import orjson

from mailbridge.sandbox import entra_client_errors as client_errors
from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_grant_errors as grant_errors
from mailbridge.sandbox import entra_user_errors as user_errors
from mailbridge.sandbox.directory import App, Directory, User
from mailbridge.sandbox.entra_grants import Grant, TokenCall, lifetimes
from mailbridge.sandbox.entra_ledger import Code, Refresh, SignedIn
from mailbridge.sandbox.entra_policy import check_password, check_person, check_second_factor
from mailbridge.sandbox.entra_scopes import Asked, consented, first_resource, one_resource

DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"
#: how long a refresh token may lie unused, and how long a single-page app's lives at most
INACTIVITY: Final = timedelta(days=90)
SINGLE_PAGE: Final = timedelta(days=1)


async def authorization_code(call: TokenCall) -> dict[str, Any]:
    """Redeem what the browser was sent back with (RFC 6749, 4.1.3; RFC 7636, 4.6)."""
    call.require("code")
    code = call.state.ledger.codes.get(call.form["code"])
    if code is None or code.signed_in.app is not call.app:
        raise grant_errors.malformed_grant()
    _check_platform(call, code)
    if code.signed_in.tenant != call.tenant:
        raise grant_errors.other_tenant()
    if code.redeemed:
        raise grant_errors.code_used()
    if call.state.now() >= code.expires_at:
        raise grant_errors.code_expired()
    given = call.form.get("redirect_uri", "")
    if given and given != code.redirect_uri:
        raise grant_errors.other_redirect(given, code.redirect_uri)
    _check_verifier(code, call.form.get("code_verifier", ""))
    asked = _scopes(call, code.signed_in.asked)
    if not call.form.get("scope") and len(asked.kinds) > 1:
        raise errors.scope_for_code()
    answer = _answer(call, code.signed_in, one_resource(asked), nonce=code.nonce)
    code.redeemed = True
    return answer


def _check_platform(call: TokenCall, code: Code) -> None:
    """Judge how the app presents itself against the redirect URI that the code went to."""
    platform = code.signed_in.platform
    if platform == "spa":
        if not code.challenge:
            raise client_errors.pkce_needed()
        if not call.origin:
            raise client_errors.cross_origin_only()
    elif call.origin:
        raise client_errors.no_cross_origin()
    _check_credential(call, confidential=platform == "web")


def _check_credential(call: TokenCall, *, confidential: bool) -> None:
    if confidential and not call.client.proof:
        raise client_errors.credential_needed()
    if not confidential and call.client.proof:
        raise client_errors.credential_unwanted()


def _check_verifier(code: Code, verifier: str) -> None:
    if not code.challenge and not verifier:
        return
    digest = hashlib.sha256(verifier.encode()).digest()
    hashed = base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
    expected = verifier if code.method == "plain" else hashed
    if not code.challenge or not hmac.compare_digest(expected.encode(), code.challenge.encode()):
        raise grant_errors.wrong_verifier()


async def device_code(call: TokenCall) -> dict[str, Any]:
    """Answer a device that polls (RFC 8628, 3.4 and 3.5)."""
    call.require("device_code")
    _check_public(call)
    device = call.state.ledger.devices.get(call.form["device_code"])
    if device is None or device.app is not call.app or device.state == "used":
        raise grant_errors.device_unknown()
    if device.error is not None:
        raise device.error
    if call.state.now() >= device.expires_at:
        raise grant_errors.device_expired()
    if call.state.faults.take("device.slow_down", client_id=call.app.client_id):
        raise grant_errors.slow_down()
    if device.signed_in is None:
        raise grant_errors.pending()
    answer = _answer(call, device.signed_in, one_resource(device.asked))
    device.state = "used"
    return answer


def _check_public(call: TokenCall) -> None:
    """Let an app without a credential pass only when public client flows are allowed."""
    if not call.client.proof and not call.app.public_flows:
        raise client_errors.credential_needed()


async def refresh_token(call: TokenCall) -> dict[str, Any]:
    """Give new tokens for an old grant; several resources in the scope mean the first one."""
    call.require("refresh_token")
    ledger = call.state.ledger
    token = ledger.refresh_tokens.get(call.form["refresh_token"])
    if token is None:
        raise grant_errors.malformed_grant()
    signed_in = token.signed_in
    if signed_in.app is not call.app:
        raise grant_errors.other_client()
    _check_credential(call, confidential=signed_in.confidential)
    if token.family in ledger.revoked_families:
        raise grant_errors.family_revoked()
    if token.replaced and call.directory.revoke_on_reuse:
        ledger.revoked_families.add(token.family)
        raise grant_errors.family_revoked()
    _check_age(call, token)
    _check_revoked(token)
    check_person(call.state, call.app, signed_in.user)
    check_second_factor(signed_in.user, signed_in.amr)
    asked = first_resource(_scopes(call, signed_in.asked))
    answer = _answer(call, signed_in, asked, family=token.family)
    token.replaced = True
    return answer


def _check_age(call: TokenCall, token: Refresh) -> None:
    moment, signed_in = call.state.now(), token.signed_in
    if signed_in.platform == "spa" and moment - signed_in.at >= SINGLE_PAGE:
        raise grant_errors.single_page_expired(signed_in.at)
    if moment - token.issued_at >= INACTIVITY:
        raise grant_errors.inactive(token.issued_at)
    frequency = call.directory.sign_in_frequency
    if frequency is not None and moment - signed_in.at >= frequency:
        raise grant_errors.sign_in_frequency(token.issued_at, frequency)


def _check_revoked(token: Refresh) -> None:
    """Judge what has happened to the person since the sign-in.

    A password that the person changes ends the grants of public clients alone; one that an
    administrator sets ends those of confidential ones too; revoked sessions end all.
    """
    user, signed_in = token.signed_in.user, token.signed_in
    if user.valid_from is not None and signed_in.at <= user.valid_from:
        raise grant_errors.revoked(token.issued_at, user.valid_from)
    if user.reset_at is not None and signed_in.at <= user.reset_at:
        raise grant_errors.password_reset()
    changed = user.password_since
    if changed is not None and not signed_in.confidential and signed_in.at <= changed:
        raise grant_errors.revoked(token.issued_at, changed)


async def password(call: TokenCall) -> dict[str, Any]:
    """Take name and password without a browser (RFC 6749, 4.3), where that still works.

    The password of a federated account is unknown here, so it is never right.
    """
    if call.tenant in {"common", "consumers"}:
        raise errors.tenant_endpoint_only()
    call.state.check_shared(call.app, call.tenant)
    call.require("username", "password")
    _check_public(call)
    asked = one_resource(_scopes(call, None))
    user = call.directory.find_user(call.form["username"])
    if user is None or user.foreign:
        raise user_errors.unknown_user(call.directory.tenant_id)
    if user.federated:
        raise user_errors.wrong_password()
    check_password(call.state, user, call.form["password"])
    check_person(call.state, call.app, user)
    if call.directory.security_defaults:
        raise user_errors.security_defaults()
    check_second_factor(user, ("pwd",))
    signed_in = SignedIn(
        app=call.app,
        user=user,
        asked=asked,
        amr=("pwd",),
        at=call.state.now(),
        tenant=call.tenant,
        confidential=bool(call.client.proof),
    )
    return _answer(call, signed_in, asked)


# --- answers ----------------------------------------------------------------------------------


def _scopes(call: TokenCall, before: Asked | None) -> Asked:
    """Return what is asked for now: the request's own scope, or what was asked for before."""
    text = call.form.get("scope", "")
    if not text and before is not None:
        return before
    return call.state.scopes(text, call.app)


def _answer(
    call: TokenCall, signed_in: SignedIn, asked: Asked, *, nonce: str = "", family: str = ""
) -> dict[str, Any]:
    """Return the tokens; ``AADSTS65001`` when a permission was never consented to."""
    app, user = call.app, signed_in.user
    names = asked.names(app)
    if set(names) - consented(app, user):
        raise user_errors.no_consent(app)
    names = [name for name in names if name not in app.withheld]
    prefix = f"{asked.audience}/" if asked.scopes else ""
    reserved = sorted(asked.reserved - {"offline_access"}) if not asked.scopes else []
    answer = {
        "token_type": "Bearer",
        "scope": " ".join([*reserved, *(prefix + name for name in names)]),
        **lifetimes(app),
        "access_token": call.tokens.user_token(
            app,
            user,
            scopes=names,
            audience=asked.audience,
            amr=signed_in.amr,
            acr=call.client.acr,
        ),
    }
    if _offline(signed_in.asked, asked, app):
        answer["refresh_token"] = call.state.ledger.add_refresh(signed_in, family=family)
    if "openid" in asked.reserved:
        answer["id_token"] = call.tokens.id_token(app, user, issuer=call.state.issuer, nonce=nonce)
    if call.form.get("client_info") == "1":
        answer["client_info"] = encoded_ids(call.directory, user)
    return answer


def _offline(before: Asked, now: Asked, app: App) -> bool:
    """Tell whether a refresh token belongs to the answer: asked for at some time, not withheld."""
    wanted = "offline_access" in before.reserved | now.reserved
    return wanted and "offline_access" not in app.withheld


def encoded_ids(directory: Directory, user: User) -> str:
    """Return the ``client_info`` of an account: its ids as msal reads them."""
    ids = {"uid": user.object_id, "utid": directory.tenant_id}
    return base64.urlsafe_b64encode(orjson.dumps(ids)).rstrip(b"=").decode("ascii")


#: by ``grant_type``; each judges for itself whether the app needs a credential
USER_GRANTS: Final[Mapping[str, Grant]] = {
    "authorization_code": authorization_code,
    DEVICE_CODE: device_code,
    "refresh_token": refresh_token,
    "password": password,
}
