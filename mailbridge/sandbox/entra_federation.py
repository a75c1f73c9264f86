"""Identity providers whose tokens an app may present instead of a secret, as Kubernetes' are.

::

    cluster = Issuer(url="https://kubernetes.example", now=now)
    tenant.entra.trust(cluster)
    app.add_federated(cluster.url, "system:serviceaccount:alarm:mailbridge")
    token_file.write_text(cluster.token("system:serviceaccount:alarm:mailbridge"))
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from mailbridge.sandbox import entra_client_errors as errors
from mailbridge.sandbox.directory import FEDERATION_AUDIENCE, App
from mailbridge.sandbox.tokens import SigningKey

#: seconds; what a projected service account token lives
_LIFETIME: Final = 3600
#: issuers that are Entra itself
_OWN: Final = ("https://sts.windows.net/", "https://login.microsoftonline.com/")


@dataclass(slots=True, kw_only=True, eq=False)
class Issuer:
    """An identity provider. ``keys`` are those that it publishes; it signs with the last one."""

    url: str
    now: Callable[[], datetime]
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.generate()], repr=False)

    def token(
        self,
        subject: str,
        *,
        audience: str = FEDERATION_AUDIENCE,
        lifetime: int = _LIFETIME,
        key: SigningKey | None = None,
    ) -> str:
        """Return a token of ``lifetime`` seconds; another ``key`` is one that nobody published."""
        key = key or self.keys[-1]
        moment = int(self.now().timestamp())
        claims = {
            "iss": self.url,
            "sub": subject,
            "aud": [audience],
            "iat": moment,
            "nbf": moment,
            "exp": moment + lifetime,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid})


def check_federated(
    app: App, token: str, claims: dict[str, Any], issuers: dict[str, Issuer], own: str
) -> None:
    """Judge another provider's token; raises ``EntraError``. ``own`` is this login service.

    The record is looked up before the signature, which is why a mistyped issuer shows as such.
    """
    issuer, subject = str(claims.get("iss", "")), str(claims.get("sub", ""))
    if issuer.startswith((*_OWN, own)):
        raise errors.entra_token_as_assertion()
    audience = claims.get("aud", "")
    audiences = audience if isinstance(audience, list) else [audience]
    _match(app, issuer, subject, [str(one) for one in audiences])
    kid = jwt.get_unverified_header(token).get("kid")
    published = issuers[issuer].keys if issuer in issuers else []
    key = next((key for key in published if key.kid == kid), None)
    if key is None:
        raise errors.federated_signature("The key was not found.")
    if not signature_holds(token, key.private.public_key(), ("RS256",)):
        reason = "Key was found, but use of the key to verify the signature failed."
        raise errors.federated_signature(reason)


def signature_holds(token: str, key: rsa.RSAPublicKey, algorithms: Sequence[str]) -> bool:
    """Tell whether the key made the signature; what the token says is judged elsewhere."""
    try:
        jwt.PyJWS().decode(token, key, algorithms=list(algorithms))
    except jwt.InvalidTokenError:
        return False
    return True


def _match(app: App, issuer: str, subject: str, audiences: list[str]) -> None:
    records = app.federated
    if not records:
        raise errors.no_federation(app.client_id, app.name)
    if any(
        (record.issuer, record.subject) == (issuer, subject) and record.audience in audiences
        for record in records
    ):
        return
    if issuer not in {record.issuer for record in records}:
        raise errors.no_record_of("issuer", issuer)
    if subject not in (subjects := {record.subject for record in records}):
        case_only = subject.lower() in {one.lower() for one in subjects}
        raise errors.no_record_of("subject", subject, case_only=case_only)
    if not {record.audience for record in records} & set(audiences):
        raise errors.no_record_of("audience", ", ".join(audiences))
    raise errors.no_record(issuer, subject, ", ".join(audiences))
