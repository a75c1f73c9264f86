"""What routes said of a mail: what counts of it, how it is kept, what a claim needs of it.

Routes speak in their order, and of two that name a sink the first decides. A route's word is
final but for what only the store knows: whether the mail is a duplicate, and whether it is too
old by now. Then the step has the verdict ``otherwise``.

A ruling is kept as JSON beside the message, ``rulings.steps``: a list of objects, one for each
step, with ``route``, ``verdict`` and ``reason``, and where there are any, ``webhooks``,
``fields``, ``wanted`` and ``duplicate_of``. It holds the word that counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import sqlalchemy as sa

from mailbridge.model import Batch, Notice, Ruling, Step, derived_id
from mailbridge.store import drift, plain
from mailbridge.store.dialect import chunks
from mailbridge.store.driver import Many, among
from mailbridge.store.recent import Former, Question, judge
from mailbridge.store.scan import storable
from mailbridge.store.tables import micros, rulings, takings

HELD: Final = "delivery.held"
#: characters of a reason that are kept
_REASON: Final = 500
_TICK: Final = timedelta(microseconds=1)

_RULINGS: Final = Many(rulings.insert(), "message", "steps", "taken")
_TAKINGS: Final = Many(takings.insert(), "route", "message")
STEPS: Final = sa.select(rulings.c.message, rulings.c.steps).where(among(rulings.c.message))
_FORGET: Final = takings.delete().where(
    takings.c.route == sa.bindparam("of"), takings.c.message == sa.bindparam("number")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What counts of one step. ``verdict`` and ``reason`` are final."""

    step: Step
    verdict: str
    reason: str
    duplicate_of: str | None = None

    @property
    def takes(self) -> bool:
        """Whether the route took the mail, for whatever it then did with it."""
        return self.verdict != "passed_by"

    @property
    def expires_at(self) -> int | None:
        """When what it lets through becomes too old; never, once that was said or is no matter."""
        if self.verdict != "deliver" or self.step.verdict != "deliver" or self.otherwise is None:
            return None
        return None if self.step.expires_at is None else micros(self.step.expires_at)

    @property
    def otherwise(self) -> str | None:
        """What becomes of it then; ``None`` when it would be delivered all the same."""
        return None if self.step.otherwise == "deliver" else self.step.otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done with the mails of a batch, by webhook-id in the order of the batch.

    ``words`` are of the mails that routes spoke of, ``sinks`` is where each goes: the word that
    decides, or ``None`` where no route was asked. ``drifted`` are the events of ``drift``.
    """

    words: Mapping[str, Sequence[Word]]
    sinks: Mapping[str, Mapping[str, Word | None]]
    drifted: Sequence[Notice]

    def deliveries(self, message: str) -> int:
        """Return how many deliveries are made of a mail."""
        return sum(1 for word in self.sinks[message].values() if not dropped(word))


def dropped(word: Word | None) -> bool:
    """Whether a word means that nothing is delivered."""
    return word is not None and word.verdict == "drop"


def plan(connection: sa.Connection, batch: Batch, new: Collection[str], now: int) -> Plan:
    """Decide what becomes of the mails that are new in the store, and remember for duplicates."""
    ruled = {key: batch.rulings[key] for key in new if key in batch.rulings}
    duplicates = judge(connection, list(_questions(ruled, now)), now)
    words = {
        key: [_word(key, step, duplicates, now) for step in ruling] for key, ruling in ruled.items()
    }
    plainly: dict[str, Word | None] = dict.fromkeys(sorted(set(batch.sinks)))
    # A mail that its route holds for what it is, a forged one say, tells nothing of the form.
    taken = [
        (key, step) for key, ruling in ruled.items() for step in ruling if step.verdict == "deliver"
    ]
    return Plan(
        words=words,
        sinks={key: _decided(words[key]) if key in words else plainly for key in new},
        drifted=drift.count(connection, batch.mailbox, taken, now),
    )


def _questions(ruled: Mapping[str, Ruling], now: int) -> Iterator[Question]:
    """Ask only where a mail would otherwise go out: what is held must not silence what follows."""
    for key, ruling in ruled.items():
        named: set[str] = set()
        for step in ruling:
            if step.verdict == "passed_by":
                continue
            decides = not named.issuperset(step.webhooks)
            named.update(step.webhooks)
            within = step.duplicate_within
            asks = step.verdict == "deliver" and step.duplicate_key and within is not None
            if asks and within and decides and not _late(step, now):
                yield Question(
                    message=key, route=step.route, key=step.duplicate_key, within=within // _TICK
                )


def _late(step: Step, now: int) -> bool:
    return step.expires_at is not None and micros(step.expires_at) <= now


def _word(message: str, step: Step, duplicates: Mapping[tuple[str, str], Former], now: int) -> Word:
    reason = storable(step.reason)[:_REASON]
    former = duplicates.get((message, step.route))
    if former is not None:
        return Word(
            step=step,
            verdict=step.otherwise,
            reason=f"duplicate of {former.message} {former.seconds} s before",
            duplicate_of=former.message,
        )
    if step.verdict == "deliver" and step.expires_at is not None and _late(step, now):
        since = step.expires_at.isoformat(timespec="seconds")
        return Word(step=step, verdict=step.otherwise, reason=f"too old: it expired at {since}")
    return Word(step=step, verdict=step.verdict, reason=reason or f"route {step.route}")


def _decided(words: Sequence[Word]) -> dict[str, Word | None]:
    decided: dict[str, Word | None] = {}
    for word in words:
        if word.takes:
            for sink in word.step.webhooks:
                decided.setdefault(sink, word)
    return decided


def write(connection: sa.Connection, made: Plan, numbers: Mapping[str, int]) -> None:
    """Keep what routes said of mails; ``numbers`` are their rows by webhook-id."""
    kept = [
        (
            numbers[key],
            orjson.dumps([_step(word) for word in words]).decode(),
            sum(w.takes for w in words),
        )
        for key, words in made.words.items()
    ]
    if kept:
        _RULINGS.run(connection, kept)
    taken = {
        (word.step.route, numbers[key])
        for key, words in made.words.items()
        for word in words
        if word.takes
    }
    if taken:
        _TAKINGS.run(connection, sorted(taken))


def _step(word: Word) -> dict[str, Any]:
    step = word.step
    kept: dict[str, Any] = {"route": step.route, "verdict": word.verdict, "reason": word.reason}
    if word.takes:
        fields = plain.bounded(step.fields)
        more = {
            "webhooks": list(step.webhooks),
            "fields": fields,
            "wanted": list(step.wanted),
            "duplicate_of": word.duplicate_of,
        }
        kept |= {name: value for name, value in more.items() if value}
    return kept


def forget(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Remove what routes said of messages."""
    for chunk in chunks(list(numbers)):
        rows = connection.execute(STEPS, {"ids": chunk}).all()
        taken = [
            {"of": step["route"], "number": number}
            for number, steps in rows
            for step in orjson.loads(steps)
            if step["verdict"] != "passed_by"
        ]
        if taken:
            connection.execute(_FORGET, taken)
        if rows:
            connection.execute(rulings.delete().where(rulings.c.message.in_(chunk)))


def fields_of(
    connection: sa.Connection, wanted: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], dict[str, Any]]:
    """Return what routes extracted, by number of message and route; none for what had nothing.

    One statement, and none when nothing is wanted.
    """
    if not wanted:
        return {}
    asked = set(wanted)
    rows = connection.execute(STEPS, {"ids": sorted({number for number, _ in asked})}).all()
    return {
        (number, step["route"]): step["fields"]
        for number, steps in rows
        for step in orjson.loads(steps)
        if (number, step["route"]) in asked and step.get("fields")
    }


def held_notice(  # noqa: PLR0913 - what is told, all by keyword
    *, message: str, webhook: str, mailbox: str, route: str | None, reason: str, at: datetime
) -> Notice:
    """Return the event that tells a person of a delivery that was kept back.

    ``message`` is the webhook-id. The event's own id is derived from it and the webhook, so to
    say it twice is harmless. Nothing of the mail's content is in it.
    """
    return Notice(
        id=derived_id("held", [message, webhook]),
        type=HELD,
        mailbox=mailbox,
        at=at,
        data={"message": message, "webhook": webhook, "route": route, "reason": reason},
    )
