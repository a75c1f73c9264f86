"""What ends a session with a mail server, by IMAP, POP3 and SMTP alike."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import BY_ITSELF, alike

ENTRIES: Final[tuple[Entry, ...]] = (
    *alike(
        "timeout",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "passing",
        cause=Text(
            en="the server did not answer in time",
            de="der Server hat nicht rechtzeitig geantwortet",
        ),
        fix=BY_ITSELF,
        seen=("TimeoutError",),
    ),
    *alike(
        "connection",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "passing",
        cause=Text(
            en="the connection broke off, or could not be made",
            de="die Verbindung ist abgerissen oder kam nicht zustande",
        ),
        fix=BY_ITSELF,
        seen=("ConnectionResetError: [Errno 104] Connection reset by peer",),
    ),
    *alike(
        "eof",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "passing",
        cause=Text(
            en="the server closed the connection without a word, as its front ends do when "
            "they are replaced, and as addresses of ill repute are greeted",
            de="der Server hat die Verbindung wortlos geschlossen, wie es seine Eingangsserver "
            "beim Austausch tun und wie Adressen von schlechtem Ruf begrüßt werden",
        ),
        fix=BY_ITSELF,
        seen=(
            "imaplib.IMAP4.abort: socket error: EOF",
            "SMTPServerDisconnected: Connection unexpectedly closed",
            "SSLEOFError",
        ),
    ),
    *alike(
        "closed",
        (
            "imap",
            "pop3",
        ),
        "passing",
        cause=Text(
            en="the connection had been given up", de="die Verbindung war aufgegeben worden"
        ),
        fix=BY_ITSELF,
    ),
    *alike(
        "no_greeting",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "configuration",
        cause=Text(
            en="the server takes the connection and says nothing: mostly a port that speaks "
            "TLS from the start, asked without",
            de="der Server nimmt die Verbindung an und sagt nichts: meist ein Port, der von "
            "Anfang an TLS spricht und ohne TLS angesprochen wird",
        ),
        fix=Text(
            en="Ports 993, 995 and 465 want `tls: implicit`, ports 143, 110 and 587 `tls: "
            "starttls`. If that is as it should be, a firewall lets the connection to "
            "$server pass and nothing of what is said.",
            de="Die Ports 993, 995 und 465 verlangen `tls: implicit`, die Ports 143, 110 und "
            "587 `tls: starttls`. Stimmt das, lässt eine Firewall die Verbindung zu $server "
            "zu, aber nichts von dem, was gesagt wird.",
        ),
    ),
    *alike(
        "wrong_port",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "configuration",
        cause=Text(
            en="another kind of server answers there than this mailbox expects",
            de="dort antwortet eine andere Art von Server, als dieses Postfach erwartet",
        ),
        fix=Text(
            en="Check the port of $server: 993 is IMAP, 995 is POP3 (both `tls: implicit`), "
            "587 is SMTP (`tls: starttls`); `fetch.protocol` has to fit.",
            de="Den Port von $server prüfen: 993 ist IMAP, 995 ist POP3 (beide `tls: "
            "implicit`), 587 ist SMTP (`tls: starttls`); `fetch.protocol` muss dazu passen.",
        ),
        seen=(
            "-ERR Protocol error. 19",
            "+OK The Microsoft Exchange POP3 service is ready. (to an IMAP client)",
            "* OK The Microsoft Exchange IMAP4 service is ready. (to a POP3 client)",
        ),
    ),
    *alike(
        "server_unavailable",
        (
            "imap",
            "pop3",
        ),
        "passing",
        cause=Text(
            en="the server behind Exchange's front door has a problem with this mailbox or "
            "this message",
            de="der Server hinter Exchanges Eingang hat ein Problem mit diesem Postfach oder "
            "dieser Nachricht",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge tries again. If always the same message is "
            "meant, it is set aside and reported, and the others are fetched.",
            de="Es ist nichts zu tun: mailbridge versucht es erneut. Ist immer dieselbe "
            "Nachricht betroffen, wird sie zurückgestellt und gemeldet, die anderen werden "
            "abgerufen.",
        ),
        seen=("Server Unavailable. 15",),
    ),
    *alike(
        "too_many_sessions",
        (
            "imap",
            "pop3",
        ),
        "passing",
        cause=Text(
            en="more sessions of this mailbox are open than the server permits",
            de="es sind mehr Sitzungen dieses Postfachs offen, als der Server erlaubt",
        ),
        fix=Text(
            en="Close other programs that keep $address open, or watch fewer folders of it; "
            "mailbridge tries again by itself.",
            de="Andere Programme schließen, die $address geöffnet halten, oder weniger Ordner "
            "überwachen; mailbridge versucht es von selbst erneut.",
        ),
        seen=("NO [LIMIT] Maximum number of connections exceeded", "-ERR BYE Connection refused"),
    ),
    *alike(
        "no_data",
        (
            "imap",
            "pop3",
        ),
        "configuration",
        cause=Text(
            en="the server lists a message and gives nothing for it: Exchange cannot render "
            "that item",
            de="der Server führt eine Nachricht auf und liefert nichts dafür: Exchange kann "
            "dieses Element nicht darstellen",
        ),
        fix=Text(
            en="Nothing is to be done for the others: mailbridge asks for it a few more times, "
            "then sets it aside and reports it. Open it in Outlook; forwarding it to "
            "$address makes a message that can be fetched.",
            de="Für die anderen ist nichts zu tun: mailbridge fragt noch einige Male danach, "
            "stellt es dann zurück und meldet es. In Outlook öffnen; an $address "
            "weitergeleitet wird daraus eine Nachricht, die sich abrufen lässt.",
        ),
        seen=(
            "OK FETCH completed. (without the message)",
            "Retrieval using the IMAP4 protocol failed for the following message",
        ),
    ),
    *alike(
        "refused",
        (
            "imap",
            "pop3",
        ),
        "passing",
        cause=Text(
            en="the server refuses a command, with the words that are shown",
            de="der Server lehnt einen Befehl ab, mit den gezeigten Worten",
        ),
        fix=Text(
            en="mailbridge tries again. If it stays, the words of the server say what is "
            "missing; `mailbridge test-mailbox $mailbox` shows the step.",
            de="mailbridge versucht es erneut. Bleibt es dabei, sagen die Worte des Servers, "
            "was fehlt; `mailbridge test-mailbox $mailbox` zeigt den Schritt.",
        ),
    ),
    *alike(
        "protocol",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "bug",
        cause=Text(
            en="the server's answer could not be understood",
            de="die Antwort des Servers war nicht zu verstehen",
        ),
        fix=Text(
            en="Check that $server is what this mailbox expects and that no gateway between "
            "changes what is said. If it is Exchange Online, report it; mailbridge tries "
            "again.",
            de="Prüfen, ob $server das ist, was dieses Postfach erwartet, und ob kein Gateway "
            "dazwischen das Gesagte verändert. Ist es Exchange Online, bitte melden; "
            "mailbridge versucht es erneut.",
        ),
    ),
    *alike(
        "too_large",
        (
            "imap",
            "pop3",
        ),
        "bug",
        cause=Text(
            en="the server announces an answer larger than any mailbox can hold",
            de="der Server kündigt eine Antwort an, die größer ist als jedes Postfach",
        ),
        fix=Text(
            en="The message is set aside and reported, the others are fetched. Look at it in "
            "Outlook.",
            de="Die Nachricht wird zurückgestellt und gemeldet, die anderen werden abgerufen. "
            "Die Nachricht in Outlook ansehen.",
        ),
    ),
)
