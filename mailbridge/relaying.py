"""The relay of a daemon, put together; nothing of it is loaded where none is configured."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from mailbridge.build import Builder, Daemon, utc_now
from mailbridge.config import Config
from mailbridge.ways import routing_by

if TYPE_CHECKING:
    from mailbridge.outbox import Outbox
    from mailbridge.relay.inbound import Inbound
    from mailbridge.relay.listener import Relay

log = structlog.get_logger()

#: under which name its mails stand in the log
MAILBOX = "relay"


class Relaying:
    """Opens the relay of a configuration, and exchanges what a reload changes of it."""

    def __init__(
        self, *, daemon: Daemon, builder: Builder, outbox: Outbox, run: Callable[..., Any]
    ) -> None:
        self._daemon = daemon
        self._builder = builder
        self._outbox = outbox
        self._run = run
        self.relay: Relay | None = None

    def open(self) -> None:
        """Take the port. Raises ``ConfigError`` when it is taken, or a certificate unusable."""
        config = self._daemon.config
        if config.relay is None:
            return
        from mailbridge.relay.listener import Relay

        self.relay = Relay(
            config.relay,
            outbox=self._outbox,
            inbound=self._inbound(config),
            hostname=socket.gethostname() or "localhost",
        )
        self.relay.open()
        self._daemon.health.relay = self.relay.figures

    async def close(self) -> None:
        """Give back the port."""
        if self.relay is not None:
            await self.relay.close()

    def apply(self, config: Config) -> bool:
        """Take another configuration; ``False`` when only a restart can."""
        if self.relay is None or config.relay is None:
            return self.relay is None and config.relay is None
        return self.relay.apply(config.relay, self._inbound(config))

    def _inbound(self, config: Config) -> Inbound:
        from mailbridge.relay.inbound import Inbound

        section = config.relay
        assert section is not None  # noqa: S101 - asked for where there is one
        routings = {
            address: routing_by(
                config,
                self._builder.router(names),
                MAILBOX,
                run=self._run,
                listeners_for=self._builder.listeners_for,
            )
            for address, names in section.inbound.items()
        }
        return Inbound(
            store=self._daemon.store,
            routings=routings,
            on_accepted=self._daemon.wake_dispatchers,
            now=utc_now,
        )
