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
        "control.no_mailbox",
        (
            "the running daemon does not know this mailbox: the file has changed since it read it",
            (
                "der laufende Dienst kennt dieses Postfach nicht: die Datei hat sich geändert, "
                "seit er sie gelesen hat"
            ),
        ),
        (
            "have it read the file again: systemctl reload mailbridge",
            "ihn die Datei neu lesen lassen: systemctl reload mailbridge",
        ),
        "configuration",
    ),
    _entry(
        "bug",
        (
            "a fault of mailbridge ended this step; the others are not affected",
            "ein Fehler von mailbridge hat diesen Schritt beendet; die anderen betrifft er nicht",
        ),
        (
            "please report it with the lines that stand in the log or on standard error",
            "bitte melden, mit den Zeilen aus dem Protokoll oder von der Fehlerausgabe",
        ),
        "bug",
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
