"""Trying what is configured: test-mailbox and test-webhook."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailbridge.cli import completing
from mailbridge.cli.change import command
from mailbridge.cli.daemon import run_async
from mailbridge.cli.output import emit_json, say
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailbridge.config import Config
    from mailbridge.diagnose.steps import Step
    from mailbridge.model import Outcome

#: seconds for the daemon to try everything, each step with its own patience
DIAGNOSIS = 300.0
_MARK = {"ok": "ok     ", "failed": "FAILED ", "warning": "warning", "skipped": "skipped"}
_COLOUR = {"ok": "green", "failed": "red", "warning": "yellow", "skipped": "bright_black"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("test-mailbox")(mailbox)
    app.command("test-webhook")(webhook)


@contextmanager
def threads() -> Iterator[Callable[..., Any]]:
    """Give a way to run what blocks beside the event loop."""
    with ThreadPoolExecutor(4) as pool:

        async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, lambda: function(*args, **kwargs))

        yield run


def mailbox(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="The mailboxes.", autocompletion=completing.mailboxes),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every mailbox of the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Diagnose a mailbox step by step: what was seen, what is wrong, and the exact fix.

    Touches nothing in the mailbox. Exit code 1 when a step failed.
    """
    from mailbridge.cli.main import load_config

    if bool(names) == every:
        raise typer.BadParameter("name mailboxes, or give --all")
    config = load_config(ctx)
    wanted = list(config.mailboxes) if every else list(names or ())
    for name in wanted:
        if name not in config.mailboxes:
            raise MailbridgeError(
                f"there is no mailbox {name!r}", fix=f"one of: {', '.join(config.mailboxes)}"
            )

    async def all_of_them() -> list[dict[str, Any]]:
        with threads() as run:
            return [await _diagnose(config, name, run, quiet=as_json) for name in wanted]

    reports = run_async(all_of_them())
    if as_json:
        emit_json(reports[0] if len(reports) == 1 else reports)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


async def _diagnose(
    config: Config, name: str, run: Callable[..., Any], *, quiet: bool
) -> dict[str, Any]:
    steps: list[Step] = []
    if not quiet:
        typer.secho(name, bold=True)
    async for step in _steps(config, name, run):
        steps.append(step)
        if not quiet:
            _print_step(step)
    ok = not any(step.status in {"failed", "skipped"} for step in steps)
    if not quiet:
        say(f"  {name} is " + ("fine" if ok else "not usable like this"))
    return {"mailbox": name, "ok": ok, "steps": [asdict(step) for step in steps]}


async def _steps(config: Config, name: str, run: Callable[..., Any]) -> AsyncIterator[Step]:
    from mailbridge.build import utc_now
    from mailbridge.diagnose.steps import Diagnosis, Step
    from mailbridge.sign_ins import SignIns

    if config.mailboxes[name].sign_in == "delegated":
        # What a person consented to lies in the database, which a running daemon has open.
        answer = await command(config, "diagnose", {"mailbox": name}, seconds=DIAGNOSIS)
        for one in answer["steps"]:
            yield Step(**one)
        return
    sign_in = SignIns(config, grants=None, now=utc_now, run=run).of(name)
    async for step in Diagnosis(config=config, name=name, sign_in=sign_in, run=run).steps():
        yield step


def _print_step(step: Step) -> None:
    typer.secho(f"  {_MARK[step.status]}", fg=_COLOUR[step.status], nl=False)
    say(f"  {step.id:<12} {step.seconds:6.2f} s  {step.detail}")
    if step.cause and step.cause != step.detail:
        say(f"             cause: {step.cause} [{step.code}]")
    elif step.code:
        say(f"             code: {step.code}")
    if step.fix:
        say(f"             fix: {step.fix}")


def webhook(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The webhook.", autocompletion=completing.webhooks),
    ],
    *,
    eml: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send this mail instead of a test.ping.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send a signed test.ping (or a mail) to a webhook and show the answer.

    Exit code 1 unless it takes it. Nothing is stored and nothing is repeated. A webhook that takes
    mails alone, as alarm servers do, is sent nothing but a mail that you name: DIVERA and FE2
    raise a real alarm for it.
    """
    from mailbridge.cli.main import load_config
    from mailbridge.config.formats import MAILS_ONLY

    config = load_config(ctx)
    if name not in config.webhooks:
        raise MailbridgeError(
            f"there is no webhook {name!r}", fix=f"one of: {', '.join(config.webhooks)}"
        )
    if eml is None and config.webhooks[name].format in MAILS_ONLY:
        raise MailbridgeError(
            f"webhook {name} takes mails and no test.ping",
            code="webhook.mails_only",
            fix="give it one with --eml FILE; an alarm server raises a real alarm for it",
        )
    raw = _read(eml) if eml else None
    outcome, seconds = run_async(_send(config, name, raw))
    word = type(outcome).__name__.lower()
    reason = getattr(outcome, "reason", "")
    if as_json:
        emit_json(
            {
                "webhook": name,
                "ok": word == "delivered",
                "outcome": word,
                "status": outcome.status,
                "reason": reason,
                "answer": outcome.detail,
                "seconds": round(seconds, 3),
            }
        )
    else:
        say(
            f"{name}: {word} in {seconds:.2f} s"
            + (f", status {outcome.status}" if outcome.status else "")
        )
        for line in (reason, outcome.detail):
            if line:
                say(f"  {line}")
    if word != "delivered":
        raise typer.Exit(1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MailbridgeError(f"cannot read {path}: {error.strerror}") from error


async def _send(config: Config, name: str, raw: bytes | None) -> tuple[Outcome, float]:
    import hashlib
    import time

    from mailbridge.build import build_sink
    from mailbridge.forms import links_of
    from mailbridge.model import Delivery, MessageRef, StoredMail, derived_id

    now = datetime.now(UTC)
    first = next(iter(config.mailboxes))
    mail = None
    event_id = derived_id("ping", [name, now.isoformat()])
    if raw is not None:
        ref = MessageRef(mailbox=first, folder="INBOX")
        mail = StoredMail(
            id=event_id,
            ref=ref,
            address=config.mailboxes[first].address,
            received_at=now,
            accepted_at=now,
            raw=raw,
            raw_sha256=hashlib.sha256(raw).hexdigest(),
        )
    delivery = Delivery(
        id=0,
        sink=name,
        event_id=event_id,
        type="test.ping" if mail is None else "mail.received",
        mailbox=first,
        created_at=now,
        attempts=0,
        first_due_at=now,
        sequence=0,
        fence=0,
        mail=mail,
        body={"webhook": name, "message": "This is a test of mailbridge."}
        if mail is None
        else None,
    )
    async with build_sink(name, config.webhooks[name], links_of(config)) as sink:
        [rendered] = sink.render([delivery])
        clock = time.monotonic()
        outcome = await sink.deliver(rendered, attempt=1)
        return outcome, time.monotonic() - clock
