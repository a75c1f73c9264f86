"""The tenant's directory: app registrations with their credentials, roles and consent; people."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

#: what an administrator consents to for an app that fetches and sends mail by itself
MAIL_ROLES: Final = ("IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp")
#: the same for an app that acts for somebody who has signed in
MAIL_SCOPES: Final = ("IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send")
#: seconds; what Entra writes into ``expires_in``
TOKEN_LIFETIME: Final = 3599
#: what federated credentials are presented for, unless the app says otherwise
FEDERATION_AUDIENCE: Final = "api://AzureADTokenExchange"
#: hosts whose redirects may be http, and whose port is not compared (RFC 8252, 7.3)
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1"})

Platform = Literal["web", "spa", "public"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A client secret. ``expires_at`` ``None`` means never; the value is in no repr."""

    value: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """A registered redirect URI and the platform it stands under in the portal."""

    uri: str
    platform: Platform = "web"


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """A federated credential: whose tokens are taken instead of a secret."""

    issuer: str
    subject: str
    audience: str = FEDERATION_AUDIENCE


@dataclass(slots=True, kw_only=True, eq=False)
class App:
    """An app registration together with its enterprise app. Change it freely while it runs.

    ``consented`` false gives tokens without a ``roles`` claim, as Entra does, and asks people
    for consent. ``registered`` false means that ``New-ServicePrincipal`` was never run in
    Exchange; ``installed`` false that the enterprise app is missing from this tenant.
    ``audience`` overrides the ``aud`` that follows from the scope. ``padding`` adds that many
    characters to a token. ``withheld`` scopes are left out of what is granted though they were
    asked for; ``offline_access`` too. ``lifetime`` of access tokens is in seconds.
    """

    name: str
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secrets: list[Secret] = field(default_factory=list)
    certificates: list[x509.Certificate] = field(default_factory=list, repr=False)
    federated: list[Federated] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    roles: tuple[str, ...] = MAIL_ROLES
    #: delegated permissions of the registration; ``/.default`` asks a user for these
    scopes: tuple[str, ...] = MAIL_SCOPES
    consented: bool = True
    registered: bool = True
    installed: bool = True
    enabled: bool = True
    #: *Allow public client flows*: device code, password and refresh without a credential
    public_flows: bool = False
    #: accounts of any tenant; else ``/common`` and ``/organizations`` are refused
    multi_tenant: bool = False
    #: a Conditional Access policy blocks the app
    blocked: bool = False
    #: *Assignment required*: only who stands in ``assigned`` (object ids) may sign in
    assignment_required: bool = False
    assigned: set[str] = field(default_factory=set)
    #: delegated scopes beyond ``scopes`` that an administrator has consented to
    admin_scopes: set[str] = field(default_factory=set)
    #: by object id: what each person has consented to
    user_scopes: dict[str, set[str]] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    #: a managed identity of Azure: ``system``, ``user`` (assigned), or none
    managed: Literal["", "system", "user"] = ""
    lifetime: int = TOKEN_LIFETIME
    audience: str | None = None
    padding: int = 0

    def add_secret(self, value: str | None = None, *, expires_at: datetime | None = None) -> str:
        """Add a secret, as the portal does, and return its value."""
        value = value or f"{secrets.token_urlsafe(3)[:3]}8Q~{secrets.token_urlsafe(24)}"
        self.secrets.append(Secret(value=value, expires_at=expires_at))
        return value

    @property
    def secret(self) -> str:
        """The value of the newest secret."""
        return self.secrets[-1].value

    def add_certificate(self, pem: bytes) -> None:
        """Upload the public part of a certificate; ``ValueError`` for anything but an RSA key."""
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            raise ValueError("Entra takes certificates with RSA keys only")  # noqa: TRY004 - a value
        self.certificates.append(certificate)

    def add_redirect(self, uri: str, platform: Platform = "web") -> str:
        """Register a redirect URI; ``ValueError`` for http beyond loopback, as in the portal."""
        parts = urlsplit(uri)
        loopback = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not parts.netloc or not (parts.scheme == "https" or loopback):
            raise ValueError(f"a redirect URI must be https://, or http://localhost: {uri!r}")
        self.redirects.append(Redirect(uri=uri, platform=platform))
        return uri

    def add_federated(self, issuer: str, subject: str, audience: str = FEDERATION_AUDIENCE) -> None:
        """Take tokens of this issuer for this subject and audience as the app's credential."""
        self.federated.append(Federated(issuer=issuer, subject=subject, audience=audience))


