"""Commands that touch no network and no database: check, secret, config schema, parse."""

from __future__ import annotations

from typing import Annotated

import typer

from mailbridge.cli.output import emit_json, say, tell
from mailbridge.errors import ConfigError, Problem


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(check)
    secret = typer.Typer(help="Make secrets.", no_args_is_help=True)
    secret.command("webhook")(secret_webhook)
    secret.command("key")(secret_key)
    app.add_typer(secret, name="secret")
    config = typer.Typer(help="About the configuration file.", no_args_is_help=True)
    config.command("schema")(config_schema)
    app.add_typer(config, name="config")


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def check(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Check the configuration file and the secrets it points to; no network is touched.

    Prints ok, or every problem with its line, key and fix (exit code 78).
    """
    from mailbridge.cli.main import settings
    from mailbridge.config import check as check_file

    try:
        path = settings(ctx).config_path()
    except ConfigError as exc:
        name, problems, warnings = None, exc.problems, list[Problem]()
    else:
        _, problems, warnings = check_file(path)
        name = str(path)
    if as_json:
        document = {
            "ok": not problems,
            "file": name,
            "problems": [_document(problem) for problem in problems],
            "warnings": [_document(warning) for warning in warnings],
        }
        emit_json(document)
    else:
        for warning in warnings:
            tell(f"warning: {warning}")
        for problem in problems:
            say(str(problem))
        if not problems:
            say("ok")
    if problems:
        raise typer.Exit(78)


def _document(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "path": problem.path,
        "message": problem.message,
        "fix": problem.fix,
    }


def secret_webhook() -> None:
    """Print a new signing secret for a webhook (Standard Webhooks: whsec_ and 32 bytes)."""
    typer.echo("whsec_" + _random_base64())


def secret_key() -> None:
    """Print a new key for `state.key` (32 bytes)."""
    typer.echo(_random_base64())


def _random_base64() -> str:
    import base64
    import secrets

    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def config_schema() -> None:
    """Print the JSON Schema of the configuration file."""
    from mailbridge.config import schema

    emit_json(schema())
