"""What systemd wants to hear: ready, alive, stopping. Without systemd every call is a no-op."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

import structlog

log = structlog.get_logger()

#: bytes of a status text; systemd shows one line
STATUS_LIMIT: Final = 200


class Service:
    """The notification socket of systemd (sd_notify(3)), read once from the environment."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environ is None else environ
        self._address = env.get("NOTIFY_SOCKET", "")
        usec = env.get("WATCHDOG_USEC", "")
        #: seconds between two signs of life that systemd expects, 0 without a watchdog
        self.watchdog_seconds = int(usec) / 1_000_000 if usec.isdigit() else 0.0

    def ready(self, status: str) -> None:
        """Tell that the daemon is up and works."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        """Tell that the configuration is being read again; ``ready`` tells that this is over."""
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading")

    def status(self, status: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """Feed the watchdog. To be called only while every supervised loop moves."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the stop has begun."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the abstract namespace (sd_notify(3)).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.connect(address)
                channel.sendall(text.encode())
        except OSError as error:
            # A manager that cannot be told is no reason to deliver nothing: in a container the
            # variable may be there and the socket not. A real one acts by its own timeouts.
            log.warning("service.not_told", reason=type(error).__name__)


def _line(text: str) -> str:
    return text.replace("\n", " ")[:STATUS_LIMIT]
