"""How an app proves to Entra who it is: each kind of credential is one class.

A credential is asked for its proof whenever a token is requested, in a worker thread. What lies
in a file is read again then, so a changed file needs no restart; the registration goes on using
the former proof until Entra has taken the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from mailbridge import client_certificate
from mailbridge.client_certificate import CertificateFault, ClientCertificate
from mailbridge.errors import SignInRejected, Unavailable
from mailbridge.sign_in.base import Expiry
from mailbridge.sign_in.claims import claims

CredentialName = Literal["client_secret", "certificate", "federated"]

#: bytes; a projected service account token has about 1,000
_LARGEST_TOKEN: Final = 64 * 1024
_ROTATE: Final = (
    "Make a new client secret in Entra (App registrations > the app > Certificates & secrets), "
    "store its value, and write both while rotating: [new, old]."
)
_RENEW_CERTIFICATE: Final = (
    "Make a new certificate, upload its public part to the app (Certificates & secrets), and put "
    "it in place of the file."
)
_RENEWER: Final = (
    "See why it is not renewed: Kubernetes projects it by the webhook of workload identity "
    "(label azure.workload.identity/use), GitHub by id-token: write."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an app proves itself with at this moment: msal's ``client_credential``.

    ``mark`` is the same as long as it is the same proof; it tells nothing about it.
    """

    value: Any = field(repr=False)
    mark: str = field(repr=False)
    label: str


class Credential(Protocol):
    """A ``Protocol``: one credential of an app registration."""

    kind: CredentialName

    @property
    def expiry(self) -> Expiry | None:
        """When it ends, as far as is known without looking."""

    def proof(self) -> Proof:
        """Return what to sign a request with. May block; raises our errors."""

    def hide(self, text: str) -> str:
        """Return ``text`` without anything of this credential."""


class ClientSecret:
    """A client secret. ``again`` reads it anew; ``None`` means that it cannot be read now."""

    kind: CredentialName = "client_secret"

    def __init__(
        self,
        value: str,
        *,
        again: Callable[[], str | None] | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        self._value = value
        self._again = again
        self._expires_at = expires_at
        self._seen = {value}

    def __repr__(self) -> str:
        """Show that there is one."""
        return "ClientSecret(***)"

    @property
    def expiry(self) -> Expiry | None:
        """What the configuration says."""
        if self._expires_at is None:
            return None
        return Expiry(kind="client_secret", expires_at=self._expires_at, fix=_ROTATE)

    def proof(self) -> Proof:
        """Return the secret as it stands now; the last one known while it cannot be read."""
        fresh = self._again() if self._again is not None else None
        if fresh:
            self._value = fresh
            self._seen.add(fresh)
        return Proof(
            value=self._value,
            mark=mark(self._value.encode()),
            label="client secret",
        )

    def hide(self, text: str) -> str:
        """Return ``text`` with ``***`` in place of the secret, and of those before it."""
        for value in self._seen:
            text = text.replace(value, "***") if value else text
        return text


@dataclass(slots=True, kw_only=True)
class Certificate:
    """A certificate with its key in a file: PEM, or PFX. The passphrase is in no repr."""

    path: Path
    passphrase: Callable[[], str] = field(default=str, repr=False)
    now: Callable[[], datetime]
    kind: CredentialName = "certificate"
    _content: bytes = field(default=b"", init=False, repr=False)
    _parsed: ClientCertificate | None = field(default=None, init=False, repr=False)

    @property
    def expiry(self) -> Expiry | None:
        """What the certificate says."""
        if self._parsed is None:
            return None
        ends = self._parsed.expires_at
        return Expiry(kind="certificate", expires_at=ends, fix=_RENEW_CERTIFICATE)

    def proof(self) -> Proof:
        """Return what msal signs an assertion with; raises ``SignInRejected`` for a bad file."""
        failure: CertificateFault | None = None
        try:
            found = self._current()
            found.check(self.now())
        except CertificateFault as fault:
            failure = fault
        if failure is not None:
            raise SignInRejected(
                f"{self.path}: {failure}", code=failure.code, fix=failure.fix.capitalize()
            )
        return Proof(
            # msal takes the key itself, so that its plain text stands nowhere.
            value={"private_key": found.key, "public_certificate": found.pem},
            mark=mark(found.pem.encode()),
            label=f"certificate {found.thumbprint}",
        )

    def _current(self) -> ClientCertificate:
        """Return what the file holds; parsed again only when it has changed."""
        content = client_certificate.content_of(self.path)
        if self._parsed is None or content != self._content:
            self._parsed = client_certificate.parse(content, self.passphrase())
            self._content = content
        return self._parsed

    def hide(self, text: str) -> str:
        """Return ``text`` with ``***`` in place of the passphrase."""
        passphrase = self.passphrase()
        return text.replace(passphrase, "***") if passphrase else text


@dataclass(slots=True, kw_only=True)
class FederatedToken:
    """A token of another identity provider, in a file that somebody else keeps fresh."""

    path: Path
    now: Callable[[], datetime]
    kind: CredentialName = "federated"
    _last: str = field(default="", init=False, repr=False)

    @property
    def expiry(self) -> Expiry | None:
        """None that a person has to care about."""
        return None

    def proof(self) -> Proof:
        """Return a callable that msal asks for the token with every request."""
        return Proof(
            value={"client_assertion": self.read}, mark="federated", label=f"token in {self.path}"
        )

    def read(self) -> str:
        """Return the token as it stands in the file now; raises ``Unavailable``."""
        try:
            with self.path.open("rb") as file:
                content = file.read(_LARGEST_TOKEN)
            token = content.decode("ascii").strip()
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "not a token"
            token, why = "", f"cannot be read ({reason})"
        else:
            why = "" if token else "is empty"
        if why:
            raise Unavailable(
                f"the federated token's file {self.path} {why}",
                code="federated.unreadable",
                fix=_RENEWER,
            )
        self._last = token
        ends = claims(token).get("exp")
        if isinstance(ends, int | float) and ends <= self.now().timestamp():
            raise Unavailable(
                f"the federated token in {self.path} has ended",
                code="federated.ended",
                fix=_RENEWER,
            )
        return token

    def hide(self, text: str) -> str:
        """Return ``text`` with ``***`` in place of the token."""
        return text.replace(self._last, "***") if self._last else text


def expiries(credentials: Sequence[Credential]) -> tuple[Expiry, ...]:
    """Return when credentials end, each moment once."""
    known = [one.expiry for one in credentials]
    return tuple(dict.fromkeys(expiry for expiry in known if expiry is not None))


def mark(content: bytes) -> str:
    """Return what tells one secret from another without saying what it is."""
    return hashlib.sha256(content).hexdigest()
