"""Access tokens as Entra issues them for Exchange Online, minted with a key of the test's own."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

#: The resource that Exchange Online's tokens are issued for.
AUDIENCE = "https://outlook.office.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a mail server checks bearer tokens against.

    ``public_key`` is PEM (SubjectPublicKeyInfo, RSA); an empty ``issuer`` or ``audience`` is
    not checked. ``kid`` is the key id that the tokens carry in their header. ``person`` is the
    claim that names the account; tokens of people say so (``idtyp: user``) unless ``unmarked``,
    as Entra's v1 tokens are.
    """

    public_key: bytes
    kid: str = "default"
    issuer: str = ""
    audience: str = AUDIENCE
    person: str = "preferred_username"
    unmarked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Introspection:
    """Whom a mail server asks about each bearer token (RFC 7662).

    ``url`` holds name and password of the mail server; ``ca`` is what its TLS is trusted by.
    The answer about a good token names the account as ``preferred_username``, or the app; one
    with ``app_scope`` is of an app, and has ``idtyp``.
    """

    url: str = field(repr=False)
    ca: Path
    app_scope: str


class Minter:
    """A signing key with the claims of one tenant; ``rules`` is what verifies its tokens."""

    def __init__(
        self,
        *,
        issuer: str = "https://login.test/contoso/v2.0",
        audience: str = AUDIENCE,
        kid: str = "test-key-1",
        tenant: str = "11111111-2222-3333-4444-555555555555",
    ) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._tenant = tenant
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.rules = TokenRules(public_key=public, kid=kid, issuer=issuer, audience=audience)

    def mint(self, user: str, *, ttl: int = 3600, **claims: Any) -> str:
        """Return a delegated token of ``user`` that lives ``ttl`` seconds.

        ``claims`` are added or replace; one that is ``None`` is left out, because a null claim
        crashes the auth process of Dovecot 2.3.
        """
        own = {
            "sub": user,
            "preferred_username": user,
            "idtyp": "user",
            "scp": "IMAP.AccessAsUser.All POP.AccessAsUser.All SMTP.Send",
        }
        return self._sign(ttl, {**own, **claims})

    def mint_app(self, *, ttl: int = 3600, **claims: Any) -> str:
        """Return an application token: no user name, good for every granted mailbox."""
        own = {
            "sub": "service-principal",
            "idtyp": "app",
            "roles": ["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"],
        }
        return self._sign(ttl, {**own, **claims})

    def _sign(self, ttl: int, claims: dict[str, Any]) -> str:
        now = int(time.time())
        # Entra backdates by five minutes; Dovecot allows no clock difference at all and reads a
        # clock that lags, so that "now" would be refused once in a hundred logins.
        body = {
            "iss": self.rules.issuer,
            "aud": self.rules.audience,
            "iat": now - 300,
            "nbf": now - 300,
            "exp": now + ttl,
            "tid": self._tenant,
            "jti": str(uuid.uuid4()),
            **claims,
        }
        present = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(present, self._key, algorithm="RS256", headers={"kid": self.rules.kid})
