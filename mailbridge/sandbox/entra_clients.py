"""How an app proves who it is: client secrets, certificates, tokens of other providers."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import unquote_plus

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from mailbridge.sandbox import entra_client_errors as errors
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.entra_certificates import x5t, x5t_s256
from mailbridge.sandbox.entra_documents import SHARED
from mailbridge.sandbox.entra_federation import check_federated, signature_holds
from mailbridge.sandbox.entra_state import State

ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: how far an app's clock may be off
_SKEW: Final = timedelta(minutes=5)
#: the longest that an app's own assertion may be good for
_LONGEST: Final = timedelta(minutes=10)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An app, and what it has proved itself with."""

    app: App
    proof: Literal["", "secret", "assertion"]

    @property
    def acr(self) -> str:
        """The token's ``appidacr``."""
        return {"": "0", "secret": "1", "assertion": "2"}[self.proof]


def authenticate(state: State, form: dict[str, str], tenant: str) -> Client:
    """Judge what is presented; raises ``EntraError``. Nothing presented is no error here."""
    app = state.app(form["client_id"])
    if form.get("client_assertion"):
        if form.get("client_assertion_type") != ASSERTION:
            raise errors.missing_field("client_assertion_type")
        _check_assertion(state, app, form["client_assertion"], tenant)
        return Client(app=app, proof="assertion")
    if form.get("client_secret"):
        _check_secret(app, form["client_secret"].encode(), state.now())
        return Client(app=app, proof="secret")
    return Client(app=app, proof="")


def _check_secret(app: App, given: bytes, moment: datetime) -> None:
    fitting = [one for one in app.secrets if hmac.compare_digest(one.value.encode(), given)]
    if not fitting:
        raise errors.wrong_secret(app.client_id)
    if all(one.expires_at is not None and one.expires_at <= moment for one in fitting):
        raise errors.expired_secret(app.client_id)


def _check_assertion(state: State, app: App, token: str, tenant: str) -> None:
    try:
        header = jwt.get_unverified_header(token)
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as exc:
        raise errors.malformed_assertion() from exc
    own = str(claims.get("iss", "")).lower() == app.client_id.lower()
    if own:
        _check_own(state, app, header, claims, tenant)
        _check_signature(app, token, header, state.now())
    elif _is_app(claims):
        raise errors.assertion_client()
    else:
        check_federated(app, token, claims, state.issuers, state.base_url)
    _check_times(state.now(), claims, longest=_LONGEST if own else None)


def _is_app(claims: dict[str, Any]) -> bool:
    """Tell whether an assertion is one that an app made about itself."""
    issuer = str(claims.get("iss", ""))
    return issuer == str(claims.get("sub", "")) and "://" not in issuer


def _check_own(
    state: State, app: App, header: dict[str, Any], claims: dict[str, Any], tenant: str
) -> None:
    """Judge what an app says in its own assertion. One may come again: msal keeps its for 540 s."""
    if str(claims.get("sub", "")).lower() != app.client_id.lower():
        raise errors.assertion_client()
    if not claims.get("jti") or header.get("alg") not in {"RS256", "PS256"}:
        raise errors.malformed_assertion()
    named = state.directory.names | ({tenant} & SHARED)
    places = {
        f"{state.base_url}/{name}/{end}"
        for name in named
        for end in ("oauth2/v2.0/token", "oauth2/token", "v2.0")
    }
    audience = claims.get("aud", "")
    if not isinstance(audience, str) or audience.lower() not in places:
        raise errors.assertion_audience()


def _check_signature(app: App, token: str, header: dict[str, Any], moment: datetime) -> None:
    if not app.certificates:
        raise errors.key_not_registered(app.client_id)
    # msal leaves the padding on, which RFC 7515 wants off; Entra takes both.
    sha1, sha256 = (str(header.get(name) or "").rstrip("=") for name in ("x5t", "x5t#S256"))
    certificate = next(
        (one for one in app.certificates if sha1 == x5t(one) or sha256 == x5t_s256(one)), None
    )
    shown = _hexadecimal(sha1 or sha256)
    if certificate is None:
        raise errors.key_trouble(app.client_id, "The key was not found.", shown)
    dates = _dates(certificate)
    if not certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc:
        raise errors.key_trouble(app.client_id, "The key used is expired.", shown, dates)
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101 - add_certificate takes no other
    if not signature_holds(token, key, ("RS256", "PS256")):
        reason = "The key was found, but use of the key to verify the signature failed."
        raise errors.key_trouble(app.client_id, reason, shown, dates)


def _check_times(moment: datetime, claims: dict[str, Any], *, longest: timedelta | None) -> None:
    """Compare with the tenant's own clock. Without ``nbf`` it is good since 1970, as Entra says."""
    start = _moment(claims.get("nbf"))
    issued = max(start, _moment(claims.get("iat")))
    end = _moment(claims.get("exp"))
    too_long = longest is not None and issued > _EPOCH and end - issued > longest
    if too_long or not issued - _SKEW <= moment < end + _SKEW:
        raise errors.assertion_times(moment, start, end)


def _moment(value: object) -> datetime:
    """Return the moment of a numeric date (RFC 7519, 2), which may have a fraction."""
    if not isinstance(value, int | float):
        return _EPOCH
    try:
        return datetime.fromtimestamp(value, tz=UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise errors.malformed_assertion() from exc


def _hexadecimal(thumbprint: str) -> str:
    """Return a header's thumbprint as people know it from the portal."""
    try:
        return base64.urlsafe_b64decode(thumbprint + "=" * (-len(thumbprint) % 4)).hex().upper()
    except (binascii.Error, ValueError):
        return ""


def _dates(certificate: x509.Certificate) -> str:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"Start={start:%m/%d/%Y %H:%M:%S}, End={end:%m/%d/%Y %H:%M:%S}"


def add_basic(form: dict[str, str], header: str) -> None:
    """Take client id and secret from HTTP Basic, form-encoded within it (RFC 6749, 2.3.1)."""
    scheme, _, blob = header.partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        client_id, _, secret = base64.b64decode(blob, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return
    form.setdefault("client_id", unquote_plus(client_id))
    form.setdefault("client_secret", unquote_plus(secret))
