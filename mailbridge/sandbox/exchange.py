"""Who may open which mailbox: the part of Exchange Online that all its protocols share."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from mailbridge.sandbox.directory import Directory, Principal, User
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tokens import TokenService

_BACKEND: Final = "FR0P281CA0041.DEUP281.PROD.OUTLOOK.COM"
#: by application permission: what stands for it in the token of somebody who has signed in
_DELEGATED: Final = {
    "IMAP.AccessAsApp": "IMAP.AccessAsUser.All",
    "POP.AccessAsApp": "POP.AccessAsUser.All",
    "SMTP.SendAsApp": "SMTP.Send",
}
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
    """A token that Exchange takes: for which address, as whom, and until when.

    ``principal`` is an object id. ``upn`` is the person who signed in, who may be another than
    the ``address`` of a shared mailbox; empty for an app that acts by itself.
    """

    address: str
    principal: str
    upn: str = ""
    expires_at: datetime
    #: ``None`` when the mailbox itself is refused: "authenticated but not connected"
    mailbox: Mailbox | None


class Exchange:
    """The mailboxes of a tenant, and the permissions of apps and people on them."""

    def __init__(
        self, *, directory: Directory, tokens: TokenService, now: Callable[[], datetime]
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._now = now
        self.mailboxes: dict[str, Mailbox] = {}
        self._permissions: set[tuple[str, str]] = set()
        self._send_as: set[tuple[str, str]] = set()
        # Like a real server after a restore: no UIDVALIDITY of an earlier run comes again, so
        # that a daemon which kept its state does not take new mail for known mail.
        self._uidvalidity = int(now().timestamp())

    def add_mailbox(self, address: str, *, language: str = "en") -> Mailbox:
        """Create a mailbox; the address is compared without regard to case."""
        box = Mailbox(address, uidvalidity=self._uidvalidity, now=self._now, language=language)
        self._uidvalidity += 1000
        self.mailboxes[address.lower()] = box
        return box

    def grant(self, principal: Principal, address: str) -> None:
        """Give an app or a user FullAccess, as ``Add-MailboxPermission`` does."""
        self._permissions.add((principal.object_id, address.lower()))

    def revoke(self, principal: Principal, address: str) -> None:
        """Take the permission away; open sessions stay."""
        self._permissions.discard((principal.object_id, address.lower()))

    def granted(self, principal: Principal, address: str) -> bool:
        """Tell whether the app or user was given the mailbox."""
        return (principal.object_id, address.lower()) in self._permissions

    def allow_send_as(self, principal: Principal, address: str) -> None:
        """Let an app or a user send as this address, as ``Add-RecipientPermission`` does."""
        self._send_as.add((principal.object_id, address.lower()))

    def may_send_as(self, signed_in: SignIn | None, address: str) -> bool:
        """Tell whether who has signed in may send as the address: the mailbox's own, or given."""
        if signed_in is None:
            return False
        own = signed_in.address.lower() == address.lower()
        return own or (signed_in.principal, address.lower()) in self._send_as

    def sign_in(self, credential: bytes, *, role: str) -> SignIn | None:
        """Judge a base64 XOAUTH2 credential; ``None`` when the token is refused.

        ``role`` is the application permission of the protocol, ``IMAP.AccessAsApp`` say; when
        somebody has signed in, the delegated permission that belongs to it is asked for.
        """
        parsed = parse_xoauth2(credential)
        if parsed is None:
            return None
        address, token = parsed
        claims = self._tokens.check(token)
        if claims is None:
            return None
        principal = str(claims.get("oid", ""))
        user = self._directory.user_by_object_id(principal)
        if not self._entitled(claims, user, role):
            return None
        own = user is not None and user.upn.lower() == address.lower()
        allowed = own or (principal, address.lower()) in self._permissions
        return SignIn(
            address=address,
            principal=principal,
            upn=user.upn if user else "",
            expires_at=datetime.fromtimestamp(claims["exp"], tz=UTC),
            mailbox=self.mailboxes.get(address.lower()) if allowed else None,
        )

    def _entitled(self, claims: dict[str, Any], user: User | None, role: str) -> bool:
        """Tell whether the token gives the protocol at all, whatever the mailbox."""
        if user is not None:
            return _DELEGATED[role] in str(claims.get("scp", "")).split()
        app = self._directory.by_object_id(str(claims.get("oid", "")))
        return app is not None and app.registered and role in claims.get("roles", ())


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
