"""The command test-mailbox: a mailbox step by step, in the language of whoever reads it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mailbridge.cli import completing, grants
from mailbridge.cli.daemon import run_async
from mailbridge.cli.data import AsJson, ask_daemon
from mailbridge.cli.output import emit_json, say
from mailbridge.cli.probe import ping, threads
from mailbridge.cli.words import Lang, Language, language
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from mailbridge.config import Config
    from mailbridge.diagnose.desk import Ask
    from mailbridge.diagnose.steps import Diagnosis, Step
    from mailbridge.store.store import Store

#: seconds for the daemon to try everything, each step with its own patience
DIAGNOSIS: Final = 600.0
_COLOUR: Final = {"ok": "green", "failed": "red", "warning": "yellow", "skipped": "bright_black"}

Run = Callable[..., Any]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("test-mailbox")(mailbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be tried, and how it is told."""

    language: Language
    send_to: str | None
    quiet: bool


@dataclass(slots=True, kw_only=True)
class _Report:
    """What came of one mailbox."""

    steps: list[Step] = field(default_factory=list)
    round_trip: float | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing has failed; what is left out on purpose is no failure."""
        return not any(step.status == "failed" for step in self.steps)

    def document(self, name: str, *, travelled: bool) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        trip = {"round_trip_seconds": self.round_trip} if travelled else {}
        steps = [asdict(step) for step in self.steps]
        return {"mailbox": name, "ok": self.ok, "steps": steps, **trip}


def mailbox(  # noqa: PLR0913 - the options of the command
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="The mailboxes.", autocompletion=completing.mailboxes),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every mailbox of the file.")] = False,
    send_to: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Send a marked test mail to this address; if it is the mailbox's own, see it "
            "arrive and reach the webhooks that can be told of a test.",
        ),
    ] = None,
    lang: Lang = None,
    as_json: AsJson = False,
) -> None:
    """Diagnose a mailbox step by step: what was seen, what is wrong, and the exact fix.

    Touches nothing in the mailbox, and sends nothing without --send-to. Exit code 1 when a step
    failed.
    """
    from mailbridge.cli.main import load_config

    if bool(names) == every:
        raise typer.BadParameter("name mailboxes, or give --all")
    _check_address(send_to)
    config = load_config(ctx)
    wanted = list(config.mailboxes) if every else list(names or ())
    for name in wanted:
        if name not in config.mailboxes:
            raise MailbridgeError(
                f"there is no mailbox {name!r}", fix=f"one of: {', '.join(config.mailboxes)}"
            )
    wish = _Wish(language=lang or language(os.environ), send_to=send_to, quiet=as_json)

    async def all_of_them() -> list[dict[str, Any]]:
        with threads() as run:
            return [await _tried(config, name, run, wish) for name in wanted]

    reports = run_async(all_of_them())
    if as_json:
        emit_json(reports[0] if len(reports) == 1 else reports)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _check_address(address: str | None) -> None:
    from mailbridge.sinks.smtp_message import BadAddress, on_the_wire

    if address is None:
        return
    try:
        on_the_wire(address)
    except BadAddress as bad:
        raise typer.BadParameter(f"--send-to: {bad}") from bad


# --- one mailbox


async def _tried(config: Config, name: str, run: Run, wish: _Wish) -> dict[str, Any]:
    report = _Report()
    if not wish.quiet:
        typer.secho(name, bold=True)
    async for step in _steps(config, name, run, wish, report):
        report.steps.append(step)
        if not wish.quiet:
            _print_step(step, wish.language)
    if not wish.quiet:
        _print_end(name, report, wish.language)
    return report.document(name, travelled=wish.send_to is not None)


async def _steps(
    config: Config, name: str, run: Run, wish: _Wish, report: _Report
) -> AsyncIterator[Step]:
    from mailbridge.diagnose.steps import Step

    delegated = config.mailboxes[name].sign_in == "delegated"
    if delegated:
        # What a person consented to lies in the database, which a running daemon has open.
        asked = {"mailbox": name, "language": wish.language, "send_to": wish.send_to}
        answer = await ask_daemon(config, "diagnose", asked, seconds=DIAGNOSIS)
        if answer is not None:
            report.round_trip = answer["round_trip"]
            for one in answer["steps"]:
                yield Step(**one)
            return
    async with _diagnosis(config, name, run, wish, needs_store=delegated) as diagnosis:
        async for step in diagnosis.steps():
            yield step
        report.round_trip = diagnosis.round_trip


@asynccontextmanager
async def _diagnosis(
    config: Config, name: str, run: Run, wish: _Wish, *, needs_store: bool
) -> AsyncIterator[Diagnosis]:
    """Give what diagnoses the mailbox here; opens the database only if it has to."""
    from mailbridge.build import utc_now
    from mailbridge.diagnose.desk import trip_to
    from mailbridge.diagnose.steps import Diagnosis
    from mailbridge.sign_ins import SignIns

    ask: Ask | None = None
    if wish.send_to is not None:
        ask = await _daemon(config, name)
    alone = needs_store or (wish.send_to is not None and ask is None)
    async with _store(config, wanted=alone) as store:
        kept = store.grants if store is not None else None
        sign_ins = SignIns(config, grants=kept, now=utc_now, run=run)
        trip = None
        if wish.send_to is not None:
            asking = ask or _own(config, store)
            by = None if ask is not None else partial(ping, config)
            trip = trip_to(wish.send_to, config=config, name=name, ask=asking, ping=by)
        try:
            yield Diagnosis(
                config=config,
                name=name,
                sign_in=sign_ins.of(name),
                run=run,
                language=wish.language,
                grants=kept,
                webhooks=True,
                trip=trip,
            )
        finally:
            await sign_ins.close()


async def _daemon(config: Config, name: str) -> Ask | None:
    """Return how to ask the running daemon; ``None`` when none runs."""
    if await ask_daemon(config, "test-state", {"mailbox": name, "nonce": ""}) is None:
        return None

    async def ask(command: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await ask_daemon(config, command, asked)
        if answer is None:
            raise MailbridgeError("the daemon has stopped meanwhile", code="control.silent")
        return answer

    return ask


@asynccontextmanager
async def _store(config: Config, *, wanted: bool) -> AsyncIterator[Store | None]:
    from mailbridge.store.store import Store

    if not wanted:
        yield None
        return
    store = await Store.open(config.state.database.reveal(), keys=grants.configured(config))
    try:
        yield store
    finally:
        await store.close()


def _own(config: Config, store: Store | None) -> Ask:
    """Return how to put a test mail down in the open store, for the daemon that comes later."""
    from mailbridge.expecting import Expecting

    assert store is not None  # noqa: S101 - opened when there is no daemon
    commands = Expecting(config=lambda: config, store=store.probes).commands()

    async def ask(command: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return await commands[command](asked)

    return ask


# --- for people


def _print_step(step: Step, lang: Language) -> None:
    from mailbridge.diagnose.words import MARKS, name_of
    from mailbridge.diagnose.words import say as word

    width = max(len(mark.of(lang)) for mark in MARKS.values())
    mark = f"{MARKS[step.status].of(lang):<{width}}"
    typer.secho(f"  {mark}", fg=_COLOUR[step.status], nl=False)
    say(f"  {name_of(step.id, lang):<18} {step.seconds:6.2f} s  {step.detail}")
    lines = []
    if step.cause and step.cause != step.detail:
        lines.append(word("cause", lang, text=f"{step.cause} [{step.code}]"))
    elif step.code:
        lines.append(word("code", lang, text=step.code))
    if step.fix:
        lines.append(word("fix", lang, text=step.fix))
    for line in lines:
        say(f"{'':{width + 4}}{line}")


def _print_end(name: str, report: _Report, lang: Language) -> None:
    from mailbridge.diagnose.words import say as word

    if report.round_trip is not None:
        say("  " + word("round_trip", lang, seconds=report.round_trip))
    warned = any(step.status == "warning" for step in report.steps)
    key = "unusable" if not report.ok else "warned" if warned else "fine"
    say("  " + word(key, lang, name=name))
