"""What Entra says when it cannot answer just now: outages, throttling, agents on premises."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import row

_WAIT: Final = Text(
    en="Nothing is to be done: mailbridge tries again by itself, every 15 minutes at most, and no "
    "mail is lost. If it goes on for hours, see https://status.cloud.microsoft and Microsoft 365 "
    "admin center > Service health.",
    de="Es ist nichts zu tun: mailbridge versucht es von selbst wieder, höchstens alle 15 Minuten, "
    "und keine Nachricht geht verloren. Hält es stundenlang an: https://status.cloud.microsoft und "
    "Microsoft 365 Admin Center > Dienststatus.",
)
_OUTAGE: Final = Text(
    en="Entra is not available just now",
    de="Entra ist gerade nicht verfügbar",
)
_BUSY: Final = Text(
    en="Entra gets too many requests from this tenant and asks for a pause",
    de="Entra erhält zu viele Anfragen aus diesem Mandanten und bittet um eine Pause",
)


def _passing(code: str, cause: Text, *seen: str, fix: Text = _WAIT) -> Entry:
    return Entry(code=code, kind="passing", cause=cause, fix=fix, seen=seen)


_ENTRA: Final = (
    *row(
        "passing",
        {
            90006: "The service is temporarily unavailable.",
            90012: "The request has timed out.",
            90024: "A transient error has occurred. Please try again.",
            90033: "A transient error has occurred. Please try again.",
            90090: "The service is temporarily unavailable.",
            50033: "A transient error has occurred. Please try again.",
            50087: "A transient error has occurred during strong authentication. Please try again.",
            70012: "A server error occurred while authenticating an MSA (consumer) user.",
        },
        cause=_OUTAGE,
        fix=_WAIT,
    ),
    *row(
        "passing",
        {90055: "The tenant exceeded request rate limit. Please wait and retry."},
        cause=_BUSY,
        fix=_WAIT,
    ),
    *row(
        "passing",
        {
            80001: "The Authentication Agent is unable to connect to Active Directory.",
            80002: "The Authentication Agent's password validation request timed out.",
            80005: "An unknown error occurred while processing the response from the "
            "Authentication Agent.",
            80007: "The Authentication Agent is unable to validate the user's password.",
            80014: "Validation request responded after maximum elapsed time exceeded.",
        },
        cause=Text(
            en="the agent that checks passwords in the organisation's own network does not answer",
            de="der Agent, der Passwörter im Netz der Organisation prüft, antwortet nicht",
        ),
        fix=Text(
            en="mailbridge tries again by itself. Look after the agent: Entra admin center > "
            "Entra Connect > Pass-through authentication; service Microsoft Azure AD Connect "
            "Authentication Agent on its server.",
            de="mailbridge versucht es von selbst wieder. Nach dem Agent sehen: Entra Admin Center "
            "> Entra Connect > Passthrough-Authentifizierung; Dienst „Microsoft Azure AD Connect "
            "Authentication Agent“ auf seinem Server.",
        ),
    ),
)

_ANSWERS: Final = (
    _passing("entra.temporarily_unavailable", _OUTAGE, "temporarily_unavailable"),
    _passing("entra.server_error", _OUTAGE, "server_error"),
    _passing("entra.http_429", _BUSY, "HTTP 429"),
    _passing("entra.http_500", _OUTAGE, "HTTP 500"),
    _passing("entra.http_502", _OUTAGE, "HTTP 502"),
    _passing("entra.http_503", _OUTAGE, "HTTP 503"),
    _passing("entra.http_504", _OUTAGE, "HTTP 504"),
    _passing(
        "entra.msal",
        Text(
            en="msal, the library that asks for tokens, could not make sense of the login service: "
            "it cannot be reached, or what answers there is not Entra",
            de="msal, die Bibliothek, die Token holt, kann mit der Antwort des Anmeldedienstes "
            "nichts anfangen: er ist nicht erreichbar, oder was dort antwortet, ist nicht Entra",
        ),
        "Unable to get authority configuration for",
        fix=Text(
            en="Check apps.$app.tenant ($tenant) and apps.$app.cloud, and that this machine "
            "reaches https://login.microsoftonline.com (DNS, firewall, apps.$app.proxy).",
            de="apps.$app.tenant ($tenant) und apps.$app.cloud prüfen, und ob dieser Rechner "
            "https://login.microsoftonline.com erreicht (DNS, Firewall, apps.$app.proxy).",
        ),
    ),
    _passing(
        "entra.no_token",
        Text(
            en="the login service answers without a token in it",
            de="der Anmeldedienst antwortet, aber ohne Token",
        ),
    ),
    _passing(
        "entra.too_large",
        Text(
            en="the login service's answer is larger than any of Entra's",
            de="die Antwort des Anmeldedienstes ist größer als jede von Entra",
        ),
    ),
)

_REACH: Final = Text(
    en="Let this machine out to https://login.microsoftonline.com, port 443 (firewall); where a "
    "proxy leads out, write it to apps.$app.proxy. mailbridge tries again by itself.",
    de="Diesen Rechner zu https://login.microsoftonline.com, Port 443, hinauslassen (Firewall); "
    "führt der Weg über einen Proxy, ihn in apps.$app.proxy eintragen. mailbridge versucht es von "
    "selbst wieder.",
)
_NETWORK: Final = (
    _passing(
        "entra.dns",
        Text(
            en="the name of the login service has no address",
            de="der Name des Anmeldedienstes hat keine Adresse",
        ),
        "Name or service not known",
        fix=Text(
            en="Check this machine's resolver (`resolvectl query login.microsoftonline.com`) and "
            "apps.$app.tenant, apps.$app.cloud and apps.$app.proxy.",
            de="Die Namensauflösung dieses Rechners prüfen (`resolvectl query "
            "login.microsoftonline.com`) sowie apps.$app.tenant, apps.$app.cloud und "
            "apps.$app.proxy.",
        ),
    ),
    _passing(
        "entra.timeout",
        Text(
            en="the login service does not answer in time",
            de="der Anmeldedienst antwortet nicht rechtzeitig",
        ),
        fix=_REACH,
    ),
    _passing(
        "entra.connection",
        Text(
            en="the login service cannot be reached",
            de="der Anmeldedienst ist nicht erreichbar",
        ),
        fix=_REACH,
    ),
    _passing(
        "entra.tls",
        Text(
            en="the certificate of the login service is not trusted, or TLS fails",
            de="dem Zertifikat des Anmeldedienstes wird nicht vertraut, oder TLS misslingt",
        ),
        "CERTIFICATE_VERIFY_FAILED",
        fix=Text(
            en="Check this machine's clock. If a proxy inspects TLS here, write the file with its "
            "authority to apps.$app.ca; verification cannot be switched off.",
            de="Die Uhr dieses Rechners prüfen. Liest hier ein Proxy TLS mit, die Datei mit "
            "dessen Zertifizierungsstelle in apps.$app.ca eintragen; die Prüfung lässt sich nicht "
            "abschalten.",
        ),
    ),
    _passing(
        "entra.not_json",
        Text(
            en="a web page answers in the login service's place: a captive portal, or a proxy",
            de="an Stelle des Anmeldedienstes antwortet eine Webseite: ein Anmeldeportal des "
            "Netzes oder ein Proxy",
        ),
        "HTTP 200 with HTML body from token endpoint",
        fix=Text(
            en="Open https://login.microsoftonline.com in a browser of this machine and see what "
            "comes; let this machine past that page, or write the proxy to apps.$app.proxy.",
            de="https://login.microsoftonline.com in einem Browser dieses Rechners öffnen und "
            "sehen, was kommt; den Rechner an dieser Seite vorbeilassen oder den Proxy in "
            "apps.$app.proxy eintragen.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_ENTRA, *_ANSWERS, *_NETWORK)
