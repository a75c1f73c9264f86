"""What the environment adds to what stands in the file: proxies, where the file names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.models import App
from mailbridge.config.problems import Problems
from mailbridge.config.secrets import there
from mailbridge.config.webhooks import Webhook
from mailbridge.log import register_secret
from mailbridge.proxy.environment import Kind, from_environment
from mailbridge.proxy.place import Proxy, ProxyUrlError


class Surroundings:
    """Fills in ``proxy`` from the environment's variables. ``off`` in the file stays as it is."""

    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ = environ
        self._problems = problems

    def app(self, app: App) -> App:
        """Return the app with the proxy for its token requests."""
        if "proxy" in app.model_fields_set:
            return app
        host = urlsplit(app.authority_url).hostname or ""
        return app.model_copy(update={"proxy": self._proxy("https", host)})

    def mailbox(self, mailbox: Mailbox) -> Mailbox:
        """Return the mailbox with the proxies to its mail servers."""
        changed: dict[str, Any] = {}
        server = mailbox.fetch.server
        if mailbox.fetch.protocol != "none" and "proxy" not in server.model_fields_set:
            server = server.model_copy(update={"proxy": self._proxy("mail", server.host)})
            changed["fetch"] = mailbox.fetch.model_copy(update={"server": server})
        send = mailbox.send
        if send is not None and "proxy" not in send.server.model_fields_set:
            proxy = self._proxy("mail", send.server.host)
            way = send.server.model_copy(update={"proxy": proxy})
            changed["send"] = send.model_copy(update={"server": way})
        return mailbox.model_copy(update=changed)

    def webhook(self, webhook: Webhook) -> Webhook:
        """Return the webhook with the proxy to its receiver."""
        if "proxy" in webhook.model_fields_set or not there(webhook.url):
            return webhook
        parts = urlsplit(webhook.url.reveal())
        kind: Kind = "http" if parts.scheme == "http" else "https"
        return webhook.model_copy(update={"proxy": self._proxy(kind, parts.hostname or "")})

    def _proxy(self, kind: Kind, host: str) -> Proxy | None:
        try:
            proxy = from_environment(self._environ, kind, host)
        except ProxyUrlError as error:
            self._problems.add((), str(error), error.fix)
            return None
        for secret in proxy.secrets if proxy is not None else ():
            register_secret(secret)
        return proxy
