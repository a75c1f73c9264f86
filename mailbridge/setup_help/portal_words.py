"""What the portal steps say, in English and German."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailbridge.catalogue.base import Language, Text


def _t(en: str, de: str) -> Text:
    return Text(en=en, de=de)


_TITLES: Final[Mapping[str, Text]] = {
    "registration": _t("Register the app", "Die App registrieren"),
    "authentication": _t("Redirect URIs", "Umleitungs-URIs"),
    "credential": _t("Credential", "Anmeldeinformation"),
    "permissions": _t("API permissions", "API-Berechtigungen"),
    "consent": _t("Admin consent", "Administratorzustimmung"),
    "identity": _t("Managed identity", "Verwaltete Identität"),
    "script": _t("Exchange Online", "Exchange Online"),
    "login": _t("Sign in once", "Einmal anmelden"),
    "verify": _t("Try it", "Ausprobieren"),
}

_LINES: Final[Mapping[str, Text]] = {
    "registration": _t(
        "{portal} > App registrations > New registration: accounts in this organizational "
        "directory only (single tenant).",
        "{portal} > App-Registrierungen > Neue Registrierung: nur Konten in diesem "
        "Organisationsverzeichnis (einzelner Mandant).",
    ),
    "registration.ids": _t(
        "On its overview, Application (client) ID must be {client_id} and Directory (tenant) ID "
        "that of {tenant}: so they stand in apps.{app}.",
        "Auf der Übersicht muss die Anwendungs-ID (Client) {client_id} sein und die "
        "Verzeichnis-ID (Mandant) die von {tenant}: so stehen sie in apps.{app}.",
    ),
    "redirect.web": _t(
        "Authentication > Add a platform > Web: {uri}",
        "Authentifizierung > Plattform hinzufügen > Web: {uri}",
    ),
    "redirect.consent": _t(
        "Only for the consent link below: Authentication > Add a platform > Web: {uri}",
        "Nur für den Zustimmungslink unten: Authentifizierung > Plattform hinzufügen > Web: {uri}",
    ),
    "redirect.desktop": _t(
        "Authentication > Add a platform > Mobile and desktop applications: {uri}",
        "Authentifizierung > Plattform hinzufügen > Mobilgerät- und Desktopanwendungen: {uri}",
    ),
    "public_client": _t(
        "Authentication > Allow public client flows: Yes, since apps.{app} has no credential.",
        "Authentifizierung > Öffentliche Clientflows zulassen: Ja, denn apps.{app} hat keine "
        "Anmeldeinformation.",
    ),
    "credential.client_secret": _t(
        "Certificates & secrets > New client secret: copy its Value (not its Secret ID) to where "
        "apps.{app}.credential.client_secret points, and write its end as `expires` beside it.",
        "Zertifikate & Geheimnisse > Neuer geheimer Clientschlüssel: den Wert (nicht die Geheime "
        "ID) dorthin kopieren, wohin apps.{app}.credential.client_secret zeigt, und sein Ende als "
        "`expires` daneben schreiben.",
    ),
    "credential.certificate": _t(
        "Certificates & secrets > Certificates > Upload certificate: the public part (.cer, .pem) "
        "of the file in apps.{app}.credential.certificate.",
        "Zertifikate & Geheimnisse > Zertifikate > Zertifikat hochladen: den öffentlichen Teil "
        "(.cer, .pem) der Datei in apps.{app}.credential.certificate.",
    ),
    "credential.federated": _t(
        "Certificates & secrets > Federated credentials > Add credential: issuer, subject and "
        "audience exactly as they are in the token that apps.{app}.credential.federated reads.",
        "Zertifikate & Geheimnisse > Verbundanmeldeinformationen > Anmeldeinformation hinzufügen: "
        "Aussteller, Antragsteller und Zielgruppe genau wie im Token, den "
        "apps.{app}.credential.federated liest.",
    ),
    "permissions.application": _t(
        "API permissions > Add a permission > APIs my organization uses > Office 365 Exchange "
        "Online (00000002-0000-0ff1-ce00-000000000000) > Application permissions: {names}",
        "API-Berechtigungen > Berechtigung hinzufügen > Von meiner Organisation verwendete APIs > "
        "Office 365 Exchange Online (00000002-0000-0ff1-ce00-000000000000) > "
        "Anwendungsberechtigungen: {names}",
    ),
    "permissions.delegated": _t(
        "API permissions > Add a permission > Microsoft Graph > Delegated permissions: {names}",
        "API-Berechtigungen > Berechtigung hinzufügen > Microsoft Graph > Delegierte "
        "Berechtigungen: {names}",
    ),
    "consent": _t(
        "API permissions > Grant admin consent: each line must then read `Granted for …`.",
        "API-Berechtigungen > Administratorzustimmung erteilen: danach muss in jeder Zeile "
        "`Gewährt für …` stehen.",
    ),
    "consent.link": _t(
        "Or let an administrator open this link (its redirect_uri has to be registered): {url}",
        "Oder einen Administrator diesen Link öffnen lassen (seine redirect_uri muss registriert "
        "sein): {url}",
    ),
    "identity": _t(
        "Azure portal > the machine that mailbridge runs on > Identity: it needs no app "
        "registration and no secret. Its permissions are given by the script.",
        "Azure-Portal > der Rechner, auf dem mailbridge läuft > Identität: sie braucht weder "
        "App-Registrierung noch Geheimnis. Ihre Berechtigungen gibt ihr das Skript.",
    ),
    "script": _t(
        "Let an Exchange administrator run the script below: mailbridge setup {name} --script "
        "> setup-{name}.ps1",
        "Einen Exchange-Administrator das Skript unten ausführen lassen: mailbridge setup {name} "
        "--script > setup-{name}.ps1",
    ),
    "login": _t(
        "mailbridge login {name} (or --device, or --web), and sign in as {account}.",
        "mailbridge login {name} (oder --device, oder --web), und sich als {account} anmelden.",
    ),
    "verify": _t("mailbridge test-mailbox {name}", "mailbridge test-mailbox {name}"),
    "verify.sends": _t(
        "mailbridge test-mailbox {name} --send-to {address}",
        "mailbridge test-mailbox {name} --send-to {address}",
    ),
}

_PITFALLS: Final[Mapping[str, Text]] = {
    "object_id": _t(
        "Wrong object id: New-ServicePrincipal wants that of the enterprise application "
        "(Enterprise applications > the app > Object ID). The app registration has another one; "
        "with it, everything succeeds and IMAP says AUTHENTICATE failed.",
        "Falsche Objekt-ID: New-ServicePrincipal will die der Unternehmensanwendung "
        "(Unternehmensanwendungen > die App > Objekt-ID). Die App-Registrierung hat eine andere; "
        "mit ihr gelingt alles, und IMAP sagt AUTHENTICATE failed.",
    ),
    "consent": _t(
        "Missing consent: a permission that was added and not granted leaves tokens without "
        "roles, and no error says so. Application permissions, not delegated ones.",
        "Fehlende Zustimmung: eine hinzugefügte, nicht gewährte Berechtigung lässt die Token ohne "
        "Rollen, und kein Fehler sagt es. Anwendungsberechtigungen, nicht delegierte.",
    ),
    "propagation": _t(
        "Patience: Exchange can take up to an hour until it knows rights and switches.",
        "Geduld: Exchange kann bis zu einer Stunde brauchen, bis es Rechte und Schalter kennt.",
    ),
    "propagation_token": _t(
        "A token that was issued before a permission was granted does not get it any more; a new "
        "one is fetched within the hour, or at the next start.",
        "Ein Token, der vor der Zustimmung ausgestellt wurde, bekommt sie nicht mehr; ein neuer "
        "wird binnen einer Stunde geholt, oder beim nächsten Start.",
    ),
    "secret_id": _t(
        "The secret's Value is shown once, right after it was made. A GUID is its ID, and wrong.",
        "Der Wert des Geheimnisses wird nur einmal gezeigt, gleich nach dem Anlegen. Eine GUID "
        "ist seine ID, und falsch.",
    ),
    "wrong_account": _t(
        "A browser that is signed in already offers another account: sign in as {account}.",
        "Ein schon angemeldeter Browser bietet ein anderes Konto an: als {account} anmelden.",
    ),
    "own_consent": _t(
        "Where people may not consent for themselves, the sign-in ends at `Need admin approval`: "
        "admin consent comes first.",
        "Wo Personen nicht selbst zustimmen dürfen, endet die Anmeldung bei "
        "`Administratorgenehmigung erforderlich`: zuerst die Administratorzustimmung.",
    ),
    "password": _t(
        "Signing in with a password (ROPC) fails for every account with a second factor and for "
        "federated ones, and Microsoft advises against it: application access works without.",
        "Die Anmeldung mit Kennwort (ROPC) misslingt bei jedem Konto mit zweitem Faktor und bei "
        "Verbundkonten, und Microsoft rät davon ab: Anwendungszugriff kommt ohne aus.",
    ),
    "security_defaults": _t(
        "Security defaults (Entra > Overview > Properties) refuse device codes and passwords. Do "
        "not switch them off: use `mailbridge login` in a browser, or application access.",
        "Die Sicherheitsstandards (Entra > Übersicht > Eigenschaften) verweigern Gerätecodes und "
        "Kennwörter. Nicht abschalten: `mailbridge login` im Browser oder Anwendungszugriff "
        "nutzen.",
    ),
    "smtp_auth": _t(
        "SMTP AUTH is off for the tenant or the mailbox (535 5.7.139): the script switches it on "
        "for the mailbox, which comes before the tenant's switch.",
        "SMTP AUTH ist für den Mandanten oder das Postfach aus (535 5.7.139): das Skript schaltet "
        "es am Postfach ein, das geht dem Mandanten vor.",
    ),
    "smtp_security_defaults": _t(
        "Security defaults are said to switch SMTP AUTH off; application access is reported to "
        "work with them. If only sending fails, look there.",
        "Die Sicherheitsstandards sollen SMTP AUTH abschalten; Anwendungszugriff geht Berichten "
        "nach trotzdem. Wenn nur der Versand misslingt, dort nachsehen.",
    ),
    "pop3": _t(
        "POP3 gives the same answer to every mistake: `mailbridge test-mailbox {name}` reads the "
        "token and names what is missing.",
        "POP3 antwortet auf jeden Fehler gleich: `mailbridge test-mailbox {name}` liest den Token "
        "und nennt, was fehlt.",
    ),
}

HEADINGS: Final[Mapping[str, Text]] = {
    "title": _t("{name} ({address}): set-up", "{name} ({address}): Einrichtung"),
    "script": _t("The script", "Das Skript"),
    "pitfalls": _t("What goes wrong most", "Was am häufigsten schiefgeht"),
    "no_object_id": _t(
        "the object id could not be read from a token ({why}); the script looks it up",
        "die Objekt-ID war nicht aus einem Token zu lesen ({why}); das Skript schlägt sie nach",
    ),
}


def title(name: str, language: Language, /) -> str:
    """Return the title of a step."""
    return _TITLES[name].of(language)


def line(name: str, language: Language, /, **values: str) -> str:
    """Return a line of a step."""
    return _LINES[name].of(language).format(**values)


def pitfall(name: str, language: Language, /, **values: str) -> str:
    """Return what goes wrong, and what it comes from."""
    return _PITFALLS[name].of(language).format(**values)


def heading(name: str, language: Language, /, **values: str) -> str:
    """Return a heading or remark of the command."""
    return HEADINGS[name].of(language).format(**values)
