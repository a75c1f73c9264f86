"""Where mails go, from the configuration: routes, compiled, and what stands in for a webhook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from mailbridge.config import Config
from mailbridge.route.decide import Router
from mailbridge.routing import Routing
from mailbridge.store.base import Fallback

#: the events that the store finds out while it accepts mails
FOUND_OUT: Final = ("delivery.held", "format.drift")


def routing_by(
    config: Config,
    router: Router | None,
    mailbox: str,
    *,
    run: Callable[..., Any],
    listeners_for: Callable[[str, str], Sequence[str]],
) -> Routing:
    """Return the routing by these routes, for mails that stand in the log under ``mailbox``."""
    return Routing(
        router=router,
        fallbacks={hook: one.after for hook, one in build_fallbacks(config).items()},
        listeners={kind: tuple(listeners_for(mailbox, kind)) for kind in FOUND_OUT},
        run=run,
        now=_utc_now,
    )


def build_fallbacks(config: Config) -> Mapping[str, Fallback]:
    """Return, by webhook, what another one gets too, and after how long."""
    return {
        name: Fallback(to=hook.fallback.webhook, after=hook.fallback.after.total_seconds())
        for name, hook in config.webhooks.items()
        if hook.fallback is not None
    }


def build_router(config: Config, names: Sequence[str] | None) -> Router | None:
    """Return the compiled routes of these names in this order, ``None`` where there are none."""
    if names is None:
        return None
    return Router([config.routes[name].compile(name) for name in names])


def _utc_now() -> datetime:
    return datetime.now(UTC)
