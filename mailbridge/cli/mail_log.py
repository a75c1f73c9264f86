"""The mail log for people: where each message is and why, at a glance, and one in full."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

import typer

from mailbridge.cli import completing
from mailbridge.cli.daemon import run_async
from mailbridge.cli.data import STYLES, AsJson, moment, reading
from mailbridge.cli.output import emit_json, say, table, tell
from mailbridge.cli.words import Lang, Language, language, reason, word
from mailbridge.documents import document, documents
from mailbridge.errors import TemporaryError

if TYPE_CHECKING:
    from mailbridge.config import Config
    from mailbridge.store.lookup import Filters
    from mailbridge.store.rows import AttemptRow, DeliveryRow, MessageRow, RulingRow, Trace

#: as in the store's rows; spelled out here, since commands load the store when they need it
MessageState = Literal[
    "accepted", "delivered", "dead", "gap", "known", "held", "dropped", "unrouted", "test"
]
#: the states that a message is in when it arrives; it comes to the others later
ARRIVING: Final = ("gap", "known", "held", "dropped", "unrouted", "test")
#: seconds between two looks at what is new
_EVERY: Final = 1.0
#: characters of an extracted text
_SHOWN: Final = 200
_COLUMNS: Final = ("at", "state", "mailbox", "folder", "uid", "size", "route", "id", "why")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("log")(log_)
    app.command()(trace)


def log_(  # noqa: PLR0913 - the options of the command
    ctx: typer.Context,
    *,
    mailbox: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only this mailbox.", autocompletion=completing.mailboxes
        ),
    ] = None,
    route: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only what this route took.", autocompletion=completing.routes
        ),
    ] = None,
    state: Annotated[MessageState | None, typer.Option(help="Only these.")] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this time on.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    lang: Lang = None,
    as_json: AsJson = False,
) -> None:
    """Show the mail log, newest first: one row per message with where it is and why.

    With --follow the newest comes last, and new ones as they arrive, until Ctrl-C; with --json
    one document a line.
    """
    from mailbridge.cli.main import load_config

    spoken = lang or language(os.environ)
    if follow and state is not None and state not in ARRIVING:
        raise typer.BadParameter(word(spoken, "log.follow_state", states=", ".join(ARRIVING)))
    config = load_config(ctx, absent=True)
    filters: Filters = {"mailbox": mailbox, "route": route, "since": since, "limit": limit}
    if state is not None:
        filters["state"] = state
    if follow:
        try:
            run_async(_follow(config, filters, spoken, as_json=as_json))
        except (KeyboardInterrupt, BrokenPipeError):
            _end_output()
        return

    async def rows() -> Sequence[MessageRow]:
        async with reading(config) as store:
            return await store.messages(**filters)

    found = run_async(rows())
    if as_json:
        emit_json(documents(found))
        return
    table(
        [word(spoken, f"column.{name}") for name in _COLUMNS],
        [_line(row, spoken) for row in found],
        styles={word(spoken, name): style for name, style in STYLES.items() if name in _STATES},
        empty=word(spoken, "log.empty"),
    )


_STATES: Final = frozenset({*get_args(MessageState), "deferred"})


async def _follow(config: Config, filters: Filters, lang: Language, *, as_json: bool) -> None:
    """Print lines as they come. While the database does not answer, what comes is not lost."""
    async with reading(config) as store:
        tail = store.tail(**filters)
        failing = False
        while not _nobody_reads():
            try:
                rows = await tail.more()
                failing = False
            except TemporaryError as error:
                if not failing:
                    tell(word(lang, "log.lost", error=error))
                rows, failing = (), True
            for row in rows:
                if as_json:
                    emit_json(document(row), indent=None)
                else:
                    say("  ".join(str(part) for part in _line(row, lang)))
            await asyncio.sleep(_EVERY)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone: there may be nothing to write."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _end_output() -> None:
    """Let nothing be written to standard output any more, not even at the end of the process."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def _line(row: MessageRow, lang: Language) -> list[object]:
    place = row.ref.uidl or row.ref.uid
    at = row.at.strftime("%Y-%m-%d %H:%M:%S")
    routes = ",".join(row.routes) or "-"
    where = [row.ref.mailbox, row.ref.folder, place, row.size, routes, row.id]
    return [at, word(lang, row.state), *where, _why(row, lang)]


def _why(row: MessageRow, lang: Language) -> str:
    """Say in a few words why a message is where it is."""
    said = reason(lang, row.reason)
    facts = {"webhook": row.webhook, "reason": said, "tries": row.tries, "id": row.known_as}
    match row.state:
        case "delivered":
            return word(lang, "why.unsettled") if row.settled is False else ""
        case "gap" | "known" | "unrouted":
            return word(lang, f"why.{row.state}", **facts)
        case "accepted":
            return word(lang, "why.tried" if row.tries and said else "why.waits", **facts)
    return word(lang, "why.webhook", **facts) if row.webhook and said else said


