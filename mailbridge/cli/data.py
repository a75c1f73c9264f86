"""What the daemon knows: its status; and how commands look into its database.

Reading opens the database beside a running daemon; the status is asked of the daemon itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailbridge.cli.daemon import run_async
from mailbridge.cli.output import emit_json, say, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mailbridge.config import Config
    from mailbridge.store.store import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
STYLES = {
    "ok": "green",
    "delivered": "green",
    "degraded": "yellow",
    "not_connected": "yellow",
    "deferred": "yellow",
    "gap": "yellow",
    "held": "bold yellow",
    "failing": "red",
    "parked": "bold red",
    "dead": "bold red",
    "needs_consent": "bold red",
    "needs_admin_consent": "bold red",
    "secret_expired": "bold red",
    "rejected": "bold red",
    "temporarily_unavailable": "yellow",
    "not running": "red",
}
_SPAN = re.compile(r"(\d+)([smhd])")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)


def moment(text: str) -> datetime:
    """Read a time: ISO 8601 (local if it names no zone), or a span back from now like ``2h``."""
    if found := _SPAN.fullmatch(text):
        number, unit = int(found[1]), found[2]
        seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
        return datetime.now(UTC) - timedelta(seconds=number * seconds)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-11-21T10:15, or 90m, 2h, 7d for the last of it"
        ) from exc


@asynccontextmanager
async def reading(config: Config) -> AsyncIterator[Store]:
    """Open the database to read, beside a daemon if one runs."""
    from mailbridge.store.store import Store

    store = await Store.open(config.state.database.reveal(), mode="read")
    try:
        yield store
    finally:
        await store.close()


async def ask_daemon(
    config: Config, name: str, asked: Mapping[str, Any], *, seconds: float = 60.0
) -> Mapping[str, Any] | None:
    """Send a command to the running daemon; ``None`` when none runs."""
    from mailbridge.http.control import ask, socket_path

    path = socket_path(config.state.database.reveal(), os.environ)
    return await ask(path, name, asked, seconds=seconds)


# --- status


def status(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Show how well each mailbox is seen, and what waits for each webhook.

    Exit code 1 when the daemon does not run, a mailbox is not seen or a webhook fails.
    """
    from mailbridge.cli.main import load_config

    config = load_config(ctx, absent=True)

    async def get() -> Mapping[str, Any]:
        answer = await ask_daemon(config, "status", {})
        if answer is not None:
            return answer
        from mailbridge.operate import status as compose

        async with reading(config) as store:
            return compose(config, None, await store.counts())

    document = run_async(get())
    if as_json:
        emit_json(document)
    else:
        _print_status(document)
    bad = {"degraded", "not_connected", "parked", "failing", "not running"}
    parts = ("mailboxes", "webhooks", "sending")
    states = {row["state"] for part in parts for row in document[part]}
    if states & bad:
        raise typer.Exit(1)


def _print_status(document: Mapping[str, Any]) -> None:
    daemon = document["daemon"]
    if daemon["running"]:
        say(f"mailbridge {daemon['version']} runs since {daemon['started_at']} as {daemon['pid']}")
    else:
        say("no daemon runs; what follows is what the database holds")
    say()
    table(
        [
            *("mailbox", "sign-in", "signed in", "state", "mode", "last check", "last message"),
            *("throttled until", "backlog", "gaps", "swept", "probe"),
        ],
        [
            [
                box["name"],
                box["sign_in"],
                (box["standing"] or {}).get("state"),
                box["state"],
                box["mode"],
                _ago(box["last_check"]),
                _ago(box["last_message"]),
                box["throttled_until"],
                box["backlog"],
                box["gaps"],
                box["swept"],
                _probe(box["probe"]),
            ]
            for box in document["mailboxes"]
        ],
        styles=STYLES,
    )
    for box in document["mailboxes"]:
        if box["cause"]:
            say(f"  {box['name']}: {box['cause']} [{box['code']}]")
            if box["fix"]:
                say(f"    fix: {box['fix']}")
            if box["next_try"]:
                say(f"    next try: {box['next_try']}")
        _print_standing(box)
    say()
    table(
        ["webhook", "state", "waiting", "deferred", "held", "dead", "oldest", "last delivered"],
        [
            [
                hook["name"],
                hook["state"],
                hook["waiting"],
                hook["deferred"],
                hook["held"],
                hook["dead"],
                _ago(hook["oldest"]),
                _ago(hook["last_delivered"]),
            ]
            for hook in document["webhooks"]
        ],
        styles=STYLES,
    )
    for hook in document["webhooks"]:
        if hook["last_reason"]:
            say(f"  {hook['name']}: since {hook['failing_since']}: {hook['last_reason']}")
        if hook["next_try"]:
            say(f"  {hook['name']}: nothing is sent before {hook['next_try']}")
    _print_sending(document["sending"])
    _print_relay(document["relay"])


def _print_relay(relay: Mapping[str, Any] | None) -> None:
    if relay is None:
        return
    place = f"at {relay['listening']}" if relay["listening"] else relay["state"]
    parts = [f"{relay['taken']} taken"]
    for key, word in (("refused", "refused"), ("put_off", "put off")):
        why = ", ".join(f"{reason} {count}" for reason, count in relay[key].items())
        parts.append(f"{sum(relay[key].values())} {word}" + (f" ({why})" if why else ""))
    say()
    say(f"relay {place}: {', '.join(parts)}")


def _print_sending(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    say()
    table(
        [
            *("sends", "state", "waiting", "in doubt", "held", "failed", "oldest", "last sent"),
            *("messages left", "recipients left"),
        ],
        [
            [
                row["name"],
                row["state"],
                row["waiting"],
                row["in_doubt"],
                row["held"],
                row["failed"],
                _ago(row["oldest"]),
                _ago(row["last_sent"]),
                row["remaining"]["messages"],
                row["remaining"]["recipients"],
            ]
            for row in rows
        ],
        styles=STYLES,
    )
    for row in rows:
        if row["cause"]:
            code = f" [{row['code']}]" if row["code"] else ""
            say(f"  {row['name']}: {row['cause']}{code}")
        if row["fix"]:
            say(f"    fix: {row['fix']}")


def _print_standing(box: Mapping[str, Any]) -> None:
    """Say what is wrong with a sign-in, unless the mailbox's own trouble has said it."""
    standing = box["standing"]
    if standing and standing["cause"] and standing["code"] != box["code"]:
        say(f"  {box['name']}: sign-in: {standing['cause']} [{standing['code']}]")
        if standing["fix"]:
            say(f"    fix: {standing['fix']}")


def _probe(probe: Mapping[str, Any] | None) -> str | None:
    """Return how the last test mail went, in how many seconds, and when."""
    if probe is None or probe["state"] == "none":
        return None
    seconds = f" in {probe['seconds']:.1f} s" if probe["state"] == "passed" else ""
    return f"{probe['state']}{seconds}, {_ago(probe['last'])}"


def _ago(text: str | None) -> str | None:
    """Show a time as the span back from now, which is what an operator wants to know."""
    if text is None:
        return None
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{max(0, seconds)} s ago"
