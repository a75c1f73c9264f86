"""SIGHUP: the configuration is read again, and taken whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mailbridge.config import Config
from mailbridge.errors import MailbridgeError
from mailbridge.running import Running

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Reload:
    """How the daemon is told to read its configuration again, and how that is done.

    ``asked`` is set by SIGHUP; ``load`` blocks, and raises ``ConfigError`` with every problem.
    """

    asked: asyncio.Event
    load: Callable[[], Config]


async def take_again(running: Running, load: Callable[[], Config]) -> str:
    """Read the configuration again and take it; returns what to tell the service manager.

    A broken one is refused with its reasons in the log, and the old one stays in force.
    """
    try:
        config = await asyncio.to_thread(load)
        found = await running.apply(config)
    except MailbridgeError as error:
        log.error("config.refused", error=str(error), code=error.code)  # noqa: TRY400 - no bug
        return f"reload refused, the former configuration is in force: {error}"
    for section in found.at_restart:
        log.warning("config.needs_restart", section=section)
    later = f"; at the next start: {', '.join(found.at_restart)}" if found.at_restart else ""
    log.info("config.reloaded", changed=str(found) + later, keys=found.keys)
    return f"reloaded, changed: {found}{later}"
