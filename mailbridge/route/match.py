"""Does a route's ``match`` take this mail? And if not, which condition said no."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from mailbridge.parse.parsed import Address, ParsedMessage
from mailbridge.route.address import Addresses, Spelling, compile_glob, folded, spelling
from mailbridge.route.base import MatchSpec, RouteFault
from mailbridge.route.regex import Regex, compile_regex
from mailbridge.trust import Authentication, authentication

T = TypeVar("T")
SpecT = TypeVar("SpecT")

#: characters of a mail that a reason quotes, escaped
QUOTED: Final = 80


def quoted(text: str) -> str:
    """Return the beginning of what a sender wrote, fit to be read on one line."""
    cut = text[: QUOTED + 1]
    safe = cut
    if not cut.isprintable():
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return f"«{safe}»" if len(safe) <= QUOTED else f"«{safe[: QUOTED - 1]}…»"


class Sight:
    """What routes look at in one mail; each is made once, when the first route asks."""

    def __init__(self, message: ParsedMessage) -> None:
        self.message = message

    @cached_property
    def authentication(self) -> Authentication:
        """What our own mail service found out about the author."""
        return authentication(self.message)

    @cached_property
    def author(self) -> Spelling | None:
        """The one author, ``None`` where two readers could name two."""
        message = self.message
        if message.from_ambiguous or message.from_fields != 1 or len(message.from_) != 1:
            return None
        return spelling(message.from_[0].address or "")

    @cached_property
    def to(self) -> tuple[Spelling, ...]:
        """Who stands in To."""
        return _spellings(self.message.to)

    @cached_property
    def cc(self) -> tuple[Spelling, ...]:
        """Who stands in Cc."""
        return _spellings(self.message.cc)

    @cached_property
    def recipients(self) -> tuple[Spelling, ...]:
        """Everybody whom the mail names as a recipient."""
        delivered = [value.strip().strip("<>") for value in self.message.delivered_to]
        others = [found for value in delivered if (found := spelling(value)) is not None]
        return (*self.to, *self.cc, *_spellings(self.message.bcc), *others)

    @cached_property
    def subject(self) -> bytes:
        """The subject as regexes read it; a mail without one has an empty one."""
        return (self.message.subject or "").encode("utf-8", "replace")

    @cached_property
    def text(self) -> bytes:
        """The text as regexes read it: the text part, else the text of the html."""
        body = self.message.text
        return body.content.encode("utf-8", "replace") if body is not None else b""

    @cached_property
    def headers(self) -> Mapping[str, list[str]]:
        """The decoded values of header fields, by their names in lower case."""
        found: dict[str, list[str]] = {}
        for header in self.message.headers:
            found.setdefault(header.key, []).append(header.value)
        return found

    @cached_property
    def filenames(self) -> tuple[str, ...]:
        """The names of attachments, folded."""
        return tuple([folded(part.filename) for part in self.message.attachments if part.filename])


def _spellings(addresses: Iterable[Address]) -> tuple[Spelling, ...]:
    found = [spelling(address.address or "") for address in addresses]
    return tuple([one for one in found if one is not None])


#: says why a mail does not fit, nothing if it does
Condition = Callable[[Sight], str | None]


@dataclass(frozen=True, slots=True)
class Match:
    """The compiled ``match`` of a route: all of its conditions have to hold."""

    conditions: tuple[Condition, ...]

    def objection(self, sight: Sight) -> str | None:
        """Return why this mail does not fit, ``None`` if it does: the first condition that fails.

        Cheap conditions are asked first.
        """
        return next((said for ask in self.conditions if (said := ask(sight)) is not None), None)


def compile_match(spec: MatchSpec) -> Match:
    """Return the compiled conditions; raises ``RouteFault`` with ``at`` below ``match``."""
    asked: list[Condition] = []
    if spec.from_:
        asked.append(_author(_at(Addresses, spec.from_, "from")))
    if spec.to:
        asked.append(_anybody("to", _at(Addresses, spec.to, "to"), lambda sight: sight.to))
    if spec.cc:
        asked.append(_anybody("cc", _at(Addresses, spec.cc, "cc"), lambda sight: sight.cc))
    if spec.recipient:
        anybody = _at(Addresses, spec.recipient, "recipient")
        asked.append(_anybody("recipient", anybody, lambda sight: sight.recipients))
    if spec.has_attachment is not None:
        asked.append(_has_attachment(wanted=spec.has_attachment))
    if spec.attachment:
        asked.append(_attachment(spec.attachment))
    if spec.subject:
        asked.append(_subject(_at(compile_regex, spec.subject, "subject")))
    for name, pattern in spec.headers.items():
        asked.append(_header(name, _at(compile_regex, pattern, "headers", name)))
    if spec.text:
        asked.append(_text(_at(compile_regex, spec.text, "text")))
    return Match(tuple(asked))


def _at(compile_: Callable[[SpecT], T], spec: SpecT, *path: str) -> T:
    """Compile, and let a fault say where below ``match`` it is."""
    try:
        return compile_(spec)
    except RouteFault as fault:
        raise fault.below(*path) from None


def _author(wanted: Addresses) -> Condition:
    def ask(sight: Sight) -> str | None:
        if sight.author is None:
            return f"from: the mail has no single author ({_authors(sight.message)})"
        if wanted.fit(sight.author):
            return None
        return f"from: {quoted(str(sight.author))} is none of the wanted senders"

    return ask


def _authors(message: ParsedMessage) -> str:
    if message.from_fields != 1:
        return f"{message.from_fields} From fields"
    if len(message.from_) != 1:
        return f"{len(message.from_)} addresses in From"
    return "its From can be read in two ways"


def _anybody(name: str, wanted: Addresses, who: Callable[[Sight], Sequence[Spelling]]) -> Condition:
    def ask(sight: Sight) -> str | None:
        if any(wanted.fit(address) for address in who(sight)):
            return None
        return f"{name}: none of the {len(who(sight))} addresses is wanted"

    return ask


def _has_attachment(*, wanted: bool) -> Condition:
    def ask(sight: Sight) -> str | None:
        count = len(sight.message.attachments)
        if (count > 0) is wanted:
            return None
        return f"has_attachment: {count} attachments" if count else "has_attachment: there is none"

    return ask


def _attachment(globs: Sequence[str]) -> Condition:
    tests = [compile_glob(glob) for glob in globs]

    def ask(sight: Sight) -> str | None:
        if any(test(name) for name in sight.filenames for test in tests):
            return None
        return f"attachment: none of the {len(sight.filenames)} file names is wanted"

    return ask


def _subject(wanted: Regex) -> Condition:
    def ask(sight: Sight) -> str | None:
        if wanted.fits(sight.subject):
            return None
        return f"subject: the regex finds nothing in {quoted(sight.message.subject or '')}"

    return ask


def _header(name: str, wanted: Regex) -> Condition:
    key = name.lower()

    def ask(sight: Sight) -> str | None:
        values = sight.headers.get(key)
        if values is None:
            return f"headers: there is no {name}"
        if any(map(wanted.fits, values)):
            return None
        return f"headers: the regex finds nothing in {name}"

    return ask


def _text(wanted: Regex) -> Condition:
    def ask(sight: Sight) -> str | None:
        if wanted.fits(sight.text):
            return None
        size = len(sight.text)
        looked = f"the first {wanted.limit} of " if size > wanted.limit else ""
        return f"text: the regex finds nothing in {looked}{size} bytes"

    return ask
