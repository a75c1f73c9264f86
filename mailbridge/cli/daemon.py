"""The daemon in the foreground, and the two ways to try it: demo and sandbox."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from mailbridge.cli.output import say, tell

#: said after the first signal
_TWICE = "stopping; a second signal ends at once"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(demo)
    app.command()(sandbox)


def run_async(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fast event loop."""
    import uvloop

    return uvloop.run(main)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM and SIGINT; the second signal ends the process the hard way."""
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        stop.set()
        # For a person who pressed Ctrl-C; under systemd and in a container every line is JSON.
        if sys.stderr.isatty():
            tell(_TWICE)
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)


def run(ctx: typer.Context) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C; SIGHUP reads the file again."""
    from mailbridge.cli.main import LogLevel, load_config, read_config
    from mailbridge.process import (
        collect_seldom,
        open_many_files,
        spare_memory,
        start_without_garbage,
        take_short_turns,
    )

    start_without_garbage()
    spare_memory()
    take_short_turns()
    open_many_files()
    # Not before: `process` has a say in what structlog loads.
    import structlog

    log = structlog.get_logger()

    def warn(warning: object) -> None:
        log.warning("config.warning", warning=str(warning))

    config = load_config(ctx, LogLevel.INFO, warn)

    async def main() -> None:
        from mailbridge.app import serve
        from mailbridge.reloading import Reload

        stop, again = asyncio.Event(), asyncio.Event()
        stop_on_signals(stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again.set)
        reload = Reload(asked=again, load=lambda: read_config(ctx, warn))
        await serve(config, stop=stop, reload=reload, on_ready=lambda _daemon: collect_seldom())

    run_async(main())


def demo(
    ctx: typer.Context,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="End when all have been delivered: 0, or 1 if not.")
    ] = False,
    mailboxes: Annotated[int, typer.Option(min=1, max=200, help="How many mailboxes.")] = 2,
    messages: Annotated[int, typer.Option(min=1, max=10_000, help="How many alarm mails.")] = 6,
) -> None:
    """Show the main job on this machine: sandbox tenant, webhook receiver and daemon in one.

    Nothing leaves the machine and nothing is kept. Without --once it goes on, with an alarm
    every few seconds, until Ctrl-C.
    """
    from mailbridge.process import start_without_garbage

    start_without_garbage()
    from mailbridge.cli.demo import show
    from mailbridge.cli.main import settings

    options = settings(ctx)
    ok = run_async(show(once=once, mailboxes=mailboxes, messages=messages, options=options))
    if not ok:
        raise typer.Exit(1)


def sandbox(
    config_out: Annotated[
        Path | None,
        typer.Option("--config-out", metavar="FILE", help="Write a configuration that fits."),
    ] = None,
) -> None:
    """Run only the sandbox tenant: an Entra and Exchange look-alike on loopback.

    With --config-out, the file and its secrets are written beside each other, ready for
    `mailbridge --config FILE run` in another terminal. Ends with Ctrl-C.
    """
    from mailbridge.cli.demo import keep_sandbox

    run_async(keep_sandbox(config_out))
    say("sandbox closed")
