"""The configuration as frozen values: what ``load`` returns, and the source of the JSON Schema.

A key that a later version brings is listed in ``coming`` of its section, so that nobody is told
it was unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from mailbridge.config import urls
from mailbridge.config.clouds import CLOUDS, MICROSOFT_HOSTS, CloudName, parse_tenant
from mailbridge.config.problems import fault
from mailbridge.config.secrets import (
    ClientSecret,
    Secret,
    SigningSecret,
    StateKey,
    reference_schema,
    resolve,
)
from mailbridge.config.values import (
    Address,
    Certificates,
    ClientId,
    Cron,
    Day,
    Folder,
    Folders,
    Host,
    Interval,
    Port,
    PrivateKey,
    Retention,
    Size,
    Start,
    later,
    whole,
)

#: the events that a webhook can receive
EventType = Literal[
    "mail.received",
    "mail.vanished",
    "delivery.dead",
    "mailbox.degraded",
    "mailbox.recovered",
    "secret.expiring",
    "send.sent",
    "send.failed",
    "send.held",
    "test.ping",
]
EVENTS: tuple[EventType, ...] = get_args(EventType)


def _one_or_more(value: Any) -> Any:
    """Take a single value for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _default(text: str) -> dict[str, Any]:
    """Return what the JSON Schema says about a default, as the file would write it."""
    return {"default": text}


class Section(BaseModel):
    """A part of the file. Unknown keys are refused, and no error text repeats an input."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )
    #: keys that a later version brings
    coming: ClassVar[frozenset[str]] = frozenset()


class Keep(Section):
    """How long what is done stays in the database."""

    delivered: Retention = Field(
        timedelta(days=30),
        description="raw bytes and attempts of delivered messages",
        json_schema_extra=_default("30d"),
    )
    dead: Retention = Field(
        timedelta(days=90), description="dead letters", json_schema_extra=_default("90d")
    )
    log: Retention = Field(
        timedelta(days=180),
        description="the mail log: one row per message",
        json_schema_extra=_default("180d"),
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
    key: StateKey | None = Field(
        None, description="32 bytes of base64 (`mailbridge secret key`); not used by this version"
    )
    keep: Keep = Field(default_factory=Keep, description="retention")

    @property
    def database_label(self) -> str:
        """The database without user and password, to be shown."""
        url = self.database.reveal()
        if url.startswith("sqlite:"):
            return url
        return urls.origin(url) + urlsplit(url).path


def _listen(value: Any) -> Any:
    if value not in ("off", False):
        raise fault("this version has no HTTP API yet", "write `listen: off`.")
    return "off"


class Http(Section):
    """The HTTP API, which this version does not have."""

    coming: ClassVar[frozenset[str]] = frozenset({"api_tokens"})
    listen: Annotated[
        Literal["off"], BeforeValidator(_listen), WithJsonSchema({"enum": ["off", False]})
    ] = Field("off", description="only `off` in this version")


class Credential(Section):
    """What an app registration signs in with."""

    coming: ClassVar[frozenset[str]] = frozenset({"certificate", "federated", "managed_identity"})
    client_secret: Annotated[
        tuple[ClientSecret, ...],
        BeforeValidator(_one_or_more),
        Field(min_length=1, max_length=8),
        WithJsonSchema(
            {
                "anyOf": [
                    reference_schema(),
                    {"type": "array", "items": reference_schema(), "minItems": 1, "maxItems": 8},
                ]
            }
        ),
    ] = Field(description="the secret's value, or a list [new, old] while rotating")
    expires: Day | None = Field(None, description="when the secret ends; warned of in time")


class App(Section):
    """An Entra app registration."""

    coming: ClassVar[frozenset[str]] = frozenset({"proxy"})
    tenant: Annotated[str, BeforeValidator(parse_tenant), WithJsonSchema({"type": "string"})] = (
        Field(description="GUID, domain, or the whole login URL with the tenant")
    )
    client_id: ClientId = Field(description="the Application (client) ID, a GUID")
    credential: Credential | None = Field(None, description="left out for a public client")
    cloud: CloudName = Field("public", description="Microsoft's national clouds")
    ca: Certificates | None = Field(
        None, description="PEM file with the private CA of another authority"
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
        return f"{CLOUDS[self.cloud].resource}/.default"

    @property
    def is_microsoft_host(self) -> bool:
        """Whether the authority is Microsoft's own (another one is a sandbox or a test)."""
        return urlsplit(self.authority_url).netloc in MICROSOFT_HOSTS


