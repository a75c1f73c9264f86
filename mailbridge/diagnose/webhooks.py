"""Whether the webhooks of a mailbox can be reached: DNS, TCP, TLS, and the guard of addresses.

By the sink that delivers to them, and without a request: nothing is posted, nobody is woken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailbridge import __version__
from mailbridge.config import Config, Webhook
from mailbridge.diagnose.finding import Told
from mailbridge.diagnose.words import told
from mailbridge.sinks.webhook import WebhookSink


def webhooks_of(config: Config, mailbox: str) -> list[str]:
    """Return the webhooks that mails of a mailbox can lead to, with those that step in for them."""
    routes = config.mailboxes[mailbox].routes
    if routes is None:
        first = [name for name, hook in config.webhooks.items() if "mail.received" in hook.events]
    else:
        first = [hook for route in routes for hook in config.routes[route].webhooks]
    return list(dict.fromkeys(_with_fallbacks(config, first)))


def _with_fallbacks(config: Config, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for first in names:
        name: str | None = first
        while name is not None and name not in seen:
            seen.add(name)
            yield name
            fallback = config.webhooks[name].fallback
            name = fallback.webhook if fallback is not None else None


async def reach(name: str, webhook: Webhook) -> Told:
    """Connect to a webhook as a delivery would, and hang up. Raises ``mailbridge.errors``."""
    tls = webhook.tls
    sink = WebhookSink(
        name=name,
        url=webhook.request_url,
        body=lambda _delivery: b"",
        version=__version__,
        allow_private=webhook.allow_private,
        ca=str(tls.ca) if tls.ca else None,
        client_certificate=str(tls.client_certificate) if tls.client_certificate else None,
        client_key=str(tls.client_key) if tls.client_key else None,
        profile=webhook.profile,
        proxy=webhook.proxy,
    )
    async with sink:
        reached = await sink.reach()
    secured = told("webhook.tls", version=reached.tls) if reached.tls else told("nothing")
    place = {"peer": reached.peer, "port": reached.port}
    return told("webhook.ok", origin=webhook.origin, tls=secured, **place)
