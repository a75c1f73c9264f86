"""What an operator sees of the configuration, of ends that come near, and of webhooks."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="config",
        kind="configuration",
        cause=Text(
            en="the configuration file is wrong", de="die Konfigurationsdatei ist fehlerhaft"
        ),
        fix=Text(
            en="`mailbridge check` names every problem with file, line, key and fix.",
            de="`mailbridge check` nennt jedes Problem mit Datei, Zeile, Schlüssel und Abhilfe.",
        ),
        own_fix=True,
    ),
    Entry(
        code="config.not_fetched",
        kind="configuration",
        cause=Text(
            en="this mailbox is neither fetched nor does it send",
            de="dieses Postfach wird weder abgerufen noch sendet es",
        ),
        fix=Text(
            en="Set `fetch.protocol` of mailboxes.$mailbox to imap or pop3, or add `send`.",
            de="`fetch.protocol` von mailboxes.$mailbox auf imap oder pop3 setzen oder `send` "
            "ergänzen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="secret.expiring",
        kind="configuration",
        cause=Text(
            en="a credential of this mailbox ends soon",
            de="ein Zugang dieses Postfachs läuft bald ab",
        ),
        fix=Text(
            en="A client secret: make a new one (Entra admin center > App registrations > "
            "$client_id > Certificates & secrets) and put it first in the list. A "
            "certificate: upload a new one there. A person's sign-in: `$login`.",
            de="Ein Clientgeheimnis: ein neues anlegen (Entra Admin Center > "
            "App-Registrierungen > $client_id > Zertifikate & Geheimnisse) und an die erste "
            "Stelle der Liste setzen. Ein Zertifikat: dort ein neues hochladen. Die "
            "Anmeldung einer Person: `$login`.",
        ),
        own_fix=True,
    ),
    Entry(
        code="overdue",
        kind="bug",
        cause=Text(
            en="a check of the mailbox is due and makes no progress",
            de="eine Prüfung des Postfachs ist fällig und kommt nicht voran",
        ),
        fix=Text(
            en="mailbridge tears the session down and opens another. If it comes again, report "
            "it with the log.",
            de="mailbridge bricht die Sitzung ab und öffnet eine neue. Kommt es wieder vor, "
            "bitte mit dem Protokoll melden.",
        ),
    ),
    Entry(
        code="internal",
        kind="bug",
        cause=Text(en="a fault of mailbridge itself", de="ein Fehler in mailbridge selbst"),
        fix=Text(
            en="Report it with the log; mailbridge goes on, and no mail is lost.",
            de="Bitte mit dem Protokoll melden; mailbridge läuft weiter, und keine Nachricht "
            "geht verloren.",
        ),
    ),
    Entry(
        code="webhook.dns",
        kind="passing",
        cause=Text(
            en="the receiver's host name does not resolve",
            de="der Rechnername des Empfängers lässt sich nicht auflösen",
        ),
        fix=Text(
            en="Check the host in the webhook's `url`, and the resolver of this machine. If a "
            "proxy is to look it up, write `proxy` for this webhook. The mail waits "
            "meanwhile.",
            de="Den Host in der `url` des Webhooks und den Resolver dieses Rechners prüfen. "
            "Soll ein Proxy ihn auflösen, bei diesem Webhook `proxy` eintragen. Die "
            "Nachricht wartet so lange.",
        ),
        own_fix=True,
    ),
    Entry(
        code="webhook.connect",
        kind="passing",
        cause=Text(
            en="the receiver does not take the connection",
            de="der Empfänger nimmt die Verbindung nicht an",
        ),
        fix=Text(
            en="Check that the receiver runs, its port in `url`, and the firewall between. The "
            "mail waits meanwhile.",
            de="Prüfen, ob der Empfänger läuft, ob der Port in `url` stimmt und ob eine "
            "Firewall dazwischensteht. Die Nachricht wartet so lange.",
        ),
        own_fix=True,
    ),
    Entry(
        code="webhook.tls",
        kind="configuration",
        cause=Text(
            en="TLS with the receiver fails, mostly for its certificate",
            de="TLS mit dem Empfänger scheitert, meist an seinem Zertifikat",
        ),
        fix=Text(
            en="Renew the receiver's certificate, or give its authority with `tls.ca` of the "
            "webhook. Verification cannot be switched off. The mail waits meanwhile.",
            de="Das Zertifikat des Empfängers erneuern oder seine Zertifizierungsstelle mit "
            "`tls.ca` des Webhooks angeben. Die Prüfung lässt sich nicht abschalten. Die "
            "Nachricht wartet so lange.",
        ),
        own_fix=True,
    ),
    Entry(
        code="webhook.address_refused",
        kind="configuration",
        cause=Text(
            en="the receiver's address is private or this machine itself, and that was not "
            "permitted",
            de="die Adresse des Empfängers ist privat oder dieser Rechner selbst, und das "
            "wurde nicht erlaubt",
        ),
        fix=Text(
            en="If the receiver really stands in your own network, write `allow_private: true` "
            "for this webhook; otherwise its DNS entry leads to the wrong place.",
            de="Steht der Empfänger wirklich im eigenen Netz, bei diesem Webhook "
            "`allow_private: true` eintragen; andernfalls führt sein DNS-Eintrag an die "
            "falsche Stelle.",
        ),
        own_fix=True,
    ),
    Entry(
        code="webhook.mails_only",
        kind="configuration",
        cause=Text(
            en="this webhook takes mails only, and no test.ping",
            de="dieser Webhook nimmt nur Nachrichten an und kein test.ping",
        ),
        fix=Text(
            en="Give it a mail: `mailbridge test-webhook NAME --eml FILE`. An alarm server "
            "raises a real alarm for it.",
            de="Ihm eine Nachricht geben: `mailbridge test-webhook NAME --eml DATEI`. Ein "
            "Alarmserver löst dafür einen echten Alarm aus.",
        ),
        own_fix=True,
    ),
)
