"""YAML to frozen values: the only place that reads configuration and knows where secrets are.

::

    path = find(explicit)            # --config, $MAILBRIDGE_CONFIG, ./mailbridge.yaml, /etc/…
    config = load(path)              # a Config, or ConfigError with every Problem at once
    config.mailboxes["alarm"].fetch.every

Everyone else is handed values. A secret is a ``Secret``; ``reveal()`` gives its value.
"""

from mailbridge.config.clouds import CLOUDS, Cloud
from mailbridge.config.credentials import Credential
from mailbridge.config.http import Http
from mailbridge.config.load import Checked, check, find, load
from mailbridge.config.mailboxes import After, Fetch, Mailbox, Server
from mailbridge.config.models import App, Config, Keep, State
from mailbridge.config.schema import schema
from mailbridge.config.secrets import Secret
from mailbridge.config.sending import Send, SendLimits, SendServer
from mailbridge.config.webhooks import EVENTS, Attachments, EventType, Webhook, WebhookTls

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
    "EventType",
    "Fetch",
    "Http",
    "Keep",
    "Mailbox",
    "Secret",
    "Send",
    "SendLimits",
    "SendServer",
    "Server",
    "State",
    "Webhook",
    "WebhookTls",
    "check",
    "find",
    "load",
    "schema",
]
