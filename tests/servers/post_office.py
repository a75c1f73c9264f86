"""A daemon in this process that sends: a tenant, a receiver, and mail for its outbox."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mailbridge.app import serve
from mailbridge.build import Daemon
from mailbridge.config import load
from mailbridge.model import Outgoing
from mailbridge.operate import status
from mailbridge.reloading import Reload
from mailbridge.sandbox.config_text import config_for, new_signing_secret
from mailbridge.sandbox.receiver import Receiver
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import ADDRESS, signing_key

OTHER = "wache@feuerwehr.example"
#: seconds until a test gives up
PATIENCE = 30


class PostOffice:
    """``open`` it to have the daemon run; what it keeps lies in ``home``."""

    def __init__(self, tenant: Tenant, receiver: Receiver, home: Path, secret: str) -> None:
        self.tenant, self.receiver, self.home = tenant, receiver, home
        self.config = home / "mailbridge.yaml"
        self.config.write_text(
            config_for(
                tenant,
                webhook_url=receiver.url,
                state_dir=home / "state",
                signing_secret=secret,
                send=[ADDRESS],
            )
        )
        self.reload = asyncio.Event()
        self.daemon: Daemon

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Daemon]:
        """Run the daemon."""
        stop, ready = asyncio.Event(), asyncio.Event()

        def on_ready(daemon: Daemon) -> None:
            self.daemon = daemon
            ready.set()

        running = asyncio.create_task(
            serve(
                load(self.config),
                stop=stop,
                reload=Reload(asked=self.reload, load=lambda: load(self.config)),
                environ={"RUNTIME_DIRECTORY": str(self.home)},
                on_ready=on_ready,
            )
        )
        waiting = asyncio.create_task(ready.wait())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        try:
            yield self.daemon
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE):
                await running

    async def post(self, *recipients: str, body: str = "Hi") -> str:
        """Put a mail into the store, as the ways in do, and wake who sends it."""
        name = "out_" + secrets.token_hex(13)
        to = recipients or (OTHER,)
        mail = Outgoing(
            id=name,
            mailbox="alarm",
            sender=ADDRESS,
            recipients=to,
            message_id=f"<{name}@feuerwehr.example>",
            raw=(
                f"From: {ADDRESS}\r\nTo: {', '.join(to)}\r\nSubject: {name}\r\n"
                f"Message-ID: <{name}@feuerwehr.example>\r\nX-Mailbridge-Id: {name}\r\n\r\n"
                f"{body}\r\n"
            ).encode(),
            via="api",
        )
        await self.daemon.store.sends.accept(mail)
        self.daemon.wake_sender("alarm")
        return name

    async def state(self, name: str) -> str:
        """Return the state of a mail."""
        row = await self.daemon.store.sends.status(name)
        assert row is not None
        return str(row.state)

    async def until(self, name: str, *states: str) -> None:
        """Wait until a mail is in one of these states."""
        async with asyncio.timeout(PATIENCE):
            while await self.state(name) not in states:
                await asyncio.sleep(0.02)

    async def row(self) -> dict[str, Any]:
        """Return the mailbox's row of the status."""
        daemon = self.daemon
        document = status(daemon.config, daemon.health, await daemon.store.counts())
        [row] = document["sending"]
        return dict(row)

    async def row_when(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the row once it is as wanted."""
        async with asyncio.timeout(PATIENCE):
            while not wanted(row := await self.row()):
                await asyncio.sleep(0.02)
        return row

    async def event(self, kind: str, name: str = "") -> dict[str, Any]:
        """Return the data of the first event of a kind, about a mail if it is named."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for one in self.receiver.accepted.values():
                    data = one.json["data"]
                    if one.json["type"] == kind and name in {"", data.get("send")}:
                        return dict(data)
                await asyncio.sleep(0.02)

    def copies(self, name: str) -> int:
        """Return how often the server has taken a mail."""
        return sum(name.encode() in mail.raw for mail in self.tenant.smtp.mails)


@asynccontextmanager
async def post_office(home: Path) -> AsyncIterator[PostOffice]:
    """Give a tenant with two mailboxes, of which the first sends, and a receiver."""
    secret = new_signing_secret()
    async with (
        Tenant.start(files=home, key=signing_key()) as tenant,
        Receiver.start(secrets=[secret]) as receiver,
    ):
        tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS), tenant.add_mailbox(OTHER))
        yield PostOffice(tenant, receiver, home, secret)
