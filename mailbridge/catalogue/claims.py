"""What a token lacks that Entra issued without complaint.

::

    claims.audience               for another service than Exchange Online
    claims.role[.pop3|.smtp]      application access: not among the roles, or there are none
    claims.scope[.pop3|.smtp]     somebody has signed in: not among scp, or there is none
    claims.expired                exp lies in the past
    claims.tenant                 tid is another tenant than the mailbox's
"""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APP


def _role(code: str, permission: str, cause: Text) -> Entry:
    return Entry(
        code=code,
        kind="configuration",
        cause=cause,
        fix=Text(
            en=f"{APP.en} > API permissions > Add a permission > APIs my organization uses > "
            f"Office 365 Exchange Online > Application permissions: tick {permission}, then press "
            "Grant admin consent (or let an administrator open what `mailbridge consent-url $app` "
            "prints). Tokens that were issued before do not change; they last an hour.",
            de=f"{APP.de} > API-Berechtigungen > Berechtigung hinzufügen > Von meiner Organisation "
            "verwendete APIs > Office 365 Exchange Online > Anwendungsberechtigungen: "
            f"{permission} anhaken, danach „Administratorzustimmung erteilen“ drücken (oder einen "
            "Administrator den Link öffnen lassen, den `mailbridge consent-url $app` ausgibt). "
            "Bereits ausgestellte Token ändern sich nicht; sie gelten eine Stunde.",
        ),
    )


def _missing_role(permission: str) -> Text:
    return Text(
        en=f"the token has no role {permission}: the permission or its admin consent is missing",
        de=f"dem Token fehlt die Rolle {permission}: die Berechtigung oder die "
        "Administratorzustimmung dazu fehlt",
    )


def _scope(code: str, what: Text, permission: str) -> Entry:
    return Entry(
        code=code,
        kind="sign_in_again",
        cause=Text(
            en=f"the token does not permit {what.en}: nobody has consented to {permission}",
            de=f"das Token erlaubt {what.de} nicht: niemand hat {permission} zugestimmt",
        ),
        fix=Text(
            en=f"{APP.en} > API permissions: the delegated permission {permission} (Microsoft "
            "Graph > Delegated permissions) has to be there. Then sign in again and consent: "
            "`$login`.",
            de=f"{APP.de} > API-Berechtigungen: dort muss die delegierte Berechtigung {permission} "
            "stehen (Microsoft Graph > Delegierte Berechtigungen). Danach neu anmelden und "
            "zustimmen: `$login`.",
        ),
    )


ENTRIES: Final[tuple[Entry, ...]] = (
    _role("claims.role", "IMAP.AccessAsApp", _missing_role("IMAP.AccessAsApp")),
    _role("claims.role.pop3", "POP.AccessAsApp", _missing_role("POP.AccessAsApp")),
    _role(
        "claims.role.smtp",
        "SMTP.SendAsApp",
        Text(
            en="the token has no role SMTP.SendAsApp; that is as it should be only where RBAC for "
            "Applications permits sending",
            de="dem Token fehlt die Rolle SMTP.SendAsApp; das ist nur dort richtig, wo RBAC für "
            "Anwendungen das Senden erlaubt",
        ),
    ),
    _scope("claims.scope", Text(en="IMAP", de="IMAP"), "IMAP.AccessAsUser.All"),
    _scope("claims.scope.pop3", Text(en="POP3", de="POP3"), "POP.AccessAsUser.All"),
    _scope("claims.scope.smtp", Text(en="sending", de="das Senden"), "SMTP.Send"),
    Entry(
        code="claims.audience",
        kind="configuration",
        cause=Text(
            en="the token is for another service than Exchange Online",
            de="das Token gilt für einen anderen Dienst als Exchange Online",
        ),
        fix=Text(
            en="Check apps.$app.cloud: the scope is derived from it. A token for Microsoft Graph "
            "opens no mailbox by IMAP, POP3 or SMTP.",
            de="apps.$app.cloud prüfen: daraus ergibt sich der Bereich (scope). Ein Token für "
            "Microsoft Graph öffnet kein Postfach über IMAP, POP3 oder SMTP.",
        ),
    ),
    Entry(
        code="claims.expired",
        kind="configuration",
        cause=Text(
            en="the token has expired by this machine's clock, though it was just fetched",
            de="das Token ist nach der Uhr dieses Rechners abgelaufen, obwohl es eben erst geholt "
            "wurde",
        ),
        fix=Text(
            en="Set the clock of this machine by NTP (`timedatectl set-ntp true`); it has to be "
            "right within five minutes.",
            de="Die Uhr dieses Rechners mit NTP stellen (`timedatectl set-ntp true`); sie muss auf "
            "fünf Minuten genau gehen.",
        ),
    ),
    Entry(
        code="claims.tenant",
        kind="configuration",
        cause=Text(
            en="the token is of another tenant than the one in apps.$app.tenant",
            de="das Token stammt aus einem anderen Mandanten als dem in apps.$app.tenant",
        ),
        fix=Text(
            en="Write the tenant of the mailbox $address to apps.$app.tenant (now $tenant): Entra "
            "admin center > Overview > Tenant ID. An app of another tenant has to be consented to "
            "there: `mailbridge consent-url $app`. A person signs in with an account of that "
            "tenant.",
            de="In apps.$app.tenant (jetzt $tenant) den Mandanten des Postfachs $address "
            "eintragen: Entra Admin Center > Übersicht > Mandanten-ID. Einer App aus einem anderen "
            "Mandanten muss dort erst zugestimmt werden: `mailbridge consent-url $app`. Personen "
            "melden sich mit einem Konto dieses Mandanten an.",
        ),
    ),
)