class Server(Section):
    """A mail server. After loading, ``host`` and ``port`` are always filled in."""

    coming: ClassVar[frozenset[str]] = frozenset({"proxy"})
    host: Host = Field(
        "",
        description="default: Exchange Online of the app's cloud",
        json_schema_extra=_default("outlook.office365.com"),
    )
    port: Port = Field(
        0,
        description="default: 993, or 143 with starttls",
        json_schema_extra={"default": 993, "minimum": 1, "maximum": 65535},
    )
    tls: Literal["implicit", "starttls"] = Field("implicit", description="never without TLS")
    ca: Certificates | None = Field(None, description="PEM file with a private CA")


class After(Section):
    """What the server is told about a message once it is durable here."""

    action: Literal["keep", "seen", "delete", "move"] = "keep"
    folder: Folder | None = None


def _after(value: Any) -> Any:
    fix = "write keep, seen, delete, or {move: Processed}."
    if isinstance(value, After):
        return value
    if isinstance(value, dict) and list(value) == ["move"]:
        folder = value["move"]
        if not isinstance(folder, str) or not folder.strip():
            raise fault("`move` needs the name of a folder", fix, key="move")
        return {"action": "move", "folder": folder}
    if value not in ("keep", "seen", "delete"):
        raise fault("this is not something to do with a message", fix)
    return {"action": value}


class Fetch(Section):
    """How a mailbox is watched."""

    protocol: Annotated[Literal["imap", "none"], later("pop3", what="protocol")] = Field(
        "imap", description="imap or none"
    )
    push: StrictBool = Field(True, description="IMAP IDLE; this version polls only")  # noqa: FBT003 - pydantic takes the default by place
    every: Interval = Field(
        timedelta(seconds=60),
        description="how often to look; 5s or more",
        json_schema_extra=_default("60s"),
    )
    cron: Cron | None = Field(
        None, description="instead of every: five fields, local time, weekdays as names"
    )
    folders: Folders = Field(("INBOX",), description="the folders to watch", min_length=1)
    start: Start = Field(
        "new", description="first run: new (only what arrives from now), all, or a date"
    )
    after: Annotated[
        After,
        BeforeValidator(_after),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["keep", "seen", "delete"]},
                    {
                        "type": "object",
                        "properties": {"move": {"type": "string", "minLength": 1}},
                        "required": ["move"],
                        "additionalProperties": False,
                    },
                ]
            }
        ),
    ] = Field(
        default_factory=After,
        description="once accepted: keep, seen, delete or {move: Folder}",
        json_schema_extra=_default("keep"),
    )
    server: Server = Field(default_factory=Server, description="default: Exchange Online")

    @model_validator(mode="after")
    def _fits(self) -> Fetch:
        if self.cron is not None and "every" in self.model_fields_set:
            raise fault("`every` and `cron` exclude each other", "keep one of them.", key="cron")
        if self.after.action == "move" and self.after.folder in self.folders:
            raise fault(
                "messages would be moved into a folder that is watched, and delivered again",
                "move them to a folder that is not in `folders`.",
                key="after",
            )
        if len(set(self.folders)) != len(self.folders):
            raise fault("a folder is named twice", "name it once.", key="folders")
        return self


class Mailbox(Section):
    """One mailbox and how it is watched."""

    coming: ClassVar[frozenset[str]] = frozenset({"signed_in_as", "password", "send", "routes"})
    address: Address = Field(description="the mailbox's primary address")
    app: str = Field(description="the name of an entry under apps")
    sign_in: Annotated[
        Literal["application"], later("delegated", "password", what="kind of sign-in")
    ] = Field("application", description="application access (client credentials)")
    fetch: Fetch = Field(default_factory=Fetch, description="how the mailbox is watched")


class Attachments(Section):
    """What a webhook gets of attachments."""

    mode: Annotated[Literal["none", "meta", "inline"], later("link", what="mode")] = Field(
        "meta", description="none, meta (names, types, sizes, hashes) or inline (base64 too)"
    )
    max: Size = Field(
        10_000_000,
        description="inline: attachments beyond this size come as meta",
        json_schema_extra=_default("10MB"),
    )


