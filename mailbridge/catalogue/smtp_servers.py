"""What SMTP servers say of the connection, of themselves and of our address."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="smtp.no_starttls",
        kind="configuration",
        cause=Text(
            en="the server offers no STARTTLS, and without TLS no credential is sent; somebody "
            "on the way may have removed it",
            de="der Server bietet kein STARTTLS, und ohne TLS werden keine Anmeldedaten "
            "gesendet; jemand auf dem Weg könnte es entfernt haben",
        ),
        fix=Text(
            en="Ask who runs the network between this machine and $server; with another server "
            "than Exchange Online use `tls: implicit` and port 465.",
            de="Beim Betreiber des Netzes zwischen diesem Rechner und $server nachfragen; bei "
            "einem anderen Server als Exchange Online `tls: implicit` und Port 465 "
            "verwenden.",
        ),
    ),
    Entry(
        code="smtp.starttls_required",
        kind="configuration",
        cause=Text(en="the server wants TLS first", de="der Server verlangt zuerst TLS"),
        fix=Text(
            en="Check `send.server.port` and `send.server.tls`: 587 with `starttls`, 465 with "
            "`implicit`.",
            de="`send.server.port` und `send.server.tls` prüfen: 587 mit `starttls`, 465 mit "
            "`implicit`.",
        ),
        seen=("530 5.7.0 Must issue a STARTTLS command first",),
    ),
    Entry(
        code="smtp.tls_version",
        kind="configuration",
        cause=Text(
            en="the server does not take this version of TLS",
            de="der Server akzeptiert diese TLS-Version nicht",
        ),
        fix=Text(
            en="mailbridge speaks TLS 1.2 and 1.3 only, so something between uses TLS 1.0 or "
            "1.1: look for a proxy that inspects TLS.",
            de="mailbridge spricht nur TLS 1.2 und 1.3, also nutzt etwas dazwischen TLS 1.0 "
            "oder 1.1: nach einem Proxy suchen, der TLS aufbricht.",
        ),
        seen=(
            (
                "421 4.7.66 TLS 1.0 and 1.1 are not supported. Please upgrade/update your client "
                "to support TLS 1.2. Visit https://aka.ms/smtp_auth_tls."
            ),
        ),
    ),
    Entry(
        code="smtp.injected",
        kind="configuration",
        cause=Text(
            en="bytes came before TLS that nobody had asked for; somebody on the way may have "
            "put them there",
            de="vor TLS kamen Bytes, die niemand verlangt hatte; jemand auf dem Weg könnte sie "
            "eingeschleust haben",
        ),
        fix=Text(
            en="Ask who runs the network between this machine and $server.",
            de="Beim Betreiber des Netzes zwischen diesem Rechner und $server nachfragen.",
        ),
    ),
    Entry(
        code="smtp.too_many_connections",
        kind="passing",
        cause=Text(
            en="more connections of this mailbox are open than the server permits",
            de="es sind mehr Verbindungen dieses Postfachs offen, als der Server erlaubt",
        ),
        fix=Text(
            en="Nothing is lost; mailbridge waits. Lower `send.limits.connections` (Exchange "
            "permits 3), or close other programs that send as $address.",
            de="Es geht nichts verloren; mailbridge wartet. `send.limits.connections` senken "
            "(Exchange erlaubt 3) oder andere Programme schließen, die als $address senden.",
        ),
        seen=("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",),
    ),
    Entry(
        code="smtp.temporary",
        kind="passing",
        cause=Text(
            en="the server has a problem of its own", de="der Server hat selbst ein Problem"
        ),
        fix=Text(
            en="Nothing is to be done: the mail is kept and sent later.",
            de="Es ist nichts zu tun: die Nachricht bleibt erhalten und wird später gesendet.",
        ),
        seen=("451 4.7.0 Temporary server error. Please try again later. PRX2",),
    ),
    Entry(
        code="smtp.unavailable",
        kind="passing",
        cause=Text(
            en="the server is not available now", de="der Server ist gerade nicht verfügbar"
        ),
        fix=Text(
            en="Nothing is to be done: the mail is kept and sent later.",
            de="Es ist nichts zu tun: die Nachricht bleibt erhalten und wird später gesendet.",
        ),
        seen=("421 4.3.2 Service not available", "451 4.3.2 System not accepting network messages"),
    ),
    Entry(
        code="smtp.address_banned",
        kind="configuration",
        cause=Text(
            en="Microsoft does not take mail from this machine's address",
            de="Microsoft nimmt von der Adresse dieses Rechners keine E-Mails an",
        ),
        fix=Text(
            en="Ask for its removal at https://sender.office.com, and find out whether "
            "something at this address sends spam.",
            de="Unter https://sender.office.com die Freigabe beantragen und prüfen, ob hinter "
            "dieser Adresse etwas Spam versendet.",
        ),
        seen=(
            "550 5.7.606 Access denied, banned sending IP",
            "550 5.7.511 Access denied, banned sender",
        ),
    ),
    Entry(
        code="smtp.address_throttled",
        kind="passing",
        cause=Text(
            en="the server asks this machine's address for a pause",
            de="der Server verlangt von der Adresse dieses Rechners eine Pause",
        ),
        fix=Text(
            en="Nothing is lost; mailbridge waits half an hour. If it stays, other machines "
            "behind the same address send a lot.",
            de="Es geht nichts verloren; mailbridge wartet eine halbe Stunde. Bleibt es dabei, "
            "senden andere Rechner hinter derselben Adresse viel.",
        ),
        seen=(
            "451 4.7.500 Server busy. Please try again later from [203.0.113.7]. (AS844)",
            "550 5.7.508 Access denied, [IP] has exceeded permitted limits within IPv6 range",
        ),
    ),
    Entry(
        code="smtp.bad_helo",
        kind="bug",
        cause=Text(
            en="the server does not like the name by which we introduce ourselves (EHLO)",
            de="dem Server gefällt der Name nicht, mit dem wir uns vorstellen (EHLO)",
        ),
        fix=Text(
            en="Report it with the words of the server; the mail is kept and tried again.",
            de="Bitte mit den Worten des Servers melden; die Nachricht bleibt erhalten und "
            "wird erneut versucht.",
        ),
        seen=("550 5.7.506 Access denied, Bad HELO",),
    ),
    Entry(
        code="smtp.not_understood",
        kind="bug",
        cause=Text(
            en="the server did not understand a command",
            de="der Server hat einen Befehl nicht verstanden",
        ),
        fix=Text(
            en="Check that `send.server` is an SMTP server. If it is Exchange Online, report "
            "it; the mail is kept and tried again.",
            de="Prüfen, ob `send.server` ein SMTP-Server ist. Ist es Exchange Online, bitte "
            "melden; die Nachricht bleibt erhalten und wird erneut versucht.",
        ),
        seen=("500 5.3.3 Unrecognized command",),
    ),
    Entry(
        code="smtp.deferred",
        kind="passing",
        cause=Text(en="the server says: later", de="der Server sagt: später"),
        fix=Text(
            en="Nothing is to be done: the mail is kept and sent later. If it stays, the words "
            "of the server say more.",
            de="Es ist nichts zu tun: die Nachricht bleibt erhalten und wird später gesendet. "
            "Bleibt es dabei, sagen die Worte des Servers mehr.",
        ),
    ),
    Entry(
        code="smtp.unexpected",
        kind="bug",
        cause=Text(
            en="something happened that mailbridge does not know",
            de="es ist etwas geschehen, was mailbridge nicht kennt",
        ),
        fix=Text(
            en="Report it with the log; the mail is kept and tried again.",
            de="Bitte mit dem Protokoll melden; die Nachricht bleibt erhalten und wird erneut "
            "versucht.",
        ),
    ),
)
