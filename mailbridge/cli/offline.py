"""Commands that touch no network and no database: check, secret, config schema, parse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailbridge.cli import completing
from mailbridge.cli.output import emit_json, say, tell
from mailbridge.errors import ConfigError, Problem
from mailbridge.log import escape

if TYPE_CHECKING:
    from mailbridge.config import Config
    from mailbridge.model import Delivery

#: bytes; Exchange Online takes nothing larger
MAX_MAIL = 150 * 2**20


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
    app.command()(parse)


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


def parse(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.eml",
            help="A message as it came (RFC 5322), or - for standard input.",
        ),
    ],
    *,
    mailbox: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As if fetched from this mailbox.",
            autocompletion=completing.mailboxes,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With the settings of this webhook.",
            autocompletion=completing.webhooks,
        ),
    ] = None,
) -> None:
    """Print exactly the body that a webhook would get for this mail; touches nothing.

    With --mailbox, what its routes say stands on standard error, one line each; the mail is taken
    to have come now. Works without a configuration too, unless --webhook is given. Exit code 1
    when the webhook's template fails on this mail: that one would wait.
    """
    raw = _read(file)
    config = _config_for(ctx, mailbox, webhook)
    address = config.mailboxes[mailbox].address if config is not None and mailbox else ""
    delivery = _delivery(raw, mailbox or "mailbox", address, webhook or "webhook")
    if config is not None and mailbox is not None:
        delivery = _routed(config, mailbox, webhook, raw, delivery)
    body = _body(config, webhook, delivery)
    sys.stdout.buffer.write(body + (b"\n" if sys.stdout.isatty() else b""))
    sys.stdout.buffer.flush()


def _routed(
    config: Config, mailbox: str, webhook: str | None, raw: bytes, delivery: Delivery
) -> Delivery:
    """Tell what each route of a mailbox says; returns the delivery of the one that decides."""
    from dataclasses import replace

    from mailbridge.parse import parse as parse_mail
    from mailbridge.route.decide import Router

    names = config.mailboxes[mailbox].routes
    if names is None:
        return delivery
    router = Router([config.routes[name].compile(name) for name in names])
    ruling = router.rule(parse_mail(raw), received_at=None, now=delivery.created_at)
    for step in ruling:
        said = "passes by" if step.verdict == "passed_by" else step.verdict
        where = f" -> {', '.join(step.webhooks)}" if step.webhooks else ""
        tell(f"route {step.route}: {said} ({step.reason}){where}")
    taken = [step for step in ruling if step.verdict != "passed_by"]
    if webhook is not None:
        taken = [step for step in taken if webhook in step.webhooks]
    if not taken or taken[0].verdict == "drop":
        tell(f"{webhook or 'no webhook'} would {'not ' if webhook else ''}get this mail")
        return delivery
    return replace(delivery, route=taken[0].route, fields=taken[0].fields)


def _body(config: Config | None, webhook: str | None, delivery: Delivery) -> bytes:
    """Return the body; a secret that it holds is struck out, for this is shown to people."""
    if config is None or webhook is None:
        from mailbridge.formats.native import NativeFormat

        return NativeFormat().body(delivery)
    from mailbridge.forms import build_format, hidden, links_of

    section = config.webhooks[webhook]
    body, _ = build_format(webhook, section, links_of(config)).render(delivery)
    for secret in hidden(section):
        body = body.replace(json.dumps(secret, ensure_ascii=False).encode()[1:-1], b"***")
        tell(f"{webhook}: the key in this body is shown as ***")
    return body


def _read(file: Path) -> bytes:
    """Return the bytes of the message, bounded as a mail server bounds them."""
    if str(file) == "-":
        raw = sys.stdin.buffer.read(MAX_MAIL + 1)
    else:
        try:
            with file.open("rb") as stream:
                raw = stream.read(MAX_MAIL + 1)
        except OSError as exc:
            reason = f"{escape(str(file))} cannot be read: {exc.strerror}"
            raise typer.BadParameter(reason, param_hint="FILE.eml") from exc
    if len(raw) > MAX_MAIL:
        raise typer.BadParameter("the message is larger than 150 MiB", param_hint="FILE.eml")
    return raw


def _config_for(ctx: typer.Context, mailbox: str | None, webhook: str | None) -> Config | None:
    """Return the configuration if the options need one; a name that it lacks is wrong usage."""
    from mailbridge.cli.main import load_config, settings

    if mailbox is None and webhook is None:
        return None
    try:
        settings(ctx).config_path()
    except ConfigError:
        if webhook is None:
            return None
        raise
    config = load_config(ctx)
    for option, name, known in (
        ("--mailbox", mailbox, config.mailboxes),
        ("--webhook", webhook, config.webhooks),
    ):
        if name is not None and name not in known:
            names = ", ".join(known)
            raise typer.BadParameter(f"not configured; there are: {names}", param_hint=option)
    return config


def _delivery(raw: bytes, mailbox: str, address: str, webhook: str) -> Delivery:
    """Return the first delivery of a message that lies nowhere: UIDVALIDITY and UID are 0."""
    import hashlib
    from datetime import UTC, datetime

    from mailbridge.model import Delivery, MessageRef, StoredMail

    now = datetime.now(UTC)
    ref = MessageRef(mailbox=mailbox, folder="INBOX")
    mail = StoredMail(
        id=ref.message_id,
        ref=ref,
        address=address,
        received_at=None,
        accepted_at=now,
        raw=raw,
        raw_sha256=hashlib.sha256(raw).hexdigest(),
    )
    return Delivery(
        id=0,
        sink=webhook,
        event_id=mail.id,
        type="mail.received",
        mailbox=mailbox,
        created_at=now,
        attempts=0,
        first_due_at=now,
        sequence=0,
        fence=0,
        mail=mail,
    )
