"""What an operator sees of the store: the database, its disk and its key."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="store.full",
        kind="passing",
        cause=Text(
            en="the disk under the database is full", de="der Datenträger der Datenbank ist voll"
        ),
        fix=Text(
            en="Free some space; accepting goes on by itself, and until then the mail stays in "
            "the mailbox.",
            de="Platz schaffen; die Annahme geht von selbst weiter, bis dahin bleiben die "
            "Nachrichten im Postfach.",
        ),
        seen=("database or disk is full",),
        own_fix=True,
    ),
    Entry(
        code="store.io",
        kind="configuration",
        cause=Text(
            en="the disk under the database gives errors",
            de="der Datenträger der Datenbank meldet Fehler",
        ),
        fix=Text(
            en="Look at the disk (`dmesg`, `smartctl`). mailbridge stops rather than trust it, "
            "and recovers from its write-ahead log at the next start.",
            de="Den Datenträger prüfen (`dmesg`, `smartctl`). mailbridge hält an, statt ihm zu "
            "vertrauen, und stellt sich beim nächsten Start aus seinem Protokoll (WAL) "
            "wieder her.",
        ),
        seen=("disk I/O error",),
        own_fix=True,
    ),
    Entry(
        code="store.damaged",
        kind="configuration",
        cause=Text(
            en="the database is damaged, or not one of mailbridge's",
            de="die Datenbank ist beschädigt oder keine von mailbridge",
        ),
        fix=Text(
            en="Restore it from a backup (`mailbridge db backup` makes them), with the files "
            "`-wal` and `-shm` that belong to it. To begin anew, move it away: what lies in "
            "the mailboxes is fetched again under the same ids.",
            de="Aus einer Sicherung wiederherstellen (`mailbridge db backup` legt sie an), "
            "samt den zugehörigen Dateien `-wal` und `-shm`. Für einen Neubeginn die Datei "
            "wegbewegen: was in den Postfächern liegt, wird unter denselben Kennungen "
            "erneut abgerufen.",
        ),
        seen=("database disk image is malformed", "file is not a database"),
        own_fix=True,
    ),
    Entry(
        code="store.locked",
        kind="configuration",
        cause=Text(
            en="another mailbridge uses this database",
            de="ein anderes mailbridge benutzt diese Datenbank",
        ),
        fix=Text(
            en="Stop that daemon (`systemctl stop mailbridge`), or use the commands that talk "
            "to it.",
            de="Diesen Dienst anhalten (`systemctl stop mailbridge`) oder die Befehle "
            "verwenden, die mit ihm sprechen.",
        ),
        seen=("database is locked",),
        own_fix=True,
    ),
    Entry(
        code="store.permission",
        kind="configuration",
        cause=Text(
            en="the daemon's user may not write to the database or its folder",
            de="der Benutzer des Dienstes darf die Datenbank oder ihren Ordner nicht beschreiben",
        ),
        fix=Text(
            en="The file and its folder must be writable for the user of the daemon; under "
            "systemd leave `state.database` out, and StateDirectory takes care of it.",
            de="Datei und Ordner müssen für den Benutzer des Dienstes beschreibbar sein; unter "
            "systemd `state.database` weglassen, dann sorgt StateDirectory dafür.",
        ),
        seen=("unable to open database file", "attempt to write a readonly database"),
        own_fix=True,
    ),
    Entry(
        code="store.missing",
        kind="configuration",
        cause=Text(en="there is no database yet", de="es gibt noch keine Datenbank"),
        fix=Text(
            en="Start the daemon once, or check `state.database`.",
            de="Den Dienst einmal starten oder `state.database` prüfen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.older",
        kind="configuration",
        cause=Text(
            en="the database was written by an older version",
            de="die Datenbank stammt von einer älteren Version",
        ),
        fix=Text(
            en="Make a backup, then run `mailbridge db upgrade`.",
            de="Eine Sicherung anlegen, dann `mailbridge db upgrade` ausführen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.newer",
        kind="configuration",
        cause=Text(
            en="a newer version of mailbridge has used this database",
            de="eine neuere Version von mailbridge hat diese Datenbank benutzt",
        ),
        fix=Text(
            en="Install that version again, or restore the backup from before the upgrade.",
            de="Diese Version wieder installieren oder die Sicherung von vor der "
            "Aktualisierung zurückspielen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.foreign",
        kind="configuration",
        cause=Text(
            en="the database holds tables that are not mailbridge's",
            de="die Datenbank enthält Tabellen, die nicht von mailbridge sind",
        ),
        fix=Text(
            en="Give mailbridge a database of its own.",
            de="mailbridge eine eigene Datenbank geben.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.refused",
        kind="configuration",
        cause=Text(en="the database server refuses us", de="der Datenbankserver lehnt uns ab"),
        fix=Text(
            en="Check user, password and name of the database in `state.database`.",
            de="Benutzer, Kennwort und Name der Datenbank in `state.database` prüfen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.unavailable",
        kind="passing",
        cause=Text(
            en="the database server cannot be reached",
            de="der Datenbankserver ist nicht erreichbar",
        ),
        fix=Text(
            en="Check that it runs. mailbridge waits for it, and until then the mail stays in "
            "the mailbox.",
            de="Prüfen, ob er läuft. mailbridge wartet auf ihn, bis dahin bleiben die "
            "Nachrichten im Postfach.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.trouble",
        kind="passing",
        cause=Text(
            en="the database did not do what it was asked",
            de="die Datenbank hat nicht getan, worum sie gebeten wurde",
        ),
        fix=Text(
            en="mailbridge tries again; nothing was stored by halves. If it stays, the words "
            "behind it say why.",
            de="mailbridge versucht es erneut; nichts wurde halb gespeichert. Bleibt es dabei, "
            "sagen die Worte dahinter, warum.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.url",
        kind="configuration",
        cause=Text(
            en="`state.database` is not the URL of a database",
            de="`state.database` ist keine Datenbank-URL",
        ),
        fix=Text(
            en="Write `sqlite:////var/lib/mailbridge/mailbridge.db` or "
            "`postgresql://USER@HOST/DATABASE`.",
            de="`sqlite:////var/lib/mailbridge/mailbridge.db` oder "
            "`postgresql://BENUTZER@HOST/DATENBANK` eintragen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.driver",
        kind="configuration",
        cause=Text(
            en="the driver for PostgreSQL is not installed",
            de="der Treiber für PostgreSQL ist nicht installiert",
        ),
        fix=Text(
            en="`pip install 'mailbridge[postgres]'`", de="`pip install 'mailbridge[postgres]'`"
        ),
        own_fix=True,
    ),
    Entry(
        code="store.backup",
        kind="configuration",
        cause=Text(
            en="the backup cannot be made like this", de="die Sicherung lässt sich so nicht anlegen"
        ),
        fix=Text(
            en="Name a file that is not there yet; a PostgreSQL database is backed up with "
            "`pg_dump --format=custom`.",
            de="Eine Datei nennen, die es noch nicht gibt; eine PostgreSQL-Datenbank wird mit "
            "`pg_dump --format=custom` gesichert.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.raw_purged",
        kind="configuration",
        cause=Text(
            en="the bytes of this mail were removed when their time was up, so it cannot be "
            "delivered again",
            de="die Bytes dieser Nachricht wurden nach Ablauf der Frist entfernt, sie lässt "
            "sich nicht erneut zustellen",
        ),
        fix=Text(
            en="Lengthen `state.keep` to be able to go back further next time. The mail itself "
            "may still lie in the mailbox.",
            de="`state.keep` verlängern, um künftig weiter zurückgehen zu können. Die "
            "Nachricht selbst liegt vielleicht noch im Postfach.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.no_key",
        kind="configuration",
        cause=Text(
            en="`state.key` is not set, and without it no person's sign-in is stored",
            de="`state.key` ist nicht gesetzt, und ohne ihn wird keine Anmeldung einer Person "
            "gespeichert",
        ),
        fix=Text(
            en="Make one with `mailbridge secret key` and name its place under `state.key`.",
            de="Mit `mailbridge secret key` einen erzeugen und seinen Ort unter `state.key` "
            "angeben.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.bad_key",
        kind="configuration",
        cause=Text(
            en="what stands at `state.key` is no state key",
            de="was unter `state.key` steht, ist kein Schlüssel",
        ),
        fix=Text(
            en="Make one with `mailbridge secret key`.",
            de="Mit `mailbridge secret key` einen erzeugen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="store.wrong_key",
        kind="configuration",
        cause=Text(
            en="the people's sign-ins in the database are sealed with another key",
            de="die Anmeldungen der Personen in der Datenbank sind mit einem anderen Schlüssel "
            "versiegelt",
        ),
        fix=Text(
            en="Put the former key back; to change it, write `key: [NEW, FORMER]` or use "
            "`mailbridge db rekey`.",
            de="Den früheren Schlüssel wieder einsetzen; zum Wechseln `key: [NEU, FRÜHER]` "
            "eintragen oder `mailbridge db rekey` verwenden.",
        ),
        own_fix=True,
    ),
    Entry(
        code="grant.damaged",
        kind="sign_in_again",
        cause=Text(
            en="the stored sign-in of a person cannot be read any more",
            de="die gespeicherte Anmeldung einer Person ist nicht mehr lesbar",
        ),
        fix=Text(
            en="Let the person sign in again: `$login`.",
            de="Die Person sich erneut anmelden lassen: `$login`.",
        ),
        own_fix=True,
    ),
    Entry(
        code="grant.format",
        kind="configuration",
        cause=Text(
            en="the stored sign-in of a person was written by a newer mailbridge",
            de="die gespeicherte Anmeldung einer Person stammt von einem neueren mailbridge",
        ),
        fix=Text(
            en="Install that version again, or let the person sign in again: `$login`.",
            de="Diese Version wieder installieren oder die Person sich erneut anmelden lassen: "
            "`$login`.",
        ),
        own_fix=True,
    ),
)
