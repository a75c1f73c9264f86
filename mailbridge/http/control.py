"""The control socket: HTTP over a Unix socket between the commands and the running daemon.

The permissions of the socket (0600, in a directory of the daemon's own) are the only guard:
who may open it may also read the database. Answers are JSON; an error is
``{"error": text, "code": code, "fix": text}`` with status 400, or 500 for a fault of ours.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from mailbridge.errors import MailbridgeError

log = structlog.get_logger()

#: bytes of a request that are read at most: a mail of 35 MB in base64
REQUEST_LIMIT: Final = 64 * 1024 * 1024
#: bytes that a Unix socket's path may have (unix(7), less the closing zero)
PATH_LIMIT: Final = 107

#: seconds that a command waits for the daemon's answer
PATIENCE: Final = 60.0

#: a command: takes the request's JSON object, gives the answer's
Command = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


def socket_path(database: str, environ: Mapping[str, str]) -> Path:
    """Return where the socket lies: ``$RUNTIME_DIRECTORY``, else beside the SQLite file.

    A database elsewhere (PostgreSQL) leaves the working directory. A path too long for the
    kernel is replaced by a name in ``/tmp`` that depends on it alone, so that commands find it.
    """
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return Path(runtime) / "mailbridge.sock"
    prefix = "sqlite:///"
    home = Path(database[len(prefix) :]).absolute() if database.startswith(prefix) else None
    path = home.with_suffix(".sock") if home else Path.cwd() / "mailbridge.sock"
    if len(os.fsencode(path)) <= PATH_LIMIT:
        return path
    from hashlib import sha256

    short = sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(f"/tmp/mailbridge-{os.getuid()}-{short}.sock")  # noqa: S108 - connect checks the owner


@asynccontextmanager
async def control(path: Path, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Serve ``POST /NAME`` for each command while the block runs; the socket goes with it."""

    async def handle(request: web.Request) -> web.Response:
        command = commands.get(request.match_info["name"])
        if command is None:
            return _answer(404, {"error": "no such command", "code": "control.unknown", "fix": ""})
        try:
            body = await request.read()
            asked = orjson.loads(body) if body else {}
            return _answer(200, await command(asked))
        except MailbridgeError as error:
            return _answer(400, {"error": str(error), "code": error.code, "fix": error.fix})
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            problem = {"error": f"bad request: {error}", "code": "control.bad", "fix": ""}
            return _answer(400, problem)
        except Exception:
            log.exception("control.bug", command=request.match_info["name"])
            problem = {"error": "internal error, see the daemon's log", "code": "bug", "fix": ""}
            return _answer(500, problem)

    app = web.Application(client_max_size=REQUEST_LIMIT)
    app.router.add_post("/{name}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    # Left by a daemon that was killed; the store's lock has already told that none runs.
    _remove(path)
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(path)).start()
    finally:
        os.umask(before)
    log.debug("control.listening", path=str(path))
    try:
        yield
    finally:
        await runner.cleanup()
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _ours(path: Path) -> bool:
    """Whether the socket is there and belongs to us or to root (root may ask any daemon)."""
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        return False
    return os.getuid() == 0 or owner in {os.getuid(), 0}


def _answer(status: int, content: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


async def ask(
    path: Path, name: str, content: Mapping[str, Any], *, seconds: float = PATIENCE
) -> Mapping[str, Any] | None:
    """Send a command to the running daemon, and wait so long; ``None`` when none runs.

    Raises ``MailbridgeError`` with the daemon's own words when it refuses.
    """
    import aiohttp

    if not _ours(path):
        return None
    connector = aiohttp.UnixConnector(path=str(path))
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, trust_env=False
    ) as session:
        try:
            async with session.post(
                f"http://daemon/{name}", data=io.BytesIO(orjson.dumps(content))
            ) as response:
                answer: dict[str, Any] = orjson.loads(await response.read())
                status = response.status
        except aiohttp.ClientConnectorError:
            return None  # a socket that a killed daemon left behind
        except (aiohttp.ClientError, TimeoutError) as error:
            raise MailbridgeError(
                f"the daemon does not answer on {path}", code="control.silent"
            ) from error
    if status != 200:  # noqa: PLR2004 - HTTP's own OK
        raise MailbridgeError(answer["error"], code=answer["code"], fix=answer["fix"])
    return answer
