"""Who signs in, what for, and whether it was they who did.

Permissions are asked for at Exchange (``https://outlook.office.com/IMAP.AccessAsUser.All``). The
portal lists them under Microsoft Graph, but a token for Graph is issued and opens no mailbox, so
the two are never mixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from mailbridge.catalogue.base import Ids
from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.model import Grant
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.entra_people import explainer

Protocol = Literal["imap", "pop3", "smtp"]

#: delegated permissions, which a person consents to
DELEGATED: Final[Mapping[Protocol, str]] = {
    "imap": "IMAP.AccessAsUser.All",
    "pop3": "POP.AccessAsUser.All",
    "smtp": "SMTP.Send",
}
#: application permissions, which an administrator consents to
ROLES: Final[Mapping[Protocol, str]] = {
    "imap": "IMAP.AccessAsApp",
    "pop3": "POP.AccessAsApp",
    "smtp": "SMTP.SendAsApp",
}
#: Entra answers with either name of Exchange, whichever was asked for
_EXCHANGE: Final = frozenset({"https://outlook.office.com", "https://outlook.office365.com"})
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: claims that name the account; of both kinds of tokens
_NAMES: Final = ("preferred_username", "upn", "unique_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of a tenant and what mailbridge needs of it.

    ``address`` is who signs in (the user principal name), ``resource`` Exchange in the app's
    cloud, ``login`` the command that signs in again.
    """

    app: str
    address: str
    tenant_id: str
    resource: str
    protocols: tuple[Protocol, ...]
    login: str
    #: for what is told of an error: the registration, and the mailbox that the account is for
    client_id: str = ""
    mailbox: str = ""
    mailbox_address: str = ""
    explain: Callable[[Mapping[str, Any]], MailbridgeError] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make what explains Entra's refusals of this account."""
        ids = Ids(
            mailbox=self.mailbox,
            address=self.mailbox_address,
            account=self.address,
            app=self.app,
            tenant=self.tenant_id,
            client_id=self.client_id,
            login=self.login,
            sign_in="delegated",
        )
        object.__setattr__(self, "explain", explainer(ids))

    @property
    def permissions(self) -> frozenset[str]:
        """The names of what the protocols need."""
        return frozenset(DELEGATED[protocol] for protocol in self.protocols)

    def scopes(self, permissions: Collection[str]) -> list[str]:
        """Return what to ask for; msal adds ``offline_access``, ``openid`` and ``profile``."""
        return [f"{self.resource}/{name}" for name in sorted(permissions)]

    def granted(self, scopes: Collection[str]) -> frozenset[str]:
        """Return which of the needed permissions stand among these full scope strings."""
        places = _EXCHANGE | {self.resource.lower()}
        known = {name.lower(): name for name in DELEGATED.values()}
        found = set()
        for scope in scopes:
            resource, _, name = scope.lower().rpartition("/")
            if resource.rstrip("/") in places and name in known:
                found.add(known[name])
        return frozenset(found) & self.permissions

    def refuse_others(self, answer: Mapping[str, Any], known_id: str = "") -> Identity:
        """Return who has signed in; raises ``SignInRejected`` for anybody but this account.

        ``known_id`` is the object id of the account, once it is known: then a new name of the
        same account is fine.
        """
        found = Identity.of(answer)
        if known_id and found.object_id:
            same = found.object_id == known_id
        else:
            same = self.address.casefold() in {name.casefold() for name in found.names}
        if not same:
            raise SignInRejected(
                f"{found} has signed in, and {self.address} is the one who has to",
                code="sign_in.other_account",
                fix=f"Run `{self.login}` and choose {self.address}; if {found} is right, write it "
                "as `signed_in_as` of the mailbox (and give it FullAccess).",
            )
        tenant = self.tenant_id.lower()
        if _GUID.fullmatch(tenant) and found.tenant_id and found.tenant_id.lower() != tenant:
            raise SignInRejected(
                f"{found} belongs to the tenant {found.tenant_id}, and the app to {tenant}",
                code="sign_in.other_account",
                fix="Sign in with an account of the tenant, or correct `tenant` of the app.",
            )
        return found

    def checked_grant(self, answer: Mapping[str, Any], now: datetime) -> Grant:
        """Return what was granted; raises ``SignInRejected`` unless it is all that is needed.

        An incomplete grant would sign in today and stop within hours, or for one protocol only.
        """
        identity = self.refuse_others(answer)
        scopes = scopes_of(answer, self.scopes(self.permissions))
        missing = self.permissions - self.granted(scopes)
        if missing:
            raise SignInRejected(
                f"{self.address} has signed in, but {', '.join(sorted(missing))} was not granted",
                code="sign_in.incomplete",
                fix="Add it to the app (API permissions > Microsoft Graph > Delegated), then run "
                f"`{self.login}` again.",
            )
        refresh_token = answer.get("refresh_token")
        if not isinstance(refresh_token, str) or not refresh_token:
            raise SignInRejected(
                f"{self.address} has signed in for an hour only: offline_access was not granted",
                code="sign_in.incomplete",
                fix="Add offline_access to the app (API permissions > Microsoft Graph > "
                f"Delegated), then run `{self.login}` again.",
            )
        return Grant(
            app=self.app,
            account=self.address,
            refresh_token=refresh_token,
            scopes=scopes,
            object_id=identity.object_id,
            tenant_id=identity.tenant_id,
            granted_at=now,
            refreshed_at=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a token is about, by what it says itself. It came from Entra over TLS."""

    names: tuple[str, ...]
    object_id: str
    tenant_id: str

    def __str__(self) -> str:
        """Return the name to show."""
        return self.names[0] if self.names else "somebody whose name the token does not tell"

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Identity:
        """Return who the id token and the access token of an answer are about."""
        told = [answer.get("id_token_claims") or {}, claims(str(answer.get("access_token") or ""))]
        names = [str(said[key]) for said in told for key in _NAMES if said.get(key)]

        def first(key: str) -> str:
            return next((str(said[key]) for said in told if said.get(key)), "")

        return cls(
            names=tuple(dict.fromkeys(names)), object_id=first("oid"), tenant_id=first("tid")
        )


def scopes_of(answer: Mapping[str, Any], asked: Collection[str]) -> tuple[str, ...]:
    """Return what was granted: by RFC 6749, 5.1 an answer without it means what was asked.

    One that says nothing in it has granted nothing.
    """
    said = answer.get("scope")
    return tuple(said.split()) if isinstance(said, str) else tuple(asked)
