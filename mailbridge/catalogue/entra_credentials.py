"""What Entra says about how an app proves itself: secrets, certificates, tokens (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APP, row

_CREDENTIALS: Final = Text(
    en=f"{APP.en} > Certificates & secrets",
    de=f"{APP.de} > Zertifikate & Geheimnisse",
)
_REDIRECTS: Final = Text(
    en=f"{APP.en} > Authentication",
    de=f"{APP.de} > Authentifizierung",
)
_NTP: Final = Text(
    en="Set the clock of this machine by NTP (`timedatectl set-ntp true`); Entra allows five "
    "minutes.",
    de="Die Uhr dieses Rechners mit NTP stellen (`timedatectl set-ntp true`); Entra lässt fünf "
    "Minuten Abweichung zu.",
)
_UPLOAD: Final = Text(
    en=f"{_CREDENTIALS.en} > Certificates: upload the public part of the certificate in "
    "apps.$app.credential.certificate, and compare the thumbprint. If it has expired, make a new "
    "one. Check this machine's clock too.",
    de=f"{_CREDENTIALS.de} > Zertifikate: den öffentlichen Teil des Zertifikats aus "
    "apps.$app.credential.certificate hochladen und den Fingerabdruck vergleichen. Ist es "
    "abgelaufen, ein neues erzeugen. Auch die Uhr dieses Rechners prüfen.",
)

_SECRETS: Final = (
    *row(
        "configuration",
        {
            7000215: "Invalid client secret provided. Ensure the secret being sent in the request "
            "is the client secret value, not the client secret ID",
        },
        cause=Text(
            en="the client secret is wrong; often its Secret ID was stored instead of its Value",
            de="der geheime Clientschlüssel ist falsch; oft wurde die „Geheime ID“ statt des "
            "Werts gespeichert",
        ),
        fix=Text(
            en=f"{_CREDENTIALS.en}: make a new client secret, copy its Value (not its Secret ID), "
            "without blanks around it, to where apps.$app.credential points.",
            de=f"{_CREDENTIALS.de}: einen neuen geheimen Clientschlüssel anlegen und dessen Wert "
            "(nicht die „Geheime ID“) ohne Leerzeichen dort ablegen, wohin apps.$app.credential "
            "zeigt.",
        ),
    ),
    *row(
        "configuration",
        {7000222: "The provided client secret keys for app are expired."},
        cause=Text(
            en="the client secret has expired",
            de="der geheime Clientschlüssel ist abgelaufen",
        ),
        fix=Text(
            en=f"{_CREDENTIALS.en}: make a new client secret, put its Value first in "
            "apps.$app.credential.client_secret, and write its end to apps.$app.credential.expires "
            "to be told before it comes. Then delete the old one.",
            de=f"{_CREDENTIALS.de}: einen neuen geheimen Clientschlüssel anlegen, dessen Wert als "
            "ersten in apps.$app.credential.client_secret stellen und das Ablaufdatum in "
            "apps.$app.credential.expires eintragen, damit rechtzeitig gewarnt wird. Danach den "
            "alten löschen.",
        ),
    ),
    *row(
        "configuration",
        {
            7000218: "The request body must contain the following parameter: 'client_assertion' or "
            "'client_secret'.",
            7000216: "'client_assertion', 'client_secret' or 'request' is required for the "
            "'client_credentials' grant type.",
        },
        cause=Text(
            en="Entra wants the app to prove itself, and no credential was presented",
            de="Entra verlangt einen Nachweis der App, und es wurde keiner vorgelegt",
        ),
        fix=Text(
            en=f"Give the app a credential (apps.$app.credential; {_CREDENTIALS.en}), or, for "
            f"people who sign in without one: {_REDIRECTS.en} > Allow public client flows: Yes.",
            de=f"Der App einen Nachweis geben (apps.$app.credential; {_CREDENTIALS.de}) oder, wenn "
            f"sich Personen ohne ihn anmelden sollen: {_REDIRECTS.de} > Öffentliche Clientflows "
            "zulassen: Ja.",
        ),
    ),
    *row(
        "configuration",
        {
            700025: "Client is public so neither 'client_assertion' nor 'client_secret' should be "
            "presented.",
        },
        cause=Text(
            en="a secret was presented, but the redirect URI stands under Mobile and desktop "
            "applications, which have none",
            de="es wurde ein Geheimnis vorgelegt, aber der Umleitungs-URI steht unter „Mobilgerät- "
            "und Desktopanwendungen“, die keines haben",
        ),
        fix=Text(
            en=f"{_REDIRECTS.en}: register the redirect URI under Web, or remove "
            "apps.$app.credential.",
            de=f"{_REDIRECTS.de}: den Umleitungs-URI unter „Web“ eintragen oder "
            "apps.$app.credential entfernen.",
        ),
    ),
    *row(
        "configuration",
        {
            9002325: "Proof Key for Code Exchange is required for cross-origin authorization code "
            "redemption.",
            9002327: "Tokens issued for the 'Single-Page Application' client-type may only be "
            "redeemed via cross-origin requests.",
        },
        cause=Text(
            en="the redirect URI stands under Single-page application, which is for scripts in a "
            "browser",
            de="der Umleitungs-URI steht unter „Single-Page-Anwendung“, die für Skripte im Browser "
            "da ist",
        ),
        fix=Text(
            en=f"{_REDIRECTS.en}: remove it there and register it under Web (or Mobile and desktop "
            "applications), then sign in again: `$login`.",
            de=f"{_REDIRECTS.de}: dort entfernen und unter „Web“ (oder „Mobilgerät- und "
            "Desktopanwendungen“) eintragen, danach neu anmelden: `$login`.",
        ),
    ),
)

_CERTIFICATES: Final = (
    *row(
        "configuration",
        {
            700027: "Client assertion contains an invalid signature. [Reason - The key was not "
            "found.",
            50012: "Client assertion contains an invalid signature.",
            50003: "No signing key is configured.",
            700030: "Invalid certificate - subject name in certificate is not authorized.",
        },
        cause=Text(
            en="Entra does not take the certificate: it is not uploaded to the app, is another "
            "one, or has expired",
            de="Entra nimmt das Zertifikat nicht an: es ist bei der App nicht hochgeladen, es ist "
            "ein anderes, oder es ist abgelaufen",
        ),
        fix=_UPLOAD,
    ),
    *row(
        "configuration",
        {
            700024: "Client assertion is not within its valid time range.",
            500133: "Assertion is not within its valid time range.",
        },
        cause=Text(
            en="the proof of the app lies outside its time: the clock of this machine is wrong",
            de="der Nachweis der App gilt zu einer anderen Zeit: die Uhr dieses Rechners geht "
            "falsch",
        ),
        fix=_NTP,
    ),
    *row(
        "configuration",
        {
            700213: "No matching federated identity record found for presented assertion subject",
            70021: "No matching federated identity record found for presented assertion.",
            700211: "No matching federated identity record found for presented assertion issuer",
            700212: "No matching federated identity record found for presented assertion audience",
            7002138: "The subject matches with case-insensitive comparison, but not with "
            "case-sensitive comparison.",
            70025: "The client has no configured federated identity credentials.",
        },
        cause=Text(
            en="no federated credential of the app has the issuer, subject and audience of the "
            "token that was presented",
            de="keine Verbundanmeldeinformation der App hat Aussteller, Antragsteller und "
            "Zielgruppe des vorgelegten Tokens",
        ),
        fix=Text(
            en=f"{_CREDENTIALS.en} > Federated credentials: make issuer, subject identifier and "
            "audience equal to iss, sub and aud of the token in "
            "apps.$app.credential.federated.file, capital letters included.",
            de=f"{_CREDENTIALS.de} > Verbundanmeldeinformationen: Aussteller, "
            "Antragstellerbezeichner und Zielgruppe an iss, sub und aud des Tokens in "
            "apps.$app.credential.federated.file angleichen, auch in der Großschreibung.",
        ),
    ),
    *row(
        "configuration",
        {700222: "AAD-issued tokens may not be used for federated identity flows."},
        cause=Text(
            en="the token that proves the app was issued by Entra itself",
            de="das Token, das die App nachweist, stammt von Entra selbst",
        ),
        fix=Text(
            en="Present a token of another identity provider in "
            "apps.$app.credential.federated.file, or write apps.$app.credential.managed_identity "
            "inside Azure.",
            de="In apps.$app.credential.federated.file ein Token eines anderen Identitätsanbieters "
            "vorlegen oder, innerhalb von Azure, apps.$app.credential.managed_identity schreiben.",
        ),
    ),
    *row(
        "configuration",
        {50013: "Assertion failed signature validation."},
        cause=Text(
            en="the token that proves the app is not signed by its issuer, as far as Entra can see",
            de="das Token, das die App nachweist, ist nicht von seinem Aussteller signiert, soweit "
            "Entra es prüfen kann",
        ),
        fix=Text(
            en="Check that Entra can read the keys that the token's issuer publishes "
            "(ISSUER/.well-known/openid-configuration, from the internet).",
            de="Prüfen, ob Entra die Schlüssel lesen kann, die der Aussteller veröffentlicht "
            "(AUSSTELLER/.well-known/openid-configuration, vom Internet aus).",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_SECRETS, *_CERTIFICATES)
