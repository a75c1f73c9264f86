"""The tenant's directory: app registrations with their secrets, roles and consent; its users."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

#: what an administrator consents to for an app that fetches and sends mail by itself
MAIL_ROLES: Final = ("IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp")
#: the same for an app that acts for somebody who has signed in
MAIL_SCOPES: Final = ("IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send")
#: seconds; what Entra writes into ``expires_in``
TOKEN_LIFETIME: Final = 3599


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A client secret. ``expires_at`` ``None`` means never; the value is in no repr."""

    value: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class App:
    """An app registration together with its enterprise app. Change it freely while it runs.

    ``consented`` false gives tokens without a ``roles`` claim, as Entra does. ``registered``
    false means that ``New-ServicePrincipal`` was never run in Exchange. ``audience`` overrides
    the ``aud`` that follows from the scope. ``padding`` adds that many characters to a token.
    """

    name: str
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secrets: list[Secret] = field(default_factory=list)
    roles: tuple[str, ...] = MAIL_ROLES
    consented: bool = True
    registered: bool = True
    enabled: bool = True
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


@dataclass(slots=True, kw_only=True, eq=False)
class User:
    """A person who can sign in. The mailbox of the same address is theirs."""

    upn: str
    name: str = ""
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    puid: str = field(default_factory=lambda: "1003" + secrets.token_hex(6).upper())


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
