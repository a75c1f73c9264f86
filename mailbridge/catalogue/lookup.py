"""From a code to its entry, and to the words for one mailbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from string import Template
from typing import Final

from mailbridge.catalogue import (
    claims,
    delivery,
    entra_apps,
    entra_credentials,
    entra_grants,
    entra_outages,
    entra_own,
    entra_people,
    entra_requests,
    entra_scopes,
    mail,
    network,
    pop3,
    proxies,
    refusals,
    sessions,
    smtp,
    smtp_mail,
    smtp_senders,
    smtp_servers,
    storage,
)
from mailbridge.catalogue.base import Entry, Ids, Language

#: what stands in a fix for an id that nobody knows yet
_UNKNOWN: Final[Mapping[str, Mapping[Language, str]]] = {
    "mailbox": {"en": "<mailbox>", "de": "<Postfach>"},
    "address": {"en": "<address of the mailbox>", "de": "<Adresse des Postfachs>"},
    "account": {"en": "<account>", "de": "<Konto>"},
    "sender": {"en": "<address of the sender>", "de": "<Adresse des Absenders>"},
    "app": {"en": "<app>", "de": "<App>"},
    "tenant": {"en": "<tenant id>", "de": "<Mandanten-ID>"},
    "client_id": {"en": "<application (client) id>", "de": "<Anwendungs-ID (Client)>"},
    "object_id": {
        "en": "<object id of the enterprise application>",
        "de": "<Objekt-ID der Unternehmensanwendung>",
    },
    "server": {"en": "<server>", "de": "<Server>"},
    "login": {"en": "mailbridge login", "de": "mailbridge login"},
    "sign_in": {"en": "application", "de": "application"},
}


def _collected(parts: Iterable[Iterable[Entry]]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for part in parts:
        for entry in part:
            if entry.code in found:
                msg = f"two entries of the catalogue have the code {entry.code}"
                raise ValueError(msg)
            found[entry.code] = entry
    return found


#: every entry by its code
CATALOGUE: Final[Mapping[str, Entry]] = _collected(
    module.ENTRIES
    for module in (
        *(entra_credentials, entra_apps, entra_scopes, entra_requests),
        *(entra_people, entra_grants, entra_outages, entra_own, claims),
        *(mail, pop3, sessions, smtp, smtp_servers, smtp_senders, smtp_mail),
        *(network, proxies, delivery, refusals, storage),
    )
)


def filled(template: str, ids: Ids, language: Language) -> str:
    """Return a sentence of the catalogue with the ids in it."""
    given = asdict(ids)
    # Where nobody else signs in or is the sender, the mailbox itself does and is.
    given |= {name: given[name] or ids.address for name in ("account", "sender")}
    known = {name: value or _UNKNOWN[name][language] for name, value in given.items()}
    return Template(template).substitute(known)


def explain(
    code: str, ids: Ids, language: Language = "en", *, said: str = "", fix: str = ""
) -> tuple[str, str]:
    """Return cause and fix for a code; what the catalogue lacks is told in the server's words.

    ``said`` and ``fix`` are those words, and no template.
    """
    entry = CATALOGUE.get(code)
    if entry is None:
        return said, fix
    cause = filled(entry.cause.of(language), ids, language)
    if entry.own_fix and fix and language == "en":
        return cause, fix
    mends = entry.fix
    if entry.fix_delegated is not None and ids.sign_in != "application":
        mends = entry.fix_delegated
    return cause, filled(mends.of(language), ids, language)


def named(code: str, fix: str, ids: Ids) -> str:
    """Return an error's fix with the ids of its mailbox, where the catalogue wrote it.

    What is not known outside of a diagnosis, as the object id, is left to that.
    """
    entry = CATALOGUE.get(code)
    if entry is None or entry.own_fix or not fix:
        return fix
    _, told = explain(code, ids)
    holes = any(unknown["en"] in told for unknown in _UNKNOWN.values() if "<" in unknown["en"])
    rest = f" `mailbridge test-mailbox {ids.mailbox}` fills in the rest." if holes else ""
    return f"{told}{rest}"


def mends(code: str) -> str:
    """Return the fix of a code in English, for errors whose mailbox nobody knows yet."""
    return explain(code, Ids())[1]
