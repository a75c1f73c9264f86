"""What only a diagnosis finds: codes, causes and fixes beside the catalogue of failures.

The catalogue comes first: a code that it has is told in its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailbridge.catalogue.base import Entry, Ids, Kind, Language, Text
from mailbridge.catalogue.lookup import CATALOGUE, explain, filled


def _entry(code: str, cause: tuple[str, str], fix: tuple[str, str], kind: Kind) -> Entry:
    return Entry(
        code=code,
        kind=kind,
        cause=Text(en=cause[0], de=cause[1]),
        fix=Text(en=fix[0], de=fix[1]),
    )


_ENTRIES: Final = (
    _entry(
        "config.not_fetched",
        (
            "this mailbox has nothing to do: it is not fetched and does not send",
            "dieses Postfach hat nichts zu tun: es wird nicht abgeholt und sendet nicht",
        ),
        (
            "set mailboxes.$mailbox.fetch.protocol to imap or pop3, or add `send`",
            "mailboxes.$mailbox.fetch.protocol auf imap oder pop3 setzen, oder `send` ergänzen",
        ),
        "configuration",
    ),
    _entry(
        "grant.no_key",
        (
            "state.key is not set: what a person consents to could not be kept",
            "state.key fehlt: eine Zustimmung könnte nicht aufbewahrt werden",
        ),
        (
            (
                "make one with `mailbridge secret key`, write `state: {key: {file: PATH}}`, then "
                "run "
                "`$login`"
            ),
            (
                "einen Schlüssel mit `mailbridge secret key` erzeugen, `state: {key: {file: "
                "PFAD}}` "
                "eintragen, dann `$login` ausführen"
            ),
        ),
        "configuration",
    ),
    _entry(
        "sign_in.no_grant",
        ("$account has not signed in yet", "$account hat sich noch nicht angemeldet"),
        ("run `$login`", "`$login` ausführen"),
        "sign_in_again",
    ),
    _entry(
        "claims.opaque",
        (
            "the token cannot be read, so nobody can tell from it what is missing",
            "der Token ist nicht lesbar, darum verrät er nicht, was fehlt",
        ),
        (
            "nothing, as long as the sign-in below works; Exchange Online's tokens are JWTs",
            "nichts, solange die Anmeldung unten gelingt; die Token von Exchange Online sind JWTs",
        ),
        "configuration",
    ),
    _entry(
        "claims.tenant",
        (
            "the token was issued by another tenant than the one in apps.$app.tenant",
            "der Token wurde von einem anderen Mandanten ausgestellt als dem in apps.$app.tenant",
        ),
        (
            (
                "copy the Tenant ID of the mailbox's own tenant (Entra admin center, Overview) to "
                "apps.$app.tenant ($tenant)"
            ),
            (
                "die Mandanten-ID des Mandanten, in dem das Postfach liegt (Entra Admin Center, "
                "Übersicht), nach apps.$app.tenant ($tenant) übernehmen"
            ),
        ),
        "configuration",
    ),
    _entry(
        "claims.app",
        (
            "the token was issued to another app than the one in apps.$app.client_id",
            "der Token wurde für eine andere App ausgestellt als die in apps.$app.client_id",
        ),
        (
            (
                "compare apps.$app.client_id ($client_id) with the Application (client) ID in the "
                "portal"
            ),
            "apps.$app.client_id ($client_id) mit der Anwendungs-ID (Client) im Portal vergleichen",
        ),
        "configuration",
    ),
    _entry(
        "claims.expired",
        (
            "a new token has ended already: the clock of this machine is wrong",
            "ein neuer Token ist schon abgelaufen: die Uhr dieses Rechners geht falsch",
        ),
        (
            "set the clock by NTP (`timedatectl set-ntp true`)",
            "die Uhr mit NTP stellen (`timedatectl set-ntp true`)",
        ),
        "configuration",
    ),
    _entry(
        "imap.no_idle",
        (
            "the server offers no IDLE, so new mail is found only by looking",
            "der Server bietet kein IDLE, neue Mail wird nur durch Nachsehen gefunden",
        ),
        (
            "nothing is lost; shorten mailboxes.$mailbox.fetch.every if that is too seldom",
            (
                "es geht nichts verloren; mailboxes.$mailbox.fetch.every verkürzen, falls das zu "
                "selten ist"
            ),
        ),
        "passing",
    ),
    _entry(
        "pop3.token_long",
        (
            "the token is longer than some of Exchange Online's POP3 front ends take",
            "der Token ist länger, als manche POP3-Server von Exchange Online annehmen",
        ),
        (
            (
                "some refuse more than 4,096 characters: make it shorter (fewer groups and "
                "optional "
                "claims), or use `protocol: imap`"
            ),
            (
                "manche lehnen mehr als 4.096 Zeichen ab: den Token verkürzen (weniger Gruppen und "
                "optionale Ansprüche) oder `protocol: imap` verwenden"
            ),
        ),
        "configuration",
    ),
    _entry(
        "send.not_configured",
        (
            "a test mail is sent by the mailbox's own `send`, and there is none",
            "eine Testmail geht über das `send` des Postfachs, und es gibt keins",
        ),
        (
            (
                "add `send: {}` to mailboxes.$mailbox; `mailbridge setup $mailbox` prints what "
                "else "
                "it needs"
            ),
            (
                "`send: {}` bei mailboxes.$mailbox ergänzen; `mailbridge setup $mailbox` sagt, "
                "was es "
                "sonst noch braucht"
            ),
        ),
        "configuration",
    ),
    _entry(
        "arrival.late",
        (
            "the server took the test mail and it did not show up in a watched folder",
            "der Server nahm die Testmail an, in keinem überwachten Ordner tauchte sie auf",
        ),
        (
            (
                "look for it in Junk and in the rules of $address (Get-InboxRule -Mailbox "
                "$address), "
                "and in the message trace of the Exchange admin center; name the folder that it "
                "went "
                "to in mailboxes.$mailbox.fetch.folders"
            ),
            (
                "sie im Junk-Ordner, in den Regeln von $address (Get-InboxRule -Mailbox "
                "$address) und "
                "in der Nachrichtenablaufverfolgung des Exchange Admin Centers suchen; den "
                "Ordner, in "
                "den sie ging, in mailboxes.$mailbox.fetch.folders nennen"
            ),
        ),
        "configuration",
    ),
    _entry(
        "delivery.unseen",
        (
            "the mail lies in the mailbox and the daemon has not fetched it",
            "die Mail liegt im Postfach, und der Dienst hat sie nicht abgeholt",
        ),
        (
            (
                "`mailbridge status` says what the daemon sees of $mailbox; a schedule "
                "(fetch.every, fetch.cron) may also just be longer than this test waits"
            ),
            (
                "`mailbridge status` zeigt, was der Dienst von $mailbox sieht; auch ein Zeitplan "
                "(fetch.every, fetch.cron) kann länger sein, als dieser Test wartet"
            ),
        ),
        "passing",
    ),
    _entry(
        "delivery.failed",
        (
            "a webhook did not take the test",
            "ein Webhook nahm den Test nicht an",
        ),
        (
            "its answer stands above; `mailbridge test-webhook NAME` tries it alone",
            "seine Antwort steht oben; `mailbridge test-webhook NAME` probiert ihn allein",
        ),
        "passing",
    ),
    _entry(
        "webhook.address_refused",
        (
            "the webhook's address is private, or one that nothing may be sent to",
            "die Adresse des Webhooks ist privat, oder dorthin darf nichts gesendet werden",
        ),
        (
            (
                "for a receiver in your own network write `allow_private: true` to that webhook; "
                "else "
                "check what its name resolves to"
            ),
            (
                "für einen Empfänger im eigenen Netz `allow_private: true` bei diesem Webhook "
                "eintragen; sonst prüfen, wohin sein Name auflöst"
            ),
        ),
        "configuration",
    ),
    _entry(
        "webhook.dns",
        ("the webhook's host has no address", "der Host des Webhooks hat keine Adresse"),
        (
            "check the host in the webhook's url, and this machine's resolver",
            "den Host in der url des Webhooks und die Namensauflösung dieses Rechners prüfen",
        ),
        "configuration",
    ),
    _entry(
        "webhook.connect",
        (
            "nobody answers at the webhook's host and port",
            "am Host und Port des Webhooks antwortet niemand",
        ),
        (
            "is the receiver running, and does the firewall let this machine out to $server?",
            "läuft der Empfänger, und lässt die Firewall diesen Rechner zu $server hinaus?",
        ),
        "passing",
    ),
    _entry(
        "webhook.tls",
        (
            "TLS with the webhook's host fails",
            "TLS mit dem Host des Webhooks misslingt",
        ),
        (
            (
                "for a private authority write `tls: {ca: FILE}` to that webhook; otherwise the "
                "receiver needs a certificate that is valid for its name"
            ),
            (
                "für eine eigene Zertifizierungsstelle `tls: {ca: DATEI}` bei diesem Webhook "
                "eintragen; sonst braucht der Empfänger ein Zertifikat, das für seinen Namen gilt"
            ),
        ),
        "configuration",
    ),
)

OWN: Final[Mapping[str, Entry]] = {entry.code: entry for entry in _ENTRIES}


def cause_and_fix(
    code: str, ids: Ids, language: Language, *, said: str, fix: str
) -> tuple[str, str]:
    """Return cause and fix of a code; for an unknown one, what was ``said`` and its ``fix``."""
    if code not in CATALOGUE and (entry := OWN.get(code)) is not None:
        return filled(entry.cause.of(language), ids, language), fix or filled(
            entry.fix.of(language), ids, language
        )
    return explain(code, ids, language, said=said, fix=fix)
