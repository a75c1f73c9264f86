"""Print docs/troubleshooting.md and its German sister: ``python -m scripts.troubleshooting``.

They are made of the whole catalogue of failures, and of what only a diagnosis finds. ``--check``
writes nothing and exits with 1 when a page is not what the catalogue says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mailbridge.catalogue.base import Entry, Ids, Kind, Language, Text
from mailbridge.catalogue.lookup import CATALOGUE
from mailbridge.diagnose.own import OWN, cause_and_fix

ROOT = Path(__file__).resolve().parent.parent
PAGES: Final[Mapping[Language, str]] = {
    "en": "docs/troubleshooting.md",
    "de": "docs/troubleshooting.de.md",
}

#: what stands for a mailbox's own ids
_IDS: Final[Mapping[Language, Ids]] = {
    "en": Ids(
        mailbox="MAILBOX",
        address="ADDRESS",
        account="ACCOUNT",
        sender="SENDER",
        app="APP",
        tenant="TENANT-ID",
        client_id="CLIENT-ID",
        object_id="OBJECT-ID",
        server="SERVER",
        login="mailbridge login MAILBOX",
    ),
    "de": Ids(
        mailbox="POSTFACH",
        address="ADRESSE",
        account="KONTO",
        sender="ABSENDER",
        app="APP",
        tenant="MANDANTEN-ID",
        client_id="CLIENT-ID",
        object_id="OBJEKT-ID",
        server="SERVER",
        login="mailbridge login POSTFACH",
    ),
}

_HEAD: Final = Text(
    en="""\
<!-- made by `python -m scripts.troubleshooting`; change mailbridge/catalogue instead -->

# Troubleshooting

[Deutsch](troubleshooting.de.md)

Every failure that mailbridge knows has a code: in `mailbridge status`, in the log (`code=`), in
events, and in what `mailbridge test-mailbox MAILBOX` prints, where cause and fix come with your
own ids filled in. Look here for a code or for the words of a server.

In the commands `ADDRESS` stands for the mailbox, `ACCOUNT` for the person who signs in, `CLIENT-ID`
for the app registration and `OBJECT-ID` for the Object ID of its *enterprise application*, which
is the token's `oid`, and not that of the app registration. Commands with `-` in their names are of
Exchange Online PowerShell: `Install-Module ExchangeOnlineManagement`, then
`Connect-ExchangeOnline`.
""",
    de="""\
<!-- erzeugt von `python -m scripts.troubleshooting`; geändert wird mailbridge/catalogue -->

# Fehlersuche

[English](troubleshooting.md)

Jeder Fehler, den mailbridge kennt, hat einen Code: in `mailbridge status`, im Protokoll (`code=`),
in Ereignissen und in der Ausgabe von `mailbridge test-mailbox POSTFACH --lang de`, wo Ursache und
Abhilfe mit den eigenen IDs stehen. Hier nach dem Code oder den Worten eines Servers suchen.

