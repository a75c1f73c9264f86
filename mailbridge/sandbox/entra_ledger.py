"""What the login service remembers of people's sign-ins: codes, device codes, refresh tokens.

Values are as long as the real ones, so that what is too short for them shows. Nothing here has
a repr with a value that somebody could sign in with.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from mailbridge.sandbox.directory import App, Platform, User
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_scopes import Asked

CODE_LIFETIME: Final = timedelta(minutes=10)
DEVICE_LIFETIME: Final = timedelta(minutes=15)
#: random bytes of an authorization code and of a refresh token
_CODE_SIZE: Final = 600
_REFRESH_SIZE: Final = 900
#: what user codes are made of: no vowels, and nothing that looks like something else
_USER_CODE: Final = "BCDFGHJKLMNPQRSTVWXZ23456789"
_USER_CODE_SIZE: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignedIn:
    """That somebody has signed in to an app, and what for.

    ``tenant`` is what stood in the URL, ``common`` or the GUID. ``confidential`` is the client
    that began it, one with a credential.
    """

    app: App
    user: User
    asked: Asked
    amr: tuple[str, ...]
    at: datetime
    tenant: str
    platform: Platform = "public"
    confidential: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Code:
    """An authorization code, good for one redemption within ten minutes."""

    signed_in: SignedIn
    redirect_uri: str
    #: PKCE's challenge and its method, ``S256`` or ``plain``; both may be empty
    challenge: str
    method: str
    nonce: str
    expires_at: datetime
    redeemed: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Device:
    """A device that waits for somebody to type in its user code."""

    app: App
    asked: Asked
    tenant: str
    user_code: str
    expires_at: datetime
    state: Literal["pending", "approved", "refused", "used"] = "pending"
    signed_in: SignedIn | None = None
    #: what the device is told once it is refused
    error: EntraError | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Refresh:
    """A refresh token. ``family`` is shared by all that descend from one sign-in."""

    signed_in: SignedIn
    issued_at: datetime
    family: str
    replaced: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Ledger:
    """Everything that was handed out, by its value."""

    now: Callable[[], datetime]
    codes: dict[str, Code] = field(default_factory=dict, repr=False)
    devices: dict[str, Device] = field(default_factory=dict, repr=False)
    refresh_tokens: dict[str, Refresh] = field(default_factory=dict, repr=False)
    revoked_families: set[str] = field(default_factory=set, repr=False)

    def add_code(self, code: Code) -> str:
        """Keep the code and return its value."""
        value = "1.A" + secrets.token_urlsafe(_CODE_SIZE)
        self.codes[value] = code
        return value

    def add_device(self, app: App, asked: Asked, tenant: str) -> tuple[str, Device]:
        """Return a device code and what it stands for."""
        device = Device(
            app=app,
            asked=asked,
            tenant=tenant,
            user_code="".join(secrets.choice(_USER_CODE) for _ in range(_USER_CODE_SIZE)),
            expires_at=self.now() + DEVICE_LIFETIME,
        )
        value = secrets.token_urlsafe(160)
        self.devices[value] = device
        return value, device

    def by_user_code(self, user_code: str) -> Device | None:
        """Return the device that still waits under this code, typed in by a person."""
        wanted = user_code.replace("-", "").replace(" ", "").upper()
        moment = self.now()
        return next(
            (
                device
                for device in self.devices.values()
                if device.user_code == wanted
                and device.state == "pending"
                and moment < device.expires_at
            ),
            None,
        )

    def add_refresh(self, signed_in: SignedIn, *, family: str = "") -> str:
        """Return a new refresh token, of the same family as the one that it replaces."""
        value = "1.A" + secrets.token_urlsafe(_REFRESH_SIZE)
        self.refresh_tokens[value] = Refresh(
            signed_in=signed_in,
            issued_at=self.now(),
            family=family or secrets.token_urlsafe(12),
        )
        return value
