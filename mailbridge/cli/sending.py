"""Sending from the command line: ``send`` for people and scripts, ``sendmail`` for programs.

Both hand the mail to the running daemon; with none, they keep it in the database themselves. Each
mail carries a key, so that asking once more after an answer that never came sends nothing twice.
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand

from mailbridge.cli import completing
from mailbridge.cli.data import AsJson, ask_daemon, reading
from mailbridge.cli.output import complain, emit_json, say, tell
from mailbridge.errors import ConfigError, MailbridgeError
from mailbridge.log import escape

if TYPE_CHECKING:
    from mailbridge.config import Config

#: bytes that are read of one input; a mail with more is larger than any may be
_MOST: Final = 64 * 1024 * 1024
#: seconds for a daemon that starts, or starts again, to listen
_PATIENCE: Final = 20.0
#: seconds between two looks at what became of a mail
_LOOK_EVERY: Final = 0.5
_OVER: Final = {"sent": 0, "partly": 1, "failed": 1, "held": 1}

# sysexits.h
EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOUSER: Final = 67
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78
#: by the code of an error; whatever else is wrong may be over when it is tried again
_EXITS: Final = {
    "config": EX_CONFIG,
    "send.bad_address": EX_NOUSER,
    "send.invalid": EX_DATAERR,
    "send.long_line": EX_DATAERR,
    "send.loop": EX_UNAVAILABLE,
    "send.no_mailbox": EX_CONFIG,
    "send.not_allowed": EX_UNAVAILABLE,
    "send.too_large": EX_UNAVAILABLE,
}
#: as Postfix's sendmail has them; a colon: with a value
_FLAGS: Final = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:q:r:tvx"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(send)
    app.command(
        cls=_Raw, context_settings={"allow_extra_args": True, "help_option_names": ["--help"]}
    )(sendmail)


def arguments(argv: Sequence[str]) -> list[str]:
    """Return what the program was called with; under the name of sendmail it is sendmail."""
    return ["sendmail", *argv[1:]] if Path(argv[0]).name == "sendmail" else list(argv[1:])


class _Raw(TyperCommand):
    """A command that reads its own flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave everything as it was written, a `--` too."""
        return super().parse_args(ctx, args if args[:1] == ["--help"] else ["--", *args])


async def _submit(config: Config, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hand a mail to the daemon, or keep it in the database when none runs."""
    from mailbridge.cli.change import command

    asked = {**asked, "key": secrets.token_urlsafe(24)}
    loop = asyncio.get_running_loop()
    patience = loop.time() + _PATIENCE
    while True:
        try:
            answer = await ask_daemon(config, "send", asked)
            if answer is not None:
                return answer
            answer = await command(config, "send", asked)
        except MailbridgeError as error:
            # It died before it could answer, though it may have taken the mail (which the key
            # makes safe), or it holds the database and does not listen yet.
            if error.code not in {"control.silent", "store.locked"} or loop.time() > patience:
                raise
            await asyncio.sleep(_LOOK_EVERY)
        else:
            tell("no daemon runs; the mail waits in the database until one does")
            return answer


# --- send


