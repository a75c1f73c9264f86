"""What the environment adds to what stands in the file: proxies, where the file names none."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.models import App
from mailbridge.config.problems import Problems
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
        """Return the mailbox with the proxy to its mail server."""
        server = mailbox.fetch.server
        if "proxy" in server.model_fields_set or mailbox.fetch.protocol == "none":
            return mailbox
        server = server.model_copy(update={"proxy": self._proxy("mail", server.host)})
        fetch = mailbox.fetch.model_copy(update={"server": server})
        return mailbox.model_copy(update={"fetch": fetch})

    def webhook(self, webhook: Webhook) -> Webhook:
        """Return the webhook with the proxy to its receiver."""
        if "proxy" in webhook.model_fields_set:
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
