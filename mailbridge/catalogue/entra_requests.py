"""What Entra says about requests: redirects, codes, PKCE, and what is malformed (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APP, row

_REDIRECTS: Final = Text(
    en=f"{APP.en} > Authentication > Redirect URIs, under Web (or Mobile and desktop applications, "
    "for an app without a credential)",
    de=f"{APP.de} > Authentifizierung > Umleitungs-URIs, unter „Web“ (oder „Mobilgerät- und "
    "Desktopanwendungen“, bei einer App ohne Nachweis)",
)
_AGAIN: Final = Text(
    en="Sign in again, from the beginning and in one browser tab: `$login`.",
    de="Von vorn und in einem einzigen Browser-Tab neu anmelden: `$login`.",
)
_REPORT: Final = Text(
    en="Report it with Entra's words and the correlation id: mailbridge should not have asked like "
    "that. If a proxy stands between (apps.$app.proxy), check that it passes requests unchanged.",
    de="Bitte mit den Worten von Entra und der Korrelations-ID melden: mailbridge hätte nicht so "
    "fragen dürfen. Steht ein Proxy dazwischen (apps.$app.proxy), prüfen, ob er Anfragen "
    "unverändert weitergibt.",
)

_REDIRECT: Final = (
    *row(
        "configuration",
        {
            50011: "The redirect URI specified in the request does not match the redirect URIs "
            "configured for the application.",
            500112: "The reply address does not match the reply address provided when requesting "
            "Authorization code.",
        },
        cause=Text(
            en="the redirect URI differs from those that are registered; each character counts",
            de="der Umleitungs-URI weicht von den eingetragenen ab; jedes Zeichen zählt",
        ),
        fix=Text(
            en=f"{_REDIRECTS.en}: add the exact URI that mailbridge shows when it signs in "
            "(scheme, host, port, capital letters and final slash included), then sign in again: "
            "`$login`.",
            de=f"{_REDIRECTS.de}: genau den URI eintragen, den mailbridge bei der Anmeldung zeigt "
            "(mit Schema, Host, Port, Großschreibung und Schrägstrich am Ende), danach neu "
            "anmelden: `$login`.",
        ),
    ),
    *row(
        "configuration",
        {900971: "No reply address provided."},
        cause=Text(
            en="the app has no redirect URI",
            de="die App hat keinen Umleitungs-URI",
        ),
        fix=Text(
            en=f"{_REDIRECTS.en}: add the URI that mailbridge shows when it signs in, then sign in "
            "again: `$login`.",
            de=f"{_REDIRECTS.de}: den URI eintragen, den mailbridge bei der Anmeldung zeigt, "
            "danach neu anmelden: `$login`.",
        ),
    ),
    *row(
        "configuration",
        {
            700005: "Provided Authorization Code is intended to use against other tenant, thus "
            "rejected.",
            7000012: "The grant was obtained for a different tenant.",
        },
        cause=Text(
            en="the sign-in was made in another tenant than the token is asked for",
            de="die Anmeldung fand in einem anderen Mandanten statt als dem, in dem das Token "
            "verlangt wird",
        ),
        fix=Text(
            en="Write the tenant's own ID to apps.$app.tenant (now $tenant), then sign in again "
            "with an account of that tenant: `$login`.",
            de="In apps.$app.tenant (jetzt $tenant) die ID des Mandanten selbst eintragen, danach "
            "mit einem Konto dieses Mandanten neu anmelden: `$login`.",
        ),
    ),
)

_CODES: Final = (
    *row(
        "sign_in_again",
        {
            54005: "OAuth2 Authorization code was already redeemed, please retry with a new valid "
            "code or use an existing refresh token.",
        },
        cause=Text(
            en="the sign-in was used twice; it is good for one time",
            de="die Anmeldung wurde zweimal verwendet; sie gilt nur einmal",
        ),
        fix=_AGAIN,
    ),
    *row(
        "bug",
        {
            501481: "The Code_Verifier does not match the code_challenge supplied in the "
            "authorization request.",
            50147: "The size of the code challenge parameter is not valid.",
        },
        cause=Text(
            en="the sign-in does not belong to this attempt; another one was begun meanwhile",
            de="die Anmeldung gehört nicht zu diesem Versuch; inzwischen wurde ein anderer "
            "begonnen",
        ),
        fix=Text(
            en=_AGAIN.en + " If it happens each time, report it.",
            de=_AGAIN.de + " Geschieht es jedes Mal, bitte melden.",
        ),
    ),
    *row(
        "bug",
        {9002313: "Invalid request. Request is malformed or invalid."},
        cause=Text(
            en="the sign-in that is stored is damaged or cut short",
            de="die gespeicherte Anmeldung ist beschädigt oder abgeschnitten",
        ),
        fix=Text(
            en="Sign in again: `$login`. If it happens again, report it with the correlation id.",
            de="Neu anmelden: `$login`. Geschieht es wieder, bitte mit der Korrelations-ID melden.",
        ),
    ),
)

_MALFORMED: Final = (
    *row(
        "bug",
        {
            900144: "The request body must contain the following parameter: 'grant_type'.",
            90014: "The required field is missing from the credential.",
            900561: "The endpoint only accepts POST requests. Received a GET request.",
            901002: "The 'resource' request parameter is not supported.",
            70003: "The app requested an unsupported grant type.",
            90023: "Unsupported value.",
            700054: "response_type is not enabled for the application.",
            50027: "JWT token is invalid or malformed.",
            700021: "Client assertion application identifier doesn't match 'client_id' parameter.",
        },
        cause=Text(
            en="Entra finds the request malformed",
            de="Entra hält die Anfrage für fehlerhaft",
        ),
        fix=_REPORT,
    ),
    *row(
        "bug",
        {
            50196: "The server terminated an operation because it encountered a loop while "
            "processing a request.",
        },
        cause=Text(
            en="Entra was asked for the same token too often within minutes",
            de="Entra wurde innerhalb von Minuten zu oft um dasselbe Token gebeten",
        ),
        fix=Text(
            en="mailbridge waits for a quarter of an hour by itself. See whether the daemon is "
            "restarted again and again, or another program uses the app $client_id; if not, report "
            "it.",
            de="mailbridge wartet von selbst eine Viertelstunde. Prüfen, ob der Dienst immer "
            "wieder neu startet oder ein anderes Programm die App $client_id benutzt; wenn nicht, "
            "bitte melden.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_REDIRECT, *_CODES, *_MALFORMED)