@dataclass(slots=True, kw_only=True, eq=False)
class User:
    """A person who can sign in. The mailbox of the same address is theirs.

    ``mfa`` is ``"required"``, ``"enroll"`` (required, and nothing registered yet) or nothing.
    ``foreign`` names the identity provider of an account that is not of this tenant, such as
    ``live.com``; ``federated`` means that the organisation's own AD FS knows the password.
    """

    upn: str
    name: str = ""
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    puid: str = field(default_factory=lambda: "1003" + secrets.token_hex(6).upper())
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    #: what the authenticator shows
    mfa_code: str = field(default_factory=lambda: f"{secrets.randbelow(10**6):06}", repr=False)
    mfa: Literal["", "required", "enroll"] = ""
    admin: bool = False
    enabled: bool = True
    password_expired: bool = False
    federated: bool = False
    foreign: str = ""
    #: a Conditional Access policy blocks the person
    blocked: bool = False
    #: wrong passwords in a row, and until when smart lockout refuses every password
    failures: int = 0
    locked_until: datetime | None = None
    #: refresh tokens from before these moments are refused; see ``change_password``
    password_since: datetime | None = None
    reset_at: datetime | None = None
    valid_from: datetime | None = None

    def change_password(self, password: str, *, at: datetime) -> None:
        """Let the person choose another password: refresh tokens of public clients end."""
        self.password, self.password_since = password, at

    def reset_password(self, password: str, *, at: datetime) -> None:
        """Let an administrator set the password: refresh tokens of all clients end."""
        self.password, self.reset_at = password, at

    def revoke_sessions(self, *, at: datetime) -> None:
        """End everything that the person has signed in to so far."""
        self.valid_from = at


#: whom Exchange can give permissions
Principal = App | User


@dataclass(slots=True, kw_only=True, eq=False)
class Directory:
    """One Entra tenant. ``names`` are the strings that may stand in its place in a URL."""

    tenant_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    domains: tuple[str, ...] = ("feuerwehr.example", "feuerwehr.onmicrosoft.example")
    display_name: str = "Feuerwehr Musterstadt"
    apps: dict[str, App] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    #: device code and passwords without a browser are refused (AADSTS530035)
    security_defaults: bool = False
    #: people may consent for themselves; else an administrator has to (AADSTS90094)
    user_consent: bool = True
    #: a refresh token that was replaced ends its whole family when it comes again; Entra lets
    #: it live, other servers do not (RFC 9700, 4.14.2)
    revoke_on_reuse: bool = False
    #: after how long Conditional Access wants a new sign-in (AADSTS70043)
    sign_in_frequency: timedelta | None = None

    @property
    def names(self) -> frozenset[str]:
        """The tenant's GUID and verified domains, in lower case."""
        return frozenset(name.lower() for name in (self.tenant_id, *self.domains))

    def add(self, app: App) -> App:
        """Register the app."""
        self.apps[app.client_id.lower()] = app
        return app

    def find(self, client_id: str) -> App | None:
        """Return the app with this client id."""
        return self.apps.get(client_id.lower())

    def by_object_id(self, object_id: str) -> App | None:
        """Return the app whose enterprise app has this object id."""
        return next((app for app in self.apps.values() if app.object_id == object_id), None)

    def identities(self) -> Iterable[App]:
        """Return the managed identities."""
        return [app for app in self.apps.values() if app.managed]

    def add_user(self, user: User) -> User:
        """Take in the user."""
        self.users[user.upn.lower()] = user
        return user

    def find_user(self, upn: str) -> User | None:
        """Return the user with this name."""
        return self.users.get(upn.lower())

    def user_by_object_id(self, object_id: str) -> User | None:
        """Return the user with this object id."""
        return next((user for user in self.users.values() if user.object_id == object_id), None)
