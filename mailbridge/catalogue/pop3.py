"""What POP3 servers answer, and what ends a POP3 session."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import BY_ITSELF, FULL_ACCESS, FULL_ACCESS_PERSON

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="pop3.authenticate_failed",
        kind="configuration",
        cause=Text(
            en="Exchange refuses the sign-in, and POP3 does not tell why: POP switched off, no "
            "FullAccess permission, or a service principal that is not registered in "
            "Exchange, or under a wrong object id",
            de="Exchange lehnt die Anmeldung ab, und POP3 sagt nicht, warum: POP abgeschaltet, "
            "kein Vollzugriff (FullAccess) oder ein Dienstprinzipal, der in Exchange nicht "
            "oder mit falscher Objekt-ID registriert ist",
        ),
        fix=Text(
            en="If the token claims are complained of above, mend that first. `Set-CASMailbox "
            f"-Identity $address -PopEnabled $$true`. {FULL_ACCESS.en}",
            de="Wird oben der Token-Inhalt beanstandet, zuerst das beheben. `Set-CASMailbox "
            f"-Identity $address -PopEnabled $$true`. {FULL_ACCESS.de}",
        ),
        fix_delegated=Text(
            en="If the token claims are complained of above, mend that first. `Set-CASMailbox "
            f"-Identity $address -PopEnabled $$true`. {FULL_ACCESS_PERSON.en}",
            de="Wird oben der Token-Inhalt beanstandet, zuerst das beheben. `Set-CASMailbox "
            f"-Identity $address -PopEnabled $$true`. {FULL_ACCESS_PERSON.de}",
        ),
        seen=("-ERR Authentication failure: unknown user name or bad password.",),
    ),
    Entry(
        code="pop3.basic_auth",
        kind="configuration",
        cause=Text(
            en="the server took the sign-in for one with a password, and passwords have been "
            "switched off for POP3 since 2022",
            de="der Server hat die Anmeldung für eine mit Kennwort gehalten, und Kennwörter "
            "sind für POP3 seit 2022 abgeschaltet",
        ),
        fix=Text(
            en="mailbridge itself only ever sends OAuth tokens: check that `fetch.server` of "
            "this mailbox leads to Exchange Online, and that nothing between changes the "
            'sign-in. If it worked within the last hour, Exchange means "too many '
            'commands": wait a quarter of an hour.',
            de="mailbridge selbst sendet nur OAuth-Token: prüfen, ob `fetch.server` dieses "
            "Postfachs zu Exchange Online führt und nichts dazwischen die Anmeldung "
            'verändert. Ging es in der letzten Stunde noch, meint Exchange "zu viele '
            'Befehle": eine Viertelstunde warten.',
        ),
        seen=("-ERR Logon failure: unknown user name or bad password.",),
    ),
    Entry(
        code="pop3.throttled",
        kind="passing",
        cause=Text(
            en="Exchange throttles this mailbox; it says so with a wish for a pause, or by "
            "refusing a sign-in that worked a moment ago",
            de="Exchange drosselt dieses Postfach; es bittet um eine Pause oder lehnt eine "
            "Anmeldung ab, die eben noch ging",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge waits and loses nothing. If it comes often, "
            "fetch less often (`fetch.every`) or use `fetch.protocol: imap`.",
            de="Es ist nichts zu tun: mailbridge wartet und verliert nichts. Kommt es oft vor, "
            "seltener abrufen (`fetch.every`) oder `fetch.protocol: imap` verwenden.",
        ),
        seen=(
            "-ERR [LOGIN-DELAY]",
            (
                "-ERR Logon failure: unknown user name or bad password. (although it worked within "
                "the hour)"
            ),
        ),
    ),
    Entry(
        code="pop3.protocol_error",
        kind="bug",
        cause=Text(
            en="the server did not take the two lines of the sign-in for one",
            de="der Server hat die zwei Zeilen der Anmeldung nicht als solche erkannt",
        ),
        fix=Text(
            en="Check that nothing between changes the sign-in (a mail gateway, a POP3 proxy). "
            "If it is Exchange Online itself, report it, or use `fetch.protocol: imap`.",
            de="Prüfen, ob etwas dazwischen die Anmeldung verändert (Mail-Gateway, "
            "POP3-Proxy). Ist es Exchange Online selbst, bitte melden oder `fetch.protocol: "
            "imap` verwenden.",
        ),
        seen=("-ERR Protocol error. Connection is closed. 10",),
    ),
    Entry(
        code="pop3.token_too_long",
        kind="configuration",
        cause=Text(
            en="the token has more than the 4,096 characters that this POP3 front end of "
            "Exchange Online takes",
            de="das Token hat mehr als die 4.096 Zeichen, die dieser POP3-Eingangsserver von "
            "Exchange Online annimmt",
        ),
        fix=Text(
            en="Use `fetch.protocol: imap`, which has no such limit, or make the token "
            "shorter: fewer groups, optional claims or app roles in the app registration "
            "$client_id.",
            de="`fetch.protocol: imap` verwenden, das keine solche Grenze hat, oder das Token "
            "verkürzen: weniger Gruppen, optionale Ansprüche oder App-Rollen in der "
            "App-Registrierung $client_id.",
        ),
        seen=("-ERR Protocol error. Connection is closed. 10",),
    ),
    Entry(
        code="pop3.token_long",
        kind="configuration",
        cause=Text(
            en="the token has more than 4,096 characters, which some of Exchange Online's POP3 "
            "front ends refuse",
            de="das Token hat mehr als 4.096 Zeichen, die manche POP3-Eingangsserver von "
            "Exchange Online ablehnen",
        ),
        fix=Text(
            en="Before it is refused (limit: 4,096): use `fetch.protocol: imap`, or make the "
            "token shorter: fewer groups, optional claims or app roles in the app "
            "registration $client_id.",
            de="Bevor es abgelehnt wird (Grenze: 4.096): `fetch.protocol: imap` verwenden oder "
            "das Token verkürzen: weniger Gruppen, optionale Ansprüche oder App-Rollen in "
            "der App-Registrierung $client_id.",
        ),
    ),
    Entry(
        code="pop3.wrong_state",
        kind="configuration",
        cause=Text(
            en="the server does not permit this command now: STLS where TLS is on already, or "
            "one before the sign-in",
            de="der Server erlaubt diesen Befehl jetzt nicht: STLS, obwohl TLS schon aktiv "
            "ist, oder einer vor der Anmeldung",
        ),
        fix=Text(
            en="Port 995 speaks TLS from the start: write `tls: implicit` beside it in "
            "`fetch.server`.",
            de="Port 995 spricht von Anfang an TLS: in `fetch.server` daneben `tls: implicit` "
            "eintragen.",
        ),
        seen=("-ERR Command is not valid in this state.",),
    ),
    Entry(
        code="pop3.server_closed",
        kind="passing",
        cause=Text(
            en="the server ends the session: it was idle for too long, or the server is "
            "shutting down",
            de="der Server beendet die Sitzung: sie war zu lange untätig, oder der Server "
            "fährt herunter",
        ),
        fix=BY_ITSELF,
        seen=(
            "-ERR Connection is closed. 10",
            "-ERR Connection is closed. 11",
            "-ERR Connection is closed. 13",
        ),
    ),
    Entry(
        code="pop3.no_uidl",
        kind="configuration",
        cause=Text(
            en="the server gives no unique ids (UIDL), so new mail cannot be told from old",
            de="der Server vergibt keine eindeutigen Kennungen (UIDL), neue Nachrichten sind "
            "von alten nicht zu unterscheiden",
        ),
        fix=Text(
            en="Use `fetch.protocol: imap` for this mailbox.",
            de="Für dieses Postfach `fetch.protocol: imap` verwenden.",
        ),
    ),
    Entry(
        code="pop3.no_xoauth2",
        kind="configuration",
        cause=Text(
            en="the server does not take OAuth tokens here",
            de="der Server nimmt hier keine OAuth-Token an",
        ),
        fix=Text(
            en="Check `fetch.server`: Exchange Online is outlook.office365.com, port 995, "
            "`tls: implicit`.",
            de="`fetch.server` prüfen: Exchange Online ist outlook.office365.com, Port 995, "
            "`tls: implicit`.",
        ),
    ),
    Entry(
        code="pop3.no_starttls",
        kind="configuration",
        cause=Text(
            en="the server offers no STLS, and without TLS nothing is sent",
            de="der Server bietet kein STLS, und ohne TLS wird nichts gesendet",
        ),
        fix=Text(
            en="Use port 995 with `tls: implicit`, as Exchange Online wants it.",
            de="Port 995 mit `tls: implicit` verwenden, wie Exchange Online es verlangt.",
        ),
    ),
)
