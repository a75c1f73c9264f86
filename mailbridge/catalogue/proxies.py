"""What a proxy on the way does wrong."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import PROXY_URL

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="proxy.dns",
        kind="configuration",
        cause=Text(
            en="the proxy's own name has no address", de="der Name des Proxys hat keine Adresse"
        ),
        fix=PROXY_URL,
        own_fix=True,
    ),
    Entry(
        code="proxy.connection",
        kind="passing",
        cause=Text(en="the proxy cannot be reached", de="der Proxy ist nicht erreichbar"),
        fix=Text(
            en=f"Check that it runs. {PROXY_URL.en}", de=f"Prüfen, ob er läuft. {PROXY_URL.de}"
        ),
        own_fix=True,
    ),
    Entry(
        code="proxy.timeout",
        kind="passing",
        cause=Text(
            en="the proxy took the connection and did not answer in time",
            de="der Proxy hat die Verbindung angenommen und nicht rechtzeitig geantwortet",
        ),
        fix=Text(
            en=f"Check that it can reach $server itself. {PROXY_URL.en}",
            de=f"Prüfen, ob er selbst $server erreicht. {PROXY_URL.de}",
        ),
        own_fix=True,
    ),
    Entry(
        code="proxy.closed",
        kind="passing",
        cause=Text(
            en="the proxy closed the connection instead of answering",
            de="der Proxy hat die Verbindung geschlossen, statt zu antworten",
        ),
        fix=PROXY_URL,
        own_fix=True,
    ),
    Entry(
        code="proxy.protocol",
        kind="configuration",
        cause=Text(
            en="what answers at the proxy's address is not a proxy of this kind",
            de="was unter der Adresse des Proxys antwortet, ist kein Proxy dieser Art",
        ),
        fix=PROXY_URL,
        own_fix=True,
    ),
    Entry(
        code="proxy.auth",
        kind="configuration",
        cause=Text(
            en="the proxy wants a user and a password, or refuses those that it got",
            de="der Proxy verlangt Benutzer und Kennwort oder lehnt die angegebenen ab",
        ),
        fix=Text(
            en="Keep the URL with user and password in a variable or file, and name that: "
            "`proxy: {env: NAME}` with `http://USER:PASSWORD@HOST:PORT` (special characters "
            "as %XX). Or let the proxy permit this machine without a sign-in.",
            de="Die URL mit Benutzer und Kennwort in einer Variablen oder Datei ablegen und "
            "diese nennen: `proxy: {env: NAME}` mit `http://BENUTZER:KENNWORT@HOST:PORT` "
            "(Sonderzeichen als %XX). Oder den Proxy diesen Rechner ohne Anmeldung zulassen.",
        ),
        seen=("HTTP 407 Proxy Authentication Required",),
        own_fix=True,
    ),
    Entry(
        code="proxy.forbidden",
        kind="configuration",
        cause=Text(
            en="the proxy's rules do not permit this target; many permit port 443 only",
            de="die Regeln des Proxys erlauben dieses Ziel nicht; viele erlauben nur Port 443",
        ),
        fix=Text(
            en="Let its rules permit $server by CONNECT, or write `proxy: off` if this machine "
            "may connect directly.",
            de="In seinen Regeln CONNECT zu $server erlauben oder `proxy: off` eintragen, wenn "
            "dieser Rechner sich direkt verbinden darf.",
        ),
        seen=("HTTP 403 Forbidden",),
        own_fix=True,
    ),
    Entry(
        code="proxy.target",
        kind="passing",
        cause=Text(en="the proxy cannot reach the target", de="der Proxy erreicht das Ziel nicht"),
        fix=Text(
            en="Check host and port of $server, and the proxy's own resolver and way out. With "
            "`socks5h://` the proxy looks names up itself.",
            de="Host und Port von $server prüfen sowie Resolver und Internetzugang des Proxys. "
            "Mit `socks5h://` löst der Proxy die Namen selbst auf.",
        ),
        seen=("HTTP 502 Bad Gateway",),
        own_fix=True,
    ),
    Entry(
        code="proxy.refused",
        kind="passing",
        cause=Text(
            en="the proxy refuses for a reason of its own",
            de="der Proxy lehnt aus einem eigenen Grund ab",
        ),
        fix=Text(en="Look into the proxy's log.", de="Im Protokoll des Proxys nachsehen."),
        seen=("HTTP 500",),
        own_fix=True,
    ),
)
