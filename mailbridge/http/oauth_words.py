"""The words on the pages of a sign-in, English and German.

Errors of the sign-in itself are told in German by their codes: here with what a browser can do
about them, else in the words of the catalogue; what has none is shown in English. Backticks mark a
command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.errors import MailbridgeError

Language = Literal["en", "de"]

_ENGLISH: Final[Mapping[str, str]] = {
    "start": "Sign in for the mailbox {mailbox}",
    "start.text": "mailbridge fetches {address} and needs {account} to sign in with Microsoft "
    "once. You will choose an account and agree on pages of {host}; mailbridge never sees the "
    "password.",
    "start.warning": "Go on only if you asked for this link yourself, or know who sent it.",
    "start.button": "Continue to Microsoft",
    "away": "On to Microsoft",
    "away.text": "If nothing happens, follow this link:",
    "saved": "{account} has signed in",
    "saved.text": "The sign-in for the mailbox {mailbox} is kept, encrypted. It is being tried "
    "now; this page looks again by itself.",
    "tested": "{account} has signed in",
    "tested.text": "The sign-in for the mailbox {mailbox} is kept, encrypted, and it works. You "
    "can close this page.",
    "failing": "{account} has signed in, but the mailbox does not work yet",
    "failing.text": "The sign-in for the mailbox {mailbox} is kept, encrypted; nobody has to sign "
    "in again unless it says so below. mailbridge goes on trying by itself.",
    "answered": "One moment",
    "answered.text": "The answer for the mailbox {mailbox} is being checked with Microsoft; this "
    "page looks again by itself.",
    "refused": "The sign-in was not taken",
    "again.button": "Try again",
    "granted": "Microsoft reports: the administrator has agreed",
    "granted.text": "The permissions of the app {app} are granted. It can take some minutes until "
    "they count; then mailbridge goes on by itself. To see whether all is well: "
    "`mailbridge test-mailbox --all`.",
    "denied": "The administrator has not agreed",
    "denied.text": "The app {app} has no new permissions.",
    "label.cause": "Cause",
    "label.fix": "What helps",
    "label.said": "Message",
    "status.ok": "ok",
    "status.failed": "failed",
    "status.warning": "note",
    "status.skipped": "left out",
    "no.ticket": "This page needs a link that is good for one sign-in",
    "no.ticket.fix": "Whoever runs mailbridge gets one on its machine by "
    "`mailbridge login {name} --web`. It is good for ten minutes and for one time.",
    "no.state": "This page is where Microsoft sends its answer, and it came without one",
    "no.unknown": "This answer belongs to no sign-in that is under way",
    "no.used": "This answer has been used already",
    "no.expired": "The sign-in took longer than ten minutes",
    "no.browser": "This answer belongs to another browser",
    "no.browser.fix": "Sign in and finish in one and the same browser, which has to keep this "
    "page's cookie. Otherwise ask for a new link: `mailbridge login {name} --web`.",
    "no.form": "Microsoft's answer came in a way that mailbridge does not ask for",
    "no.site": "This was sent by another page than mailbridge's own",
    "no.fix": "Ask for a new link: `mailbridge login {name} --web`, and open it once.",
    "no.result": "There is nothing to show in this browser",
    "step.config": "configuration",
    "step.dns": "name of the server",
    "step.tcp": "connection",
    "step.tls": "encryption",
    "step.tenant": "tenant",
    "step.token": "token",
    "step.claims": "permissions",
    "step.sign_in": "sign-in to the mailbox",
    "step.folder": "folders",
    "step.header": "reading",
    "step.push": "new mail",
}
_GERMAN: Final[Mapping[str, str]] = {
    "start": "Anmelden für das Postfach {mailbox}",
    "start.text": "mailbridge ruft {address} ab; dafür muss sich {account} einmal bei Microsoft "
    "anmelden. Konto und Zustimmung werden auf Seiten von {host} gewählt; das Kennwort sieht "
    "mailbridge nie.",
    "start.warning": "Nur weitermachen, wenn Sie diesen Link selbst angefordert haben oder wissen, "
    "wer ihn geschickt hat.",
    "start.button": "Weiter zu Microsoft",
    "away": "Weiter zu Microsoft",
    "away.text": "Wenn nichts geschieht, diesem Link folgen:",
    "saved": "{account} ist angemeldet",
    "saved.text": "Die Anmeldung für das Postfach {mailbox} ist verschlüsselt gespeichert. Sie "
    "wird jetzt ausprobiert; diese Seite sieht von selbst wieder nach.",
    "tested": "{account} ist angemeldet",
    "tested.text": "Die Anmeldung für das Postfach {mailbox} ist verschlüsselt gespeichert und "
    "funktioniert. Sie können diese Seite schließen.",
    "failing": "{account} ist angemeldet, aber das Postfach funktioniert noch nicht",
    "failing.text": "Die Anmeldung für das Postfach {mailbox} ist verschlüsselt gespeichert; "
    "niemand muss sich noch einmal anmelden, wenn es unten nicht dasteht. mailbridge versucht es "
    "von selbst weiter.",
    "answered": "Einen Augenblick",
    "answered.text": "Die Antwort für das Postfach {mailbox} wird bei Microsoft geprüft; diese "
    "Seite sieht von selbst wieder nach.",
    "refused": "Die Anmeldung wurde nicht angenommen",
    "again.button": "Noch einmal versuchen",
    "granted": "Microsoft meldet: der Administrator hat zugestimmt",
    "granted.text": "Die Berechtigungen der App {app} sind erteilt. Es kann einige Minuten dauern, "
    "bis sie gelten; dann macht mailbridge von selbst weiter. Ob alles stimmt, zeigt: "
    "`mailbridge test-mailbox --all`.",
    "denied": "Der Administrator hat nicht zugestimmt",
    "denied.text": "Die App {app} hat keine neuen Berechtigungen.",
    "label.cause": "Ursache",
    "label.fix": "Abhilfe",
    "label.said": "Meldung",
    "status.ok": "ok",
    "status.failed": "fehlgeschlagen",
    "status.warning": "Hinweis",
    "status.skipped": "ausgelassen",
    "no.ticket": "Diese Seite braucht einen Link, der für eine Anmeldung gilt",
    "no.ticket.fix": "Wer mailbridge betreibt, bekommt ihn auf dessen Rechner mit "
    "`mailbridge login {name} --web`. Er gilt zehn Minuten und ein einziges Mal.",
    "no.state": "Hierher schickt Microsoft seine Antwort, und es kam keine mit",
    "no.unknown": "Diese Antwort gehört zu keiner Anmeldung, die gerade läuft",
    "no.used": "Diese Antwort wurde schon verwendet",
    "no.expired": "Die Anmeldung hat länger als zehn Minuten gedauert",
    "no.browser": "Diese Antwort gehört zu einem anderen Browser",
    "no.browser.fix": "In ein und demselben Browser beginnen und abschließen; er muss das Cookie "
    "dieser Seite behalten. Sonst einen neuen Link anfordern: `mailbridge login {name} --web`.",
    "no.form": "Die Antwort von Microsoft kam auf einem Weg, den mailbridge nicht verlangt",
    "no.site": "Das kam von einer anderen Seite als der von mailbridge",
    "no.fix": "Einen neuen Link anfordern: `mailbridge login {name} --web`, und ihn einmal öffnen.",
    "no.result": "In diesem Browser gibt es nichts zu zeigen",
    "step.config": "Konfiguration",
    "step.dns": "Name des Servers",
    "step.tcp": "Verbindung",
    "step.tls": "Verschlüsselung",
    "step.tenant": "Mandant",
    "step.token": "Token",
    "step.claims": "Berechtigungen",
    "step.sign_in": "Anmeldung am Postfach",
    "step.folder": "Ordner",
    "step.header": "Lesen",
    "step.push": "neue Mail",
}
WORDS: Final[Mapping[Language, Mapping[str, str]]] = {"en": _ENGLISH, "de": _GERMAN}

_NEW: Final = "`mailbridge login {mailbox} --web` und noch einmal anmelden."
_POLICY: Final = (
    "Eine Richtlinie für bedingten Zugriff (Conditional Access) lehnt die Anmeldung ab.",
    "Entra > Anmeldeprotokolle nennt die Richtlinie: Konto oder App ausnehmen, dann " + _NEW + " "
    "Oder Anwendungszugriff verwenden.",
)
_FACTOR: Final = (
    "Es wird ein zweiter Faktor verlangt, den nur ein Mensch geben kann.",
    "Noch einmal anmelden, oder Anwendungszugriff verwenden, der von keinem Telefon abhängt.",
)
_ADMIN: Final = (
    "In diesem Mandanten dürfen Benutzer nicht selbst zustimmen.",
    (
        "Dem Administrator schicken, was `mailbridge consent-url {app}` ausgibt; danach "
        "`mailbridge login {mailbox} --web`."
    ),
)
_CONSENT: Final = ("Die Zustimmung wurde abgelehnt.", "Noch einmal anmelden und zustimmen.")
_SECRET: Final = (
    "Der geheime Clientschlüssel der App wird nicht angenommen.",
    (
        "Entra > App-Registrierungen > die App > Zertifikate & Geheimnisse: einen neuen anlegen "
        "und dessen Wert (nicht die ID) hinterlegen."
    ),
)
#: by code: cause and fix
_TOLD: Final[Mapping[str, tuple[str, str]]] = {
    "sign_in.other_account": (
        "Angemeldet hat sich ein anderes Konto als {account} (siehe Meldung).",
        (
            "Noch einmal versuchen und {account} wählen. Ist das andere Konto das richtige, gehört "
            "es als `signed_in_as` in die Konfiguration des Postfachs (und braucht FullAccess)."
        ),
    ),
    "sign_in.incomplete": (
        "{account} hat sich angemeldet, aber nicht alles Nötige wurde gewährt (siehe Meldung).",
        "Entra > App-Registrierungen > die App > API-Berechtigungen > Microsoft Graph > Delegiert: "
        "hinzufügen, was in der Meldung fehlt; dann " + _NEW,
    ),
    "sign_in.no_code": ("Microsoft hat keinen Code geschickt.", "Noch einmal versuchen."),
    "entra.access_denied": ("Die Anmeldung wurde abgebrochen.", "Noch einmal versuchen."),
    "AADSTS65004": _CONSENT,
    **dict.fromkeys(("AADSTS90094", "AADSTS90095"), _ADMIN),
    "AADSTS65001": (
        "Niemand hat dem zugestimmt, was das Postfach braucht.",
        (
            "Anmelden und zustimmen; ein Administrator bekommt den Link dafür mit "
            "`mailbridge consent-url {app}`."
        ),
    ),
    **dict.fromkeys(
        (
            f"AADSTS{n}"
            for n in (53003, 53000, 53001, 53002, 53011, 50097, 50131, 50005, 530032, 530034)
        ),
        _POLICY,
    ),
    **dict.fromkeys(
        (f"AADSTS{n}" for n in (50076, 50072, 50074, 50078, 50158, 53004, 53010, 500121)), _FACTOR
    ),
    "AADSTS50079": (
        "Für das Konto muss zuerst ein zweiter Faktor eingerichtet werden.",
        "Unter https://aka.ms/mfasetup einrichten, dann noch einmal anmelden.",
    ),
    "AADSTS50057": (
        "Die Anmeldung ist für das Konto gesperrt, wie bei freigegebenen Postfächern vorgesehen.",
        (
            "Anwendungszugriff verwenden, oder jemanden mit FullAccess anmelden und als "
            "`signed_in_as` nennen."
        ),
    ),
    "AADSTS50105": (
        "Das Konto ist der App nicht zugewiesen.",
        (
            "Entra > Unternehmensanwendungen > die App > Benutzer und Gruppen: zuweisen, oder "
            "`Zuweisung erforderlich` ausschalten."
        ),
    ),
    **dict.fromkeys(
        (f"AADSTS{n}" for n in (50020, 16000, 50014, 51004, 90072)),
        (
            "Das Konto gehört nicht zu diesem Mandanten.",
            "Mit einem Konto des Mandanten anmelden, oder `tenant` berichtigen.",
        ),
    ),
    "AADSTS54005": ("Die Anmeldung wurde zweimal verwendet; sie gilt einmal.", _NEW),
    **dict.fromkeys(
        ("AADSTS501481", "AADSTS50147", "sign_in.state"),
        ("Die Antwort gehört nicht zu dieser Anmeldung.", _NEW),
    ),
    "sign_in.too_late": ("Die Anmeldung hat länger als zehn Minuten gedauert.", _NEW),
    **dict.fromkeys(("AADSTS7000215", "AADSTS7000222"), _SECRET),
    "AADSTS7000218": (
        "Die App braucht einen geheimen Clientschlüssel, und es ist keiner hinterlegt.",
        (
            "Ihn bei `apps.{app}.credential` hinterlegen, oder die Weiterleitungs-URI unter "
            "Mobilgerät und Desktop statt Web eintragen."
        ),
    ),
    "AADSTS700016": (
        "Der Mandant kennt diese App nicht.",
        (
            "`client_id` und `tenant` mit Entra > App-Registrierungen > die App > Übersicht "
            "vergleichen."
        ),
    ),
    "oauth.busy": ("Es laufen zu viele Anmeldungen.", "In zehn Minuten noch einmal versuchen."),
}

_RANGE: Final = re.compile(r"([A-Za-z*]{1,8})(?:-[A-Za-z0-9-]{1,32})?\s*(?:;\s*q=([0-9.]{1,5}))?")


def language(header: str) -> Language:
    """Return the language that a browser would rather read (RFC 9110, 12.5.4)."""
    best: Language = "en"
    weight = 0.0
    for part in header[:500].split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None or found[1].lower() not in WORDS:
            continue
        try:
            given = float(found[2] or 1)
        except ValueError:
            continue
        if given > weight:
            best, weight = ("de" if found[1].lower() == "de" else "en"), given
    return best


def word(lang: Language, key: str, **values: str) -> str:
    """Return a text with its values filled in."""
    return WORDS[lang][key].format(**values)


def told(lang: Language, error: MailbridgeError, **values: str) -> tuple[str, str, str]:
    """Return cause, fix and the original message of an error; no message where it is the cause."""
    if lang == "de" and (german := _TOLD.get(error.code)) is not None:
        cause, fix = german
        return cause.format(**values), fix.format(**values), str(error)
    if lang == "de" and error.code in CATALOGUE:
        known = {name: values.get(name, "") for name in ("account", "app", "mailbox")}
        login = f"mailbridge login {known['mailbox']} --web"
        ids = Ids(**known, login=login, sign_in="delegated")
        return *explain(error.code, ids, "de"), str(error)
    return str(error), error.fix, ""
