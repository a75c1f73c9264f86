"""One PowerShell script for one mailbox: what can be scripted of its set-up, and nothing else.

It asks before it changes: each right is looked for and added where it is missing, so running it
again does no harm. Whatever comes from the configuration stands in single quotes, escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mailbridge.catalogue.base import Language
from mailbridge.setup_help.needs import Needs
from mailbridge.setup_help.powershell import comment, quoted
from mailbridge.setup_help.words import script_word

#: -ExchangeEnvironmentName and -Environment of Connect-MgGraph
_EXCHANGE: Final = {
    "usgov": "O365USGovGCCHigh",
    "usgov-dod": "O365USGovDoD",
    "china": "O365China",
}
_GRAPH: Final = {"usgov": "USGov", "usgov-dod": "USGovDoD", "china": "China"}
_SMTP_OFF: Final = "SmtpClientAuthenticationDisabled"
#: Office 365 Exchange Online, the same in every tenant
EXCHANGE_APP: Final = "00000002-0000-0ff1-ce00-000000000000"


def script(needs: Needs, language: Language) -> str:
    """Return the script, with a line end at its end."""
    parts = [_head(needs, language)]
    if needs.application:
        parts += [_object_id(needs, language), _connect(needs, language)]
        parts += [_principal(language), _app_rights(needs, language)]
    else:
        parts += [_connect(needs, language), _person_rights(needs, language)]
    parts += [_switches(needs, language), _checks(needs, language)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def _head(needs: Needs, language: Language) -> Iterator[str]:
    kind = script_word(f"kind.{needs.sign_in}", language)
    yield comment(script_word("title", language, name=needs.name, address=needs.address, kind=kind))
    yield comment(script_word("who", language))
    yield comment(script_word("again", language))
    yield "$ErrorActionPreference = 'Stop'"
    yield f"$Mailbox = {quoted(needs.address)}"
    if needs.application:
        yield f"$AppId = {quoted(needs.client_id)}"
    else:
        yield f"$Account = {quoted(needs.account)}"
    if needs.organization:
        yield f"$Tenant = {quoted(needs.organization)}"


def _connect(needs: Needs, language: Language) -> Iterator[str]:
    yield comment(script_word("connect", language))
    yield from _module("ExchangeOnlineManagement")
    options = [" -Organization $Tenant"] if needs.organization else []
    if needs.cloud in _EXCHANGE:
        options.append(f" -ExchangeEnvironmentName {_EXCHANGE[needs.cloud]}")
    yield f"Connect-ExchangeOnline{''.join(options)} -ShowBanner:$false"


def _module(name: str) -> Iterator[str]:
    yield f"if (-not (Get-Module -ListAvailable -Name {name})) {{"
    yield f"    Install-Module -Name {name} -Scope CurrentUser"
    yield "}"
    yield f"Import-Module -Name {name}"


# -- an app signs in --------------------------------------------------------------------------


def _object_id(needs: Needs, language: Language) -> Iterator[str]:
    """Give the object id of the enterprise application.

    Graph goes before Exchange: that is the order that is advised where one session has both.
    """
    given = needs.given.object_id
    if given:
        yield comment(script_word("object_id.given", language))
        yield f"$ObjectId = {quoted(given)}"
        if not needs.managed:
            return
        yield ""
    yield from _graph(needs, language)
    if not given:
        yield comment(script_word("object_id.lookup", language))
        yield "$ObjectId = (Get-MgServicePrincipal -Filter \"appId eq '$AppId'\").Id"
        missing = script_word("object_id.missing", language)
        yield f"if (-not $ObjectId) {{ throw {quoted(missing)} }}"
    if needs.managed:
        yield from _app_roles(needs, language)


def _graph(needs: Needs, language: Language) -> Iterator[str]:
    yield comment(script_word("graph", language))
    yield from _module("Microsoft.Graph.Applications")
    scopes = ["'Application.Read.All'"]
    if needs.managed:
        scopes.append("'AppRoleAssignment.ReadWrite.All'")
    options = [" -TenantId $Tenant"] if needs.organization else []
    if needs.cloud in _GRAPH:
        options.append(f" -Environment {_GRAPH[needs.cloud]}")
    yield f"Connect-MgGraph -Scopes {', '.join(scopes)}{''.join(options)} -NoWelcome"


def _app_roles(needs: Needs, language: Language) -> Iterator[str]:
    """Give a managed identity its permissions: the portal has no page for that."""
    yield ""
    yield comment(script_word("app_roles", language))
    yield f"$Exchange = Get-MgServicePrincipal -Filter \"appId eq '{EXCHANGE_APP}'\""
    yield "$Has = Get-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $ObjectId -All"
    yield f"foreach ($Name in {', '.join(map(quoted, needs.permissions))}) {{"
    yield "    $Role = $Exchange.AppRoles | Where-Object { $_.Value -eq $Name }"
    yield "    if (-not ($Has | Where-Object { $_.AppRoleId -eq $Role.Id })) {"
    yield (
        "        New-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $ObjectId "
        "-PrincipalId $ObjectId -ResourceId $Exchange.Id -AppRoleId $Role.Id | Out-Null"
    )
    yield "    }"
    yield "}"


def _principal(language: Language) -> Iterator[str]:
    yield comment(script_word("principal", language))
    yield "$Known = Get-ServicePrincipal | Where-Object { $_.AppId -eq $AppId }"
    yield "if ($Known -and $Known.ObjectId -ne $ObjectId) {"
    yield "    " + comment(script_word("principal.wrong", language))
    yield "    Remove-ServicePrincipal -Identity $Known.ObjectId"
    yield "    $Known = $null"
    yield "}"
    yield "if (-not $Known) {"
    yield (
        "    New-ServicePrincipal -AppId $AppId -ObjectId $ObjectId -DisplayName 'mailbridge' "
        "| Out-Null"
    )
    yield "}"


def _app_rights(needs: Needs, language: Language) -> Iterator[str]:
    yield comment(script_word("full_access.app", language))
    yield from _full_access("$ObjectId", "")
    if senders := _senders(needs):
        yield ""
        yield comment(script_word("send_as", language))
        yield from _send_as(senders, "$ObjectId")


# -- a person signs in ------------------------------------------------------------------------


def _person_rights(needs: Needs, language: Language) -> Iterator[str]:
    if needs.shared:
        yield comment(script_word("full_access.person", language))
        yield from _full_access("$Account", " -AutoMapping $false")
    if senders := _senders(needs):
        if needs.shared:
            yield ""
        yield comment(script_word("send_as", language))
        yield from _send_as(senders, "$Account")


def _senders(needs: Needs) -> list[str]:
    """Return whom a mail may be from beside the account that signs in, as the script has them."""
    own = {needs.account.casefold(), needs.address.casefold()}
    others = [quoted(one) for one in needs.send_as if one.casefold() not in own]
    return ["$Mailbox", *others] if needs.sends and needs.shared else others


def _full_access(who: str, more: str) -> Iterator[str]:
    yield f"$Has = Get-MailboxPermission -Identity $Mailbox -User {who}"
    given = "\"$($_.AccessRights)\" -match 'FullAccess' -and -not $_.Deny"
    yield f"if (-not ($Has | Where-Object {{ {given} }})) {{"
    yield (
        f"    Add-MailboxPermission -Identity $Mailbox -User {who} -AccessRights FullAccess{more} "
        "| Out-Null"
    )
    yield "}"


def _send_as(senders: Sequence[str], who: str) -> Iterator[str]:
    yield f"foreach ($Sender in {', '.join(senders)}) {{"
    yield f"    $Has = Get-RecipientPermission -Identity $Sender -Trustee {who}"
    yield "    if (-not ($Has | Where-Object { \"$($_.AccessRights)\" -match 'SendAs' })) {"
    yield (
        f"        Add-RecipientPermission -Identity $Sender -Trustee {who} -AccessRights SendAs "
        "-Confirm:$false | Out-Null"
    )
    yield "    }"
    yield "}"


# -- both -------------------------------------------------------------------------------------


def _switches(needs: Needs, language: Language) -> Iterator[str]:
    """Switch on the protocols. SMTP is the account's: that is who signs in there."""
    yield comment(script_word("switches", language))
    fetching = ["-ImapEnabled $true"] * ("imap" in needs.protocols)
    fetching += ["-PopEnabled $true"] * ("pop3" in needs.protocols)
    sending = ["-SmtpClientAuthenticationDisabled $false"] * needs.sends
    if not needs.shared:
        fetching += sending
    if fetching:
        yield f"Set-CASMailbox -Identity $Mailbox {' '.join(fetching)}"
    if needs.shared and sending:
        yield f"Set-CASMailbox -Identity $Account {sending[0]}"


