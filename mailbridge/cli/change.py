"""What an operator changes: the queue, replay, the database itself.

Changing goes through the control socket of the running daemon; with no daemon running, the
command opens the database itself, under the same lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mailbridge.cli import completing, grants
from mailbridge.cli.daemon import run_async
from mailbridge.cli.data import STYLES, AsJson, ask_daemon, moment, reading
from mailbridge.cli.output import emit_json, say, table, tell
from mailbridge.documents import documents
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from mailbridge.config import Config
    from mailbridge.store.rows import DeliveryRow

QueueState = Literal["queued", "deferred", "dead", "held"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    queue = typer.Typer(help="Deliveries that wait, and dead letters.", no_args_is_help=True)
    queue.command("list")(queue_list)
    queue.command("retry")(queue_retry)
    queue.command("drop")(queue_drop)
    app.add_typer(queue, name="queue")
    app.command()(replay)
    db = typer.Typer(help="The database.", no_args_is_help=True)
    db.command("upgrade")(db_upgrade)
    db.command("backup")(db_backup)
    db.command("check")(db_check)
    grants.register(db)
    app.add_typer(db, name="db")


async def command(
    config: Config, name: str, asked: Mapping[str, Any], *, seconds: float = 60.0
) -> Mapping[str, Any]:
    """Have a command done by the running daemon within ``seconds``, or here when none runs."""
    answer = await ask_daemon(config, name, asked, seconds=seconds)
    if answer is not None:
        return answer
    from mailbridge.build import utc_now
    from mailbridge.operate import Alone, Operator
    from mailbridge.sign_ins import SignIns
    from mailbridge.store.store import Store

    # What is done here leaves grants alone, so a key that is not at hand does not matter.
    keys = None if any(key.absent for key in config.state.key) else grants.configured(config)
    store = await Store.open(config.state.database.reveal(), keys=keys)
    try:
        operator = Operator(
            daemon=Alone(config=config, store=store),
            sign_ins=SignIns(config, grants=store.grants, now=utc_now, run=asyncio.to_thread),
        )
        return await operator.commands()[name](asked)
    finally:
        await store.close()


def queue_list(
    ctx: typer.Context,
    *,
    state: Annotated[QueueState | None, typer.Option(help="Only these; default: all.")] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this webhook.", autocompletion=completing.webhooks),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List the deliveries that wait, and the dead letters."""
    from mailbridge.cli.main import load_config

    config = load_config(ctx, absent=True)

    async def get() -> Sequence[DeliveryRow]:
        async with reading(config) as store:
            return await store.deliveries(state=state, sink=webhook, limit=limit)

    rows = run_async(get())
    if as_json:
        emit_json(documents(rows))
        return
    table(
        ["delivery", "state", "webhook", "type", "mailbox", "tries", "due", "id", "last answer"],
        [
            [
                row.id,
                row.state,
                row.sink,
                row.type,
                row.mailbox,
                row.attempts,
                row.due_at if row.state in {"queued", "deferred"} else None,
                row.event_id,
                " ".join(str(part) for part in (row.last_status, row.last_reason) if part),
            ]
            for row in rows
        ],
        styles=STYLES,
        empty="nothing waits and nothing is dead",
    )


def queue_retry(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID…", help="Delivery numbers or webhook-ids."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --all: only this webhook.",
            autocompletion=completing.webhooks,
        ),
    ] = None,
) -> None:
    """Queue dead or held deliveries again, by delivery number or webhook-id.

    They get a new budget of seven days; what waits for its time is tried at once.
    """
    if bool(ids) == every:
        raise typer.BadParameter("name deliveries, or give --all")
    asked = {"ids": ids, "all": every, "webhook": webhook}
    count = _change(ctx, "queue-retry", asked)["requeued"]
    say(f"{count} queued again")
    if not count:
        raise typer.Exit(1)


def queue_drop(
    ctx: typer.Context,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Delivery numbers or webhook-ids.")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, these are not to be delivered.")] = False,
) -> None:
    """Give deliveries up, by delivery number or webhook-id; they stay in the log as dropped."""
    if not yes:
        tell("mailbridge: dropping cannot be undone. Fix: say --yes")
        raise typer.Exit(2)
    count = _change(ctx, "queue-drop", {"ids": ids})["dropped"]
    say(f"{count} dropped")
    if not count:
        raise typer.Exit(1)


def replay(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Webhook-ids.")] = None,
    *,
    mailbox: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Everything of this mailbox …",
            autocompletion=completing.mailboxes,
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="… since this time.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only to this webhook.", autocompletion=completing.webhooks
        ),
    ] = None,
) -> None:
    """Deliver messages again, under the same webhook-id."""
    if bool(ids) == bool(mailbox) or (mailbox is not None and since is None):
        raise typer.BadParameter("name messages, or give --mailbox and --since")
    asked = {
        "ids": ids,
        "mailbox": mailbox,
        "since": since.isoformat() if since else None,
        "webhook": webhook,
    }
    count = _change(ctx, "replay", asked)["replayed"]
    say(f"{count} to be delivered again")
    if not count:
        raise typer.Exit(1)


def _change(ctx: typer.Context, name: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    from mailbridge.cli.main import load_config

    config = load_config(ctx, absent=True)
    hook = asked.get("webhook")
    if hook is not None and hook not in config.webhooks:
        raise MailbridgeError(
            f"there is no webhook {hook!r}", fix=f"one of: {', '.join(config.webhooks)}"
        )
    answer: Mapping[str, Any] = run_async(command(config, name, asked))
    return answer


# --- db


def db_upgrade(ctx: typer.Context) -> None:
    """Bring the database to this version's schema; the daemon does the same when it starts."""
    from mailbridge.cli.main import load_config

    config = load_config(ctx)

    async def upgrade() -> None:
        from mailbridge.store.store import Store

        store = await Store.open(config.state.database.reveal())
        await store.close()

    run_async(upgrade())
    say("the schema is current")


def db_backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes.")],
) -> None:
    """Write a consistent copy of the SQLite database, also while the daemon runs."""
    from mailbridge.cli.main import load_config

    config = load_config(ctx)

    async def backup() -> None:
        async with reading(config) as store:
            await store.backup(file)

    run_async(backup())
    say(f"written to {file}")


def db_check(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Check the integrity of the database; exit code 1 when something is wrong."""
    from mailbridge.cli.main import load_config

    config = load_config(ctx)

    async def check() -> Sequence[str]:
        async with reading(config) as store:
            faults = list(await store.check())
            if keys := grants.configured(config):
                faults += await store.grants.faults(keys)
            return faults

    faults = run_async(check())
    if as_json:
        emit_json({"ok": not faults, "faults": list(faults)})
    else:
        for fault in faults:
            say(fault)
        if not faults:
            say("ok")
    if faults:
        raise typer.Exit(1)
