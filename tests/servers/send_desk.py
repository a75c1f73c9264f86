"""One mailbox that sends to a real server, put together as the daemon does it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from mailbridge.config import Config, load
from mailbridge.health import SinkHealth
from mailbridge.model import AccessToken
from mailbridge.outbox import Outbox
from mailbridge.sending import Sending, build_sending
from mailbridge.sign_in.base import SignIn
from mailbridge.store.store import Store
from tests.servers.postfix import Postfix

#: seconds until a test gives up
PATIENCE = 60


def utc_now() -> datetime:
    return datetime.now(UTC)


class Minted:
    """A sign-in whose tokens somebody mints."""

    def __init__(self, mint: Callable[[], str]) -> None:
        self._mint = mint

    async def token(self) -> AccessToken:
        """Mint one."""
        return AccessToken(value=self._mint(), expires_at=utc_now() + timedelta(hours=1))

    async def force_refresh(self, _: AccessToken | None = None) -> AccessToken:
        """Mint another."""
        return await self.token()


def config_of(home: Path, postfix: Postfix, address: str, *, connections: int = 3) -> Config:
    """Return a configuration in which ``alarm`` sends by a Postfix, without a budget."""
    limits = f"per_minute: off, recipients_per_day: off, connections: {connections}"
    ports = (postfix.port, postfix.dovecot.imaps_port)
    return written(home, address, ports, postfix.ca_file, limits)


def written(home: Path, address: str, ports: tuple[int, int], ca: Path, limits: str) -> Config:
    """Return a configuration for servers on these ports, of SMTP and IMAP."""
    path = home / "mailbridge.yaml"
    smtp_port, imap_port = ports
    imap = f"{{host: localhost, port: {imap_port}, ca: {ca}}}"
    path.write_text(
        f"state: {{database: 'sqlite:///{home}/mailbridge.db'}}\n"
        "apps: {app: {tenant: feuerwehr.example, client_id: "
        "66666666-7777-8888-9999-000000000000, credential: {client_secret: {env: SECRET}}}}\n"
        f"mailboxes:\n  alarm:\n    address: {address}\n    app: app\n"
        f"    fetch: {{server: {imap}}}\n    send:\n"
        f"      server: {{host: localhost, port: {smtp_port}, ca: {ca}}}\n"
        f"      limits: {{{limits}}}\n"
        "webhooks: {erp: {url: https://erp.example/}}\n"
    )
    return load(path, environ={"SECRET": "not-used"})


@dataclass(slots=True, kw_only=True)
class Desk:
    """A store, the outbox in front of it, and what sends."""

    address: str
    store: Store
    outbox: Outbox
    sending: Sending

    async def until_empty(self) -> None:
        """Wait until nothing waits any more."""
        async with asyncio.timeout(PATIENCE):
            while any(
                one.queued + one.deferred + one.claimed for one in (await self.store.counts()).sinks
            ):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def desk(
    config: Config,
    mint: Callable[[], str],
    *,
    now: Callable[[], datetime] = utc_now,
    steady: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Desk]:
    """Run the dispatcher beside the block."""
    store = await Store.open(config.state.database.reveal(), now=now)
    mailbox = config.mailboxes["alarm"]

    async def run(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(function, *args)

    sending = build_sending(
        "alarm",
        mailbox,
        cloud="public",
        sign_in=cast("SignIn", Minted(mint)),
        store=store,
        health=SinkHealth(name="send:alarm"),
        listeners=lambda *_: (),
        on_notice=lambda: None,
        run=run,
        now=now,
        rng=random.Random(1),
        steady=steady,
    )
    outbox = Outbox(
        config=lambda: config,
        store=store.sends,
        wake=lambda _: sending.dispatcher.wake(),
        now=now,
        run=run,
    )
    await sending.prepare()
    stop = asyncio.Event()
    running = asyncio.create_task(sending.dispatcher.run(stop))
    try:
        yield Desk(address=mailbox.address, store=store, outbox=outbox, sending=sending)
    finally:
        stop.set()
        await running
        await sending.close()
        await store.close()
