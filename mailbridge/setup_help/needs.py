"""What one mailbox needs of Entra and Exchange, read from the configuration. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mailbridge.config import Config

Protocol = Literal["imap", "pop3", "smtp"]

ROLES: Final = {"imap": "IMAP.AccessAsApp", "pop3": "POP.AccessAsApp", "smtp": "SMTP.SendAsApp"}
SCOPES: Final = {
    "imap": "IMAP.AccessAsUser.All",
    "pop3": "POP.AccessAsUser.All",
    "smtp": "SMTP.Send",
}
#: tenants that are none in particular
_ANY: Final = frozenset({"common", "organizations", "consumers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the configuration does not say: links, redirect URIs, an object id from a token.

    ``web_redirects`` are registered under Web, ``desktop_redirects`` under Mobile and desktop.
    """

    consent_links: Sequence[str] = ()
    web_redirects: Sequence[str] = ()
    desktop_redirects: Sequence[str] = ()
    #: of the enterprise application; empty when it has to be looked up
    object_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """See the module. Addresses and ids stand as they do in the configuration."""

    name: str
    address: str
    #: who signs in; the address itself unless the mailbox is shared
    account: str
    sign_in: Literal["application", "delegated", "password"]
    protocols: tuple[Protocol, ...]
    #: addresses beside the mailbox's own that it sends as
    send_as: tuple[str, ...]
    app: str
    client_id: str
    tenant: str
    cloud: str
    #: client_secret, certificate, federated, managed_identity, or empty: a public client
    credential: str
    given: Given

    @property
    def application(self) -> bool:
        """Whether nobody signs in but the app itself."""
        return self.sign_in == "application"

    @property
    def managed(self) -> bool:
        """Whether Azure gives the identity, so that there is no app registration."""
        return self.credential == "managed_identity"

    @property
    def shared(self) -> bool:
        """Whether a person signs in for a mailbox that is not the person's own."""
        return not self.application and self.account.casefold() != self.address.casefold()

    @property
    def sends(self) -> bool:
        """Whether it sends."""
        return "smtp" in self.protocols

    @property
    def fetches(self) -> bool:
        """Whether it is fetched."""
        return self.protocols != ("smtp",) and bool(self.protocols)

    @property
    def permissions(self) -> list[str]:
        """The permissions of Entra: exactly those that the protocols need."""
        return [(ROLES if self.application else SCOPES)[one] for one in self.protocols]

    @property
    def organization(self) -> str:
        """The tenant to connect to, empty where the configuration names none."""
        return "" if self.tenant.lower() in _ANY else self.tenant


def needs_of(config: Config, name: str, given: Given) -> Needs:
    """Read what a mailbox needs."""
    mailbox = config.mailboxes[name]
    app = config.apps[mailbox.app]
    protocols: list[Protocol] = []
    if mailbox.fetch.protocol != "none":
        protocols.append(mailbox.fetch.protocol)
    others: tuple[str, ...] = ()
    if mailbox.send is not None:
        protocols.append("smtp")
        own = mailbox.address.casefold()
        others = tuple(one for one in mailbox.send.send_as if one.casefold() != own)
    credential = app.credential
    identity = credential.managed_identity if credential is not None else None
    return Needs(
        name=name,
        address=mailbox.address,
        account=mailbox.account,
        sign_in=mailbox.sign_in,
        protocols=tuple(protocols),
        send_as=others,
        app=mailbox.app,
        # A user-assigned identity is told by its own client id.
        client_id=identity if identity and identity != "system" else app.client_id,
        tenant=app.tenant_id,
        cloud=app.cloud,
        credential=credential.kind if credential is not None else "",
        given=given,
    )