class WebhookTls(Section):
    """TLS towards a webhook."""

    ca: Certificates | None = Field(None, description="PEM file with a private CA")
    client_certificate: Certificates | None = Field(None, description="PEM file")
    client_key: PrivateKey | None = Field(
        None, description="PEM file; left out when it is in the certificate's file"
    )

    @model_validator(mode="after")
    def _fits(self) -> WebhookTls:
        if self.client_key is not None and self.client_certificate is None:
            raise fault(
                "a key without its certificate", "add `client_certificate`.", key="client_key"
            )
        return self


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_OURS = re.compile(
    r"(content-(type|length|encoding)|host|connection|transfer-encoding|te|trailer|upgrade|expect"
    r"|keep-alive|user-agent|webhook-.*|mailbridge-.*)",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(r"authorization|cookie|key|token|secret|password|auth", re.IGNORECASE)


def _headers(value: Any, info: ValidationInfo) -> dict[str, Secret]:
    """Return headers by name; what names a credential must be a reference."""
    if not isinstance(value, dict):
        raise fault("this is not a map of headers", "write `X-Source: mailbridge`.")
    result: dict[str, Secret] = {}
    for name, given in value.items():
        if not _HEADER.fullmatch(name):
            raise fault("this is not the name of a header", "use letters, digits and -.", key=name)
        if _OURS.fullmatch(name):
            raise fault("mailbridge sets this header itself", "remove it.", key=name)
        if name.lower() in {known.lower() for known in result}:
            raise fault("this header stands here twice", "keep one.", key=name)
        result[name] = _header(name, given, info)
    return result


def _header(name: str, given: Any, info: ValidationInfo) -> Secret:
    if isinstance(given, dict | Secret) or _CREDENTIAL.search(name):
        try:
            return resolve(given, info)
        except Exception as exc:
            context = getattr(exc, "context", None)
            if not isinstance(context, dict):
                raise
            raise fault(context["message"], context["fix"], key=name) from None
    if not isinstance(given, str) or not given.isascii() or not given.isprintable():
        raise fault("this is not the text of a header", "write ASCII text in quotes.", key=name)
    return Secret(given)


class Webhook(Section):
    """One destination."""

    coming: ClassVar[frozenset[str]] = frozenset({"fallback", "template"})
    format: Annotated[
        Literal["mailbridge"],
        later("divera", "alamos-fe2", "raw", "template", "cloudevents", what="format"),
    ] = Field("mailbridge", description="the form of the body")
    url: Annotated[
        Secret,
        BeforeValidator(lambda value: Secret(value) if isinstance(value, str) else value),
        WithJsonSchema(
            {"anyOf": [{"type": "string", "pattern": "^https?://."}, reference_schema()]}
        ),
    ] = Field(description="https://…, or a reference when the URL holds a key")
    profile: Literal["default", "alarm"] = Field(
        "default", description="retry schedule and deadlines"
    )
    signing_secrets: Annotated[tuple[SigningSecret, ...], Field(max_length=8)] = Field(
        (), description="whsec_… (`mailbridge secret webhook`), newest first"
    )
    headers: Annotated[
        Mapping[str, Secret],
        BeforeValidator(_headers),
        WithJsonSchema(
            {
                "type": "object",
                "additionalProperties": {"anyOf": [{"type": "string"}, reference_schema()]},
            }
        ),
    ] = Field(
        default_factory=dict,
        description="extra headers; names like Authorization or X-Api-Key take references only",
    )
    attachments: Attachments = Field(default_factory=Attachments, description="what is sent")
    order: Annotated[Literal["none"], later("strict", what="order")] = Field(
        "none", description="none: no delivery waits for another"
    )
    concurrency: Annotated[int, whole(1, 256)] = Field(
        8,
        description="attempts at the same time",
        json_schema_extra={"minimum": 1, "maximum": 256},
    )
    allow_private: StrictBool = Field(
        False,  # noqa: FBT003 - pydantic takes the default by place
        description="true permits loopback and private addresses, and http:// to them",
    )
    tls: WebhookTls = Field(default_factory=WebhookTls, description="private CA, own certificate")
    events: tuple[EventType, ...] = Field(
        EVENTS, description="the events that this webhook receives; default: all", min_length=1
    )

    @model_validator(mode="after")
    def _fits(self) -> Webhook:
        error = urls.webhook_fault(self.url.reveal(), allow_private=self.allow_private)
        if error is not None:
            context = error.context or {}
            raise fault(context["message"], context["fix"], key="url")
        return self

    @property
    def origin(self) -> str:
        """``https://host`` of the URL, which is all that may be shown of it."""
        return urls.origin(self.url.reveal())


def _named(what: str) -> dict[str, Any]:
    return {
        "propertyNames": {"pattern": "^[a-z0-9][a-z0-9._-]*$"},
        "minProperties": 1,
        "title": what,
    }


class Config(Section):
    """The whole file."""

    coming: ClassVar[frozenset[str]] = frozenset({"routes", "relay"})
    state: State = Field(default_factory=State, description="the database")
    http: Http = Field(default_factory=Http, description="the HTTP API")
    apps: Mapping[str, App] = Field(
        description="Entra app registrations by name", json_schema_extra=_named("Apps")
    )
    mailboxes: Mapping[str, Mailbox] = Field(
        description="mailboxes by name", json_schema_extra=_named("Mailboxes")
    )
    webhooks: Mapping[str, Webhook] = Field(
        description="destinations by name; each gets every mail",
        json_schema_extra=_named("Webhooks"),
    )
