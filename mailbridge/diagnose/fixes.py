"""From an error's code to its cause and its fix, with the mailbox's own ids filled in.

What is not listed shows the server's own words. A later version fills the catalogue; the codes
are stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """What belongs into a fix: never a secret."""

    address: str
    app: str
    tenant: str
    client_id: str
    #: of the enterprise application, read from the token; empty before there is one
    object_id: str = ""


_GRANT: Final = (
    "in Exchange Online PowerShell: New-ServicePrincipal -AppId $client_id -ObjectId $object_id; "
    "Add-MailboxPermission -Identity $address -User $object_id -AccessRights FullAccess. "
    "It can take an hour until Exchange knows it."
)

#: code -> (cause, fix)
_FIXES: Final[dict[str, tuple[str, str]]] = {
    "AADSTS7000215": (
        "the client secret is wrong",
        (
            "Entra admin center, App registrations, $client_id, Certificates & secrets: make a new "
            "secret and copy its Value (not its Secret ID) to where apps.$app.credential points"
        ),
    ),
    "AADSTS7000222": (
        "the client secret has expired",
        (
            "Entra admin center, App registrations, $client_id, Certificates & secrets: make a new "
            "secret, put its Value first in apps.$app.credential.client_secret"
        ),
    ),
    "AADSTS700016": (
        "the tenant does not know this application",
        (
            "compare apps.$app.client_id ($client_id) with the Application (client) ID in the "
            "portal, and apps.$app.tenant ($tenant) with its Directory (tenant) ID"
        ),
    ),
    "AADSTS90002": (
        "there is no such tenant",
        (
            "copy the Directory (tenant) ID from the Entra admin center's overview to "
            "apps.$app.tenant ($tenant); check apps.$app.cloud"
        ),
    ),
    "AADSTS1002012": (
        "the scope does not fit application access",
        "check apps.$app.cloud: the scope is derived from it",
    ),
    "claims.role": (
        "the token has no role IMAP.AccessAsApp: the permission or its admin consent is missing",
        (
            "Entra admin center, App registrations, $client_id, API permissions: add Office 365 "
            "Exchange Online (under APIs my organization uses), Application permissions, "
            "IMAP.AccessAsApp, then Grant admin consent"
        ),
    ),
    "claims.role.pop3": (
        "the token has no role POP.AccessAsApp: the permission or its admin consent is missing",
        (
            "Entra admin center, App registrations, $client_id, API permissions: add Office 365 "
            "Exchange Online (under APIs my organization uses), Application permissions, "
            "POP.AccessAsApp, then Grant admin consent"
        ),
    ),
    "claims.scope": (
        "the token does not permit IMAP: nobody has consented to IMAP.AccessAsUser.All",
        (
            "sign in again with `mailbridge login`; the app needs the delegated permission "
            "IMAP.AccessAsUser.All (API permissions, Microsoft Graph, Delegated) of $client_id"
        ),
    ),
    "claims.scope.pop3": (
        "the token does not permit POP3: nobody has consented to POP.AccessAsUser.All",
        (
            "sign in again with `mailbridge login`; the app needs the delegated permission "
            "POP.AccessAsUser.All (API permissions, Microsoft Graph, Delegated) of $client_id"
        ),
    ),
    "claims.role.smtp": (
        (
            "the token has no role SMTP.SendAsApp; that is as it should be only where RBAC for "
            "Applications permits sending"
        ),
        (
            "Entra admin center, App registrations, $client_id, API permissions: add Office 365 "
            "Exchange Online (under APIs my organization uses), Application permissions, "
            "SMTP.SendAsApp, then Grant admin consent"
        ),
    ),
    "claims.scope.smtp": (
        "the token does not permit sending: nobody has consented to SMTP.Send",
        (
            "sign in again with `mailbridge login`; the app needs the delegated permission "
            "SMTP.Send (API permissions, Microsoft Graph, Delegated) of $client_id"
        ),
    ),
    "claims.audience": (
        "the token is for another service than Exchange Online",
        "check apps.$app.cloud: the scope is derived from it",
    ),
    "imap.authenticate_failed": (
        (
            "Exchange refuses the token: usually the service principal is not registered in "
            "Exchange, or under a wrong object id"
        ),
        _GRANT,
    ),
    "pop3.authenticate_failed": (
        (
            "Exchange refuses the sign-in, and POP3 does not tell why: POP switched off, no "
            "FullAccess permission, or a service principal that is not registered in Exchange, or "
            "under a wrong object id"
        ),
        "Set-CASMailbox -Identity $address -PopEnabled $$true; " + _GRANT,
    ),
    "imap.not_connected": (
        (
            "the token is good, the mailbox refuses: no FullAccess permission, IMAP switched off, "
            "or another address than the mailbox's own"
        ),
        "Set-CASMailbox -Identity $address -ImapEnabled $$true; " + _GRANT,
    ),
    "smtp.authenticate_failed": (
        (
            "Exchange refuses the sign-in, and SMTP does not tell why: no permission to send, no "
            "FullAccess, or a service principal that is not registered in Exchange, or under a "
            "wrong object id"
        ),
        _GRANT,
    ),
    "tls.certificate": (
        "the server's certificate is not trusted",
        (
            "if a proxy inspects TLS here, give its CA with `ca: FILE`; verification cannot be "
            "switched off"
        ),
    ),
    "dns": (
        "the host name does not resolve",
        "check the name, and the resolver of this machine (resolvectl query HOST)",
    ),
    "tcp": (
        "no connection to the server",
        (
            "open outgoing TCP to this host and port in the firewall; if only a proxy leads "
            "outside, name it in fetch.server.proxy of this mailbox (https_proxy is not for mail)"
        ),
    ),
}


def explain(code: str, said: str, fix: str, ids: Ids) -> tuple[str, str]:
    """Return cause and fix for a code; what the catalogue lacks is told in the server's words."""
    cause, mend = _FIXES.get(code, (said, fix))
    values = {
        "address": ids.address,
        "app": ids.app,
        "tenant": ids.tenant,
        "client_id": ids.client_id,
        "object_id": ids.object_id or "<object id of the enterprise application>",
    }
    # The server's words are no template.
    filled = Template(mend).substitute(values) if code in _FIXES else mend
    return cause, filled
