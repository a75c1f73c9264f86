"""The comments and messages of the script, in English and German."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailbridge.catalogue.base import Language, Text


def _t(en: str, de: str) -> Text:
    return Text(en=en, de=de)


_SCRIPT: Final[Mapping[str, Text]] = {
    "title": _t("mailbridge: {name} ({address}), {kind}", "mailbridge: {name} ({address}), {kind}"),
    "kind.application": _t("application access", "Anwendungszugriff"),
    "kind.delegated": _t("delegated access", "delegierter Zugriff"),
    "kind.password": _t("sign-in with a password", "Anmeldung mit Kennwort"),
    "who": _t(
        "For an Exchange administrator, in PowerShell 7 or Windows PowerShell 5.1.",
        "Für einen Exchange-Administrator, in PowerShell 7 oder Windows PowerShell 5.1.",
    ),
    "again": _t(
        "Adds what is missing and can be run again.",
        "Ergänzt, was fehlt, und kann wiederholt werden.",
    ),
    "connect": _t("Sign in to Exchange Online", "Bei Exchange Online anmelden"),
    "graph": _t(
        "Sign in to Microsoft Graph, before Exchange Online",
        "Bei Microsoft Graph anmelden, vor Exchange Online",
    ),
    "object_id.given": _t(
        "Object id of the enterprise application (not of the app registration), read from a token",
        "Objekt-ID der Unternehmensanwendung (nicht der App-Registrierung), aus einem Token "
        "gelesen",
    ),
    "object_id.lookup": _t(
        "Object id of the enterprise application; that of the app registration is another one",
        "Objekt-ID der Unternehmensanwendung; die der App-Registrierung ist eine andere",
    ),
    "object_id.missing": _t(
        "This tenant has no enterprise application with this app id: grant admin consent first.",
        "Dieser Mandant hat keine Unternehmensanwendung mit dieser App-ID: zuerst die "
        "Administratorzustimmung erteilen.",
    ),
    "app_roles": _t(
        "Permissions of the managed identity; the portal has no page for them",
        "Berechtigungen der verwalteten Identität; im Portal gibt es dafür keine Seite",
    ),
    "principal": _t("Make the app known to Exchange", "Die App in Exchange bekannt machen"),
    "principal.wrong": _t(
        "Registered under a wrong object id, which cannot be changed: remove it (asks first)",
        "Unter falscher Objekt-ID registriert, was sich nicht ändern lässt: entfernen (fragt nach)",
    ),
    "full_access.app": _t(
        "Let the app open this mailbox, and no other",
        "Der App dieses Postfach öffnen, und kein anderes",
    ),
    "full_access.person": _t(
        "Let the person who signs in open the shared mailbox",
        "Der Person, die sich anmeldet, das freigegebene Postfach öffnen",
    ),
    "send_as": _t("Permit it to send as", "Den Versand im Namen von erlauben"),
    "switches": _t("Switch on the protocols that are used", "Die genutzten Protokolle einschalten"),
    "checks": _t("Show how it is now", "Zeigen, wie es jetzt ist"),
    "tenant_switch": _t(
        "The tenant's switch; what stands at the mailbox (False: on) comes before it",
        "Der Schalter des Mandanten; der des Postfachs (False: an) geht vor",
    ),
    "rbac": _t(
        "Only where RBAC for Applications is used: which roles reach the mailbox",
        "Nur bei RBAC für Anwendungen: welche Rollen das Postfach erreichen",
    ),
    "then": _t(
        "Then: mailbridge test-mailbox {name} (changes can take up to an hour)",
        "Danach: mailbridge test-mailbox {name} (Änderungen brauchen bis zu einer Stunde)",
    ),
}


def script_word(key: str, language: Language, /, **values: str) -> str:
    """Return a comment or message of the script."""
    return _SCRIPT[key].of(language).format(**values)
