"""What IMAP servers answer, and what ends an IMAP session."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import BY_ITSELF, FULL_ACCESS, FULL_ACCESS_PERSON, REPORT

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="imap.authenticate_failed",
        kind="configuration",
        cause=Text(
            en="Exchange refuses the token: usually the service principal is not registered in "
            "Exchange, or under a wrong object id; a token that lacks a permission is "
            "refused with the same words",
            de="Exchange lehnt das Token ab: meist ist der Dienstprinzipal in Exchange nicht "
            "oder mit falscher Objekt-ID registriert; ein Token ohne die nötige "
            "Berechtigung wird mit denselben Worten abgelehnt",
        ),
        fix=Text(
            en=f"If the token claims are complained of above, mend that first. {FULL_ACCESS.en}",
            de=f"Wird oben der Token-Inhalt beanstandet, zuerst das beheben. {FULL_ACCESS.de}",
        ),
        fix_delegated=Text(
            en="If the token claims are complained of above, mend that first. Check that the "
            "person has an Exchange Online licence and may use IMAP. "
            f"{FULL_ACCESS_PERSON.en}",
            de="Wird oben der Token-Inhalt beanstandet, zuerst das beheben. Prüfen, ob die "
            "Person eine Exchange-Online-Lizenz hat und IMAP nutzen darf. "
            f"{FULL_ACCESS_PERSON.de}",
        ),
        seen=("NO AUTHENTICATE failed.",),
    ),
    Entry(
        code="imap.basic_auth",
        kind="configuration",
        cause=Text(
            en="the server took the sign-in for one with a password, and passwords have been "
            "switched off for IMAP since 2022",
            de="der Server hat die Anmeldung für eine mit Kennwort gehalten, und Kennwörter "
            "sind für IMAP seit 2022 abgeschaltet",
        ),
        fix=Text(
            en="mailbridge itself only ever sends OAuth tokens: check that `fetch.server` of "
            "this mailbox leads to Exchange Online, and that nothing between (a mail "
            "gateway, an IMAP proxy) changes the sign-in.",
            de="mailbridge selbst sendet nur OAuth-Token: prüfen, ob `fetch.server` dieses "
            "Postfachs zu Exchange Online führt und ob etwas dazwischen (Mail-Gateway, "
            "IMAP-Proxy) die Anmeldung verändert.",
        ),
        seen=("NO LOGIN failed.",),
    ),
    Entry(
        code="imap.account_blocked",
        kind="configuration",
        cause=Text(
            en="Microsoft has blocked the account until somebody proves to be its owner",
            de="Microsoft hat das Konto gesperrt, bis sich jemand als Inhaber ausweist",
        ),
        fix=Text(
            en="Sign in to $account at https://outlook.office.com in a browser and do what is "
            "asked there; then check in the Entra admin center, Users, that sign-in is not "
            "blocked.",
            de="Im Browser unter https://outlook.office.com mit $account anmelden und die "
            "Aufforderung dort befolgen; danach im Entra Admin Center unter Benutzer "
            "prüfen, dass die Anmeldung nicht blockiert ist.",
        ),
        seen=(
            (
                "NO LOGIN failed. Account is blocked. Login to your account via a web browser to "
                "verify your identity."
            ),
        ),
    ),
    Entry(
        code="imap.not_connected",
        kind="configuration",
        cause=Text(
            en="the token is good, the mailbox refuses: no FullAccess permission, IMAP "
            "switched off, another address than the mailbox's own, or, for a few minutes, "
            "too many sessions",
            de="das Token ist in Ordnung, das Postfach verweigert sich: kein Vollzugriff "
            "(FullAccess), IMAP abgeschaltet, eine andere Adresse als die des Postfachs "
            "oder, für einige Minuten, zu viele Sitzungen",
        ),
        fix=Text(
            en=f"`Set-CASMailbox -Identity $address -ImapEnabled $$true`. {FULL_ACCESS.en}",
            de=f"`Set-CASMailbox -Identity $address -ImapEnabled $$true`. {FULL_ACCESS.de}",
        ),
        fix_delegated=Text(
            en=f"`Set-CASMailbox -Identity $address -ImapEnabled $$true`. {FULL_ACCESS_PERSON.en}",
            de=f"`Set-CASMailbox -Identity $address -ImapEnabled $$true`. {FULL_ACCESS_PERSON.de}",
        ),
        seen=("BAD User is authenticated but not connected.",),
    ),
    Entry(
        code="imap.token_expired",
        kind="passing",
        cause=Text(
            en="the token with which the session was opened has ended",
            de="das Token, mit dem die Sitzung geöffnet wurde, ist abgelaufen",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge signs in again with a new token. If it comes "
            "right after each sign-in, check this machine's clock.",
            de="Es ist nichts zu tun: mailbridge meldet sich mit einem neuen Token an. Kommt "
            "es gleich nach jeder Anmeldung, die Uhr dieses Rechners prüfen.",
        ),
        seen=("* BYE Session invalidated - AccessTokenExpired",),
    ),
    Entry(
        code="imap.throttled",
        kind="passing",
        cause=Text(
            en="Exchange throttles this mailbox and says for how long",
            de="Exchange drosselt dieses Postfach und sagt, für wie lange",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge waits as long as it was told and loses "
            "nothing. If it comes often, close other programs that use $address, or fetch "
            "less often (`fetch.every`).",
            de="Es ist nichts zu tun: mailbridge wartet so lange wie verlangt und verliert "
            "nichts. Kommt es oft vor, andere Programme schließen, die $address nutzen, "
            "oder seltener abrufen (`fetch.every`).",
        ),
        seen=("BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds",),
    ),
    Entry(
        code="imap.idle_timeout",
        kind="passing",
        cause=Text(
            en="the server ended a session in which nothing had been said for long",
            de="der Server hat eine Sitzung beendet, in der lange nichts gesagt wurde",
        ),
        fix=BY_ITSELF,
        seen=("* BYE Connection is closed. 13",),
    ),
    Entry(
        code="imap.bye",
        kind="passing",
        cause=Text(
            en='the server hung up; behind "14" mostly stands a refusal or a throttle a moment '
            "before",
            de='der Server hat aufgelegt; hinter "14" steht meist eine Ablehnung oder '
            "Drosselung kurz zuvor",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge connects again. If it goes on, the answer "
            "just before it in the log (`--log-level debug`) says why.",
            de="Es ist nichts zu tun: mailbridge verbindet sich neu. Hält es an, sagt die "
            "Antwort unmittelbar davor im Protokoll (`--log-level debug`), warum.",
        ),
        seen=("* BYE Connection closed. 14",),
    ),
    Entry(
        code="imap.command_too_long",
        kind="bug",
        cause=Text(
            en="the server takes a command for too long", de="dem Server ist ein Befehl zu lang"
        ),
        fix=REPORT,
        seen=("BAD Command Error. 10",),
    ),
    Entry(
        code="imap.bad_argument",
        kind="bug",
        cause=Text(
            en="the server cannot make sense of a command's arguments, or not for this one message",
            de="der Server kann mit den Argumenten eines Befehls nichts anfangen, oder nur bei "
            "dieser einen Nachricht nicht",
        ),
        fix=REPORT,
        seen=("BAD Command Argument Error. 11", "BAD Command Argument Error. 12"),
    ),
    Entry(
        code="imap.wrong_state",
        kind="bug",
        cause=Text(
            en="the server got a command before the sign-in that belongs after it",
            de="der Server hat vor der Anmeldung einen Befehl erhalten, der erst danach "
            "erlaubt ist",
        ),
        fix=REPORT,
        seen=("BAD Command received in Invalid state.",),
    ),
    Entry(
        code="imap.charset",
        kind="bug",
        cause=Text(
            en="the server searches in US-ASCII only", de="der Server sucht nur in US-ASCII"
        ),
        fix=REPORT,
        seen=("NO [BADCHARSET (US-ASCII)] The specified charset is not supported.",),
    ),
    Entry(
        code="imap.folder_missing",
        kind="configuration",
        cause=Text(
            en="the mailbox has no folder of this name: it was renamed, deleted, or its name "
            "depends on the mailbox's language",
            de="das Postfach hat keinen Ordner dieses Namens: er wurde umbenannt, gelöscht, "
            "oder sein Name hängt von der Sprache des Postfachs ab",
        ),
        fix=Text(
            en="Write a name that the mailbox has to `fetch.folders`; the message names them. "
            "INBOX works in every language, and so do roles like `\\Sent` and `\\Archive`.",
            de="In `fetch.folders` einen Namen eintragen, den das Postfach hat; die Meldung "
            "nennt sie. INBOX gilt in jeder Sprache, ebenso Rollen wie `\\Sent` und "
            "`\\Archive`.",
        ),
        seen=("NO [NONEXISTENT] Mailbox doesn't exist",),
        own_fix=True,
    ),
    Entry(
        code="imap.folder_without_mail",
        kind="configuration",
        cause=Text(
            en="the folder holds no mail: it is a calendar, contacts, tasks, notes or the journal",
            de="der Ordner enthält keine E-Mails: er ist ein Kalender, Kontakte, Aufgaben, "
            "Notizen oder das Journal",
        ),
        fix=Text(
            en="Remove it from `fetch.folders`.", de="Den Ordner aus `fetch.folders` entfernen."
        ),
    ),
    Entry(
        code="imap.target_is_watched",
        kind="configuration",
        cause=Text(
            en="mail is to be moved to the folder that is watched; each would come back as a "
            "new one",
            de="Nachrichten sollen in den Ordner verschoben werden, der überwacht wird; jede "
            "käme als neue zurück",
        ),
        fix=Text(
            en="Name another folder in `fetch.after: {move: ...}`.",
            de="In `fetch.after: {move: ...}` einen anderen Ordner nennen.",
        ),
    ),
    Entry(
        code="imap.read_only",
        kind="configuration",
        cause=Text(
            en="the folder may only be read, and `fetch.after` wants to change something there",
            de="der Ordner darf nur gelesen werden, und `fetch.after` will dort etwas ändern",
        ),
        fix=Text(
            en=f"Set `fetch.after: keep`, or give the right to change: {FULL_ACCESS.en}",
            de=f"`fetch.after: keep` setzen oder das Recht zum Ändern geben: {FULL_ACCESS.de}",
        ),
        fix_delegated=Text(
            en=f"Set `fetch.after: keep`, or give the right to change. {FULL_ACCESS_PERSON.en}",
            de="`fetch.after: keep` setzen oder das Recht zum Ändern geben. "
            f"{FULL_ACCESS_PERSON.de}",
        ),
        seen=("[READ-ONLY]",),
    ),
    Entry(
        code="imap.no_permission",
        kind="configuration",
        cause=Text(
            en="the account may not open this folder",
            de="das Konto darf diesen Ordner nicht öffnen",
        ),
        fix=FULL_ACCESS,
        fix_delegated=FULL_ACCESS_PERSON,
        seen=("NO [NOPERM]",),
    ),
    Entry(
        code="imap.renumbered",
        kind="passing",
        cause=Text(
            en="the folder was replaced or the mailbox moved: every message has another number "
            "(UIDVALIDITY)",
            de="der Ordner wurde ersetzt oder das Postfach verschoben: jede Nachricht hat eine "
            "andere Nummer (UIDVALIDITY)",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge recognises what it has delivered by its "
            "content and delivers nothing twice.",
            de="Es ist nichts zu tun: mailbridge erkennt am Inhalt, was schon zugestellt "
            "wurde, und stellt nichts doppelt zu.",
        ),
    ),
    Entry(
        code="imap.no_idle",
        kind="passing",
        cause=Text(
            en="the server offers no push (IDLE), so new mail is only found when the mailbox "
            "is looked at",
            de="der Server bietet kein Push (IDLE); neue Nachrichten werden nur beim "
            "regelmäßigen Abruf gefunden",
        ),
        fix=Text(
            en="Nothing is lost; shorten `fetch.every` if that is too seldom, or set "
            "`fetch.push: false` to be told no more.",
            de="Es geht nichts verloren; `fetch.every` verkürzen, wenn das zu selten ist, oder "
            "`fetch.push: false` setzen, damit nicht mehr darauf hingewiesen wird.",
        ),
    ),
    Entry(
        code="imap.no_starttls",
        kind="configuration",
        cause=Text(
            en="the server offers no STARTTLS, and without TLS nothing is sent",
            de="der Server bietet kein STARTTLS, und ohne TLS wird nichts gesendet",
        ),
        fix=Text(
            en="Use port 993 with `tls: implicit`, as Exchange Online wants it. If the server "
            "did offer STARTTLS before, ask who runs the network between: somebody may have "
            "removed it.",
            de="Port 993 mit `tls: implicit` verwenden, wie Exchange Online es verlangt. Hat "
            "der Server STARTTLS früher angeboten, beim Betreiber des Netzes nachfragen: "
            "jemand könnte es entfernt haben.",
        ),
    ),
    Entry(
        code="imap.preauth",
        kind="configuration",
        cause=Text(
            en="the server greets us as somebody who is signed in already; whoever that is, it "
            "is not this mailbox",
            de="der Server begrüßt uns als bereits angemeldet; wer immer das ist, dieses "
            "Postfach ist es nicht",
        ),
        fix=Text(
            en="Check `fetch.server`: Exchange Online is outlook.office365.com, port 993, "
            "`tls: implicit`.",
            de="`fetch.server` prüfen: Exchange Online ist outlook.office365.com, Port 993, "
            "`tls: implicit`.",
        ),
        seen=("* PREAUTH",),
    ),
)
