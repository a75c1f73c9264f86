"""Access tokens as Entra signs them for Exchange: minted here, and checked here.

The claims are those of a v1 token, since Exchange is a v1 resource. They are kept flat and
without nulls, so that a Dovecot with the public key can validate them locally too. Id tokens,
which are for the app itself, are v2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailbridge.sandbox.directory import MAIL_SCOPES, App, User

#: seconds; Entra dates ``iat`` and ``nbf`` back by five minutes
BACKDATE: Final = 300
EXCHANGE_AUDIENCES: Final = ("https://outlook.office365.com", "https://outlook.office.com")
#: seconds that an id token is good for
_ID_TOKEN_LIFETIME: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """An RSA key that signs tokens, and the ``kid`` under which its public half is published."""

    private: rsa.RSAPrivateKey
    kid: str

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a key of 2048 bits; takes 0.1 to 0.3 s, so call it in a thread."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(der).digest()
        return cls(private=private, kid=base64.urlsafe_b64encode(digest)[:27].decode("ascii"))

    @property
    def public_pem(self) -> bytes:
        """The public key as PEM, for a server that validates tokens by itself."""
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def jwk(self) -> dict[str, Any]:
        """Return the public key as an entry of a JWKS document."""
        text = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key())
        return {**json.loads(text), "use": "sig", "kid": self.kid, "x5t": self.kid}


class TokenService:
    """Mints and checks access tokens of one tenant."""

    def __init__(self, *, tenant_id: str, key: SigningKey, now: Callable[[], datetime]) -> None:
        """Use ``key`` for all tokens and ``now`` for all their times."""
        self.tenant_id = tenant_id
        self.key = key
        self._now = now
        #: what Exchange takes for itself; set another cloud's, ``https://outlook.office365.us``
        self.audiences: tuple[str, ...] = EXCHANGE_AUDIENCES
        #: access tokens minted so far
        self.minted = 0

    def app_token(self, app: App, *, audience: str, acr: str = "1") -> str:
        """Return an app-only token. Roles are in it only when consented and for Exchange.

        ``acr`` tells how the app authenticated: 0 not at all, 1 by secret, 2 by assertion.
        """
        claims = self._claims(app, audience) | {
            "appidacr": acr,
            "idtyp": "app",
            "oid": app.object_id,
            "sub": app.object_id,
        }
        if app.consented and app.roles and audience in self.audiences:
            claims["roles"] = list(app.roles)
        return self._signed(claims)

    def user_token(  # noqa: PLR0913 - what a token says, by name
        self,
        app: App,
        user: User,
        *,
        scopes: Sequence[str] = MAIL_SCOPES,
        audience: str = EXCHANGE_AUDIENCES[1],
        amr: Sequence[str] = ("pwd", "mfa"),
        acr: str | None = None,
    ) -> str:
        """Return a token of a user who has signed in to the app; ``scopes`` without a resource."""
        return self._signed(
            self._claims(app, audience)
            | {
                "amr": list(amr),
                "appidacr": acr or ("1" if app.secrets else "0"),
                "name": user.name or user.upn.partition("@")[0],
                "oid": user.object_id,
                "puid": user.puid,
                "scp": " ".join(scopes),
                "sub": _pairwise(app, user),
                "unique_name": user.upn,
                "upn": user.upn,
            }
        )

    def id_token(self, app: App, user: User, *, issuer: str, nonce: str = "") -> str:
        """Return what tells the app who has signed in; ``nonce`` as the app sent it."""
        moment = int(self._now().timestamp())
        claims: dict[str, Any] = {
            "aud": app.client_id,
            "iss": issuer,
            "iat": moment - BACKDATE,
            "nbf": moment - BACKDATE,
            "exp": moment + _ID_TOKEN_LIFETIME,
            "name": user.name or user.upn.partition("@")[0],
            "oid": user.object_id,
            "preferred_username": user.upn,
            "rh": "0." + secrets.token_urlsafe(30),
            "sub": _pairwise(app, user),
            "tid": self.tenant_id,
            "uti": secrets.token_urlsafe(16),
            "ver": "2.0",
        }
        if nonce:
            claims["nonce"] = nonce
        return self._encoded(claims)

    def _claims(self, app: App, audience: str) -> dict[str, Any]:
        """Return what all tokens of an app say."""
        moment = int(self._now().timestamp())
        issuer = f"https://sts.windows.net/{self.tenant_id}/"
        claims: dict[str, Any] = {
            "aud": app.audience or audience,
            "iss": issuer,
            "iat": moment - BACKDATE,
            "nbf": moment - BACKDATE,
            "exp": moment + app.lifetime,
            "aio": secrets.token_urlsafe(24),
            "app_displayname": app.name,
            "appid": app.client_id,
            "idp": issuer,
            "rh": "0." + secrets.token_urlsafe(30),
            "tid": self.tenant_id,
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        if app.padding:
            claims["xms_pad"] = "x" * app.padding
        return claims

    def _signed(self, claims: dict[str, Any]) -> str:
        self.minted += 1
        return self._encoded(claims)

    def _encoded(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.key.private, "RS256", headers={"kid": self.key.kid})

    def check(self, token: str) -> dict[str, Any] | None:
        """Return the claims when signature, audience and times are right, else ``None``."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.key.private.public_key(),
                algorithms=["RS256"],
                audience=self.audiences,
                # The times are compared with the tenant's own clock below.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["exp", "nbf", "aud", "tid"],
                },
            )
        except jwt.InvalidTokenError:
            return None
        moment = self._now().timestamp()
        current = claims["nbf"] <= moment < claims["exp"]
        return claims if current and claims["tid"] == self.tenant_id else None


def _pairwise(app: App, user: User) -> str:
    """Return the subject: the same for one person in one app, and another in any other."""
    return hashlib.sha256(f"{user.object_id} {app.client_id}".encode()).hexdigest()