def trace(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A webhook-id, Message-ID or delivery number.")
    ],
    *,
    lang: Lang = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known about one message, by webhook-id, Message-ID or delivery number."""
    from mailbridge.cli.main import load_config

    config = load_config(ctx, absent=True)
    spoken = lang or language(os.environ)

    async def get() -> Trace:
        async with reading(config) as store:
            return await store.trace(name)

    found = run_async(get())
    if not found.messages and not found.deliveries:
        tell(f"mailbridge: {word(spoken, 'trace.unknown', id=name)}")
        raise typer.Exit(1)
    if as_json:
        emit_json(document(found))
        return
    for line in told(found, spoken):
        say(line)


def told(found: Trace, lang: Language) -> Iterator[str]:
    """Return the lines that tell everything about a message."""
    rulings = {ruling.message: ruling for ruling in found.rulings}
    for message in found.messages:
        yield from _message(message, lang)
        if message.id in rulings:
            yield from _ruling(rulings[message.id], lang)
    for delivery in found.deliveries:
        yield from _delivery(delivery, lang)
        for attempt in found.attempts:
            if attempt.delivery == delivery.id:
                yield _attempt(attempt, lang)


def _message(row: MessageRow, lang: Language) -> Iterator[str]:
    ref = row.ref
    place = f"UIDL {ref.uidl}" if ref.uidl else f"UIDVALIDITY {ref.uidvalidity} UID {ref.uid}"
    where = {"mailbox": ref.mailbox, "address": row.address, "folder": ref.folder, "place": place}
    mail = {"message_id": row.message_id or "-", "size": row.size, "sha256": row.sha256 or "-"}
    why = "" if row.state == "gap" else _why(row, lang)
    yield f"{row.id}  {word(lang, row.state)}" + (f"  {why}" if why else "")
    yield "  " + word(lang, "trace.place", **where)
    yield "  " + word(lang, "trace.mail", **mail)
    if row.received_at:
        yield "  " + word(lang, "trace.seen", at=_at(row.received_at))
    if row.state == "gap":
        facts = {"at": _at(row.at), "reason": row.reason, "tries": row.tries}
        yield "  " + word(lang, "trace.gap", **facts)
        return
    yield "  " + word(lang, "trace.accepted", at=_at(row.at))
    if row.settled_at:
        yield "  " + word(lang, "trace.told", at=_at(row.settled_at))
    elif row.settled is False:
        yield "  " + word(lang, "trace.untold")
    if row.known_as:
        yield "  " + word(lang, "trace.known", id=row.known_as)
    if not row.raw_kept:
        yield "  " + word(lang, "trace.purged")


def _ruling(ruling: RulingRow, lang: Language) -> Iterator[str]:
    if not ruling.steps:
        yield "  " + word(lang, "trace.no_routes")
        return
    yield "  " + word(lang, "trace.routes")
    width = max(len(step.route) for step in ruling.steps)
    for step in ruling.steps:
        what = word(lang, f"verdict.{step.verdict}")
        if step.webhooks:
            what += " " + word(lang, "trace.for", webhooks=", ".join(step.webhooks))
        yield f"    {step.route:<{width}}  {what}: {reason(lang, step.reason)}"
        for name, value in step.fields.items():
            if name not in step.missing:
                yield f"    {'':<{width}}    {name} = {_value(value)}"
        if step.missing:
            missing = word(lang, "trace.missing", names=", ".join(step.missing))
            yield f"    {'':<{width}}    {missing}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_value(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _delivery(row: DeliveryRow, lang: Language) -> Iterator[str]:
    state = word(lang, row.state)
    facts = {"id": row.id, "webhook": row.sink, "state": state, "type": row.type}
    parts = [word(lang, "trace.delivery", **facts, tries=row.attempts)]
    waits = row.state in {"queued", "deferred"}
    if row.route:
        parts.append(word(lang, "trace.route", route=row.route))
    if waits:
        parts.append(word(lang, "trace.due", at=_at(row.due_at)))
    if row.replay:
        parts.append(word(lang, "trace.replay", replay=row.replay))
    yield "  " + ", ".join(parts)
    if row.last_reason and row.state != "delivered":
        yield "    " + word(lang, "trace.reason", reason=reason(lang, row.last_reason))
    if waits and row.expires_at:
        verdict = word(lang, f"then.{row.otherwise or 'hold'}")
        yield "    " + word(lang, "trace.expires", at=_at(row.expires_at), verdict=verdict)
    if waits and row.fall_back_at:
        yield "    " + word(lang, "trace.falls_back", at=_at(row.fall_back_at))
    if row.state == "held":
        yield "    " + word(lang, "trace.release", id=row.id)


def _attempt(row: AttemptRow, lang: Language) -> str:
    said = " ".join(str(part) for part in (row.status, row.reason, row.detail) if part)
    outcome = word(lang, f"outcome.{row.outcome}")
    facts = {"number": row.number, "outcome": outcome, "ms": round(row.seconds * 1000)}
    return "    " + word(lang, "trace.attempt", at=_at(row.at), said=said, **facts).rstrip()


def _at(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
