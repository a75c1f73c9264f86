"""Trying a webhook: test-webhook, and the test.ping that test-mailbox sends too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailbridge.cli import completing
from mailbridge.cli.daemon import run_async
from mailbridge.cli.output import emit_json, say
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailbridge.config import Config
    from mailbridge.model import Outcome


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("test-webhook")(webhook)


@contextmanager
def threads() -> Iterator[Callable[..., Any]]:
    """Give a way to run what blocks beside the event loop."""
    with ThreadPoolExecutor(4) as pool:

        async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, lambda: function(*args, **kwargs))

        yield run


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


async def ping(config: Config, name: str, message_id: str) -> Outcome:
    """Send a webhook a test.ping that carries the Message-ID of a test mail."""
    outcome, _ = await _send(config, name, None, {"message_id": message_id})
    return outcome


async def _send(
    config: Config, name: str, raw: bytes | None, more: Mapping[str, Any] | None = None
) -> tuple[Outcome, float]:
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
        body={"webhook": name, "message": "This is a test of mailbridge.", **(more or {})}
        if mail is None
        else None,
    )
    async with build_sink(name, config.webhooks[name], links_of(config)) as sink:
        [rendered] = sink.render([delivery])
        clock = time.monotonic()
        outcome = await sink.deliver(rendered, attempt=1)
        return outcome, time.monotonic() - clock
