"""What Entra says about scopes, permissions and consent (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APP, row

_PERMISSIONS: Final = Text(
    en=f"{APP.en} > API permissions",
    de=f"{APP.de} > API-Berechtigungen",
)
#: application access asks for this alone
_DEFAULT: Final = Text(
    en="Check apps.$app.cloud: the scope is derived from it. An app by itself asks for "
    "https://outlook.office365.com/.default (or its cloud's) and nothing else.",
    de="apps.$app.cloud prüfen: daraus ergibt sich der Bereich (scope). Eine App für sich fragt "
    "nach https://outlook.office365.com/.default (oder dem ihrer Cloud) und nach nichts sonst.",
)
_ADD: Final = Text(
    en=f"{_PERMISSIONS.en} > Add a permission > APIs my organization uses > Office 365 Exchange "
    "Online > Application permissions: IMAP.AccessAsApp, POP.AccessAsApp, SMTP.SendAsApp (what the "
    "mailbox uses), then Grant admin consent.",
    de=f"{_PERMISSIONS.de} > Berechtigung hinzufügen > Von meiner Organisation verwendete APIs > "
    "Office 365 Exchange Online > Anwendungsberechtigungen: IMAP.AccessAsApp, POP.AccessAsApp, "
    "SMTP.SendAsApp (was das Postfach nutzt), danach „Administratorzustimmung erteilen“.",
)
_ADD_DELEGATED: Final = Text(
    en=f"{_PERMISSIONS.en} > Add a permission > Microsoft Graph > Delegated permissions: "
    "IMAP.AccessAsUser.All, POP.AccessAsUser.All, SMTP.Send (what the mailbox uses) and "
    "offline_access. Then sign in again: `$login`.",
    de=f"{_PERMISSIONS.de} > Berechtigung hinzufügen > Microsoft Graph > Delegierte "
    "Berechtigungen: IMAP.AccessAsUser.All, POP.AccessAsUser.All, SMTP.Send (was das Postfach "
    "nutzt) und offline_access. Danach neu anmelden: `$login`.",
)
_LICENCE: Final = Text(
    en="The tenant needs an Exchange Online licence, assigned to at least one account (Microsoft "
    "365 admin center > Billing > Licenses). Check apps.$app.cloud and apps.$app.tenant ($tenant) "
    "too.",
    de="Der Mandant braucht eine Exchange-Online-Lizenz, die mindestens einem Konto zugewiesen ist "
    "(Microsoft 365 Admin Center > Abrechnung > Lizenzen). Auch apps.$app.cloud und "
    "apps.$app.tenant ($tenant) prüfen.",
)

_SCOPES: Final = (
    *row(
        "configuration",
        {
            1002012: "The provided value for scope is not valid. Client credential flows must have "
            "a scope value with /.default suffixed to the resource identifier (application ID URI)."
        },
        cause=Text(
            en="the scope does not fit application access",
            de="der Bereich (scope) passt nicht zum Anwendungszugriff",
        ),
        fix=_DEFAULT,
    ),
    *row(
        "configuration",
        {
            70011: "The provided value for the input parameter 'scope' is not valid.",
            28000: "Provided value for the input parameter scope is not valid because it contains "
            "more than one resource.",
            28002: "Provided value for the input parameter scope is not valid when requesting an "
            "access token.",
            28003: "Provided value for the input parameter scope cannot be empty when requesting "
            "an access token using the provided authorization code.",
            700022: "The provided value for the input parameter 'scope' is not valid because it "
            "contains more than one resource.",
        },
        cause=Text(
            en="the scope is malformed, empty, or mixes the permissions of several services",
            de="der Bereich (scope) ist fehlerhaft, leer oder mischt die Berechtigungen mehrerer "
            "Dienste",
        ),
        fix=_DEFAULT,
        fix_delegated=Text(
            en="Check apps.$app.cloud: the scopes are derived from it, all of them of Exchange "
            "Online. Then sign in again: `$login`.",
            de="apps.$app.cloud prüfen: daraus ergeben sich die Bereiche, alle von Exchange "
            "Online. Danach neu anmelden: `$login`.",
        ),
    ),
    *row(
        "configuration",
        {
            700023: "The provided value for the input parameter 'scope' is not valid because it "
            "contains no resource. / Client assertion audience claim does not match Realm issuer.",
        },
        cause=Text(
            en="the scope names no service; or, where the app proves itself by a certificate, its "
            "proof was made for another tenant",
            de="der Bereich (scope) nennt keinen Dienst; oder, wenn sich die App durch ein "
            "Zertifikat nachweist, gilt der Nachweis für einen anderen Mandanten",
        ),
        fix=Text(
            en="Check apps.$app.cloud, and that apps.$app.tenant ($tenant) is the tenant of the "
            "app: Entra admin center > Overview > Tenant ID.",
            de="apps.$app.cloud prüfen, und ob apps.$app.tenant ($tenant) der Mandant der App ist: "
            "Entra Admin Center > Übersicht > Mandanten-ID.",
        ),
    ),
    *row(
        "configuration",
        {650053: "The application asked for scope that doesn't exist on the resource."},
        cause=Text(
            en="a scope was asked for that the service does not have; without the service's "
            "address before it, Entra takes it for one of Microsoft Graph",
            de="es wurde nach einem Bereich gefragt, den der Dienst nicht hat; ohne die Adresse "
            "des Dienstes davor hält Entra ihn für einen von Microsoft Graph",
        ),
        fix=_ADD,
        fix_delegated=_ADD_DELEGATED,
    ),
)

_RESOURCES: Final = (
    *row(
        "configuration",
        {
            500011: "The resource principal named was not found in the tenant.",
            650052: "The app needs access to a service that your organization has not subscribed "
            "to or enabled.",
        },
        cause=Text(
            en="the tenant has no Exchange Online, or it is another cloud's",
            de="der Mandant hat kein Exchange Online, oder es ist das einer anderen Cloud",
        ),
        fix=_LICENCE,
    ),
    *row(
        "configuration",
        {
            50001: "The resource is disabled or does not exist.",
            650057: "Invalid resource. The client has requested access to a resource which is not "
            "listed in the requested permissions in the client's application registration.",
            65005: "The client has requested access to a resource which is not specified in its "
            "required resource access list.",
            650056: "Misconfigured application. The client has not listed any permissions, or the "
            "admin has not consented in the tenant.",
        },
        cause=Text(
            en="Exchange Online is not among the app's permissions, or its consent is missing",
            de="Exchange Online steht nicht unter den Berechtigungen der App, oder die Zustimmung "
            "fehlt",
        ),
        fix=_ADD,
        fix_delegated=_ADD_DELEGATED,
    ),
    *row(
        "configuration",
        {
            90008: "The application is misconfigured: it must require access to Windows Azure "
            "Active Directory by specifying at least 'Sign in and read user profile' permission."
        },
        cause=Text(
            en="the app lacks a permission that every sign-in needs",
            de="der App fehlt eine Berechtigung, die jede Anmeldung braucht",
        ),
        fix=Text(
            en=f"{_PERMISSIONS.en} > Add a permission > Microsoft Graph > Delegated permissions: "
            "User.Read. Then sign in again: `$login`.",
            de=f"{_PERMISSIONS.de} > Berechtigung hinzufügen > Microsoft Graph > Delegierte "
            "Berechtigungen: User.Read. Danach neu anmelden: `$login`.",
        ),
    ),
    *row(
        "configuration",
        {
            65002: "Consent between first party application and first party resource must be "
            "configured via preauthorization.",
        },
        cause=Text(
            en="apps.$app.client_id ($client_id) is an app of Microsoft's own, which others may "
            "not use",
            de="apps.$app.client_id ($client_id) ist eine App von Microsoft selbst, die andere "
            "nicht benutzen dürfen",
        ),
        fix=Text(
            en="Register an app of your own (Entra admin center > App registrations > New "
            "registration) and write its Application (client) ID to apps.$app.client_id; "
            "`mailbridge setup $mailbox` prints the steps.",
            de="Eine eigene App registrieren (Entra Admin Center > App-Registrierungen > Neue "
            "Registrierung) und ihre Anwendungs-ID (Client) in apps.$app.client_id eintragen; "
            "`mailbridge setup $mailbox` gibt die Schritte aus.",
        ),
    ),
)

_CONSENT: Final = (
    *row(
        "configuration",
        {65001: "The user or administrator has not consented to use the application."},
        cause=Text(
            en="nobody has consented to what the mailbox needs",
            de="dem, was das Postfach braucht, hat niemand zugestimmt",
        ),
        fix=Text(
            en=f"{_PERMISSIONS.en} > Grant admin consent, or let an administrator open what "
            "`mailbridge consent-url $app` prints.",
            de=f"{_PERMISSIONS.de} > Administratorzustimmung erteilen, oder einen Administrator "
            "den Link öffnen lassen, den `mailbridge consent-url $app` ausgibt.",
        ),
        fix_delegated=Text(
            en="Sign in again and consent: `$login`. Or let an administrator consent for all: "
            f"{_PERMISSIONS.en} > Grant admin consent.",
            de="Neu anmelden und zustimmen: `$login`. Oder einen Administrator für alle zustimmen "
            f"lassen: {_PERMISSIONS.de} > Administratorzustimmung erteilen.",
        ),
    ),
    *row(
        "sign_in_again",
        {65004: "User declined to consent to access the app."},
        cause=Text(en="consent was declined", de="die Zustimmung wurde abgelehnt"),
        fix=Text(
            en="Sign in again and consent: `$login`. Who may not consent sends the administrator "
            "what `mailbridge consent-url $app` prints.",
            de="Neu anmelden und zustimmen: `$login`. Wer nicht zustimmen darf, schickt dem "
            "Administrator, was `mailbridge consent-url $app` ausgibt.",
        ),
    ),
    *row(
        "configuration",
        {
            90094: "The grant requires admin permission.",
            90095: "Admin consent is required. The request for it was shown to the user.",
        },
        cause=Text(
            en="people may not consent by themselves in this tenant",
            de="in diesem Mandanten dürfen Personen nicht selbst zustimmen",
        ),
        fix=Text(
            en="Send the administrator what `mailbridge consent-url $app` prints, then sign in "
            "again: `$login`.",
            de="Dem Administrator schicken, was `mailbridge consent-url $app` ausgibt, danach neu "
            "anmelden: `$login`.",
        ),
    ),
    Entry(
        code="entra.permission_denied",
        kind="sign_in_again",
        cause=Text(
            en="the administrator has cancelled the consent",
            de="der Administrator hat die Zustimmung abgebrochen",
        ),
        fix=Text(
            en="Open the link of `mailbridge consent-url $app` again, as an administrator, and "
            "press Accept.",
            de="Den Link von `mailbridge consent-url $app` als Administrator erneut öffnen und "
            "„Akzeptieren“ drücken.",
        ),
        seen=("The admin canceled the request",),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_SCOPES, *_RESOURCES, *_CONSENT)
