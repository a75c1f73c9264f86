"""Scopes: which resource they name, which permissions of it, and who has consented to them.

The mail permissions are listed under Microsoft Graph in the portal, and yet only a token for the
outlook resource opens a mailbox. Both forms are understood here, as Entra does: asked for as
``https://graph.microsoft.com/IMAP.AccessAsUser.All`` a token is issued, and Exchange refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox.directory import MAIL_SCOPES, App, User

GRAPH: Final = "https://graph.microsoft.com"
GRAPH_ID: Final = "00000003-0000-0000-c000-000000000000"
EXCHANGE_ID: Final = "00000002-0000-0ff1-ce00-000000000000"
#: an alias of Exchange that consent links use; no mailbox opens for a token with that audience
_CONSENT_ONLY: Final = "https://ps.outlook.com"
#: OpenID Connect's own scopes, and the one that asks for a refresh token
RESERVED: Final = frozenset({"openid", "profile", "email", "offline_access"})
DEFAULT: Final = ".default"
#: delegated permissions that exist, at Graph and at Exchange alike
_KNOWN: Final = {
    name.lower(): name
    for name in (
        *MAIL_SCOPES,
        *("EWS.AccessAsUser.All", "MailboxSettings.Read", "User.Read"),
        *("Mail.Read", "Mail.Read.Shared", "Mail.ReadWrite", "Mail.ReadWrite.Shared"),
        *("Mail.Send", "Mail.Send.Shared"),
    )
}

Kind = Literal["exchange", "graph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One permission of a resource, which is kept as it was written."""

    kind: Kind
    resource: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for."""

    text: str
    reserved: frozenset[str]
    scopes: tuple[Scope, ...]

    @property
    def kinds(self) -> list[Kind]:
        """The resources, in the order in which they are named."""
        return list(dict.fromkeys(scope.kind for scope in self.scopes))

    @property
    def audience(self) -> str:
        """The resource that a token is for: the first one; Graph when none is named."""
        return self.scopes[0].resource if self.scopes else GRAPH_ID

    def names(self, app: App, kind: Kind | None = None) -> list[str]:
        """Return the permissions asked for, those of one resource or of all."""
        named: list[str] = []
        for scope in self.scopes:
            if kind is None or scope.kind == kind:
                named += app.scopes if scope.name == DEFAULT else [scope.name]
        return list(dict.fromkeys(named))


def kind_of(resource: str, audiences: Sequence[str]) -> Kind | None:
    """Return what a resource is; ``None`` when the tenant has none of that name."""
    wanted = resource.rstrip("/").lower()
    if wanted in {GRAPH, GRAPH_ID}:
        return "graph"
    if wanted in {*audiences, _CONSENT_ONLY, EXCHANGE_ID}:
        return "exchange"
    return None


def parse(text: str, *, app: App, audiences: Sequence[str], directory: str) -> Asked:
    """Read the ``scope`` of somebody's sign-in; raises ``EntraError`` for what cannot be.

    ``audiences`` is what Exchange takes for itself. Several resources are fine here.
    """
    parts = text.split()
    if not parts:
        raise errors.missing_parameter("scope")
    scopes = []
    for part in parts:
        if part.lower() in RESERVED:
            continue
        resource, _, name = part.rpartition("/")
        resource = resource or GRAPH
        kind = kind_of(resource, audiences)
        if kind is None:
            raise errors.unknown_resource(resource, directory)
        known = DEFAULT if name == DEFAULT else _KNOWN.get(name.lower())
        if known is None:
            raise errors.unknown_scope(app.name, name, GRAPH_ID if kind == "graph" else EXCHANGE_ID)
        scopes.append(Scope(kind=kind, resource=resource.rstrip("/"), name=known))
    if any(scope.name == DEFAULT for scope in scopes) and len(scopes) > 1:
        raise errors.several_scopes(text)
    reserved = frozenset(part.lower() for part in parts) & RESERVED
    return Asked(text=text, reserved=reserved, scopes=tuple(scopes))


def one_resource(asked: Asked) -> Asked:
    """Return the scopes; raises AADSTS28000 when they belong to several resources."""
    if len(asked.kinds) > 1:
        raise errors.several_resources(asked.text)
    return asked


def first_resource(asked: Asked) -> Asked:
    """Return the scopes of the first resource alone, as a refresh does."""
    first = asked.kinds[:1]
    kept = tuple(scope for scope in asked.scopes if scope.kind in first)
    return Asked(text=asked.text, reserved=asked.reserved, scopes=kept)


def consented(app: App, user: User) -> set[str]:
    """Return the delegated permissions that this person's tokens for the app may have."""
    by_admin = set(app.scopes) if app.consented else set()
    return by_admin | app.admin_scopes | app.user_scopes.get(user.object_id, set())


def app_resource(text: str, *, audiences: Sequence[str], directory: str) -> str:
    """Return the resource of client credentials: one ``/.default`` and nothing else."""
    scopes = text.split()
    suffix = "/" + DEFAULT
    if not scopes:
        raise errors.missing_parameter("scope")
    if not all(scope.endswith(suffix) for scope in scopes):
        raise errors.scope_without_default(" ".join(scopes))
    if len(scopes) > 1:
        raise errors.several_scopes(" ".join(scopes))
    resource = scopes[0].removesuffix(suffix)
    if kind_of(resource, audiences) is None:
        raise errors.unknown_resource(resource, directory)
    return resource