def send(  # noqa: PLR0913 - its options
    ctx: typer.Context,
    *,
    sender: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NAME",
            help="The mailbox, or an address of send_as.",
            autocompletion=completing.mailboxes,
        ),
    ],
    to: Annotated[list[str], typer.Option("--to", metavar="ADDR", help="Once for each.")],
    subject: Annotated[str, typer.Option(help="The subject.")],
    cc: Annotated[
        list[str] | None, typer.Option("--cc", metavar="ADDR", help="Once for each.")
    ] = None,
    bcc: Annotated[
        list[str] | None, typer.Option("--bcc", metavar="ADDR", help="Once for each.")
    ] = None,
    body: Annotated[
        str | None, typer.Option(metavar="TEXT|-", help="The text; -: from standard input.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="The html.")] = None,
    attach: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Once for each.")
    ] = None,
    auto: Annotated[
        bool, typer.Option(help="A machine's mail: absence notices do not answer it.")
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until it is sent (0), or failed or held (1).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a mail; prints its id once it is durable.

    With --wait, it stays until the server has taken the mail for every recipient.
    """
    from mailbridge.cli.daemon import run_async
    from mailbridge.cli.main import load_config

    config = load_config(ctx, absent=True)
    request = {
        "from": sender,
        "to": to,
        "cc": cc or [],
        "bcc": bcc or [],
        "subject": subject,
        "text": _text(sys.stdin.buffer.read(_MOST), "--body") if body == "-" else body,
        "html": _text(_content(html, "--html"), "--html") if html else None,
        "attachments": [_attachment(path) for path in attach or ()],
        "auto": auto,
    }

    async def work() -> Mapping[str, Any]:
        taken = await _submit(config, {"via": "cli", "request": request})
        if not wait:
            return taken
        tell(f"queued as {taken['id']}")
        return await _outcome(config, taken["id"])

    answer: Mapping[str, Any] = run_async(work())
    if as_json:
        emit_json(answer)
    else:
        _print(answer)
    if wait and (code := _OVER[answer["state"]]):
        raise typer.Exit(code)


def _print(answer: Mapping[str, Any]) -> None:
    say(f"{answer['id']} {answer['state']}")
    for one in answer.get("recipients", ()):
        if one["state"] != "taken":
            tell(f"  {one['address']}: {one['reply'] or answer['reason'] or one['state']}")


async def _outcome(config: Config, name: str) -> Mapping[str, Any]:
    """Return what became of a mail, once that is over."""
    while True:
        found = await _look(config, name)
        if found is None:
            raise MailbridgeError(f"nothing is known of {name} any more")
        if found["state"] in _OVER:
            return found
        await asyncio.sleep(_LOOK_EVERY)


async def _look(config: Config, name: str) -> Mapping[str, Any] | None:
    answer = await ask_daemon(config, "send-status", {"id": name})
    if answer is None:
        from mailbridge.outbox import status_of

        async with reading(config) as store:
            row = await store.sends.status(name)
            return None if row is None else status_of(row)
    found: Mapping[str, Any] | None = answer["send"]
    return found


def _content(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST)
    except OSError as exc:
        reason = f"{escape(str(path))} cannot be read: {exc.strerror}"
        raise typer.BadParameter(reason, param_hint=option) from exc


def _text(content: bytes, option: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise typer.BadParameter("this is not UTF-8", param_hint=option) from exc


def _attachment(path: Path) -> dict[str, str]:
    return {
        "filename": path.name,
        "content_type": mimetypes.guess_type(path.name)[0] or "",
        "content_base64": base64.b64encode(_content(path, "--attach")).decode("ascii"),
    }


# --- sendmail


def sendmail(ctx: typer.Context) -> None:
    """Queue a mail from standard input, as /usr/sbin/sendmail does: [-f ADDR] [-t] [ADDR…].

    -t reads the recipients from To, Cc and Bcc, -i takes a line with a single dot for text, -F
    names the sender. Other flags are taken and mean nothing; -bs and -q are refused. Exit codes
    are those of sysexits.h; 75: try again later.
    """
    from mailbridge.cli.daemon import run_async
    from mailbridge.cli.main import load_config

    asked = _asked(ctx.args)
    try:
        config = load_config(ctx, absent=True)
        raw = _input(dots=asked.pop("dots"))
        asked["raw_base64"] = base64.b64encode(raw).decode("ascii")
        run_async(_submit(config, asked))
    except MailbridgeError as error:
        complain(error)
        code = EX_CONFIG if isinstance(error, ConfigError) else _EXITS.get(error.code, EX_TEMPFAIL)
        raise typer.Exit(code) from error


def _asked(words: Sequence[str]) -> dict[str, Any]:
    """Read the flags as Postfix's sendmail does."""
    import getopt

    try:
        flags, recipients = getopt.gnu_getopt(list(words), _FLAGS)
    except getopt.GetoptError as error:
        _misused(str(error))
    asked: dict[str, Any] = {"via": "sendmail", "dots": True, "with_header": False}
    for flag, value in flags:
        if flag in {"-f", "-r"}:
            asked["sender"] = value.strip("<> ")
        elif flag == "-F":
            asked["name"] = value
        elif flag == "-t":
            asked["with_header"] = True
        elif flag == "-i" or (flag == "-o" and value.startswith("i")):
            asked["dots"] = False
        elif flag == "-q" or (flag == "-b" and value != "m"):
            _misused(f"{flag}{value} is not for this program, which only takes mail")
    if not recipients and not asked["with_header"]:
        _misused("it does not say to whom: name recipients, or give -t")
    return {**asked, "to": recipients}


def _misused(reason: str) -> NoReturn:
    tell(f"sendmail: {reason}")
    raise typer.Exit(EX_USAGE)


def _input(*, dots: bool) -> bytes:
    """Return the mail on standard input; with ``dots`` it ends at a line with a single dot."""
    raw = sys.stdin.buffer.read(_MOST)
    if not dots:
        return raw
    lines = []
    for line in raw.splitlines(keepends=True):
        if line.rstrip(b"\r\n") == b".":
            break
        lines.append(line)
    return b"".join(lines)
