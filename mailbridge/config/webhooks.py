"""``webhooks``: where events go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mailbridge import alarm
from mailbridge.config import urls
from mailbridge.config.formats import (
    JSON,
    MAILS_ONLY,
    SECTIONS,
    Alamos,
    Divera,
    Fallback,
    FormatName,
    MediaType,
    check_known,
    template_fault,
)
from mailbridge.config.problems import fault
from mailbridge.config.proxies import ProxySetting
from mailbridge.config.secrets import Secret, SigningSecret, reference_schema, resolve, there
from mailbridge.config.sections import Section, file_default
from mailbridge.config.values import Certificates, PrivateKey, Size, whole

#: the events that a webhook can receive
EventType = Literal[
    "mail.received",
    "mail.vanished",
    "delivery.dead",
    "delivery.held",
    "webhook.failing",
    "webhook.recovered",
    "format.drift",
    "mailbox.degraded",
    "mailbox.recovered",
    "probe.missed",
    "probe.recovered",
    "secret.expiring",
    "send.sent",
    "send.failed",
    "send.held",
    "send.parked",
    "send.resumed",
    "test.ping",
]
EVENTS: tuple[EventType, ...] = get_args(EventType)


class Attachments(Section):
    """What a webhook gets of attachments."""

    mode: Literal["none", "meta", "inline", "link"] = Field(
        "meta",
        description="none, meta (names, types, sizes, hashes), inline (base64 too) or link (meta "
        "with a signed link, good for eight days; needs http.listen and state.key)",
    )
    max: Size = Field(
        10_000_000,
        description="inline: up to this much of one mail, all attachments together; "
        "what goes beyond comes as meta",
        json_schema_extra=file_default("10MB"),
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
        except PydanticCustomError as exc:
            context = exc.context or {}
            raise fault(
                context["message"], context["fix"], key=name, inner=context["key"]
            ) from None
    if not isinstance(given, str) or not given.isascii() or not given.isprintable():
        raise fault("this is not the text of a header", "write ASCII text in quotes.", key=name)
    return Secret(given)


def _template(value: Any) -> str:
    if not isinstance(value, str):
        raise fault("this is not a template", "write text, in quotes or below `|`.")
    wrong = template_fault(value)
    if wrong is not None:
        raise fault(*wrong)
    return value


class Webhook(Section):
    """One destination."""

    format: FormatName = Field("mailbridge", description="the form of the body")
    template: Annotated[str | None, BeforeValidator(_template)] = Field(
        None, description="with `format: template`: Jinja2, sandboxed (docs/formats/template.md)"
    )
    template_content_type: MediaType = Field(JSON, description="what the template gives")
    divera: Divera = Field(default_factory=Divera, description="with `format: divera`")
    alamos: Alamos | None = Field(None, description="with `format: alamos-fe2`")
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
    fallback: Fallback | None = Field(
        None, description="another webhook for what this one has not taken in time"
    )
    order: Literal["none", "strict"] = Field(
        "none",
        description="strict: a mailbox's mails one after the other, as they came; "
        "none: no delivery waits for another",
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
    proxy: ProxySetting = Field(
        None, description="the way to it; off: none, whatever the environment says"
    )
    events: tuple[EventType, ...] = Field(
        EVENTS,
        description="the events that this webhook receives; default: all, or mail.received for "
        "formats that have words for mails only, and for templates",
        min_length=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Give no event but mails to a format that was not made for more."""
        if not isinstance(data, dict) or "events" in data:
            return data
        if data.get("format") in {*MAILS_ONLY, "template"}:
            return {**data, "events": ["mail.received"]}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Webhook:
        if not there(self.url):
            return self
        error = urls.webhook_fault(self.url.reveal(), allow_private=self.allow_private)
        if error is not None:
            context = error.context or {}
            raise fault(context["message"], context["fix"], key="url")
        self._fits_its_format()
        return self

    def _fits_its_format(self) -> None:
        for key, name in SECTIONS.items():
            if key in self.model_fields_set and self.format != name:
                raise fault(f"this is for `format: {name}`", "remove it, or change it.", key=key)
        others = [event for event in self.events if event != "mail.received"]
        if self.format in MAILS_ONLY and others:
            raise fault(
                f"the format {self.format} sends mails and nothing else",
                "write `events: [mail.received]`, or remove it; give other events to a webhook "
                "of another format.",
                key="events",
            )
        if self.format == "template" and self.template is None:
            raise fault("the template is missing", "add `template: '…'`.", key="format")
        if self.format == "alamos-fe2":
            if self.alamos is None:
                fix = "add `alamos: {authorization: {env: NAME}}`."
                raise fault("FE2 wants a valid sender", fix, key="format")
            check_known(self.alamos.alarm, alarm.ALAMOS, "alamos")
        if self.format == "divera":
            self._fits_divera()

    def _fits_divera(self) -> None:
        parts = urlsplit(self.url.reveal())
        in_url = "accesskey" in parse_qs(parts.query)
        literal = not self.url.place
        if in_url and literal:
            fix = "write `url: {env: NAME}` with the whole URL, or `divera: {access_key: {env: …}}`"
            raise fault("the access key stands in the file", f"{fix}; renew the key.", key="url")
        if in_url and self.divera.access_key is not None:
            fix = "remove one of them."
            raise fault("the URL has an access key already", fix, key="divera", inner="access_key")
        if not in_url and self.divera.access_key is None:
            fix = "add `divera: {access_key: {env: NAME}}`."
            raise fault("DIVERA wants its access key", fix, key="format")
        check_known(self.divera.alarm, alarm.divera(parts.path), "divera")

    @property
    def request_url(self) -> str:
        """The URL that is called. It may hold a key: show ``origin``."""
        url = self.url.reveal()
        if self.divera.access_key is None:
            return url
        joint = "&" if urlsplit(url).query else "?"
        return f"{url}{joint}accesskey={quote(self.divera.access_key.reveal(), safe='')}"

    @property
    def origin(self) -> str:
        """``https://host`` of the URL, which is all that may be shown of it."""
        return urls.origin(self.url.reveal())
