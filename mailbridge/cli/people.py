"""People who sign in: login, logout, and the link for the administrator who consents.

Done by the running daemon where there is one, so that it uses the grant at once; otherwise the
command opens the database itself.
"""

from __future__ import annotations

import asyncio
import webbrowser
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qsl, urlsplit

import typer

from mailbridge.cli import completing
from mailbridge.cli.change import command
from mailbridge.cli.daemon import run_async
from mailbridge.cli.data import AsJson, ask_daemon
from mailbridge.cli.output import emit_json, say, tell
from mailbridge.cli.probe import threads
from mailbridge.errors import MailbridgeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mailbridge.config import Config
    from mailbridge.model import Grant
    from mailbridge.sign_ins import SignIns

#: seconds that a person has for the pages of a sign-in
PATIENCE: Final = 600.0
#: bytes of a request to the loopback that are read at most
REQUEST: Final = 65_536
_PAGE: Final = (
    "<!doctype html><meta charset=utf-8><title>mailbridge</title>"
    "<p>mailbridge has your answer. You can close this page and go back to the terminal.</p>"
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(login)
    app.command()(logout)
    app.command("consent-url")(consent_url)


def login(
    ctx: typer.Context,
    name: completing.MailboxName,
    *,
    device: Annotated[
        bool, typer.Option("--device", help="Sign in on another device, by a code.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Print a link for a browser anywhere, good once.")
    ] = False,
) -> None:
    """Sign in for a mailbox with `sign_in: delegated`, and keep the grant, encrypted.

    Opens a page of Microsoft's in the browser of this machine, or shows its address; over ssh,
    use --device. With --web the running daemon takes the sign-in: whoever opens the link that is
    printed, within ten minutes, signs in and sees what came of it.
    """
    if device and web:
        raise typer.BadParameter("say --device or --web, not both")
    config = _config(ctx, name)
    _require_key(config)
    if web:
        _print_link(config, name)
        return
    grant = run_async(_signed_in(config, name, device=device))
    run_async(command(config, "grant-save", {"mailbox": name, "grant": _packed(grant)}))
    say(f"{name}: {grant.account} has signed in; the grant is kept")


def _print_link(config: Config, name: str) -> None:
    """Have the daemon make a link. The link alone goes to standard output."""
    try:
        link = run_async(ask_daemon(config, "login-link", {"mailbox": name}))
    except MailbridgeError as error:
        if error.code != "control.unknown":
            raise
        raise MailbridgeError(
            "the daemon has no pages for signing in",
            fix="write `http: {listen: 127.0.0.1:8025, public_url: https://HOST}` and restart it; "
            f"or run `mailbridge login {name} --device`",
        ) from error
    if link is None:
        raise MailbridgeError(
            "no daemon runs, and it is the one that takes the sign-in",
            fix=f"start it, or run `mailbridge login {name}` or `mailbridge login {name} --device`",
        )
    tell(f"For {link['account']}, once, within ten minutes:")
    typer.echo(link["url"])
    tell(f"The app registration has to list this redirect URI (Web): {link['redirect_uri']}")


def logout(ctx: typer.Context, name: completing.MailboxName) -> None:
    """Forget the grant of a mailbox; Microsoft is not told. Exit code 1 when there was none."""
    config = _config(ctx, name)
    answer = run_async(command(config, "grant-forget", {"mailbox": name}))
    say(f"{name}: " + ("the grant is removed" if answer["removed"] else "there was no grant"))
    if not answer["removed"]:
        raise typer.Exit(1)


def consent_url(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="APP", help="The app registration.", autocompletion=completing.apps),
    ],
    *,
    redirect_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A redirect URI that the app has registered. Default: the daemon's page, where "
            "`http` says that there is one; else http://localhost.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the admin consent link of an app registration, to send to the administrator.

    The daemon's page tells the administrator what came of it.
    """
    from mailbridge.cli.main import load_config
    from mailbridge.http.oauth_desk import CALLBACK, CONSENT
    from mailbridge.sign_in_desk import public_url

    config = load_config(ctx)
    if name not in config.apps:
        raise MailbridgeError(f"there is no app {name!r}", fix=f"one of: {', '.join(config.apps)}")
    base = public_url(config)
    state = ""
    if redirect_uri is None:
        redirect_uri = base + CALLBACK if base else "http://localhost"
        state = CONSENT + name if base else ""
    links = _sign_ins(config, asyncio.to_thread).consent_links(
        name, redirect_uri=redirect_uri, state=state
    )
    if as_json:
        emit_json([{"purpose": link.purpose, "url": link.url} for link in links])
        return
    for link in links:
        say(f"{link.purpose} permissions:")
        typer.echo(link.url)


async def _signed_in(config: Config, name: str, *, device: bool) -> Grant:
    with threads() as run:
        sign_ins = _sign_ins(config, run)
        try:
            return await (_by_device if device else _by_browser)(sign_ins, name)
        finally:
            await sign_ins.close()


async def _by_device(sign_ins: SignIns, name: str) -> Grant:
    flow = sign_ins.device_flow(name)
    code = await flow.start()
    say(f"Open {code.verification_uri} on any device and type in the code {code.user_code}.")
    return await flow.wait()


async def _by_browser(sign_ins: SignIns, name: str) -> Grant:
    flow = sign_ins.browser_flow(name)
    async with _loopback() as (redirect_uri, answer):
        url = await flow.start(redirect_uri)
        opened = await asyncio.to_thread(webbrowser.open, url)
        say("Sign in on the page that has opened." if opened else "Open this page and sign in:")
        typer.echo(url)
        try:
            async with asyncio.timeout(PATIENCE):
                return await flow.finish(await answer)
        except TimeoutError as error:
            raise MailbridgeError(
                "nobody signed in within ten minutes", fix=f"mailbridge login {name}"
            ) from error


@asynccontextmanager
async def _loopback() -> AsyncIterator[tuple[str, asyncio.Future[dict[str, str]]]]:
    """Listen on loopback for the redirect (RFC 8252, 7.3); gives its URI and what it brings."""
    answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("ascii", "replace")
            fields = dict(parse_qsl(urlsplit(target).query))
            found = "state" in fields or "error" in fields
            page = _PAGE if found else ""
            status = "200 OK" if found else "404 Not Found"
            writer.write(
                f"HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\n"
                f"content-length: {len(page.encode())}\r\ncache-control: no-store\r\n"
                f"referrer-policy: no-referrer\r\nconnection: close\r\n\r\n{page}".encode()
            )
            await writer.drain()
            if found and not answer.done():
                answer.set_result(fields)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, OSError):
            return  # no request of a browser's
        finally:
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=REQUEST)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://localhost:{port}", answer


def _sign_ins(config: Config, run: Callable[..., Any]) -> SignIns:
    from mailbridge.build import utc_now
    from mailbridge.sign_ins import SignIns

    return SignIns(config, grants=None, now=utc_now, run=run)


def _packed(grant: Grant) -> dict[str, Any]:
    """Return a grant as JSON for the control socket, which only its owner may open."""
    from dataclasses import asdict

    packed = asdict(grant)
    for key in ("granted_at", "refreshed_at"):
        packed[key] = packed[key].isoformat()
    return packed


def _config(ctx: typer.Context, name: str) -> Config:
    from mailbridge.cli.main import load_config

    config = load_config(ctx)
    if name not in config.mailboxes:
        raise MailbridgeError(
            f"there is no mailbox {name!r}", fix=f"one of: {', '.join(config.mailboxes)}"
        )
    return config


def _require_key(config: Config) -> None:
    """Say before the person walks through all pages that the grant could not be kept."""
    if not config.state.key:
        raise MailbridgeError(
            "state.key is not set, so a grant could not be kept",
            fix="make one with `mailbridge secret key` and write `state: {key: {file: PATH}}`",
        )
