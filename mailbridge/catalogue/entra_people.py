"""What Entra says about people: accounts, passwords, second factors, policies (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APPLICATION_ACCESS, ENTERPRISE, EXCLUDE, LOGS, row

_FACTOR: Final = Text(
    en="Sign in again and give it: `$login`. A password alone (`sign_in: password`) can no longer "
    f"be used. Or: {APPLICATION_ACCESS.en}.",
    de="Neu anmelden und ihn angeben: `$login`. Mit dem Passwort allein (`sign_in: password`) geht "
    f"es nicht mehr. Oder: {APPLICATION_ACCESS.de}.",
)

_PASSWORDS: Final = (
    *row(
        "configuration",
        {50126: "Error validating credentials due to invalid username or password."},
        cause=Text(
            en="user name or password is wrong",
            de="Benutzername oder Passwort ist falsch",
        ),
        fix=Text(
            en="Correct mailboxes.$mailbox.password; ten wrong ones in a row lock the account. "
            "Passwords of federated accounts (AD FS) cannot be used this way. Better: "
            f"{APPLICATION_ACCESS.en}.",
            de="mailboxes.$mailbox.password berichtigen; zehn falsche in Folge sperren das Konto. "
            "Passwörter von Verbundkonten (AD FS) lassen sich so nicht verwenden. Besser: "
            f"{APPLICATION_ACCESS.de}.",
        ),
    ),
    *row(
        "passing",
        {
            50053: "You've tried to sign in too many times with an incorrect user ID or password.",
        },
        cause=Text(
            en="too many wrong passwords, so Entra refuses the right one too for a while",
            de="zu viele falsche Passwörter, darum weist Entra eine Zeit lang auch das richtige ab",
        ),
        fix=Text(
            en="mailbridge waits for half an hour, since each try prolongs it. Correct the "
            f"password of $account, and see {LOGS.en} for who else tries.",
            de="mailbridge wartet eine halbe Stunde, denn jeder Versuch verlängert die Sperre. Das "
            f"Passwort von $account berichtigen und unter {LOGS.de} sehen, wer es noch versucht.",
        ),
    ),
    *row(
        "configuration",
        {
            50055: "The password is expired.",
            50144: "The user's Active Directory password has expired.",
        },
        cause=Text(
            en="the account's password has expired",
            de="das Passwort des Kontos ist abgelaufen",
        ),
        fix=Text(
            en="Set a new one, then store it where mailboxes.$mailbox.password points, or sign in "
            "again: `$login`. To keep it from expiring, in Microsoft Graph PowerShell: "
            "`Update-MgUser -UserId $account -PasswordPolicies DisablePasswordExpiration`.",
            de="Ein neues setzen und dort ablegen, wohin mailboxes.$mailbox.password zeigt, oder "
            "neu anmelden: `$login`. Damit es nicht mehr abläuft, in Microsoft Graph PowerShell: "
            "`Update-MgUser -UserId $account -PasswordPolicies DisablePasswordExpiration`.",
        ),
    ),
    *row(
        "configuration",
        {
            50056: "Invalid or null password: password does not exist in the directory for this "
            "user.",
            50064: "Credential validation on username or password has failed.",
        },
        cause=Text(
            en="the account has no password that Entra could check",
            de="das Konto hat kein Passwort, das Entra prüfen könnte",
        ),
        fix=Text(
            en="Set a password for $account (Microsoft 365 admin center > Users > Active users > "
            f"Reset password), then sign in again: `$login`. Better: {APPLICATION_ACCESS.en}.",
            de="Für $account ein Passwort setzen (Microsoft 365 Admin Center > Benutzer > Aktive "
            "Benutzer > Kennwort zurücksetzen), danach neu anmelden: `$login`. Besser: "
            f"{APPLICATION_ACCESS.de}.",
        ),
    ),
    *row(
        "sign_in_again",
        {50135: "Password change is required due to account risk."},
        cause=Text(
            en="the account's password is held to be known to others",
            de="das Passwort des Kontos gilt als anderen bekannt",
        ),
        fix=Text(
            en="Set a new password for $account, then sign in again: `$login`. Entra admin center "
            "> Risky users tells why.",
            de="Für $account ein neues Passwort setzen, danach neu anmelden: `$login`. Den Grund "
            "nennt Entra Admin Center > Risikobenutzer.",
        ),
    ),
    *row(
        "configuration",
        {
            80012: "The users attempted to log on outside of the allowed hours.",
        },
        cause=Text(
            en="the account may not sign in at this hour",
            de="das Konto darf sich um diese Uhrzeit nicht anmelden",
        ),
        fix=Text(
            en="Extend its logon hours in Active Directory: `Get-ADUser -Filter "
            "\"UserPrincipalName -eq '$account'\" -Properties LogonHours`, then Active Directory "
            "Users and Computers > Account > Logon Hours.",
            de="Die Anmeldezeiten im Active Directory erweitern: `Get-ADUser -Filter "
            "\"UserPrincipalName -eq '$account'\" -Properties LogonHours`, danach Active "
            "Directory-Benutzer und -Computer > Konto > Anmeldezeiten.",
        ),
    ),
    *row(
        "configuration",
        {
            80013: "The authentication attempt could not be completed due to time skew between the "
            "machine running the authentication agent and AD.",
        },
        cause=Text(
            en="the clocks of the authentication agent and of Active Directory differ",
            de="die Uhren des Authentifizierungs-Agents und des Active Directory weichen "
            "voneinander ab",
        ),
        fix=Text(
            en="Set the clocks of the agent's server and of the domain controllers by NTP "
            "(`w32tm /resync`).",
            de="Die Uhren des Agent-Servers und der Domänencontroller über NTP stellen "
            "(`w32tm /resync`).",
        ),
    ),
)

_ACCOUNTS: Final = (
    *row(
        "configuration",
        {50034: "The user account does not exist in the directory."},
        cause=Text(
            en="the account is not known in this tenant",
            de="das Konto ist in diesem Mandanten unbekannt",
        ),
        fix=Text(
            en="Write the account's user principal name as `signed_in_as` (or `address`) of "
            "mailboxes.$mailbox (now $account), not an alias: Microsoft 365 admin center > Users > "
            "Active users > Username. Compare apps.$app.tenant ($tenant).",
            de="Den Benutzerprinzipalnamen des Kontos als `signed_in_as` (oder `address`) von "
            "mailboxes.$mailbox (jetzt $account) eintragen, keinen Alias: Microsoft 365 Admin "
            "Center > Benutzer > Aktive Benutzer > Benutzername. apps.$app.tenant ($tenant) "
            "vergleichen.",
        ),
    ),
    *row(
        "configuration",
        {50057: "The user account is disabled."},
        cause=Text(
            en="sign-in is blocked for the account, as it is for a shared mailbox by design",
            de="die Anmeldung ist für das Konto gesperrt, wie es bei einem freigegebenen Postfach "
            "vorgesehen ist",
        ),
        fix=Text(
            en="Let somebody with FullAccess sign in and name them in "
            "mailboxes.$mailbox.signed_in_as: `Add-MailboxPermission -Identity $address -User "
            "PERSON -AccessRights FullAccess` in Exchange Online PowerShell. Or: "
            f"{APPLICATION_ACCESS.en}.",
            de="Jemanden mit Vollzugriff anmelden und in mailboxes.$mailbox.signed_in_as nennen: "
            "`Add-MailboxPermission -Identity $address -User PERSON -AccessRights FullAccess` in "
            f"der Exchange Online PowerShell. Oder: {APPLICATION_ACCESS.de}.",
        ),
    ),
    *row(
        "configuration",
        {
            50020: "User account from identity provider does not exist in tenant and cannot access "
            "the application in that tenant.",
            16000: "User account from identity provider does not exist in tenant and cannot access "
            "the application in that tenant; choose another account.",
            50014: "The user's redemption is in a pending state.",
            51004: "The user account does not exist in the directory.",
            90072: "User account from identity provider does not exist in tenant. The account "
            "needs to be added as an external user in the tenant first.",
        },
        cause=Text(
            en="the account does not belong to this tenant: a guest's, a private one, or another "
            "organisation's",
            de="das Konto gehört nicht zu diesem Mandanten: es ist das eines Gastes, ein privates "
            "oder das einer anderen Organisation",
        ),
        fix=Text(
            en="Sign in with an account of the tenant $tenant (in a private browser window, if "
            "another one is signed in): `$login`. Or correct apps.$app.tenant.",
            de="Mit einem Konto des Mandanten $tenant anmelden (in einem privaten Browserfenster, "
            "wenn dort ein anderes angemeldet ist): `$login`. Oder apps.$app.tenant berichtigen.",
        ),
    ),
    *row(
        "configuration",
        {
            50105: "Your administrator has configured the application to block users unless they "
            "are specifically granted ('assigned') access to the application.",
        },
        cause=Text(
            en="the app is for assigned people only, and $account is none of them",
            de="die App ist nur für zugewiesene Personen da, und $account gehört nicht dazu",
        ),
        fix=Text(
            en=f"{ENTERPRISE.en} > Users and groups: add $account; or > Properties > Assignment "
            "required: No.",
            de=f"{ENTERPRISE.de} > Benutzer und Gruppen: $account hinzufügen; oder > Eigenschaften "
            "> Zuweisung erforderlich: Nein.",
        ),
    ),
)

_FACTORS: Final = (
    *row(
        "sign_in_again",
        {
            50076: "Due to a configuration change made by your administrator, or because you moved "
            "to a new location, you must use multi-factor authentication to access.",
            50074: "Strong Authentication is required.",
            50078: "Presented multi-factor authentication has expired due to policies configured "
            "by your administrator, you must refresh your multi-factor authentication to access.",
            50158: "External security challenge was not satisfied.",
            500121: "Authentication failed during strong authentication request.",
        },
        cause=Text(
            en="a second factor is asked for, which only a person can give",
            de="es wird ein zweiter Faktor verlangt, den nur eine Person angeben kann",
        ),
        fix=_FACTOR,
    ),
    *row(
        "sign_in_again",
        {
            50079: "Due to a configuration change made by your administrator, or because you moved "
            "to a new location, you must enroll in multi-factor authentication to access.",
            50072: "You must enroll in multi-factor authentication to access.",
            53004: "User needs to complete Multi-factor authentication registration process before "
            "accessing this content.",
            53010: "Cannot configure multi-factor authentication methods because the organization "
            "requires this information to be set from specific locations or devices.",
        },
        cause=Text(
            en="a second factor has to be set up for the account first",
            de="für das Konto muss erst ein zweiter Faktor eingerichtet werden",
        ),
        fix=Text(
            en="Set it up as $account at https://aka.ms/mfasetup (from inside the organisation's "
            f"network, if it wants that), then sign in again: `$login`. Or: "
            f"{APPLICATION_ACCESS.en}.",
            de="Ihn als $account unter https://aka.ms/mfasetup einrichten (aus dem Netz der "
            "Organisation, wenn sie das verlangt), danach neu anmelden: `$login`. Oder: "
            f"{APPLICATION_ACCESS.de}.",
        ),
    ),
)

_POLICIES: Final = (
    *row(
        "configuration",
        {
            53000: "Device is not in required device state: compliant.",
            53001: "Device is not in required device state: domain_joined.",
            53002: "Application used is not an approved application for conditional access.",
            50097: "Device authentication is required.",
            50131: "Device is not in required device state, or the request was blocked due to "
            "suspicious activity, access policy or security policy decisions.",
            50005: "User tried to log in to a device from a platform that's currently not "
            "supported through Conditional Access policy.",
        },
        cause=Text(
            en="a Conditional Access policy wants a device or an app of its own choice, which this "
            "machine is not",
            de="eine Richtlinie für bedingten Zugriff verlangt ein bestimmtes Gerät oder eine "
            "bestimmte App, und das ist dieser Rechner nicht",
        ),
        fix=EXCLUDE,
    ),
    *row(
        "configuration",
        {530035: "Access has been blocked by security defaults."},
        cause=Text(
            en="the tenant's security defaults refuse device codes and passwords",
            de="die Sicherheitsstandards des Mandanten verweigern Gerätecodes und Passwörter",
        ),
        fix=Text(
            en="Leave them on. Sign in by the browser, without --device: `$login`. Or: "
            f"{APPLICATION_ACCESS.en}.",
            de="Sie eingeschaltet lassen. Im Browser anmelden, ohne --device: `$login`. Oder: "
            f"{APPLICATION_ACCESS.de}.",
        ),
    ),
    *row(
        "configuration",
        {
            530032: "The tenant admin has configured a security policy that blocks this request.",
            530034: "A delegated administrator was blocked from accessing the tenant due to "
            "account risk in their home tenant.",
            53011: "User blocked due to risk on home tenant.",
        },
        cause=Text(
            en="a security policy of the tenant refuses the sign-in, or the account is held to be "
            "at risk",
            de="eine Sicherheitsrichtlinie des Mandanten verweigert die Anmeldung, oder das Konto "
            "gilt als gefährdet",
        ),
        fix=Text(
            en=f"{LOGS.en} names the policy, Entra admin center > Risky users the risk: an "
            "administrator lifts it for $account. Then sign in again: `$login`.",
            de=f"{LOGS.de} nennt die Richtlinie, Entra Admin Center > Risikobenutzer das Risiko: "
            "ein Administrator hebt es für $account auf. Danach neu anmelden: `$login`.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_PASSWORDS, *_ACCOUNTS, *_FACTORS, *_POLICIES)
