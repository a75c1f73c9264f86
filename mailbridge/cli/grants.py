"""What an operator does about the key of the grants: another one, or none of them any more."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailbridge.cli.daemon import run_async
from mailbridge.cli.output import say, tell
from mailbridge.errors import MailbridgeError, StoreRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mailbridge.config import Config
    from mailbridge.store.sealing import Key
    from mailbridge.store.store import Store

_OPTION = "--new-key"
_PLACES = "env:NAME, file:PATH, credential:NAME, or - for standard input"
#: characters of a key on standard input, with room for what is no key
_LONGEST = 1024
_NEXT = (
    "Next: put the new key into the place that state.key names, then start the daemon. "
    "Backups made before need the former key."
)


def register(db: typer.Typer) -> None:
    """Add the commands of this module to ``mailbridge db``."""
    db.command("rekey")(db_rekey)
    db.command("forget-grants")(db_forget_grants)


def db_rekey(
    ctx: typer.Context,
    *,
    new_key: Annotated[
        str, typer.Option(_OPTION, metavar="PLACE", help=f"Where the new key stands: {_PLACES}.")
    ],
) -> None:
    """Encrypt all grants under a new key (`mailbridge secret key` makes one); daemon stopped.

    All or nothing: whatever interrupts it, one of the two keys opens all of them; run it again.
    The daemon does the same by itself when it is started with `key: [NEW, FORMER]`.
    """
    from mailbridge.cli.main import load_config

    config = load_config(ctx)
    if not config.state.key:
        raise MailbridgeError(
            "state.key is not set, so there are no grants that this could read",
            fix="if a former key is lost, `mailbridge db forget-grants`",
        )
    new = _read_key(new_key)

    async def rekey() -> int:
        async with _opened(config) as store:
            return await store.grants.rekey([new, *configured(config)], alone=True)

    count = run_async(rekey())
    say(f"grants encrypted anew under the key {new.fingerprint}: {count}")
    tell(_NEXT)


def db_forget_grants(
    ctx: typer.Context,
    *,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Only those that cannot be read.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, people have to sign in again.")] = False,
) -> None:
    """Remove stored grants for good, when their key is lost or they are damaged.

    The mailboxes concerned then need `mailbridge login` again. No mail is touched.
    """
    from mailbridge.cli.main import load_config

    if not yes:
        tell("mailbridge: forgetting cannot be undone. Fix: say --yes")
        raise typer.Exit(2)
    config = load_config(ctx)

    async def forget() -> int:
        async with _opened(config) as store:
            if damaged:
                return await store.grants.forget_damaged(configured(config))
            return await store.grants.forget_all()

    say(f"grants removed: {run_async(forget())}")


def configured(config: Config) -> Sequence[Key]:
    """Return the keys of ``state.key``, none when there are none."""
    from mailbridge.store.sealing import ring

    return ring(key.reveal() for key in config.state.key)


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Store]:
    """Open the store as its only user."""
    from mailbridge.store.store import Store

    try:
        store = await Store.open(config.state.database.reveal())
        try:
            yield store
        finally:
            await store.close()
    except StoreRefused as error:
        if error.code != "store.locked":
            raise
        fix = "stop the daemon first; another key it also takes by itself, when it is restarted "
        fix += "with `key: [NEW, FORMER]` below `state`"
        raise StoreRefused(str(error), code=error.code, fix=fix) from error


def _read_key(place: str) -> Key:
    """Return the key that stands at ``place``; what is wrong is told without showing it."""
    from mailbridge.log import register_secret
    from mailbridge.store.sealing import ring

    kind, colon, name = place.partition(":")
    if place == "-":
        text = _from_standard_input()
    elif colon and name and kind in {"env", "file", "credential"}:
        text = _from_reference({kind: name})
    else:
        raise typer.BadParameter(
            f"this is not a place of a key; write {_PLACES}. If it was the key itself: others "
            "could read it on this command line, so make another one",
            param_hint=_OPTION,
        )
    register_secret(text)
    return ring([text])[0]


def _from_standard_input() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("New key: ")
    return sys.stdin.read(_LONGEST).strip()


def _from_reference(reference: dict[str, Any]) -> str:
    """Read a reference as the configuration file would, beside the working directory."""
    from pydantic import TypeAdapter, ValidationError

    from mailbridge.config.problems import Problems
    from mailbridge.config.secrets import Reading, Secret
    from mailbridge.log import register_secret

    context = Reading(
        base=Path.cwd(), environ=os.environ, problems=Problems(""), remember=register_secret
    )
    try:
        return TypeAdapter(Secret).validate_python(reference, context=context).reveal()
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)[0]["ctx"]
    raise typer.BadParameter(f"{told['message']}. Fix: {told['fix']}", param_hint=_OPTION)
