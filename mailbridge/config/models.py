"""The configuration as frozen values: what ``load`` returns, and the source of the JSON Schema.

``state``, ``apps`` and the whole; the other sections have their own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from mailbridge.config import urls
from mailbridge.config.clouds import CLOUDS, MICROSOFT_HOSTS, CloudName, parse_tenant
from mailbridge.config.credentials import Credential
from mailbridge.config.http import Http
from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.proxies import ProxySetting
from mailbridge.config.relay import Relay
from mailbridge.config.routes import Route
from mailbridge.config.secrets import (
    SECRETS_SCHEMA,
    Secret,
    StateKey,
    one_or_more,
    reference_schema,
)
from mailbridge.config.sections import Section, file_default
from mailbridge.config.values import Certificates, ClientId, Retention
from mailbridge.config.webhooks import Webhook


class Keep(Section):
    """How long what is done stays in the database."""

    delivered: Retention = Field(
        timedelta(days=30),
        description="raw bytes and attempts of delivered messages",
        json_schema_extra=file_default("30d"),
    )
    dead: Retention = Field(
        timedelta(days=90), description="dead letters", json_schema_extra=file_default("90d")
    )
    log: Retention = Field(
        timedelta(days=180),
        description="the mail log: one row per message",
        json_schema_extra=file_default("180d"),
    )


class State(Section):
    """Where mailbridge keeps what must not be lost."""

    database: Annotated[
        Secret,
        BeforeValidator(urls.database),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": "^(sqlite:///|postgresql(\\+psycopg)?://)."},
                    reference_schema(),
                ]
            }
        ),
    ] = Field(
        default_factory=lambda: Secret(urls.default_database()),
        description="sqlite:////path or postgresql://…; default: "
        "$STATE_DIRECTORY/mailbridge.db, else ./mailbridge.db",
    )
    key: Annotated[
        tuple[StateKey, ...],
        BeforeValidator(one_or_more),
        Field(min_length=1, max_length=8),
        WithJsonSchema(SECRETS_SCHEMA),
    ] = Field(
        (),
        description="32 bytes of base64 (`mailbridge secret key`) that encrypt grants at rest, or "
        "a list [new, former] to change it; none: no delegated sign-in",
    )
    keep: Keep = Field(default_factory=Keep, description="retention")

    @property
    def database_label(self) -> str:
        """The database without user and password, to be shown."""
        url = self.database.reveal()
        if url.startswith("sqlite:"):
            return url
        return urls.origin(url) + urlsplit(url).path


class App(Section):
    """An Entra app registration."""

    tenant: Annotated[str, BeforeValidator(parse_tenant), WithJsonSchema({"type": "string"})] = (
        Field(description="GUID, domain, or the whole login URL with the tenant")
    )
    client_id: ClientId = Field(description="the Application (client) ID, a GUID")
    credential: Credential | None = Field(None, description="left out for a public client")
    cloud: CloudName = Field("public", description="Microsoft's national clouds")
    ca: Certificates | None = Field(
        None, description="PEM file with the private CA of another authority"
    )
    proxy: ProxySetting = Field(
        None, description="for token requests; off: none, whatever the environment says"
    )

    @property
    def authority_url(self) -> str:
        """``https://login.microsoftonline.com/<tenant>``, or the authority that was written."""
        if self.tenant.startswith("https://"):
            return self.tenant
        return f"https://{CLOUDS[self.cloud].login}/{self.tenant}"

    @property
    def tenant_id(self) -> str:
        """The tenant alone: a GUID or a domain."""
        return self.tenant.rpartition("/")[2]

    @property
    def scope(self) -> str:
        """What an access token for IMAP, POP3 and SMTP is asked for in this cloud."""
        return f"{self.resource}/.default"

    @property
    def resource(self) -> str:
        """Exchange Online in this cloud."""
        return CLOUDS[self.cloud].resource

    @property
    def delegated_resource(self) -> str:
        """The same, as it is written in the scopes that people consent to."""
        return CLOUDS[self.cloud].delegated

    @property
    def is_microsoft_host(self) -> bool:
        """Whether the authority is Microsoft's own (another one is a sandbox or a test)."""
        return urlsplit(self.authority_url).netloc in MICROSOFT_HOSTS


def _named(what: str, least: int = 1) -> dict[str, Any]:
    return {
        "propertyNames": {"pattern": "^[a-z0-9][a-z0-9._-]*$"},
        "minProperties": least,
        "title": what,
    }


class Config(Section):
    """The whole file."""

    state: State = Field(default_factory=State, description="the database")
    http: Http = Field(default_factory=Http, description="health, metrics and the API")
    apps: Mapping[str, App] = Field(
        description="Entra app registrations by name", json_schema_extra=_named("Apps")
    )
    mailboxes: Mapping[str, Mailbox] = Field(
        description="mailboxes by name", json_schema_extra=_named("Mailboxes")
    )
    webhooks: Mapping[str, Webhook] = Field(
        description="destinations by name; each gets every mail of a mailbox without `routes`",
        json_schema_extra=_named("Webhooks"),
    )
    routes: Mapping[str, Route] = Field(
        default_factory=dict,
        description="which mails go where, by name; used by the mailboxes that name them",
        json_schema_extra=_named("Routes", least=0),
    )
    relay: Relay | None = Field(None, description="a local SMTP listener; default: none")
