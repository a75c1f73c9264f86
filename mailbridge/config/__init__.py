"""YAML to frozen values: the only place that reads configuration and knows where secrets are.

::

    path = find(explicit)            # --config, $MAILBRIDGE_CONFIG, ./mailbridge.yaml, /etc/…
    config = load(path)              # a Config, or ConfigError with every Problem at once
    config.mailboxes["alarm"].fetch.every

Everyone else is handed values. A secret is a ``Secret``; ``reveal()`` gives its value.
"""

from mailbridge.config.clouds import CLOUDS, Cloud
from mailbridge.config.load import Checked, check, find, load
from mailbridge.config.models import (
    EVENTS,
    After,
    App,
    Attachments,
    Config,
    Credential,
    Fetch,
    Http,
    Keep,
    Mailbox,
    Server,
    State,
    Webhook,
    WebhookTls,
)
from mailbridge.config.schema import schema
from mailbridge.config.secrets import Secret

__all__ = [
    "CLOUDS",
    "EVENTS",
    "After",
    "App",
    "Attachments",
    "Checked",
    "Cloud",
    "Config",
    "Credential",
    "Fetch",
    "Http",
    "Keep",
    "Mailbox",
    "Secret",
    "Server",
    "State",
    "Webhook",
    "WebhookTls",
    "check",
    "find",
    "load",
    "schema",
]
