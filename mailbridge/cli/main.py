"""The ``mailbridge`` command: global options, exit codes, and the modules with the commands.

Exit codes: 0 done, 1 it ran and the answer is no, 2 wrong usage, 78 the configuration is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mailbridge.cli import (
    change,
    daemon,
    data,
    diagnosis,
    mail_log,
    offline,
    people,
    probe,
    sending,
    setup,
)
from mailbridge.cli.output import complain, tell
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from mailbridge.config import Config

#: each has ``register(app)``; heavy imports stay inside of their commands
MODULES = (daemon, offline, setup, diagnosis, probe, people, data, mail_log, change, sending)


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """From which level on events are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The global options, at ``ctx.obj`` of every command."""

    config: Path | None
    log_format: LogFormat | None
    log_level: LogLevel | None

    def config_path(self) -> Path:
        """Return the configuration file to use; raises ``ConfigError`` if there is none."""
        from mailbridge.config import find

        return find(self.config)

    def configure_logging(self, usual: LogLevel) -> None:
        """Send logs to standard error, from the ``usual`` level on if no option says another."""
        from mailbridge import log

        level = self.log_level or usual
        log.configure(self.log_format.value if self.log_format else None, level.value)


def settings(ctx: typer.Context) -> Context:
    """Return the global options of a command."""
    return ctx.find_object(Context) or Context(config=None, log_format=None, log_level=None)


def tell_warning(warning: object) -> None:
    """Say on standard error what is odd in the configuration."""
    tell(f"warning: {warning}")


def load_config(
    ctx: typer.Context,
    usual: LogLevel = LogLevel.WARNING,
    warn: Callable[[object], None] = tell_warning,
    *,
    absent: bool = False,
) -> Config:
    """Return the configuration; ``warn`` gets the warnings, problems are a ``ConfigError``.

    With ``absent``, secrets that cannot be read here are left to whoever reveals them: a command
    that asks the daemon needs none, and cron has other surroundings than the daemon.

    Sets up logging first (``usual`` is the level when no option names one), so that whatever
    a command causes to be logged is redacted and stays off standard output.
    """
    settings(ctx).configure_logging(usual)
    return read_config(ctx, warn, absent=absent)


def read_config(
    ctx: typer.Context,
    warn: Callable[[object], None] = tell_warning,
    *,
    absent: bool = False,
) -> Config:
    """Return the configuration as the file says it now; see ``load_config``."""
    from mailbridge.config import check
    from mailbridge.errors import ConfigError

    checked = check(settings(ctx).config_path(), absent=absent)
    for warning in checked.warnings:
        warn(warning)
    if checked.config is None:
        raise ConfigError(checked.problems)
    return checked.config


class Commands(TyperGroup):
    """Turns the errors of mailbridge into lines on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an expected error gives no traceback."""
        try:
            return super().invoke(ctx)
        except MailbridgeError as exc:
            raise typer.Exit(complain(exc)) from exc


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature that typer calls
    if wanted:
        from mailbridge import __version__

        typer.echo(f"mailbridge {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    name="mailbridge",
    help="Office 365 mailboxes to webhooks; nothing is lost on the way.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The configuration file. Default: $MAILBRIDGE_CONFIG, else ./mailbridge.yaml, "
            "else /etc/mailbridge/mailbridge.yaml.",
            metavar="FILE",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="Default: console on a terminal, json elsewhere."),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Log events from this level on. Default: info for run, else warning.",
            case_sensitive=False,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Keep the global options for the command."""
    del version
    ctx.obj = Context(config=config, log_format=log_format, log_level=log_level)


for module in MODULES:
    module.register(app)


def main() -> None:
    """Run the command line; an unexpected error is reported without secrets, with exit code 1."""
    try:
        app(args=sending.arguments(sys.argv))
    except Exception as exc:  # noqa: BLE001 - the last stop: a traceback must not show a secret
        from mailbridge.log import format_exception

        sys.stderr.write(format_exception(exc))
        tell("mailbridge: this is a bug; please report it with the lines above.")
        sys.exit(1)
