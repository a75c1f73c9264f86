"""Access tokens as Entra signs them for Exchange: minted here, and checked here.

The claims are those of a v1 token, since Exchange is a v1 resource. They are kept flat and
without nulls, so that a Dovecot with the public key can validate them locally too.
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
        #: tokens minted so far
        self.minted = 0

    def app_token(self, app: App, *, audience: str) -> str:
        """Return an app-only token. Roles are in it only when consented and for Exchange."""
        claims = self._claims(app, audience) | {
            "appidacr": "1",
            "idtyp": "app",
            "oid": app.object_id,
            "sub": app.object_id,
        }
        if app.consented and app.roles and audience in EXCHANGE_AUDIENCES:
            claims["roles"] = list(app.roles)
        return self._signed(claims)

    def user_token(
        self,
        app: App,
        user: User,
        *,
        scopes: Sequence[str] = MAIL_SCOPES,
        audience: str = EXCHANGE_AUDIENCES[1],
    ) -> str:
        """Return a token of a user who has signed in to the app; ``scopes`` without a resource."""
        return self._signed(
            self._claims(app, audience)
            | {
                "amr": ["pwd", "mfa"],
                "appidacr": "1" if app.secrets else "0",
                "name": user.name or user.upn.partition("@")[0],
                "oid": user.object_id,
                "puid": user.puid,
                "scp": " ".join(scopes),
                "sub": hashlib.sha256(f"{user.object_id} {app.client_id}".encode()).hexdigest(),
                "unique_name": user.upn,
                "upn": user.upn,
            }
        )

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
        return jwt.encode(claims, self.key.private, "RS256", headers={"kid": self.key.kid})

    def check(self, token: str) -> dict[str, Any] | None:
        """Return the claims when signature, audience and times are right, else ``None``."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.key.private.public_key(),
                algorithms=["RS256"],
                audience=EXCHANGE_AUDIENCES,
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