def _checks(needs: Needs, language: Language) -> Iterator[str]:
    who = "$ObjectId" if needs.application else "$Account"
    yield comment(script_word("checks", language))
    if needs.application:
        yield (
            "Get-ServicePrincipal | Where-Object { $_.AppId -eq $AppId } "
            f"| {_shown('DisplayName', 'AppId', 'ObjectId')}"
        )
    if needs.application or needs.shared:
        yield (
            f"Get-MailboxPermission -Identity $Mailbox -User {who} "
            f"| {_shown('Identity', 'User', 'AccessRights')}"
        )
    for sender in _senders(needs):
        yield (
            f"Get-RecipientPermission -Identity {sender} -Trustee {who} "
            f"| {_shown('Identity', 'Trustee', 'AccessRights')}"
        )
    shown = _shown("ImapEnabled", "PopEnabled", _SMTP_OFF)
    yield f"Get-CASMailbox -Identity $Mailbox | {shown}"
    if needs.sends and needs.shared:
        yield f"Get-CASMailbox -Identity $Account | {_shown(_SMTP_OFF)}"
    if needs.sends:
        yield comment(script_word("tenant_switch", language))
        yield f"Get-TransportConfig | {_shown(_SMTP_OFF)}"
    if needs.sends and needs.application:
        yield comment(script_word("rbac", language))
        yield (
            "Test-ServicePrincipalAuthorization -Identity $ObjectId -Resource $Mailbox "
            "-ErrorAction Continue | Format-Table"
        )
    yield f"Write-Host {quoted(script_word('then', language, name=needs.name))}"


def _shown(*names: str) -> str:
    """Return the end of a line that prints these properties; quoted, any parser reads them."""
    return f"Format-List -Property {', '.join(map(quoted, names))}"