In den Befehlen steht `ADRESSE` für das Postfach, `KONTO` für die Person, die sich anmeldet,
`CLIENT-ID` für die App-Registrierung und `OBJEKT-ID` für die Objekt-ID ihrer
*Unternehmensanwendung*: das ist das `oid` des Tokens und nicht die der App-Registrierung. Befehle
mit `-` im Namen gehören zur Exchange Online PowerShell: `Install-Module
ExchangeOnlineManagement`, dann `Connect-ExchangeOnline`.
""",
)

_KINDS: Final[Mapping[Kind, Text]] = {
    "passing": Text(
        en="Passes: mailbridge tries again by itself.",
        de="Geht vorüber: mailbridge versucht es von selbst erneut.",
    ),
    "configuration": Text(en="Somebody has to change something.", de="Jemand muss etwas ändern."),
    "sign_in_again": Text(
        en="The person has to sign in again.", de="Die Person muss sich erneut anmelden."
    ),
    "bug": Text(
        en="A fault of mailbridge or of the server: report it.",
        de="Ein Fehler von mailbridge oder des Servers: bitte melden.",
    ),
}
_SEEN: Final = Text(en="Seen", de="Meldung")
_CAUSE: Final = Text(en="Cause", de="Ursache")
_FIX: Final = Text(en="Fix", de="Abhilfe")
_PERSON: Final = Text(en="Where a person signs in", de="Wo sich eine Person anmeldet")

#: in this order: the codes that begin like this, and what they are about
_FIELDS: Final[tuple[tuple[str, Text], ...]] = (
    (r"AADSTS", Text(en="Entra: apps, people, permissions", de="Entra: Apps, Personen, Rechte")),
    (r"entra\.|managed_identity\.", Text(en="The way to Entra", de="Der Weg zu Entra")),
    (
        r"app\.|sign_in\.|grant\.|oauth\.|certificate\.|federat|secret\.",
        Text(en="Credentials and consent", de="Zugänge und Zustimmung"),
    ),
    (r"claims\.", Text(en="What a token permits", de="Was ein Token erlaubt")),
    (r"imap\.", Text(en="Fetching by IMAP", de="Abrufen per IMAP")),
    (r"pop3\.", Text(en="Fetching by POP3", de="Abrufen per POP3")),
    (r"(smtp|send)\.", Text(en="Sending", de="Senden")),
    (r"dns|tcp|tls", Text(en="DNS, TCP and TLS", de="DNS, TCP und TLS")),
    (r"proxy\.", Text(en="Proxies", de="Proxys")),
    (
        r"webhook\.|delivery\.|arrival\.|template\.|format\.|attachments\.|probe\.",
        Text(en="Delivery", de="Zustellung"),
    ),
    (r"store\.", Text(en="The database", de="Die Datenbank")),
    (r"", Text(en="mailbridge itself", de="mailbridge selbst")),
)


def page(language: Language) -> str:
    """Return the page in one language."""
    parts = [_HEAD.of(language)]
    for title, entries in _by_field():
        links = ", ".join(f"[{one.code}](#{anchor(one.code)})" for one in entries)
        parts.append(f"## {title.of(language)}\n\n{links}\n")
        parts += ["\n".join(_shown(one, language)) for one in entries]
    return "\n".join(parts)


def anchor(code: str) -> str:
    """Return where the heading of a code is found, as GitHub makes it of the heading."""
    return re.sub(r"[^\w-]", "", code.lower())


def _by_field() -> list[tuple[Text, list[Entry]]]:
    # The catalogue comes first, as in a diagnosis.
    everything = {**OWN, **CATALOGUE}
    left = sorted(everything, key=_order)
    found: list[tuple[Text, list[Entry]]] = []
    for begins, title in _FIELDS:
        mine = [code for code in left if re.match(begins, code)]
        left = [code for code in left if code not in mine]
        if mine:
            found.append((title, [everything[code] for code in mine]))
    return found


def _order(code: str) -> tuple[str, int, str]:
    number = re.search(r"\d+$", code)
    return re.sub(r"\d+$", "", code), int(number[0]) if number else 0, code


def _shown(entry: Entry, language: Language) -> Iterator[str]:
    ids = _IDS[language]
    yield f"### {entry.code}\n"
    for words in entry.seen:
        yield f"* {_SEEN.of(language)}: `{words}`"
    cause, fix = cause_and_fix(entry.code, ids, language, said="", fix="")
    yield f"* {_CAUSE.of(language)}: {_sentence(cause)}"
    yield f"* {_FIX.of(language)}: {_sentence(fix)}"
    if entry.fix_delegated is not None:
        person = replace(ids, sign_in="delegated")
        _, fix = cause_and_fix(entry.code, person, language, said="", fix="")
        yield f"* {_PERSON.of(language)}: {_sentence(fix)}"
    yield f"* {_KINDS[entry.kind].of(language)}\n"


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop, commands and our own name excepted."""
    begins = text if text.startswith("mailbridge") else text[:1].upper() + text[1:]
    return begins if begins.endswith((".", "?", "!", "`", ":")) else f"{begins}."


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which of them is not up to date."""
    stale = []
    for language, name in PAGES.items():
        path, text = ROOT / name, page(language)
        if "--check" in arguments:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"not what the catalogue says: {', '.join(stale)}", file=sys.stderr)
        print("Fix: python -m scripts.troubleshooting", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
