"""Who may open which mailbox: the part of Exchange Online that all its protocols share."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tokens import TokenService

_BACKEND: Final = "FR0P281CA0041.DEUP281.PROD.OUTLOOK.COM"
#: what a greeting says in brackets: the server that answers
BACKEND_MARK: Final = base64.b64encode(_BACKEND.encode("utf-16-le")).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A command that was received. Credentials are blanked, literals are left out."""

    session: int
    address: str
    name: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """A token that Exchange takes: for which address, as whom, and until when."""

    address: str
    principal: str
    expires_at: datetime
    #: ``None`` when the mailbox itself is refused: "authenticated but not connected"
    mailbox: Mailbox | None


class Exchange:
    """The mailboxes of a tenant, and the permissions of apps on them."""

    def __init__(
        self, *, directory: Directory, tokens: TokenService, now: Callable[[], datetime]
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._now = now
        self.mailboxes: dict[str, Mailbox] = {}
        self._permissions: set[tuple[str, str]] = set()
        # Like a real server after a restore: no UIDVALIDITY of an earlier run comes again, so
        # that a daemon which kept its state does not take new mail for known mail.
        self._uidvalidity = int(now().timestamp())

    def add_mailbox(self, address: str, *, language: str = "en") -> Mailbox:
        """Create a mailbox; the address is compared without regard to case."""
        box = Mailbox(address, uidvalidity=self._uidvalidity, now=self._now, language=language)
        self._uidvalidity += 1000
        self.mailboxes[address.lower()] = box
        return box

    def grant(self, app: App, address: str) -> None:
        """Give the app FullAccess, as ``Add-MailboxPermission`` does."""
        self._permissions.add((app.object_id, address.lower()))

    def revoke(self, app: App, address: str) -> None:
        """Take the app's permission away; open sessions stay."""
        self._permissions.discard((app.object_id, address.lower()))

    def granted(self, app: App, address: str) -> bool:
        """Tell whether the app may open the mailbox."""
        return (app.object_id, address.lower()) in self._permissions

    def sign_in(self, credential: bytes, *, role: str) -> SignIn | None:
        """Judge a base64 XOAUTH2 credential; ``None`` when the token is refused.

        ``role`` is the application permission of the protocol, ``IMAP.AccessAsApp`` say.
        """
        parsed = parse_xoauth2(credential)
        if parsed is None:
            return None
        address, token = parsed
        claims = self._tokens.check(token)
        if claims is None or not self._registered(claims) or role not in claims.get("roles", ()):
            return None
        principal = str(claims["oid"])
        box = self.mailboxes.get(address.lower())
        allowed = (principal, address.lower()) in self._permissions
        return SignIn(
            address=address,
            principal=principal,
            expires_at=datetime.fromtimestamp(claims["exp"], tz=UTC),
            mailbox=box if allowed else None,
        )

    def _registered(self, claims: dict[str, Any]) -> bool:
        app = self._directory.by_object_id(str(claims.get("oid", "")))
        return app is not None and app.registered


def parse_xoauth2(credential: bytes) -> tuple[str, str] | None:
    """Return address and token of a base64 XOAUTH2 credential, or ``None`` if it is none."""
    try:
        text = base64.b64decode(credential, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    fields = text.split("\x01")
    if len(fields) != 4 or fields[2:] != ["", ""]:  # noqa: PLR2004 - user, auth, two ends
        return None
    user, bearer = fields[0], fields[1]
    if not user.startswith("user=") or not bearer.startswith("auth=Bearer "):
        return None
    return user.removeprefix("user="), bearer.removeprefix("auth=Bearer ")
