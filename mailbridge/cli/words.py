"""What people read in the mail log, in English and German.

JSON is never translated, nor is what others said: a server's or a receiver's answer stands in
its own words. Our own reasons are stored in English, and known here by their form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import typer

Language = Literal["en", "de"]

Lang = Annotated[
    Language | None,
    typer.Option("--lang", help="Language of the text. Default: that of the environment."),
]

_ENGLISH: Final[Mapping[str, str]] = {
    # states of messages and deliveries
    "accepted": "accepted",
    "claimed": "in hand",
    "dead": "dead",
    "deferred": "deferred",
    "delivered": "delivered",
    "dropped": "dropped",
    "gap": "gap",
    "held": "held",
    "known": "known",
    "queued": "queued",
    "unrouted": "unrouted",
    "test": "test",
    # the log
    "column.at": "accepted (UTC)",
    "column.state": "state",
    "column.mailbox": "mailbox",
    "column.folder": "folder",
    "column.uid": "uid",
    "column.size": "size",
    "column.route": "route",
    "column.id": "id",
    "column.why": "why",
    "log.empty": "no messages",
    "log.lost": "the database does not answer, trying again: {error}",
    "log.follow_state": "--follow shows messages when they arrive; of states, it can be given only "
    "those that a message arrives in: {states}",
    "why.waits": "waits for {webhook}",
    "why.tried": "{webhook}: {reason}, tried {tries} times",
    "why.webhook": "{webhook}: {reason}",
    "why.unrouted": "no route took it",
    "why.known": "is {id}",
    "why.gap": "{reason}, tried {tries} times",
    "why.unsettled": "server not told yet",
    # what routes say
    "verdict.deliver": "takes it",
    "verdict.hold": "holds it",
    "verdict.drop": "drops it",
    "verdict.passed_by": "passes it by",
    # one message
    "trace.unknown": "nothing is known of {id}",
    "trace.place": "mailbox {mailbox} ({address}), folder {folder}, {place}",
    "trace.mail": "Message-ID {message_id}, {size} bytes, sha256 {sha256}",
    "trace.seen": "seen by the server   {at} UTC",
    "trace.gap": "gap since            {at} UTC: {reason}, {tries} tries",
    "trace.accepted": "accepted             {at} UTC",
    "trace.told": "server told          {at} UTC",
    "trace.untold": "server not told yet",
    "trace.known": "known before as      {id}",
    "trace.purged": "raw bytes purged by retention",
    "trace.routes": "routes",
    "trace.no_routes": "no route was asked",
    "trace.for": "for {webhooks}",
    "trace.missing": "{names}: not found",
    "trace.delivery": "delivery {id} to {webhook}: {state}, {type}, {tries} attempt(s)",
    "trace.route": "by route {route}",
    "trace.due": "due {at} UTC",
    "trace.replay": "replay {replay}",
    "trace.reason": "why: {reason}",
    "trace.expires": "too old from {at} UTC on, then {verdict}",
    "trace.falls_back": "goes to the fallback too, unless taken until {at} UTC",
    "trace.release": "release it: mailbridge queue retry {id}   give it up: mailbridge queue drop "
    "{id} --yes",
    "trace.attempt": "{at}  attempt {number}: {outcome} in {ms} ms  {said}",
    "then.hold": "held",
    "then.drop": "dropped",
    "then.deliver": "delivered all the same",
    "outcome.delivered": "delivered",
    "outcome.deferred": "deferred",
    "outcome.rejected": "rejected",
}

_GERMAN: Final[Mapping[str, str]] = {
    "accepted": "angenommen",
    "claimed": "in Arbeit",
    "dead": "tot",
    "deferred": "aufgeschoben",
    "delivered": "zugestellt",
    "dropped": "verworfen",
    "gap": "Lücke",
    "held": "zurückgehalten",
    "known": "bekannt",
    "queued": "wartet",
    "unrouted": "ohne Route",
    "test": "Test",
    "column.at": "angenommen (UTC)",
    "column.state": "Zustand",
    "column.mailbox": "Postfach",
    "column.folder": "Ordner",
    "column.uid": "UID",
    "column.size": "Größe",
    "column.route": "Route",
    "column.id": "Kennung",
    "column.why": "warum",
    "log.empty": "keine Nachrichten",
    "log.lost": "die Datenbank antwortet nicht, neuer Versuch: {error}",
    "log.follow_state": "--follow zeigt Nachrichten, wenn sie eintreffen; von den Zuständen geht "
    "dabei nur, worin eine Nachricht eintrifft: {states}",
    "why.waits": "wartet auf {webhook}",
    "why.tried": "{webhook}: {reason}, {tries}-mal versucht",
    "why.webhook": "{webhook}: {reason}",
    "why.unrouted": "keine Route nahm sie",
    "why.known": "ist {id}",
    "why.gap": "{reason}, {tries}-mal versucht",
    "why.unsettled": "dem Server noch nicht gesagt",
    "verdict.deliver": "nimmt sie",
    "verdict.hold": "hält sie zurück",
    "verdict.drop": "verwirft sie",
    "verdict.passed_by": "lässt sie vorbei",
    "trace.unknown": "von {id} ist nichts bekannt",
    "trace.place": "Postfach {mailbox} ({address}), Ordner {folder}, {place}",
    "trace.mail": "Message-ID {message_id}, {size} Bytes, SHA-256 {sha256}",
    "trace.seen": "auf dem Server seit   {at} UTC",
    "trace.gap": "Lücke seit            {at} UTC: {reason}, {tries} Versuche",
    "trace.accepted": "angenommen            {at} UTC",
    "trace.told": "dem Server gesagt     {at} UTC",
    "trace.untold": "dem Server noch nicht gesagt",
    "trace.known": "zuvor bekannt als     {id}",
    "trace.purged": "der Wortlaut ist nach Ablauf der Frist entfernt",
    "trace.routes": "Routen",
    "trace.no_routes": "keine Route wurde gefragt",
    "trace.for": "für {webhooks}",
    "trace.missing": "{names}: nicht gefunden",
    "trace.delivery": "Zustellung {id} an {webhook}: {state}, {type}, {tries} Versuch(e)",
    "trace.route": "durch Route {route}",
    "trace.due": "fällig {at} UTC",
    "trace.replay": "{replay}. Wiederholung",
    "trace.reason": "warum: {reason}",
    "trace.expires": "zu alt ab {at} UTC, dann {verdict}",
    "trace.falls_back": "geht auch an den Ersatz, wenn bis {at} UTC nicht angenommen",
    "trace.release": "freigeben: mailbridge queue retry {id}   aufgeben: mailbridge queue drop "
    "{id} --yes",
    "trace.attempt": "{at}  Versuch {number}: {outcome} in {ms} ms  {said}",
    "then.hold": "zurückgehalten",
    "then.drop": "verworfen",
    "then.deliver": "trotzdem zugestellt",
    "outcome.delivered": "zugestellt",
    "outcome.deferred": "aufgeschoben",
    "outcome.rejected": "abgelehnt",
}

WORDS: Final[Mapping[Language, Mapping[str, str]]] = {"en": _ENGLISH, "de": _GERMAN}

#: our own reasons, as they are stored, and what they are in German
_REASONS: Final = tuple(
    (re.compile(form), german)
    for form, german in (
        (r"matches", "passt"),
        (r"authenticated", "echt"),
        (r"young enough", "jung genug"),
        (r"not asked: (.+) is the last for it", r"nicht gefragt: \1 war die letzte für sie"),
        (r"the route has no webhook", "die Route hat keinen Webhook"),
        (r"routing failed", "das Befragen der Routen misslang"),
        (r"duplicate of (\S+) (\d+) s before", r"Duplikat von \1, \2 s danach"),
        (r"too old: it expired at (\S+)", r"zu alt: abgelaufen um \1"),
        (
            r"too old: received (.+) ago, and max_age is (.+)",
            r"zu alt: vor \1 empfangen, und max_age ist \2",
        ),
        (
            r"not authenticated: the mail has no single author",
            "nicht echt: die Mail hat nicht genau einen Absender",
        ),
        (
            r"not authenticated: it has no Authentication-Results of our own mail service",
            "nicht echt: ohne Authentication-Results des eigenen Maildienstes",
        ),
        (
            r"not authenticated: nothing proves the author's domain (\(.*\))",
            r"nicht echt: nichts belegt die Domain des Absenders \1",
        ),
        (
            r"from: the mail has no single author (\(.*\))",
            r"from: die Mail hat nicht genau einen Absender \1",
        ),
        (
            r"from: («.*») is none of the wanted senders",
            r"from: \1 ist keiner der gewünschten Absender",
        ),
        (
            r"(\w+): none of the (\d+) addresses is wanted",
            r"\1: keine der \2 Adressen ist gewünscht",
        ),
        (r"has_attachment: (\d+) attachments", r"has_attachment: \1 Anhänge"),
        (r"has_attachment: there is none", "has_attachment: es gibt keinen"),
        (
            r"attachment: none of the (\d+) file names is wanted",
            r"attachment: keiner der \1 Dateinamen ist gewünscht",
        ),
        (
            r"(\w+): the regex finds nothing in (.*)",
            r"\1: der reguläre Ausdruck findet nichts in \2",
        ),
        (r"headers: there is no (.*)", r"headers: es gibt kein \1"),
        (r"dropped by a person", "von einem Menschen verworfen"),
        (r"replayed", "erneut zugestellt"),
        (
            r"a dead letter for longer than state\.keep\.dead",
            "länger tot als in state.keep.dead erlaubt",
        ),
        (r"its raw bytes are gone", "ihr Wortlaut ist fort"),
        (r"rejected at attempt (\d+): (.*)", r"beim \1. Versuch abgelehnt: \2"),
        (
            r"not delivered within (\S+) days; last answer: (.*)",
            r"in \1 Tagen nicht zugestellt; letzte Antwort: \2",
        ),
    )
)


def language(environ: Mapping[str, str]) -> Language:
    """Return the language of an environment, as programs read it: the first that is set counts."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environ.get(name, ""):
            return "de" if re.match(r"de([_.@]|$)", value) else "en"
    return "en"


def word(lang: Language, key: str, **values: object) -> str:
    """Return a text with its values filled in."""
    return WORDS[lang][key].format(**values)


def reason(lang: Language, text: str) -> str:
    """Return a stored reason in this language; what is not our own stays as it was said."""
    if lang == "en":
        return text
    whole = _german(text)
    return whole if whole != text else "; ".join(map(_part, text.split("; ")))


def _part(text: str) -> str:
    if text.startswith("matches, "):
        return ", ".join(map(_german, text.split(", ")))
    return _german(text)


def _german(text: str) -> str:
    for form, german in _REASONS:
        if found := form.fullmatch(text):
            return found.expand(german)
    return text
